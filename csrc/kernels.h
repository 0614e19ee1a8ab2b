// The kernels of each operator in the tier that is in use (csrc/tiers.h), or the next lower one that has them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "csrc/tiers.h"

namespace streamgan {

const FramesToTensorKernels& frames_to_tensor_kernels();
const FusedConvolutionKernels& fused_convolution_kernels();
const InstanceNormActKernels& instance_norm_act_kernels();
const SteadyKernels& steady_kernels();
const TensorToFramesKernels& tensor_to_frames_kernels();

// The names of the tiers that each operator has kernels of its own in, lowest first.
std::map<std::string, std::vector<std::string>> kernel_tiers();

// The loop of the highest tier up to `highest` that has one; its `run` is null if this processor has no instruction for
// it.
PeakLoop peak_loop(PeakKind kind, const Tier& highest);

}  // namespace streamgan
