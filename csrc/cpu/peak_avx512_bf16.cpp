#include <immintrin.h>

#include "csrc/cpu/peak.h"

namespace streamgan {
namespace {

constexpr int kAccumulators = 16;

// Sums end at 2^25, where adding 2 no longer changes them.
float dot_bfloat16(int64_t rounds) {
  __m512 sums[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 ones = _mm512_set1_ps(1.0f);
  const __m512bh a = _mm512_cvtne2ps_pbh(ones, ones), b = a;
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
  }
  __m512 total = sums[0];
  for (int i = 1; i < kAccumulators; ++i) total = _mm512_add_ps(total, sums[i]);
  return _mm512_cvtss_f32(total);
}

}  // namespace

const PeakKernels kPeakAvx512Bf16 = {Isa::kAvx512Bf16,
                                     {{nullptr, 0}, {dot_bfloat16, kAccumulators * 32 * 2}, {nullptr, 0}}};

}  // namespace streamgan
