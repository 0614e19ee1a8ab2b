// One convolution of a generator, with everything that happens to its input and output on the way: what a plan
// (csrc/generator) hands to the kernels of a tier. docs/native-core.md defines the words.
//
// Activations are NHWC of one image, float32 or, where a program says so, bfloat16. Channels are a multiple of
// kChannelBlock; those that the layer does not have are zero. A convolution reads the raw output of earlier ones and
// brings it row by row to what the layer sees, in a scratch ring: normalisation (value * scale + shift), activation,
// residual, padding. Values become what is multiplied, float32 or bfloat16, there or in Winograd's transformed tiles;
// sums are float32. On write the bias is added, and what the next normalisation needs is summed. Where there are no
// norms, the matrix unit's steps finish the output on write (Finish).
//
// Row y of the base grid reads input rows y * stride + dy ... for each phase. With up = 2 the four phases (a, b) make
// output rows 2 y + a and columns 2 x + b: a transposed convolution of stride 2, or a convolution of an image that was
// enlarged by repeating pixels. The channels of a pixel shuffle are phases too, which differ in weights and bias alone;
// there up may be 3.
//
// Several convolutions can write side by side into one activation, and read all that is there: a dense block without
// copies. So the step from a pixel to the next and the number of channels are two things.
//
// Memory:
//   weights      the caller's, as long as the plan; never written
//   workspace    one for each call: [statistics][transformed][filters][scratch of each thread][activations]
//   statistics   written by the kernels of a step, read when its last unit is done
//   transformed  of Winograd's chunks: written by `inputs`, read by `units`; the next step may use it again
//   filters      of kVertical7 ...: written by `filters`, read by `units`
//   scratch      belongs to one call of a kernel, and holds nothing between calls
//   activations  from the step that writes one to the last that reads it
#pragma once

#include <stddef.h>

#include "csrc/cpu/tensor_to_frames.h"
#include "csrc/cpu/tier.h"

