// One convolution of a generator, with everything that happens to its input and output on the way.
//
// Activations are NHWC of one image, float32 or, where a program says so, bfloat16, channels a multiple of
// kChannelBlock (what is more than the layer has is zero). A convolution reads the raw output of earlier ones and
// brings it to what the layer sees, row by row, into a scratch ring: normalisation (value * scale + shift), activation,
// residual, padding. Only there, or in Winograd's transformed tiles, do they become what is multiplied, float32 or
// bfloat16; sums are float32. On write it adds the bias and sums what the next normalisation needs. Where there are no
// norms, the matrix unit's steps do the rest on write too (Finish), so that the next one reads the very values.
//
// An output row y of the base grid takes input rows y * stride + dy ... for each phase; with up = 2 the four phases
// (a, b) make output rows 2 y + a and columns 2 x + b, which is what a transposed convolution of stride 2, or a
// convolution of a picture that was enlarged by repeating pixels, comes to. So are the channels of a pixel shuffle,
// whose phases differ in weights and bias alone; it may have up = 3.
//
// Several convolutions can write side by side into one activation, each after the channels of those before it, and read
// all that is there: a dense block without copies. So a pixel's step and its number of channels are two things.
#pragma once

#include <stddef.h>

#include "csrc/cpu/tensor_to_frames.h"
#include "csrc/cpu/tier.h"

