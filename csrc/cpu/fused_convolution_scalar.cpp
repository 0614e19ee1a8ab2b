#include "csrc/cpu/fused_convolution.h"

namespace streamgan {
namespace {

#include "csrc/cpu/vector.h"

constexpr int kTilePixels = 2, kTileBlocks = 1;
#include "csrc/cpu/fused_convolution_x.h"

}  // namespace

const FusedConvolutionKernels kFusedConvolutionScalar = {
    Isa::kScalar,
    {direct_units<Float32>, direct_units<BFloat16>},
    {winograd_units<Float32, Winograd2>, winograd_units<BFloat16, Winograd2>},
    {winograd_units<Float32, Winograd4>, winograd_units<BFloat16, Winograd4>},
    {winograd_units<Float32, WinogradPairs>, winograd_units<BFloat16, WinogradPairs>},
    {small_units<Float32>, small_units<BFloat16>}};

}  // namespace streamgan