namespace streamgan {

constexpr int64_t kChannelBlock = 16;
constexpr int64_t kImageChannels = 3;  // of the first layer's input, some of them zero if need be
constexpr int64_t kLineBytes = 64;     // of the caches
constexpr int64_t kMaxTaps = 16;       // rows or columns of a filter
constexpr int64_t kMaxPhases = 9;
constexpr int64_t kMaxTileBlocks = 2;                              // channel blocks of a micro-kernel, of all tiers
constexpr int64_t kUnitChannels = kMaxTileBlocks * kChannelBlock;  // output channels that a unit takes

// kPRelu has a slope for each channel, of any size and sign; 1 leaves a channel as it is.
enum class Activation : int64_t { kNone, kRelu, kLeakyRelu, kPRelu };
// What is added to the picture: the image, enlarged by repeating pixels or by linear interpolation (corners not
// aligned).
enum class Base : int64_t { kNone, kNearest, kBilinear };
enum class Padding : int64_t { kZeros, kReflect, kReplicate };
// How an output is stored: float32 or bfloat16, past the caches where it is too large for them. Only whole lines go
// past them well: for bfloat16 a multiple of 32 channels, from kernels that multiply as many at once.
enum class Writing : int64_t { kFloats, kFloatsPastCaches, kHalves, kHalvesPastCaches };

// How a step is computed. The plan picks one that the step's weights are packed for.
enum class Algorithm {
  kDirect,
  kFewPixels,  // direct; threads share out the output channels, and each reads the whole input
  kDepthwise,  // each channel by itself, in float32
  kBilinear,   // twice as large by linear interpolation, in float32
  kColumns,    // the last layer: its product has a channel for each column of the filter and picture channel, which
               // are added up, shifted, afterwards. With up = 2 the phases are the two rows a, and phases[a].dx is
               // minus the padding of the transposed convolution
  kShuffle,    // the last step, a pixel shuffle of channels [row][column][picture channel], without weights
  kVertical7,  // filters of seven or nine rows, in float32: Winograd down the columns
  kVertical9,
  kVerticalLast7,  // the same of the last layer, with a vector of pixels in place of channels
  kVerticalLast9,
  kWinograd2,  // F(2x2), and so on
  kWinograd42,
  kWinograd4,
  kWinograd8,        // float32 only
  kWinogradPairs,    // F(2x2, 2x2): phases of two taps a side; and 4x4 filters of stride 2, four of 2x2 on every other
                     // pixel
  kWinogradStrided,  // 3x3 filters of stride 2: pixels of even number see one tap, the others two
  kWinogradTransposed,  // all phases of a transposed 3x3 filter in one
  kWinogradPairs4,      // the same three in larger tiles
  kWinogradStrided4,
  kWinogradTransposed4,
  kMatrix,           // direct, on the matrix unit (matrix_x.h); float32 is the sum of three products of bfloat16 there
  kMatrixFewPixels,  // kFewPixels on the matrix unit
  kMatrixLast,       // the last layer on the matrix unit
};
constexpr int kAlgorithms = 23;

// One side of a Winograd tile: it reads `in` pixels, makes `frequencies` of them, and of the filter's `taps`, and `out`
// outputs of these; the next tile begins `step` pixels further on.
struct TileSide {
  int64_t in, frequencies, out, step, taps;
};
constexpr TileSide kSide2 = {4, 4, 2, 2, 3}, kSide4 = {6, 6, 4, 4, 3}, kSide8 = {10, 10, 8, 8, 3};
constexpr TileSide kSidePairs = {3, 3, 2, 2, 2}, kSideStrided = {5, 5, 2, 4, 3}, kSideTransposed = {3, 5, 4, 2, 3};
constexpr TileSide kSidePairs4 = {5, 5, 4, 4, 2}, kSideStrided4 = {9, 9, 4, 8, 3}, kSideTransposed4 = {5, 9, 8, 4, 3};
constexpr TileSide kSideVertical7 = {12, 12, 6, 6, 7}, kSideVertical9 = {12, 12, 4, 4, 9};
constexpr int64_t kMaxVerticalLastChannels = 4;  // picture channels of kVerticalLast7, 9

struct Source {
  const void* data;  // null: none
  Dtype dtype;
  int64_t channels;
  int64_t pixel_step;  // elements from a pixel to the next, which may hold more channels
  int64_t row_step;    // elements from a row to the next
  int64_t border;      // pixels of zeros around it
  const float* scale;  // [channels]; null: taken as it is
  const float* shift;
};

struct InputView {
  const char* data;                               // null: the input is not the image
  int64_t channel_bytes, row_bytes, pixel_bytes;  // strides
  int64_t channels;
  Dtype dtype;
  float scale, offset;  // what is multiplied is value * scale + offset
  // Null, or brings `width` pixels of a row, from `first` on, to float32 RGB; only it knows what `data` is then.
  void (*read)(const char* data, int64_t row, int64_t first, int64_t width, float* to) = nullptr;
};

// Where the last layer writes.
struct OutputView {
  float* data;               // float32 [height][width][channels]; null: bytes, to the frame, of three channels
  uint8_t* frame = nullptr;  // [frame_height][frame_width][3], BGR, perhaps smaller than the picture
  int64_t frame_height = 0, frame_width = 0;
  // Brings a row's values to bytes (tensor_to_frames.h).
  TensorToFramesInterleavedRow interleaved = nullptr;
  TensorToFramesPlanarRow planar = nullptr;
  float low = 0.0f, scale = 1.0f;
};

struct Phase {
  int64_t dy, rows, dx, columns;  // the taps, relative to pixel (y * stride, x * stride)
  // [row][channel block][column][input channel / group][16][group]; of Winograd float32, not transformed yet,
  // [channel block][planes][input channel][row][column][16]; of the matrix unit see matrix_x.h.
  const void* weights;
};

// An activation that is written. A border is the matrix unit's algorithms' only, and so is kept input in bfloat16.
struct Target {
  void* data;  // of its first channel and pixel; null: none
  int64_t pixel_step, row_step, border;
  Writing writing;
};

// The matrix unit's algorithms can finish an output: activation, then residuals in bfloat16 of as many channels.
struct Finish {
  Activation activation;
  float slope;
  const float* slopes;  // [out_channels], of kPRelu
  Source residual, second_residual;
  float residual_scale;
};

// --- parameters of each algorithm

// Algorithms whose units are rows of the base grid.
struct DirectParameters {
  int64_t unit_rows;    // rows of a unit, which share what is in the caches of the weights
  bool aligns_corners;  // of kBilinear, as torch.nn.functional.interpolate means it
};

struct VerticalParameters {
  float* filters;  // transformed, of all output channels
};

// The last layer, whatever the algorithm.
struct PictureParameters {
  OutputView view;
  int64_t channels, height, width;
  int64_t filter_width;  // of kColumns and kVerticalLast7, 9
  bool tanh;
  Base base;
  InputView base_image;  // `height` is a multiple, base_scale, of its height
  int64_t base_scale, image_height, image_width;
};

struct WinogradParameters {
  int64_t tile_rows, tile_columns;  // all tiles
  // A side: pictures that the input is split into (every other pixel of a strided convolution), and the step between
  // the outputs of a tile; both are 1 where the tile's own transforms see to the stride.
  int64_t planes, spread;
  // Phases that have a transformed input of their own: all, or one, which is shared. The others see the same input a
  // pixel further on, so what they make of it is their outputs less a row, a column, or both.
  int64_t input_phases;
  int64_t segment;                // tiles of a segment; 0: the layer is worked on in chunks
  int64_t chunk_row, chunk_rows;  // the chunk that is worked on, in rows of tiles
  int64_t parts;                  // of a chunk
  int64_t tile_room;              // a chunk's tiles, rounded up to the kernels' tile_pixels
  void* transformed;              // a chunk's input (winograd_x.h), [input phase]...
  int64_t transformed_blocks;     // channel blocks: planes^2 in_channels / 16, or room for those of later steps
  bool keeps_transformed;         // the whole input, in one chunk, for the next step
  int64_t seen_channels;          // of the input, from the first on, that are transformed already
};

struct MatrixParameters {
  int64_t bands;                  // groups of rows that threads share out, all as large as possible
  int64_t ring_rows, row_pixels;  // input rows that are kept, and pixels of each
  int64_t products;               // of tiles for an output tile, at most
  int64_t weight_terms;           // 1 or 2 bfloat16 that a weight is the sum of
  bool reads_directly;            // products read the source itself, whose border is the padding
  bool gathers;                   // of kMatrixFewPixels: what products read is copied side by side
  int64_t block;                  // of kMatrixLast: side of the block of pixels that a place of the base grid makes
};

struct Convolution {
  Algorithm algorithm;
  Dtype multiplied;  // float32 or bfloat16
  // Input.
  InputView image;
  Source sources[2];  // one after the other along the channels
  Source residual;    // times residual_scale, added after the activation
  float residual_scale;
  Source second_residual;  // added too
  Target save;             // where the input is kept as the layer sees it
  Activation activation;
  float slope;
  const float* slopes;  // [in_channels], of kPRelu
  int64_t in_height, in_width, in_channels;
  Padding padding;
  // A unit reads rows [first, last] relative to its first row's pixel, and columns before and after the picture.
  int64_t first, last, before, after;
  // The convolution.
  int64_t stride, up;
  bool shuffles;  // whether the phases are those of a pixel shuffle
  Phase phases[kMaxPhases];
  int64_t base_height, base_width;
  int64_t out_channels;
  const float* bias;  // [out_channels]; of phase i at bias + i * bias_step
  int64_t bias_step;
  // Output.
  Target output;  // [up * base_height][up * base_width]
  Finish finish;
  float* statistics;  // null, or of each slot sums and sums of squares, [2][out_channels]
  PictureParameters picture;

