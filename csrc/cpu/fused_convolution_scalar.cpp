#include "csrc/cpu/fused_convolution.h"

namespace streamgan {
namespace {

#include "csrc/cpu/vector.h"

constexpr int kTilePixels = 2, kTileBlocks = 1;
#include "csrc/cpu/fused_kernels_x.h"

}  // namespace

const FusedConvolutionKernels kFusedConvolutionScalar = all_kernels(Isa::kScalar);

}  // namespace streamgan
