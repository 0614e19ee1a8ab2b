// 16 float32 values in one AVX-512 register, and the element types that load and store them. Included inside an
// anonymous namespace after <immintrin.h>; needs AVX-512 F, BW, DQ and VL, and uses AVX512-BF16 where enabled.

using F32x16 = __m512;

inline F32x16 broadcast(float value) { return _mm512_set1_ps(value); }
inline F32x16 add(F32x16 a, F32x16 b) { return _mm512_add_ps(a, b); }
inline F32x16 subtract(F32x16 a, F32x16 b) { return _mm512_sub_ps(a, b); }
inline F32x16 multiply(F32x16 a, F32x16 b) { return _mm512_mul_ps(a, b); }
inline F32x16 divide(F32x16 a, F32x16 b) { return _mm512_div_ps(a, b); }

inline F32x16 from_bytes(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)); }

// Rounds half to even, clamps to 0..255; NaN gives 0, because max returns its second operand for it.
inline __m128i to_bytes(F32x16 value) {
  const __m512 clamped = _mm512_min_ps(_mm512_max_ps(value, _mm512_setzero_ps()), _mm512_set1_ps(255.0f));
  return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(clamped));
}

struct Float32 {
  using Storage = float;
  static constexpr Dtype kIndex = kFloat32;
  static F32x16 load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, F32x16 value) { _mm512_storeu_ps(to, value); }
};

struct BFloat16 {
  using Storage = uint16_t;
  static constexpr Dtype kIndex = kBFloat16;
  static F32x16 load(const uint16_t* from) {
    const __m256i elements = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(elements), 16));
  }
  // For values that are zero or finite and normal.
  static void store(uint16_t* to, F32x16 value) {
#if defined(__AVX512BF16__)
    const __m256i elements = (__m256i)_mm512_cvtneps_pbh(value);
#else
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m256i elements = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), elements);
  }
};

struct Float16 {
  using Storage = uint16_t;
  static constexpr Dtype kIndex = kFloat16;
  static F32x16 load(const uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static void store(uint16_t* to, F32x16 value) {
    const __m256i elements = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), elements);
  }
};
