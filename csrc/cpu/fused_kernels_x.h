// All methods of the fused convolution for one tier. Included inside an anonymous namespace, after vector.h and
// kTilePixels, kTileBlocks: how many pixels and channel blocks the micro-kernel does at once.
#include "csrc/cpu/fused_convolution_x.h"
// What uses it:
#include "csrc/cpu/channelwise_x.h"
#include "csrc/cpu/winograd_x.h"

constexpr FusedConvolutionKernels all_kernels(Isa isa) {
  return {isa,
          {{direct_units<Float32>, direct_units<BFloat16>},
           {winograd_units<Float32, Side2>, winograd_units<BFloat16, Side2>},
           {winograd_units<Float32, Side4, Side2>, winograd_units<BFloat16, Side4Near, Side2>},
           {winograd_units<Float32, Side4>, winograd_units<BFloat16, Side4Near>},
           {winograd_units<Float32, SidePairs>, winograd_units<BFloat16, SidePairs>},
           {winograd_units<Float32, SideStrided>, winograd_units<BFloat16, SideStrided>},
           {winograd_units<Float32, SideTransposed>, winograd_units<BFloat16, SideTransposed>},
           {depthwise_units, depthwise_units},
           {bilinear_units, bilinear_units},
           {direct_units<Float32>, direct_units<BFloat16>},
           {small_units<Float32>, small_units<BFloat16>}}};
}
