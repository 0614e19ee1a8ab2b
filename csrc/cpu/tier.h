// What kernel files share, and what a tier of instructions exports. Plain declarations only (csrc/tiers.h says why).
#pragma once

#include <stdint.h>

namespace streamgan {

// Element types of image tensors; kernel structs hold one function for each, in this order.
enum Dtype : int { kFloat32, kBFloat16, kFloat16, kDtypeCount };

struct FramesToTensorKernels;
struct FusedConvolutionKernels;
struct InstanceNormActKernels;
struct PeakLoops;
struct SteadyKernels;
struct TensorToFramesKernels;

// The kernels of one tier. Null where the tier adds nothing to the next lower one; the scalar tier has all.
struct TierKernels {
  const FramesToTensorKernels* frames_to_tensor = nullptr;
  const FusedConvolutionKernels* fused_generator = nullptr;
  const InstanceNormActKernels* instance_norm_act = nullptr;
  const TensorToFramesKernels* tensor_to_frames = nullptr;
  const PeakLoops* peak = nullptr;
  const SteadyKernels* steady = nullptr;
};

// One for each csrc/cpu/tiers/NAME.cpp.
extern const TierKernels kScalarKernels;
extern const TierKernels kAvx2Kernels, kAvx512Kernels, kAvx512Bf16Kernels, kAvx512AmxKernels;
extern const TierKernels kNeonKernels, kNeonBf16Kernels;

}  // namespace streamgan
