#include <arm_neon.h>

#include "csrc/cpu/fused_convolution.h"

namespace streamgan {
namespace {

#include "csrc/cpu/vector.h"

constexpr int kTilePixels = 5, kTileBlocks = 1;
#include "csrc/cpu/fused_kernels_x.h"

}  // namespace

const FusedConvolutionKernels kFusedConvolutionNeon = all_kernels(Isa::kNeon);

}  // namespace streamgan
