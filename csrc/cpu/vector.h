// float32 vectors of a tier's own length, and the two element types of activations and weights. Included inside an
// anonymous namespace, after <immintrin.h> or <arm_neon.h> where the tier has instructions of its own.
//
// The NEON tiers define STREAMGAN_NEON: the scalar tier's compiler has __ARM_NEON too.

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Compiler vectors: + - * / << & work on them, and a scalar beside one is repeated.
typedef float V __attribute__((vector_size(4 * kLanes)));
typedef int32_t Integers __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

template <int kNumber>
struct Constant {
  static constexpr int kValue = kNumber;
};

// With instructions, for the compiler takes care of -0 in V{} + value, an addition in each of the innermost loops.
#if defined(__AVX512F__)
inline V splat(float value) { return _mm512_set1_ps(value); }
#elif defined(__AVX2__)
inline V splat(float value) { return _mm256_set1_ps(value); }
#elif defined(STREAMGAN_NEON)
inline V splat(float value) { return vdupq_n_f32(value); }
#else
inline V splat(float value) { return V{value, value, value, value}; }
#endif

#if defined(__AVX512F__)
inline V multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V maximum(V a, V b) { return _mm512_max_ps(a, b); }
inline V minimum(V a, V b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX2__)
inline V multiply_add(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V maximum(V a, V b) { return _mm256_max_ps(a, b); }
inline V minimum(V a, V b) { return _mm256_min_ps(a, b); }
#elif defined(STREAMGAN_NEON)
inline V multiply_add(V a, V b, V c) { return vfmaq_f32(c, a, b); }
// Where a is NaN the result is b, as on x86; vmaxq_f32 and vminq_f32 would keep the NaN.
inline V maximum(V a, V b) { return vmaxnmq_f32(a, b); }
inline V minimum(V a, V b) { return vminnmq_f32(a, b); }
#else
inline V multiply_add(V a, V b, V c) { return a * b + c; }
inline V maximum(V a, V b) { return a > b ? a : b; }
inline V minimum(V a, V b) { return a < b ? a : b; }
#endif

// The value, loaded once: the compiler would load it again as an operand of each instruction that uses it, at twice the
// cost where it lies across two lines of the cache.
inline __attribute__((always_inline)) V loaded(V value) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(value));
#elif defined(__AVX2__)
  __asm__("" : "+x"(value));
#elif defined(STREAMGAN_NEON)
  __asm__("" : "+w"(value));
#endif
  return value;
}

// To the nearest integer, halves to the even one, for |x| < 2^22: what is below one is lost beside 1.5 * 2^23.
inline V round_to_integer(V x) {
  const V large = splat(12582912.0f);
  return (x + large) - large;
}

// 2^n for integers from -126 to 127.
inline V power_of_two(V n) { return (V)((__builtin_convertvector(n, Integers) + 127) << 23); }

// Writes what nobody reads soon, past the caches, which would have to fetch the line first. `to` is aligned.
#if defined(__AVX512F__)
inline void stream(float* to, V value) { _mm512_stream_ps(to, value); }
inline void stream(uint16_t* to, Halves values) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)values);
}
#elif defined(__AVX2__)
inline void stream(float* to, V value) { _mm256_stream_ps(to, value); }
inline void stream(uint16_t* to, Halves values) { _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)values); }
#else
inline void stream(float* to, V value) { __builtin_memcpy(to, &value, sizeof value); }
inline void stream(uint16_t* to, Halves values) { __builtin_memcpy(to, &values, sizeof values); }
#endif

struct Float32 {
  using Storage = float;
  static constexpr int kGroup = 1;  // elements of the input that are multiplied and summed at once
  using Weights = V;
  using Broadcast = V;

  static V load(const float* from) {
    V value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
  }
#if defined(STREAMGAN_NEON)
  static void store(float* to, V value) { vst1q_f32(to, value); }  // GCC copies 16 bytes by way of two other registers
#else
  static void store(float* to, V value) { __builtin_memcpy(to, &value, sizeof value); }
#endif
  static void store_group(float* to, const V* const (&values)[1]) { store(to, *values[0]); }
  static float round(float value) { return value; }
  static V load_weights(const float* from) { return load(from); }
  static V broadcast(const float* from) { return splat(*from); }
  static V dot(V input, V weights, V sum) { return multiply_add(input, weights, sum); }
};

struct BFloat16 {
  using Storage = uint16_t;
  static constexpr int kGroup = 2;

  // With instructions where there are some: GCC 12 converts the compiler's vectors half by half.
  static V load(const uint16_t* from) {
#if defined(__AVX512F__)
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#elif defined(__AVX2__)
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return (V)_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
#else
    Halves halves;
    __builtin_memcpy(&halves, from, sizeof halves);
    return (V)(__builtin_convertvector(halves, Bits) << 16);
#endif
  }
  static uint16_t round(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }

#if defined(__AVX512BF16__)
  using Weights = __m512bh;
  using Broadcast = __m512bh;

