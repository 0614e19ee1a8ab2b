// The kernels of each operator in the instruction set that is in use (csrc/isa.h).
#pragma once

namespace streamgan {

struct FramesToTensorKernels;
struct FusedConvolutionKernels;
struct InstanceNormActKernels;
struct TensorToFramesKernels;

const FramesToTensorKernels& frames_to_tensor_kernels();
const FusedConvolutionKernels& fused_convolution_kernels();
const InstanceNormActKernels& instance_norm_act_kernels();
const TensorToFramesKernels& tensor_to_frames_kernels();

}  // namespace streamgan