namespace streamgan {

constexpr int64_t kChannelBlock = 16;
constexpr int64_t kImageChannels = 3;  // of the first layer's input, some of them zero if need be
constexpr int64_t kLineBytes = 64;     // of the caches
constexpr int64_t kMaxKernel = 16;     // rows of a kernel
constexpr int64_t kMaxPhases = 9;
constexpr int64_t kMaxTilePixels = 16, kMaxTileBlocks = 2;  // of the micro-kernels of all tiers

// kPRelu has a slope for each channel, of any size and sign; of 1 it leaves a channel as it is.
enum class Activation : int64_t { kNone, kRelu, kLeakyRelu, kPRelu };
// What is added to the picture: the image, enlarged by repeating pixels or by linear interpolation (its corners are not
// aligned).
enum class Base : int64_t { kNone, kNearest, kBilinear };
enum class Padding : int64_t { kZeros, kReflect, kReplicate };
// What becomes of an output: float32 or bfloat16, past the caches where it is too large for them. Only whole lines go
// there well, so bfloat16 of 32 channels, or a multiple, from kernels that multiply as many at once.
enum class Writing : int64_t { kFloats, kFloatsPastCaches, kHalves, kHalvesPastCaches };
// kColumns: the last layer, whose few output channels would leave most of a vector empty. Its product has a channel for
// each picture channel of each kernel column, and these are added up, shifted, afterwards; with up = 2 its phases are
// the two rows a, and phases[a].dx is minus the padding of the transposed convolution.
// kSmall: a direct one of so few pixels that threads share out the output channels, and the whole input is brought to
// each of them.
// kWinograd42: of 4x2 outputs. kWinograd8 multiplies float32 only. kWinogradPairs: F(2x2, 2x2), for phases of two taps
// a side, and for 4x4 kernels of stride 2, which are four 2x2 ones on every other pixel. kWinogradStrided: 3x3 kernels
// of stride 2, whose pixels of even number see one tap and whose others see two. kWinogradTransposed: transposed ones,
// with all phases in one. kDepthwise: each channel by itself; kBilinear: twice as large, by linear interpolation. These
// two multiply float32. kShuffle: the last step, a pixel shuffle without weights, of channels [row][column][picture
// channel].
// kMatrix, kMatrixPicture: as kDirect, and the last layer, multiplied by the matrix unit (matrix_x.h), with weights
// that are packed for it. float32 is the sum of three products of bfloat16 there.
enum class Method : int64_t {
  kDirect,
  kWinograd2,
  kWinograd42,
  kWinograd4,
  kWinograd8,
  kWinogradPairs,
  kWinogradStrided,
  kWinogradTransposed,
  kDepthwise,
  kBilinear,
  kColumns,
  kShuffle,
  kMatrix,
  kMatrixPicture,
  // No program says these: pairs, strided and transposed in larger tiles, where that multiplies less, kDirect and
  // kMatrix of few pixels, and kDirect and kColumns of tall kernels in float32, which are Winograd's down the columns;
  // the last layer then with a vector of pixels, not of channels.
  kWinogradPairs4,
  kWinogradStrided4,
  kWinogradTransposed4,
  kSmall,
  kVertical,
  kVerticalPicture,
  kMatrixSmall
};
constexpr int kMethods = 21;

// One side of a Winograd tile: it reads `in` pixels, makes `frequencies` of them, and of the kernel's `taps`, and `out`
// outputs of these; the next tile begins `step` pixels further on.
struct TileSide {
  int64_t in, frequencies, out, step, taps;
};
constexpr TileSide kSide2 = {4, 4, 2, 2, 3}, kSide4 = {6, 6, 4, 4, 3}, kSide8 = {10, 10, 8, 8, 3};
constexpr TileSide kSidePairs = {3, 3, 2, 2, 2}, kSideStrided = {5, 5, 2, 4, 3}, kSideTransposed = {3, 5, 4, 2, 3};
constexpr TileSide kSidePairs4 = {5, 5, 4, 4, 2}, kSideStrided4 = {9, 9, 4, 8, 3}, kSideTransposed4 = {5, 9, 8, 4, 3};
constexpr TileSide kSideVertical7 = {12, 12, 6, 6, 7}, kSideVertical9 = {12, 12, 4, 4, 9};
constexpr int64_t kVerticalStrip = 64, kPictureStrip = 128;  // pixels that are worked on at a time

constexpr int64_t kMaxVerticalPictures = 4;  // picture channels of kVerticalPicture

struct TileShape {
  TileSide rows, columns;  // of none where the method is no Winograd one
};

// What multiplies the same kernels in larger tiles, or, for F(8x8), in smaller ones.
inline Method other_tiles(Method method) {
  switch (method) {
    case Method::kWinograd8:
      return Method::kWinograd4;
    case Method::kWinogradPairs:
      return Method::kWinogradPairs4;
    case Method::kWinogradStrided:
      return Method::kWinogradStrided4;
    case Method::kWinogradTransposed:
      return Method::kWinogradTransposed4;
    default:
      return method;
  }
}

inline TileShape tile_shape(Method method) {
  switch (method) {
    case Method::kWinograd2:
      return {kSide2, kSide2};
    case Method::kWinograd42:
      return {kSide4, kSide2};
    case Method::kWinograd4:
      return {kSide4, kSide4};
    case Method::kWinograd8:
      return {kSide8, kSide8};
    case Method::kWinogradPairs:
      return {kSidePairs, kSidePairs};
    case Method::kWinogradStrided:
      return {kSideStrided, kSideStrided};
    case Method::kWinogradTransposed:
      return {kSideTransposed, kSideTransposed};
    case Method::kWinogradPairs4:
      return {kSidePairs4, kSidePairs4};
    case Method::kWinogradStrided4:
      return {kSideStrided4, kSideStrided4};
    case Method::kWinogradTransposed4:
      return {kSideTransposed4, kSideTransposed4};
    default:
      return {};
  }
}

// The side of a kernel of so many rows that is multiplied down the columns; one of no taps where there is none.
inline TileSide vertical_side(int64_t rows) {
  return rows == kSideVertical7.taps ? kSideVertical7 : rows == kSideVertical9.taps ? kSideVertical9 : TileSide{};
}

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

struct Image {
  const char* data;                               // null: the input is not the image
  int64_t channel_bytes, row_bytes, pixel_bytes;  // strides
  int64_t channels;
  Dtype dtype;
  float scale, offset;  // what is multiplied is value * scale + offset
  // Null, or what brings `width` pixels of a row, from `first` on, to float32 RGB; `data` is its own business then.
  void (*read)(const char* data, int64_t row, int64_t first, int64_t width, float* to) = nullptr;
};

// Where the last layer writes.
struct Picture {
  float* data;               // float32 [height][width][channels]; null: bytes, to the frame, of three channels
  uint8_t* frame = nullptr;  // [frame_height][frame_width][3], BGR, which may be less than the picture
  int64_t frame_height = 0, frame_width = 0;
  // Brings a row's values to bytes (tensor_to_frames.h).
  TensorToFramesInterleavedRow interleaved = nullptr;
  TensorToFramesPlanarRow planar = nullptr;
  float low = 0.0f, scale = 1.0f;
};

struct Phase {
  int64_t dy, rows, dx, columns;  // the taps, relative to the pixel y * stride, x * stride
  // [row][channel block][column][input channel / group][16][group]; of Winograd float32, not transformed yet,
  // [channel block][planes][input channel][row][column][16]; of kVertical as of kDirect; of the matrix unit see
  // matrix_x.h.
  const void* weights;
};

// What becomes of the output before it is written, of the matrix unit's methods only: activation, then residuals, in
// bfloat16, of as many channels as the output.
struct Finish {
  Activation activation;
  float slope;
  const float* slopes;  // [out_channels], of kPRelu
  Source residual, second_residual;
  float residual_scale;
};

struct Convolution {
  Method method;
  // Input.
  Image image;
  Source sources[2];  // one after the other along the channels
  Source residual;    // times residual_scale, added after the activation
  float residual_scale;
  Source second_residual;  // added too
  void* save;              // null, or where the input is kept as the layer sees it, [in_height][in_width][save_step]
  int64_t save_step;       // in_channels, or more
  int64_t save_row, save_border;
  Writing saving;  // as bfloat16 by the matrix unit's methods only
  Activation activation;
  float slope;
  const float* slopes;  // [in_channels], of kPRelu
  int64_t in_height, in_width, in_channels;
  Padding padding;
  // What a unit reads around its own rows and columns: rows [first, last] relative to its first row's pixel, and
  // columns before and after the picture.
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
  void* output;         // [up * base_height][up * base_width][output_step], of its first channel
  int64_t output_step;  // out_channels, or more
  int64_t output_row;   // elements from a row to the next; with a border of the matrix unit's methods only
  int64_t output_border;
  Finish finish;
  Writing writing;
  float* statistics;  // null, or per slot sums and sums of squares, [2][out_channels]
  // Of kColumns: [up * base_height][up * base_width][picture_channels], and how many columns the kernel has.
  Picture picture;
  Base base;
  Image base_image;  // up * base_height is a multiple of its height
  int64_t base_scale, image_height, image_width;
  int64_t picture_channels, picture_height, picture_width, kernel_width;
  bool tanh;
  bool aligns_corners;  // of kBilinear, as torch.nn.functional.interpolate means it
  // Rows of the base grid in a unit, which share what is in the caches of the weights.
  int64_t unit_rows;
  // Of Winograd: all tiles, and the chunk of whole rows of them that is worked on. `planes` a side are what the input
  // is split into (every other pixel of a strided convolution), `spread` is the step between the outputs of a tile;
  // both are 1 where the tile's own transforms see to the stride.
  int64_t tile_rows, tile_columns, planes, spread;
  // How many phases have a transformed input of their own: all, or one, whose input is that of the others, a pixel
  // further on: what they make of it are their outputs less a row, a column, or both.
  int64_t input_phases;
  int64_t chunk_row, chunk_rows;
  int64_t parts;      // of the chunk, that are multiplied one after the other or by different threads
  void* transformed;  // the chunk's input, [input phase][frequency][tile_room][16 transformed_blocks], and a line a
                      // frequency
  int64_t transformed_blocks;  // channel blocks: planes^2 in_channels / 16, or room for those of later steps
  bool keeps_transformed;      // the whole input, in one chunk, for the next step
  int64_t seen_channels;       // of the input, from the first on, that are transformed already
  int64_t tile_room;           // a chunk's tiles, rounded up to the kernels' tile_pixels
  int64_t segment;             // tiles that a thread works on at a time; 0 if in chunks
  // Of the matrix unit: the groups of rows that threads share out, all as large as possible; how many input rows are
  // kept, and pixels of each; products of tiles for an output tile, at most.
  int64_t bands, ring_rows, row_pixels, matrix_products;
  int64_t weight_parts;
  bool reads_directly;  // products read the source itself, whose border is the padding
  bool gathers;         // of kMatrixSmall: what products read is copied side by side
  int64_t block;        // of kMatrixPicture: side of the block of pixels that a place of the base grid makes
  void* kernels;        // of kVertical and kVerticalPicture: transformed ones, of all output channels
};

// Works on units [begin, end): groups of rows of the base grid; of kSmall, and of kernels that are transformed, groups
// of 16 kMaxTileBlocks output channels, of Winograd's chunks these times phases times parts; of their inputs tile rows
// of the chunk; of Winograd by segments these. Statistics have a slot for each unit, of kSmall one for each phase, of
// Winograd for each phase of each part, or segment. `scratch` belongs to this call alone and holds, each rounded up to
// 64 bytes: the ring, [last - first + 1][row_elements(convolution)] elements, of Winograd's input float32 ones; of
// Winograd's output transformed kernels, [frequencies of a side][planes^2 in_channels][16 kMaxTileBlocks] elements, and
// products, [frequencies][tiles of a part, or a segment, and kMaxTilePixels][16 kMaxTileBlocks] float32; by segments
// all transformed kernels, the ring, a segment's input as in `transformed`, and products; of kBilinear a row, [in_width
// + 2][in_channels] float32; of kColumns the products of a row, [base_width + kernel_width - 1][out_channels] float32,
// the picture's row, picture_row_elements(convolution) float32, and with a base base_elements(convolution); of kShuffle
// these two; of kVertical and kVerticalPicture what their units take.
using ConvolutionUnits = void (*)(const Convolution& convolution, int64_t begin, int64_t end, char* scratch);

// Elements of a row of the ring. An odd number of channels (the image's) leaves one more, zero, for the products of
// pairs to end with.
inline int64_t row_elements(const Convolution& c) {
  return (c.before + c.in_width + c.after) * c.in_channels + c.in_channels % 2;
}

// Values of a row of the picture, and what is read and written beyond.
inline int64_t picture_row_elements(const Convolution& c) {
  return (c.up * c.base_width * c.picture_channels + kChannelBlock - 1) / kChannelBlock * kChannelBlock + kChannelBlock;
}

// Two rows of the image with a pixel before and after them, a mix of them, and what is read beyond.
inline int64_t base_elements(const Convolution& c) {
  return c.base == Base::kNone ? 0 : 3 * ((c.image_width + 2) * kImageChannels + kChannelBlock);
}

inline int64_t segments_of_row(const Convolution& c) { return (c.tile_columns + c.segment - 1) / c.segment; }

// Elements of a strip's input of a row, of kVertical, and a line.
inline int64_t vertical_input_step(const Convolution& c) {
  const int64_t pixels = kVerticalStrip + c.phases[0].columns - 1;
  return (pixels * c.in_channels + kChannelBlock - 1) / kChannelBlock * kChannelBlock + kChannelBlock;
}

// Columns of a strip of kVerticalPicture's input, whole vectors of them, and what is read beyond.
inline int64_t picture_strip_step(const Convolution& c) {
  return (kPictureStrip + c.kernel_width + 2 * kChannelBlock) / kChannelBlock * kChannelBlock;
}

// --- the matrix unit

constexpr int64_t kMatrixSide = 16;   // rows of a tile, and its columns of float32
constexpr int64_t kMatrixDepth = 32;  // input values that a product of tiles sums: one row of bfloat16
constexpr int64_t kMatrixTileBytes = 1024;
constexpr int64_t kMatrixStepBytes = 24;     // of a MatrixStep, and no less than of MatrixChannels (matrix_x.h)
constexpr int64_t kMatrixImageChannels = 4;  // as which the image's are stored

// The input's channels are multiplied in blocks of 32; the last one may have 16, and the image has one of 4.
inline int64_t matrix_blocks(const Convolution& c) { return (c.in_channels + kMatrixDepth - 1) / kMatrixDepth; }

inline int64_t matrix_block_channels(const Convolution& c, int64_t block) {
  if (c.in_channels == kImageChannels) return kMatrixImageChannels;
  const int64_t left = c.in_channels - block * kMatrixDepth;
  return left < kMatrixDepth ? left : kMatrixDepth;
}

// Products of tiles for an output tile: each takes as many neighbouring taps of a row as fill its depth.
inline int64_t matrix_steps(const Convolution& c, int64_t rows, int64_t columns) {
  int64_t steps = 0;
  for (int64_t block = 0; block < matrix_blocks(c); ++block) {
    const int64_t taps = kMatrixDepth / matrix_block_channels(c, block);
    steps += rows * ((columns + taps - 1) / taps);
  }
  return steps;
}

// Bytes of a row of the input: [part][channel block][row_pixels][channels of the block].
inline int64_t matrix_part_bytes(const Convolution& c) {
  const int64_t channels = c.in_channels == kImageChannels ? kMatrixImageChannels : c.in_channels;
  return (c.row_pixels * channels * 2 + kLineBytes - 1) / kLineBytes * kLineBytes;
}

// First row of the base grid of a band: an even one, for products take two rows at a time.
inline int64_t band_row(const Convolution& c, int64_t band) {
  const int64_t row = (c.base_height + 1) / 2 * band / c.bands * 2;
  return row < c.base_height ? row : c.base_height;
}

// By the type of what is multiplied: float32, bfloat16.
struct MethodKernels {
  ConvolutionUnits units[2];
  ConvolutionUnits inputs[2] = {};    // of Winograd, before the units
  ConvolutionUnits segments[2] = {};  // of Winograd by segments, in place of inputs and units
  ConvolutionUnits kernels[2] = {};   // where Convolution's `kernels` is to be filled, before all else
};

struct FusedConvolutionKernels {
  Isa isa;
  int64_t tile_pixels, tile_blocks;  // pixels, or Winograd tiles, and channel blocks that are multiplied at once
  MethodKernels methods[kMethods];
  // Adds the product of two tiles to one, as the matrix unit, or its emulation, does: a is bfloat16 [16][32], b
  // bfloat16 [16][16][2] (of its rows 2 k and 2 k + 1), sums float32 [16][16].
  void (*multiply_tiles)(const uint16_t* a, const uint16_t* b, float* sums);
};

extern const FusedConvolutionKernels kFusedConvolutionScalar;
extern const FusedConvolutionKernels kFusedConvolutionAvx2;
extern const FusedConvolutionKernels kFusedConvolutionAvx512;
extern const FusedConvolutionKernels kFusedConvolutionAvx512Bf16;
extern const FusedConvolutionKernels kFusedConvolutionAvx512Amx;
extern const FusedConvolutionKernels kFusedConvolutionNeon;
extern const FusedConvolutionKernels kFusedConvolutionNeonBf16;

}  // namespace streamgan
