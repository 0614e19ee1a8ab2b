// NEON, which every AArch64 processor has.
#include <arm_neon.h>
#include <string.h>

#include "csrc/cpu/frames_to_tensor.h"
#include "csrc/cpu/fused_convolution.h"
#include "csrc/cpu/instance_norm_act.h"
#include "csrc/cpu/peak.h"
#include "csrc/cpu/steady.h"
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
#include "csrc/cpu/tensor_to_frames_neon.h"

}  // namespace frames

namespace steady {

#include "csrc/cpu/steady_x.h"

}  // namespace steady

namespace peak {

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

constexpr PeakLoops kLoops = {{{multiply_add, kAccumulators * 4 * 2}}};

}  // namespace peak

}  // namespace

const TierKernels kNeonKernels = {&frames::kFramesToTensor,
                                  &vectors::kFusedConvolution,
                                  &vectors::kInstanceNormAct,
                                  &frames::kTensorToFrames,
                                  &peak::kLoops,
                                  &steady::kSteady};

}  // namespace streamgan
