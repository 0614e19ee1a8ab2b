// NEON with its instructions for bfloat16.
#include <arm_neon.h>

#include "csrc/cpu/frames_to_tensor.h"
#include "csrc/cpu/fused_convolution.h"
#include "csrc/cpu/instance_norm_act.h"
#include "csrc/cpu/peak.h"
#include "csrc/cpu/tensor_to_frames.h"

#define STREAMGAN_NEON

namespace streamgan {
namespace {

namespace vectors {

#include "csrc/cpu/vector.h"

constexpr int kTilePixels = 5, kTileBlocks = 1;
#include "csrc/cpu/fused_kernels_x.h"
#include "csrc/cpu/instance_norm_act_x.h"

constexpr FusedConvolutionKernels kFusedConvolution = all_kernels();

}  // namespace vectors

namespace frames {

#include "csrc/cpu/pixel_blocks.h"
#include "csrc/cpu/vec16_neon.h"

#include "csrc/cpu/frames_to_tensor_neon.h"

}  // namespace frames

namespace peak {

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

constexpr PeakLoops kLoops = {{{}, {dot_bfloat16, kAccumulators * 16 * 2}}};

}  // namespace peak

}  // namespace

const TierKernels kNeonBf16Kernels = {&frames::kFramesToTensor, &vectors::kFusedConvolution, &vectors::kInstanceNormAct,
                                      nullptr, &peak::kLoops};

}  // namespace streamgan
