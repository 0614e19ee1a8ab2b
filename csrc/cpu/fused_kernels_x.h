// All methods of the fused convolution for one tier. Included inside an anonymous namespace, after vector.h and
// kTilePixels, kTileBlocks: how many pixels and channel blocks the micro-kernel does at once.
#include "csrc/cpu/fused_convolution_x.h"
// What uses it:
#include "csrc/cpu/channelwise_x.h"
#include "csrc/cpu/winograd_x.h"
// And that:
#include "csrc/cpu/vertical_x.h"
// On a MatrixUnit, which is emulated where a tier has not brought its own:
#if !defined(STREAMGAN_HAS_MATRIX_UNIT)
#include "csrc/cpu/matrix_unit_emulated.h"
#endif
#include "csrc/cpu/matrix_x.h"
// Which the last layer uses:
#include "csrc/cpu/matrix_picture_x.h"

template <typename Float32Rows, typename Float32Columns, typename BFloat16Rows, typename BFloat16Columns>
constexpr MethodKernels tile_kernels() {
  return {
      {winograd_output<Float32, Float32Rows, Float32Columns>, winograd_output<BFloat16, BFloat16Rows, BFloat16Columns>},
      {winograd_input<Float32, Float32Rows, Float32Columns>, winograd_input<BFloat16, BFloat16Rows, BFloat16Columns>},
      {winograd_segments<Float32, Float32Rows, Float32Columns>,
       winograd_segments<BFloat16, BFloat16Rows, BFloat16Columns>}};
}

template <typename S>
constexpr MethodKernels tile_kernels() {
  return tile_kernels<S, S, S, S>();
}

constexpr FusedConvolutionKernels all_kernels(Isa isa) {
  return {isa,
          kTilePixels,
          kTileBlocks,
          {{{direct_units<Float32>, direct_units<BFloat16>}},
           tile_kernels<Side2>(),
           tile_kernels<Side4, Side2, Side4Near, Side2>(),
           tile_kernels<Side4, Side4, Side4Near, Side4Near>(),
           {{winograd_output<Float32, Side8>}, {winograd_input<Float32, Side8>}, {winograd_segments<Float32, Side8>}},
           tile_kernels<SidePairs>(),
           tile_kernels<SideStrided>(),
           tile_kernels<SideTransposed>(),
           {{depthwise_units, depthwise_units}},
           {{bilinear_units, bilinear_units}},
           {{direct_units<Float32>, direct_units<BFloat16>}},
           {{shuffle_units, shuffle_units}},
           {{matrix_units<Float32>, matrix_units<BFloat16>}},
           {{matrix_picture_units<Float32>, matrix_picture_units<BFloat16>}},
           tile_kernels<SidePairs4>(),
           tile_kernels<SideStrided4>(),
           tile_kernels<SideTransposed4>(),
           {{small_units<Float32>, small_units<BFloat16>}},
           {{vertical_units}, {}, {}, {vertical_kernels}},
           {{picture_units}, {}, {}, {picture_kernels}},
           {{matrix_small_units<Float32>, matrix_small_units<BFloat16>}}},
          multiply_single_tiles};
}
