#include <immintrin.h>

#include "csrc/cpu/peak.h"

namespace streamgan {
namespace {

constexpr int kAccumulators = 12;

float multiply_add(int64_t rounds) {
  __m256 sums[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.5f), addend = _mm256_set1_ps(1.0f);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm256_fmadd_ps(sums[i], factor, addend);
  }
  __m256 total = sums[0];
  for (int i = 1; i < kAccumulators; ++i) total = _mm256_add_ps(total, sums[i]);
  return _mm256_cvtss_f32(total);
}

}  // namespace

const PeakKernels kPeakAvx2 = {Isa::kAvx2, {{multiply_add, kAccumulators * 8 * 2}, {nullptr, 0}, {nullptr, 0}}};

}  // namespace streamgan
