// The tiles of Intel's AMX in plain arithmetic, bit for bit, so that what is written for them runs, and is tested, on
// every processor. Included inside an anonymous namespace.
//
// A product of tiles keeps two sums for each output, of the even and of the odd elements of the pairs, both from +0 and
// in the order of k, each step a fused multiplication and addition; then sums += even + odd. Every operation rounds to
// the nearest, takes denormal operands for zeros, and gives zero for what is below the normal numbers after rounding as
// if the exponent had no bound. A NaN operand, the first in the order of a, b and the sum, is quieted and handed on; an
// invalid operation gives 0xffc00000.

constexpr uint32_t kSignBit = 0x80000000u, kQuietBit = 0x00400000u, kInfinity = 0x7f800000u, kDefaultNan = 0xffc00000u;

inline bool is_nan(uint32_t bits) { return (bits & ~kSignBit) > kInfinity; }

inline double operand(uint32_t bits) {
  if ((bits & kInfinity) == 0) bits &= kSignBit;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// A sum in double, which for these operands rounds to the same float32 as the exact one: a float32 of 24 digits and a
// product of 16, or another float32, leave no double that is halfway between two float32 where the sum is not.
inline uint32_t rounded(double sum) {
  uint64_t bits;
  __builtin_memcpy(&bits, &sum, sizeof bits);
  bits += 0x0fffffffu + ((bits >> 29) & 1);  // to 24 digits, halves to the even one
  bits &= ~0x1fffffffull;
  double value;
  __builtin_memcpy(&value, &bits, sizeof value);
  constexpr double kSmallest = 1.17549435082228751e-38, kTooLarge = 3.402823669209384635e38;
  const double magnitude = value < 0 ? -value : value;
  const uint32_t sign = static_cast<uint32_t>(bits >> 32) & kSignBit;
  if (magnitude < kSmallest) return sign;
  if (magnitude >= kTooLarge) return sign | kInfinity;
  const float result = static_cast<float>(value);
  uint32_t result_bits;
  __builtin_memcpy(&result_bits, &result, sizeof result_bits);
  return result_bits;
}

// a * b + c of float32 bits; a and b have the digits of bfloat16.
inline uint32_t multiply_add_bits(uint32_t a, uint32_t b, uint32_t c) {
  if (is_nan(a)) return a | kQuietBit;
  if (is_nan(b)) return b | kQuietBit;
  if (is_nan(c)) return c | kQuietBit;
  const double sum = operand(a) * operand(b) + operand(c);
  return sum != sum ? kDefaultNan : rounded(sum);
}

inline uint32_t add_bits(uint32_t a, uint32_t b) {
  if (is_nan(a)) return a | kQuietBit;
  if (is_nan(b)) return b | kQuietBit;
  const double sum = operand(a) + operand(b);
  return sum != sum ? kDefaultNan : rounded(sum);
}

class MatrixUnit {
 public:
  static void settle() {}

  template <int kTile>
  void zero() {
    __builtin_memset(tiles_[kTile], 0, sizeof tiles_[kTile]);
  }
  template <int kTile>
  void load(const char* from, int64_t row_bytes) {
    for (int row = 0; row < 16; ++row) __builtin_memcpy(tiles_[kTile][row], from + row * row_bytes, 64);
  }
  template <int kTile>
  void store(void* to, int64_t row_bytes) {
    for (int row = 0; row < 16; ++row) {
      __builtin_memcpy(static_cast<char*>(to) + row * row_bytes, tiles_[kTile][row], 64);
    }
  }
  template <int kSums, int kA, int kB>
  void multiply() {
    for (int row = 0; row < 16; ++row) {
      uint32_t even[16] = {}, odd[16] = {};
      for (int k = 0; k < 16; ++k) {
        const uint32_t pair = tiles_[kA][row][k];
        for (int column = 0; column < 16; ++column) {
          const uint32_t weights = tiles_[kB][k][column];
          even[column] = multiply_add_bits(pair << 16, weights << 16, even[column]);
          odd[column] = multiply_add_bits(pair & 0xffff0000u, weights & 0xffff0000u, odd[column]);
        }
      }
      for (int column = 0; column < 16; ++column) {
        tiles_[kSums][row][column] = add_bits(tiles_[kSums][row][column], add_bits(even[column], odd[column]));
      }
    }
  }

 private:
  uint32_t tiles_[8][16][16];
};
