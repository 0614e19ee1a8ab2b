// All methods of the fused convolution for one tier. Included inside an anonymous namespace, after vector.h and
// kTilePixels, kTileBlocks: how many pixels and channel blocks the micro-kernel does at once.
#include "csrc/cpu/fused_convolution_x.h"
// What uses it:
#include "csrc/cpu/channelwise_x.h"
#include "csrc/cpu/winograd_x.h"

template <typename Float32Rows, typename Float32Columns, typename BFloat16Rows, typename BFloat16Columns>
constexpr MethodKernels winograd_kernels() {
  return {
      {winograd_output<Float32, Float32Rows, Float32Columns>, winograd_output<BFloat16, BFloat16Rows, BFloat16Columns>},
      {winograd_input<Float32, Float32Rows, Float32Columns>, winograd_input<BFloat16, BFloat16Rows, BFloat16Columns>}};
}

template <typename S>
constexpr MethodKernels winograd_kernels() {
  return winograd_kernels<S, S, S, S>();
}

constexpr FusedConvolutionKernels all_kernels(Isa isa) {
  return {isa,
          {{{direct_units<Float32>, direct_units<BFloat16>}},
           winograd_kernels<Side2>(),
           winograd_kernels<Side4, Side2, Side4Near, Side2>(),
           winograd_kernels<Side4, Side4, Side4Near, Side4Near>(),
           {{winograd_output<Float32, Side8>}, {winograd_input<Float32, Side8>}},
           winograd_kernels<SidePairs>(),
           winograd_kernels<SideStrided>(),
           winograd_kernels<SideTransposed>(),
           {{depthwise_units, depthwise_units}},
           {{bilinear_units, bilinear_units}},
           {{direct_units<Float32>, direct_units<BFloat16>}},
           winograd_kernels<SidePairs4>(),
           winograd_kernels<SideStrided4>(),
           winograd_kernels<SideTransposed4>(),
           {{small_units<Float32>, small_units<BFloat16>}}}};
}
