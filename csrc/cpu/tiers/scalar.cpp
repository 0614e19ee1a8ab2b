// Plain C++, on any processor.
#include <string.h>

#include "csrc/cpu/frames_to_tensor.h"
#include "csrc/cpu/fused_convolution.h"
#include "csrc/cpu/instance_norm_act.h"
#include "csrc/cpu/peak.h"
#include "csrc/cpu/steady.h"
#include "csrc/cpu/tensor_to_frames.h"

namespace streamgan {
namespace {

namespace vectors {

#include "csrc/cpu/vector.h"

constexpr int kTilePixels = 2, kTileBlocks = 1;
#include "csrc/cpu/fused_kernels_x.h"
#include "csrc/cpu/instance_norm_act_x.h"

constexpr FusedConvolutionKernels kFusedConvolution = all_kernels();

}  // namespace vectors

namespace frames {

#include "csrc/cpu/dtypes_scalar.h"

#include "csrc/cpu/frames_to_tensor_scalar.h"
#include "csrc/cpu/tensor_to_frames_scalar.h"

}  // namespace frames

namespace steady {

#include "csrc/cpu/steady_x.h"

}  // namespace steady

namespace peak {

// Twelve vectors of four: with the two operands they fit the sixteen registers of the smallest x86-64.
constexpr int kAccumulators = 48;

float multiply_add(int64_t rounds) {
  float sums[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) sums[i] = static_cast<float>(i);
  const float factor = 0.5f, addend = 1.0f;
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kAccumulators; ++i) {
#if defined(__FP_FAST_FMAF)
      sums[i] = __builtin_fmaf(sums[i], factor, addend);
#else
      sums[i] = sums[i] * factor + addend;
#endif
    }
  }
  float total = 0.0f;
  for (const float sum : sums) total += sum;
  return total;
}

constexpr PeakLoops kLoops = {{{multiply_add, 2 * kAccumulators}}};

}  // namespace peak

}  // namespace

const TierKernels kScalarKernels = {&frames::kFramesToTensor,
                                    &vectors::kFusedConvolution,
                                    &vectors::kInstanceNormAct,
                                    &frames::kTensorToFrames,
                                    &peak::kLoops,
                                    &steady::kSteady};

}  // namespace streamgan
