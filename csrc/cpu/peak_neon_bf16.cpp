#include <arm_neon.h>

#include "csrc/cpu/peak.h"

namespace streamgan {
namespace {

constexpr int kAccumulators = 24;

// A 2x4 matrix by a 4x2 one, added to a 2x2 one. Sums end at 2^26, where adding 4 no longer changes them.
float dot_bfloat16(int64_t rounds) {
  float32x4_t sums[kAccumulators];
#pragma GCC unroll 24
  for (int i = 0; i < kAccumulators; ++i) sums[i] = vdupq_n_f32(static_cast<float>(i));
  const float32x4_t ones = vdupq_n_f32(1.0f);
  const bfloat16x8_t a = vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(ones), ones), b = a;
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < kAccumulators; ++i) sums[i] = vbfmmlaq_f32(sums[i], a, b);
  }
  float32x4_t total = sums[0];
#pragma GCC unroll 24
  for (int i = 1; i < kAccumulators; ++i) total = vaddq_f32(total, sums[i]);
  return vaddvq_f32(total);
}

}  // namespace

const PeakKernels kPeakNeonBf16 = {Isa::kNeonBf16,
                                   {{nullptr, 0}, {dot_bfloat16, kAccumulators * 16 * 2}, {nullptr, 0}}};

}  // namespace streamgan
