#include <immintrin.h>

#include "csrc/cpu/fused_convolution.h"

namespace streamgan {
namespace {

#include "csrc/cpu/vector.h"

constexpr int kTilePixels = 8, kTileBlocks = 2;
#include "csrc/cpu/matrix_unit_amx.h"
#define STREAMGAN_HAS_MATRIX_UNIT
#include "csrc/cpu/fused_kernels_x.h"

}  // namespace

const FusedConvolutionKernels kFusedConvolutionAvx512Amx = all_kernels(Isa::kAvx512Amx);

}  // namespace streamgan
