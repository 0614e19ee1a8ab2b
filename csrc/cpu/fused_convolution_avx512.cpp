#include <immintrin.h>

#include "csrc/cpu/fused_convolution.h"

namespace streamgan {
namespace {

#include "csrc/cpu/vector.h"

constexpr int kTilePixels = 8, kTileBlocks = 2;
#include "csrc/cpu/fused_kernels_x.h"

}  // namespace

const FusedConvolutionKernels kFusedConvolutionAvx512 = all_kernels(Isa::kAvx512);

}  // namespace streamgan
