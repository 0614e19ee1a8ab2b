// 16 float32 values in two AVX2 registers, and the element types that load and store them. Included inside an
// anonymous namespace after <immintrin.h>; needs AVX2 and F16C.

struct F32x16 {
  __m256 low, high;
};

inline F32x16 broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline F32x16 add(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline F32x16 subtract(F32x16 a, F32x16 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline F32x16 multiply(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline F32x16 divide(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }

// Packs instructions work in each half on its own and leave quarters in the order 0 2 1 3; this puts them right.
inline __m256i in_order(__m256i packed) { return _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)); }

inline F32x16 from_bytes(__m128i bytes) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}

// Rounds half to even, clamps to 0..255; NaN gives 0, because max returns its second operand for it.
inline __m256i to_integers(__m256 value) {
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(value, _mm256_setzero_ps()), _mm256_set1_ps(255.0f)));
}

inline __m128i to_bytes(F32x16 value) {
  const __m256i words = in_order(_mm256_packs_epi32(to_integers(value.low), to_integers(value.high)));
  return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

struct Float32 {
  using Storage = float;
  static constexpr Dtype kIndex = kFloat32;
  static F32x16 load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
  static void store(float* to, F32x16 value) {
    _mm256_storeu_ps(to, value.low);
    _mm256_storeu_ps(to + 8, value.high);
  }
};

struct BFloat16 {
  using Storage = uint16_t;
  static constexpr Dtype kIndex = kBFloat16;

  static __m256 widen(__m128i elements) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(elements), 16));
  }
  static F32x16 load(const uint16_t* from) {
    const auto* elements = reinterpret_cast<const __m128i*>(from);
    return {widen(_mm_loadu_si128(elements)), widen(_mm_loadu_si128(elements + 1))};
  }

  // For finite values.
  static __m256i round(__m256 value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  }
  static void store(uint16_t* to, F32x16 value) {
    const __m256i elements = in_order(_mm256_packus_epi32(round(value.low), round(value.high)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), elements);
  }
};

struct Float16 {
  using Storage = uint16_t;
  static constexpr Dtype kIndex = kFloat16;
  static F32x16 load(const uint16_t* from) {
    const auto* elements = reinterpret_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_loadu_si128(elements)), _mm256_cvtph_ps(_mm_loadu_si128(elements + 1))};
  }
  static void store(uint16_t* to, F32x16 value) {
    auto* elements = reinterpret_cast<__m128i*>(to);
    _mm_storeu_si128(elements, _mm256_cvtps_ph(value.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(elements + 1, _mm256_cvtps_ph(value.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};