  static void store(uint16_t* to, V value) {
    const __m256bh halves = _mm512_cvtneps_pbh(value);
    __builtin_memcpy(to, &halves, sizeof halves);
  }
  // Pairs of one value of each vector, side by side.
  static void store_group(uint16_t* to, const V* const (&values)[2]) {
    static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                            8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(*values[1], *values[0]);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_loadu_si512(kOrder), halves));
  }
  static Weights load_weights(const uint16_t* from) { return (__m512bh)_mm512_loadu_si512(from); }
  static Broadcast broadcast(const uint16_t* from) {
    int32_t pair;
    __builtin_memcpy(&pair, from, sizeof pair);
    __m512i pairs = _mm512_set1_epi32(pair);
#if defined(__clang__)
    __asm__("" : "+v"(pairs));  // clang 16 crashes where it sees that bfloat16 is broadcast
#endif
    return (__m512bh)pairs;
  }
  static V dot(Broadcast input, Weights weights, V sum) { return _mm512_dpbf16_ps(sum, input, weights); }
#elif defined(STREAMGAN_NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  using Weights = bfloat16x8_t;
  using Broadcast = bfloat16x4_t;  // a pair, and zeros

  static void store(uint16_t* to, V value) {
    const bfloat16x4_t halves = vcvt_bf16_f32(value);
    __builtin_memcpy(to, &halves, sizeof halves);
  }
  // Pairs of one value of each vector, side by side.
  static void store_group(uint16_t* to, const V* const (&values)[2]) {
    const uint16x4_t first = vreinterpret_u16_bf16(vcvt_bf16_f32(*values[0]));
    const uint16x4_t second = vreinterpret_u16_bf16(vcvt_bf16_f32(*values[1]));
    const uint32x4_t pairs = vorrq_u32(vmovl_u16(first), vshll_n_u16(second, 16));  // Clang 14 can't compile a zip here
    vst1q_u16(to, vreinterpretq_u16_u32(pairs));
  }
  static Weights load_weights(const uint16_t* from) { return vreinterpretq_bf16_u16(vld1q_u16(from)); }
  static Broadcast broadcast(const uint16_t* from) {
    uint32_t pair;
    __builtin_memcpy(&pair, from, sizeof pair);
    return vreinterpret_bf16_u32(uint32x2_t{pair, 0});
  }
  // The instruction rounds the products, and each sum, to odd (Arm's manual, BFDOT): its results are those of other
  // tiers but for rounding.
  static V dot(Broadcast input, Weights weights, V sum) { return vbfdotq_lane_f32(sum, weights, input, 0); }
#else
  struct Pair {
    V even, odd;
  };
  using Weights = Pair;
  using Broadcast = Pair;

  // To the nearest, halves to the even one; for finite values.
  static void store(uint16_t* to, V value) {
    const Bits bits = (Bits)value;
    const Halves halves = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
    __builtin_memcpy(to, &halves, sizeof halves);
  }
  // Pairs of one value of each vector, side by side.
  static void store_group(uint16_t* to, const V* const (&values)[2]) {
    const auto rounded = [](V value) {
      const Bits bits = (Bits)value;
      return bits + 0x7fff + ((bits >> 16) & 1);
    };
    const Bits pairs = (rounded(*values[0]) >> 16) | (rounded(*values[1]) & 0xffff0000u);
    __builtin_memcpy(to, &pairs, sizeof pairs);
  }
  static Weights load_weights(const uint16_t* from) {
    Bits pairs;
    __builtin_memcpy(&pairs, from, sizeof pairs);
    return {(V)(pairs << 16), (V)(pairs & 0xffff0000u)};
  }
  static Broadcast broadcast(const uint16_t* from) {
    float even, odd;
    const uint32_t bits[2] = {static_cast<uint32_t>(from[0]) << 16, static_cast<uint32_t>(from[1]) << 16};
    __builtin_memcpy(&even, &bits[0], sizeof even);
    __builtin_memcpy(&odd, &bits[1], sizeof odd);
    return {splat(even), splat(odd)};
  }
  static V dot(Broadcast input, Weights weights, V sum) {
    return multiply_add(input.odd, weights.odd, multiply_add(input.even, weights.even, sum));
  }
#endif
};

// The first `count` lanes; the others are 0 when loaded, and left alone when stored.
template <typename E>
inline V load_some(const typename E::Storage* from, int64_t count) {
  if (count >= kLanes) return E::load(from);
  typename E::Storage padded[kLanes] = {};
  __builtin_memcpy(padded, from, static_cast<size_t>(count) * sizeof(typename E::Storage));
  return E::load(padded);
}

template <typename E>
inline void store_some(typename E::Storage* to, V value, int64_t count) {
  if (count >= kLanes) return E::store(to, value);
  typename E::Storage padded[kLanes];
  E::store(padded, value);
  __builtin_memcpy(to, padded, static_cast<size_t>(count) * sizeof(typename E::Storage));
}