  DirectParameters direct;
  VerticalParameters vertical;
  WinogradParameters winograd;
  MatrixParameters matrix;
};

// Works on units [begin, end). A unit is
//   direct, vertical            unit_rows rows of the base grid
//   few pixels, filters         kUnitChannels output channels
//   Winograd's chunks: inputs   a row of the chunk's tiles
//   Winograd's chunks: units    kUnitChannels output channels, of each phase, of each part
//   Winograd's segments         a segment
//   matrix unit                 a band
// Statistics have a slot for each unit and phase; few pixels have one for each phase, parts share theirs.
using ConvolutionUnits = void (*)(const Convolution& convolution, int64_t begin, int64_t end, char* scratch);

static inline int64_t segments_of_row(const Convolution& c) {
  return (c.winograd.tile_columns + c.winograd.segment - 1) / c.winograd.segment;
}

// --- the matrix unit

constexpr int64_t kMatrixSide = 16;   // rows of a tile, and its columns of float32
constexpr int64_t kMatrixDepth = 32;  // input values that a product of tiles sums: one row of bfloat16
constexpr int64_t kMatrixTileBytes = 1024;
constexpr int64_t kMatrixImageChannels = 4;  // as which the image's are stored

// The input's channels are multiplied in blocks of 32; the last one may have 16, and the image has one of 4.
static inline int64_t matrix_blocks(const Convolution& c) { return (c.in_channels + kMatrixDepth - 1) / kMatrixDepth; }

static inline int64_t matrix_block_channels(const Convolution& c, int64_t block) {
  if (c.in_channels == kImageChannels) return kMatrixImageChannels;
  const int64_t left = c.in_channels - block * kMatrixDepth;
  return left < kMatrixDepth ? left : kMatrixDepth;
}

// Products of tiles for an output tile: each takes as many neighbouring taps of a row as fill its depth.
static inline int64_t matrix_steps(const Convolution& c, int64_t rows, int64_t columns) {
  int64_t steps = 0;
  for (int64_t block = 0; block < matrix_blocks(c); ++block) {
    const int64_t taps = kMatrixDepth / matrix_block_channels(c, block);
    steps += rows * ((columns + taps - 1) / taps);
  }
  return steps;
}

// Bytes of a row of the input in one term: [channel block][row_pixels][channels of the block].
static inline int64_t matrix_term_bytes(const Convolution& c) {
  const int64_t channels = c.in_channels == kImageChannels ? kMatrixImageChannels : c.in_channels;
  return (c.matrix.row_pixels * channels * 2 + kLineBytes - 1) / kLineBytes * kLineBytes;
}

// --- the kernels of a tier

// Indices are the type that is multiplied: float32, bfloat16.
struct AlgorithmKernels {
  ConvolutionUnits units[2];
  int64_t (*scratch_bytes[2])(const Convolution& convolution);  // that each call of any of these needs
  ConvolutionUnits inputs[2] = {};                              // of Winograd, before the units
  ConvolutionUnits segments[2] = {};                            // of Winograd by segments, in place of inputs and units
  ConvolutionUnits filters[2] = {};                             // of kVertical7 ..., before all else
};

struct FusedConvolutionKernels {
  int64_t tile_pixels, tile_blocks;  // pixels, or Winograd tiles, and channel blocks that are multiplied at once
  AlgorithmKernels algorithms[kAlgorithms];
  // Adds the product of two tiles to one, as the matrix unit, or its emulation, does: a is bfloat16 [16][32], b
  // bfloat16 [16][16][2] (of its rows 2 k and 2 k + 1), sums float32 [16][16].
  void (*multiply_tiles)(const uint16_t* a, const uint16_t* b, float* sums);
};

}  // namespace streamgan
