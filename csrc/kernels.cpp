#include "csrc/kernels.h"

#include "csrc/cpu/frames_to_tensor.h"
#include "csrc/cpu/fused_convolution.h"
#include "csrc/cpu/instance_norm_act.h"
#include "csrc/cpu/tensor_to_frames.h"
#include "csrc/isa.h"

namespace streamgan {
namespace {

const KernelTable<FramesToTensorKernels> kFramesToTensor(
    "frames_to_tensor",
    {&kFramesToTensorScalar, STREAMGAN_IF_X86(&kFramesToTensorAvx2, &kFramesToTensorAvx512, &kFramesToTensorAvx512Bf16)
                                 STREAMGAN_IF_ARM(&kFramesToTensorNeon, &kFramesToTensorNeonBf16)});

const KernelTable<FusedConvolutionKernels> kFusedConvolution(
    "fused_generator",
    {&kFusedConvolutionScalar, STREAMGAN_IF_X86(&kFusedConvolutionAvx2, &kFusedConvolutionAvx512,
                                                &kFusedConvolutionAvx512Bf16, &kFusedConvolutionAvx512Amx)
                                   STREAMGAN_IF_ARM(&kFusedConvolutionNeon, &kFusedConvolutionNeonBf16)});

const KernelTable<InstanceNormActKernels> kInstanceNormAct(
    "instance_norm_act", {&kInstanceNormActScalar,
                          STREAMGAN_IF_X86(&kInstanceNormActAvx2, &kInstanceNormActAvx512, &kInstanceNormActAvx512Bf16)
                              STREAMGAN_IF_ARM(&kInstanceNormActNeon, &kInstanceNormActNeonBf16)});

const KernelTable<TensorToFramesKernels> kTensorToFrames("tensor_to_frames",
                                                         {&kTensorToFramesScalar,
                                                          STREAMGAN_IF_X86(&kTensorToFramesAvx2, &kTensorToFramesAvx512)
                                                              STREAMGAN_IF_ARM(&kTensorToFramesNeon)});

}  // namespace

const FramesToTensorKernels& frames_to_tensor_kernels() { return kFramesToTensor.active(); }
const FusedConvolutionKernels& fused_convolution_kernels() { return kFusedConvolution.active(); }
const InstanceNormActKernels& instance_norm_act_kernels() { return kInstanceNormAct.active(); }
const TensorToFramesKernels& tensor_to_frames_kernels() { return kTensorToFrames.active(); }

}  // namespace streamgan
