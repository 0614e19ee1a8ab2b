// Element types of the scalar tier: load() widens one element to float32, store() rounds to nearest even.
// Included inside an anonymous namespace.

inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

struct Float32 {
  using Storage = float;
  static float load(float element) { return element; }
  static float store(float value) { return value; }
};

struct BFloat16 {
  using Storage = uint16_t;
  static float load(uint16_t element) { return float_of(static_cast<uint32_t>(element) << 16); }
  // For finite values. Adding just under half of the dropped part, or exactly half if the kept part is odd, carries
  // into the kept part where rounding goes up.
  static uint16_t store(float value) {
    const uint32_t bits = bits_of(value);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
};

// Sign, 5 bits of exponent biased by 15, 10 bits of fraction.
struct Float16 {
  using Storage = uint16_t;

  static float load(uint16_t element) {
    const uint32_t sign = static_cast<uint32_t>(element & 0x8000) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(element & 0x7fff) << 13;
    // As a float32 these bits are 2^112 too small, subnormals included; the product is exact.
    const uint32_t finite = bits_of(float_of(magnitude) * 0x1p112f);
    return float_of(sign | (magnitude < 0x0f800000 ? finite : magnitude | 0x7f800000));  // infinity, NaN
  }

  // For finite values.
  static uint16_t store(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = (bits >> 16) & 0x8000;
    const uint32_t magnitude = bits & 0x7fffffff;
    // Below 2^-14 a float16 is a multiple of 2^-24, and so is the fraction of a sum with 1/2.
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
    const uint32_t rebiased = magnitude - (112u << 23);
    const uint32_t normal = (rebiased + 0xfff + ((rebiased >> 13) & 1)) >> 13;
    const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
    return static_cast<uint16_t>(sign | (magnitude < 0x47800000 ? finite : 0x7c00));  // 2^16 and more: infinity
  }
};
