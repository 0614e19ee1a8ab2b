#include <arm_neon.h>

#include "csrc/cpu/peak.h"

namespace streamgan {
namespace {

constexpr int kAccumulators = 24;

float multiply_add(int64_t rounds) {
  float32x4_t sums[kAccumulators];
#pragma GCC unroll 24
  for (int i = 0; i < kAccumulators; ++i) sums[i] = vdupq_n_f32(static_cast<float>(i));
  // The instruction adds to a product, so that here sums grow: to 2^24, where adding 1 no longer changes them.
  const float32x4_t a = vdupq_n_f32(0.5f), b = vdupq_n_f32(2.0f);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < kAccumulators; ++i) sums[i] = vfmaq_f32(sums[i], a, b);
  }
  float32x4_t total = sums[0];
#pragma GCC unroll 24
  for (int i = 1; i < kAccumulators; ++i) total = vaddq_f32(total, sums[i]);
  return vaddvq_f32(total);
}

}  // namespace

const PeakKernels kPeakNeon = {Isa::kNeon, {{multiply_add, kAccumulators * 4 * 2}, {nullptr, 0}, {nullptr, 0}}};

}  // namespace streamgan
