#include <immintrin.h>

#include "csrc/cpu/peak.h"

namespace streamgan {
namespace {

constexpr int kAccumulators = 16;

float multiply_add(int64_t rounds) {
  __m512 sums[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.5f), addend = _mm512_set1_ps(1.0f);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_fmadd_ps(sums[i], factor, addend);
  }
  __m512 total = sums[0];
  for (int i = 1; i < kAccumulators; ++i) total = _mm512_add_ps(total, sums[i]);
  return _mm512_cvtss_f32(total);
}

// As a type of int32 elements: with __m512i, whose elements are int64, GCC copies every accumulator in every round.
using Int32x16 = int __attribute__((vector_size(64)));

// The attribute is for this function only: the tier's flags don't have the instruction.
__attribute__((target("avx512vnni"))) float dot_int8(int64_t rounds) {
  Int32x16 sums[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) sums[i] = reinterpret_cast<Int32x16>(_mm512_set1_epi32(i));
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
  for (int64_t round = 0; round < rounds; ++round) {
    for (Int32x16& sum : sums) {
      sum = reinterpret_cast<Int32x16>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), a, b));
    }
  }
  Int32x16 total = sums[0];
  for (int i = 1; i < kAccumulators; ++i) total += sums[i];
  return static_cast<float>(total[0]);
}

// Sums of zeros: what is added makes no difference to the time.
__attribute__((target("avx512fp16"))) float multiply_add_float16(int64_t rounds) {
  __m512h sums[kAccumulators];
  const __m512h zero = _mm512_setzero_ph();
  for (__m512h& sum : sums) sum = zero;
  for (int64_t round = 0; round < rounds; ++round) {
    for (__m512h& sum : sums) __asm__ volatile("vfmadd231ph %1, %1, %0" : "+v"(sum) : "v"(zero));
  }
  __m512h total = sums[0];
  for (int i = 1; i < kAccumulators; ++i) total = _mm512_add_ph(total, sums[i]);
  return static_cast<float>(_mm512_reduce_add_ph(total));
}

}  // namespace

const PeakKernels kPeakAvx512 = {Isa::kAvx512,
                                 {{multiply_add, kAccumulators * 16 * 2},
                                  {nullptr, 0},
                                  {dot_int8, kAccumulators * 64 * 2},
                                  {multiply_add_float16, kAccumulators * 32 * 2}}};

}  // namespace streamgan
