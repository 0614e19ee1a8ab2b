#include <immintrin.h>

#include "csrc/cpu/fused_convolution.h"

namespace streamgan {
namespace {

#include "csrc/cpu/vector.h"

constexpr int kTilePixels = 6, kTileBlocks = 1;
#include "csrc/cpu/fused_kernels_x.h"

}  // namespace

const FusedConvolutionKernels kFusedConvolutionAvx2 = all_kernels(Isa::kAvx2);

}  // namespace streamgan
