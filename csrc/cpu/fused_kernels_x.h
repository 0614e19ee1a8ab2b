// All algorithms of the fused convolution for one tier. Included inside an anonymous namespace, after vector.h and
// kTilePixels, kTileBlocks: how many pixels and channel blocks the micro-kernel does at once. The order is that of use.
// clang-format off
#include "csrc/cpu/input_x.h"
#include "csrc/cpu/micro_kernel_x.h"
#include "csrc/cpu/direct_x.h"
#include "csrc/cpu/channelwise_x.h"
#include "csrc/cpu/last_layer_x.h"
#include "csrc/cpu/winograd_sides_x.h"
#include "csrc/cpu/winograd_transforms_x.h"
#include "csrc/cpu/winograd_x.h"
#include "csrc/cpu/vertical_x.h"
// A MatrixUnit, which is emulated where a tier has not brought its own:
#if !defined(STREAMGAN_HAS_MATRIX_UNIT)
#include "csrc/cpu/matrix_unit_emulated.h"
#endif
#include "csrc/cpu/matrix_x.h"
#include "csrc/cpu/matrix_last_x.h"
// clang-format on

template <typename Rows, typename Columns, typename BFloat16Rows = Rows, typename BFloat16Columns = Columns>
constexpr AlgorithmKernels winograd_kernels() {
  return {
      {winograd_output<Float32, Rows, Columns>, winograd_output<BFloat16, BFloat16Rows, BFloat16Columns>},
      {winograd_scratch_bytes<Float32, Rows, Columns>, winograd_scratch_bytes<BFloat16, BFloat16Rows, BFloat16Columns>},
      {winograd_input<Float32, Rows, Columns>, winograd_input<BFloat16, BFloat16Rows, BFloat16Columns>},
      {winograd_segments<Float32, Rows, Columns>, winograd_segments<BFloat16, BFloat16Rows, BFloat16Columns>}};
}

template <template <typename> class ScratchOf>
constexpr AlgorithmKernels both(ConvolutionUnits float32, ConvolutionUnits bfloat16) {
  return {{float32, bfloat16}, {scratch_bytes<ScratchOf<Float32>>, scratch_bytes<ScratchOf<BFloat16>>}};
}

template <typename S>
constexpr AlgorithmKernels vertical_kernels() {
  return {{vertical_units<S>}, {scratch_bytes<VerticalScratch<S>>}, {}, {}, {vertical_filters<S>}};
}

template <typename S>
constexpr AlgorithmKernels vertical_last_kernels() {
  return {{vertical_last_units<S>}, {scratch_bytes<VerticalLastScratch<S>>}, {}, {}, {vertical_last_filters<S>}};
}

constexpr FusedConvolutionKernels all_kernels() {
  FusedConvolutionKernels all = {kTilePixels, kTileBlocks, {}, multiply_single_tiles};
  const auto set = [&](Algorithm algorithm, const AlgorithmKernels& kernels) {
    all.algorithms[static_cast<int>(algorithm)] = kernels;
  };
  set(Algorithm::kDirect, both<DirectScratch>(direct_units<Float32>, direct_units<BFloat16>));
  set(Algorithm::kFewPixels, both<FewPixelsScratch>(few_pixels_units<Float32>, few_pixels_units<BFloat16>));
  set(Algorithm::kDepthwise, {{depthwise_units}, {scratch_bytes<DirectScratch<Float32>>}});
  set(Algorithm::kBilinear, {{bilinear_units}, {scratch_bytes<BilinearScratch>}});
  set(Algorithm::kColumns, both<ColumnsScratch>(columns_units<Float32>, columns_units<BFloat16>));
  set(Algorithm::kShuffle, {{shuffle_units}, {scratch_bytes<ShuffleScratch>}});
  set(Algorithm::kVertical7, vertical_kernels<SideVertical7>());
  set(Algorithm::kVertical9, vertical_kernels<SideVertical9>());
  set(Algorithm::kVerticalLast7, vertical_last_kernels<SideVertical7>());
  set(Algorithm::kVerticalLast9, vertical_last_kernels<SideVertical9>());
  set(Algorithm::kWinograd2, winograd_kernels<Side2, Side2>());
  set(Algorithm::kWinograd42, winograd_kernels<Side4, Side2, Side4Near, Side2>());
  set(Algorithm::kWinograd4, winograd_kernels<Side4, Side4, Side4Near, Side4Near>());
  set(Algorithm::kWinograd8, {{winograd_output<Float32, Side8>},
                              {winograd_scratch_bytes<Float32, Side8>},
                              {winograd_input<Float32, Side8>},
                              {winograd_segments<Float32, Side8>}});
  set(Algorithm::kWinogradPairs, winograd_kernels<SidePairs, SidePairs>());
  set(Algorithm::kWinogradStrided, winograd_kernels<SideStrided, SideStrided>());
  set(Algorithm::kWinogradTransposed, winograd_kernels<SideTransposed, SideTransposed>());
  set(Algorithm::kWinogradPairs4, winograd_kernels<SidePairs4, SidePairs4>());
  set(Algorithm::kWinogradStrided4, winograd_kernels<SideStrided4, SideStrided4>());
  set(Algorithm::kWinogradTransposed4, winograd_kernels<SideTransposed4, SideTransposed4>());
  set(Algorithm::kMatrix, both<BandScratch>(matrix_units<Float32>, matrix_units<BFloat16>));
  set(Algorithm::kMatrixFewPixels,
      both<FewPixelsMatrixScratch>(matrix_few_pixels_units<Float32>, matrix_few_pixels_units<BFloat16>));
  set(Algorithm::kMatrixLast, both<MatrixLastScratch>(matrix_last_units<Float32>, matrix_last_units<BFloat16>));
  return all;
}
