// Direct convolution by a matrix unit: products of tiles of bfloat16, summed in float32. Included after
// fused_convolution_x.h and a MatrixUnit (matrix_unit_amx.h, or its emulation).
//
// An output tile is 16 neighbouring pixels of a row by 16 channels. A step multiplies 16 pixels by 32 input values of
// each, which lie side by side in memory: a block of 32 input channels of one tap, or of neighbouring taps where a
// pixel has fewer channels (two of 16; eight of the image, whose pixels are stored with four).
//
//   input row    [part][channel block][pixel][32 channels], bfloat16, in a ring of the last rows
//   weights      [32 output channels][channel block][kernel row][taps][part][2 blocks of 16][16 pairs][16][2], bfloat16
//
// Float32 values are two parts, high and low: x = bf16(x) + bf16(x - bf16(x)). Of the four products the one of both
// low parts is left out, which is below the rounding of float32 sums. Weights alone may be in two parts too.
//
// A thread works on a band of rows: it brings the input rows to the ring, then takes 32 output channels after the
// other, and for each all tiles of the band, four at a time (two rows, two blocks of channels), so that weights come
// from afar once a band. What is to be done to the sums of four tiles (statistics or activation and residuals,
// rounding, writing) is done a pixel at a time between the products of the next four, where the vector units have
// nothing else to do. (Reading the next band's rows there as well gained nothing: docs/notes/amx.md.)
//
// A generator without norms has its activations finished when they are written, with zeros around them. Products then
// read them where they lie, [row][pixel][channels], and fetch what the next column of tiles reads first.

// One product: where its input and its weights are.
struct MatrixStep {
  int32_t row;      // kernel row
  int32_t source;   // bytes from the beginning of the input row, for output column 0
  int32_t stride;   // bytes from one output pixel to the next
  int32_t weights;  // bytes from the group's first
  int32_t ahead;    // bytes from the output column of the input that is fetched meanwhile; -1: none
  bool reuses;      // the input of the step before it
};
static_assert(sizeof(MatrixStep) == kMatrixStepBytes);

template <typename E>
struct MatrixParts {
  static constexpr int kCount = E::kGroup == 1 ? 2 : 1;  // float32 is in two parts
};

// Bytes of a group of 32 output channels, or of 16.
inline int64_t matrix_group_bytes(const Convolution& c, const Phase& phase, int64_t blocks) {
  return matrix_steps(c, phase.rows, phase.columns) * c.weight_parts * blocks * kMatrixTileBytes;
}

// Pixels of the source that each tap fetches ahead, a power of two; 0: none.
inline int64_t pixels_ahead(const Convolution& c, const Phase& phase) {
  if (!c.reads_directly || c.stride != 1) return 0;
  int64_t pixels = 1;
  while (pixels * phase.rows * phase.columns < 2 * kMatrixSide) pixels *= 2;
  return pixels;
}

// Writes the products of a phase for groups of kBlocks blocks; returns how many there are. Kernel rows and columns
// that see zeros alone are left out.
template <typename E, int kBlocks>
int matrix_products(const Convolution& c, const Phase& phase, const Taps& rows, const Taps& columns, MatrixStep* to) {
  constexpr int64_t kBytes = kBlocks * kMatrixTileBytes;
  const int64_t part_bytes = matrix_part_bytes(c);
  const int64_t ahead_pixels = pixels_ahead(c, phase);
  int count = 0;
  int64_t weights = 0;
  for (int64_t block = 0; block < matrix_blocks(c); ++block) {
    const int64_t channels = matrix_block_channels(c, block), taps = kMatrixDepth / channels;
    const int64_t begin = block * kMatrixDepth * (c.reads_directly ? 1 : c.row_pixels) * 2;
    const int64_t pixel = (c.reads_directly ? c.sources[0].pixel_step : channels) * 2;
    for (int64_t r = 0; r < phase.rows; ++r) {
      for (int64_t k = 0; k < phase.columns; k += taps, weights += c.weight_parts * kBytes) {
        if (r < rows.first || r >= rows.last || k + taps <= columns.first || k >= columns.last) continue;
        const int64_t source = begin + (c.before + phase.dx + k) * pixel;
        // Each tap fetches some of the pixels that two rows of tiles in the next columns are the first to read.
        const int64_t tap = (r * phase.columns + k) * ahead_pixels, last = c.before + phase.dx + phase.columns - 1;
        const int64_t ahead =
            begin + tap / kMatrixSide * c.sources[0].row_step * 2 + (last + kMatrixSide + tap % kMatrixSide) * pixel;
        const auto add = [&](int64_t input_part, int64_t weight_part) {
          to[count++] = {static_cast<int32_t>(r),
                         static_cast<int32_t>(source + input_part * part_bytes),
                         static_cast<int32_t>(c.stride * pixel),
                         static_cast<int32_t>(weights + weight_part * kBytes),
                         static_cast<int32_t>(ahead_pixels > 0 && tap < 2 * kMatrixSide ? ahead : -1),
                         weight_part > 0};
        };
        add(0, 0);
        if (c.weight_parts == 2) add(0, 1);
        if constexpr (MatrixParts<E>::kCount == 2) add(1, 0);
      }
    }
  }
  return count;
}

#include "csrc/cpu/matrix_input_x.h"

// --- products

// Two stores of tiles should not lie further apart than some 2,000 cycles: the next one would take 1,000 more.
constexpr int kStepsBetweenStores = 16;

// Lines of the next weights that are fetched in each step, at least.
constexpr int kLeastLines = 2;

// Where a tile of pixels reads: the input row of each kernel row, and its first output column.
struct MatrixInput {
  const char* const* rows;
  int64_t column;
};

// How many tiles of pixels are multiplied at once. Three keep their input in registers, for a second part of the
// weights.
template <int kBlocks>
constexpr int kMostTiles = kBlocks == 2 ? 2 : 4;

// Where the sums of the tiles go that were multiplied before, [tile][16][16 kBlocks]; null: they are not wanted. The
// next sums begin with `first`, a tile for each block, or with zeros if that is null.
struct MatrixSums {
  float* tiles[4];
  int64_t row_bytes;
  const float* first;
};

// What is fetched beside the products: so many pixels a step, `pixel_bytes` apart.
struct MatrixAhead {
  const char* from = nullptr;
  int64_t pixels = 0, pixel_bytes = 0;
};

// Stores a sum, and begins another one.
template <int kSum, int kBlocks>
inline __attribute__((always_inline)) void next_sum(MatrixUnit& unit, const MatrixSums& sums) {
  if (sums.tiles[0]) unit.template store<kSum>(sums.tiles[kSum / kBlocks] + kSum % kBlocks * 16, sums.row_bytes);
  if (sums.first) {
    unit.template load<kSum>(reinterpret_cast<const char*>(sums.first + kSum % kBlocks * 256), 64);
  } else {
    unit.template zero<kSum>();
  }
}

template <int kTiles, int kBlocks>
void next_sums(MatrixUnit& unit, const MatrixSums& sums) {
  next_sum<0, kBlocks>(unit, sums);
  if constexpr (kTiles * kBlocks > 1) next_sum<1, kBlocks>(unit, sums);
  if constexpr (kTiles * kBlocks > 2) next_sum<2, kBlocks>(unit, sums);
  if constexpr (kTiles * kBlocks > 3) next_sum<3, kBlocks>(unit, sums);
  MatrixUnit::settle();
}

// Multiplies kTiles tiles of pixels by kBlocks blocks of output channels: 2 by 2, 4 by 1, 3 by 1, or a single tile.
// Tiles are loaded in turn with the products that need them. The sums stay in the unit, until the next products, or
// `next_sums`, store them: so products need not wait for those before them.
template <int kTiles, int kBlocks, typename Beside>
__attribute__((noinline)) void multiply_matrix(MatrixUnit& unit, const MatrixStep* steps, int count,
                                               const MatrixInput (&input)[kTiles], const char* weights,
                                               char* unused_tile, Beside& beside, const MatrixSums& sums,
                                               const MatrixAhead& ahead) {
  static_assert(kTiles * kBlocks <= 4);
  constexpr bool kKeepsInput = kTiles < 4;
  constexpr int kA = kTiles == 3 ? 3 : 4, kB = kBlocks == 2 ? 6 : 7;
  MatrixUnit::settle();
  if (count == 0) return next_sums<kTiles, kBlocks>(unit, sums);
  int until_store = kStepsBetweenStores;
  const auto multiply = [&](const MatrixStep* step, auto is_first) __attribute__((always_inline)) {
    constexpr bool kFirst = decltype(is_first)::kValue;
    const bool loads = kFirst || !kKeepsInput || !step->reuses;
    const auto pixels = [&](int tile) {
      return input[tile].rows[step->row] + step->source + input[tile].column * step->stride;
    };
    const char* const b = weights + step->weights;
    unit.template load<kB>(b, 64);
    if (loads) unit.template load<kA>(pixels(0), step->stride);
    if constexpr (kBlocks == 2) {
      unit.template load<kB + 1>(b + kMatrixTileBytes, 64);
      if constexpr (kTiles == 2) {
        if (loads) unit.template load<kA + 1>(pixels(1), step->stride);
      }
      if constexpr (kFirst) next_sum<0, kBlocks>(unit, sums);
      unit.template multiply<0, kA, kB>();
      if constexpr (kFirst) next_sum<1, kBlocks>(unit, sums);
      unit.template multiply<1, kA, kB + 1>();
      if constexpr (kTiles == 2) {
        if constexpr (kFirst) next_sum<2, kBlocks>(unit, sums);
        unit.template multiply<2, kA + 1, kB>();
        if constexpr (kFirst) next_sum<3, kBlocks>(unit, sums);
        unit.template multiply<3, kA + 1, kB + 1>();
      }
    } else {
      if constexpr (kTiles > 1) {
        if (loads) unit.template load<kA + 1>(pixels(1), step->stride);
      }
      if constexpr (kFirst) next_sum<0, kBlocks>(unit, sums);
      unit.template multiply<0, kA, kB>();
      if constexpr (kTiles > 2) {
        if (loads) unit.template load<kA + 2>(pixels(2), step->stride);
      }
      if constexpr (kTiles > 1) {
        if constexpr (kFirst) next_sum<1, kBlocks>(unit, sums);
        unit.template multiply<1, kA + 1, kB>();
      }
      if constexpr (kTiles > 3) unit.template load<kA>(pixels(3), step->stride);
      if constexpr (kTiles > 2) {
        if constexpr (kFirst) next_sum<2, kBlocks>(unit, sums);
        unit.template multiply<2, kA + 2, kB>();
      }
      if constexpr (kTiles > 3) {
        if constexpr (kFirst) next_sum<3, kBlocks>(unit, sums);
        unit.template multiply<3, kA, kB>();
      }
    }
    if (step->ahead >= 0) {
      const char* from = ahead.from + step->ahead;
      for (int64_t i = 0; i < ahead.pixels; ++i, from += ahead.pixel_bytes) __builtin_prefetch(from, 0, 2);
    }
    beside.step();
    if (--until_store == 0) {
      unit.template store<kB>(unused_tile, 64);
      until_store = kStepsBetweenStores;
    }
  };
  multiply(steps, Constant<1>{});
  MatrixUnit::settle();
  for (const MatrixStep* step = steps + 1; step < steps + count; ++step) multiply(step, Constant<0>{});
  MatrixUnit::settle();
}

#include "csrc/cpu/matrix_output_x.h"

// --- bands of rows, and shares of the output channels

// All of a kernel's rows or columns.
inline Taps all_taps(int64_t taps) { return Taps(taps, 0, 1, 1, 1, Padding::kReflect); }

// Output channels [first, last) of a phase of rows [top, top + rows); `window` holds their input from the first row
// that any phase reads.
template <typename E>
void matrix_rows(const Convolution& c, const char* const* window, MatrixUnit& unit, const MatrixScratch& scratch,
                 int64_t number, int64_t top, int64_t rows, int64_t first, int64_t last, const Phase& after,
                 float* statistics) {
  const Phase& phase = c.phases[number];
  const int64_t columns = (c.base_width + kMatrixSide - 1) / kMatrixSide;
  const auto input = [&](int64_t y, int64_t x) -> MatrixInput {
    return {window + y * c.stride + phase.dy - c.first, x};
  };
  int made_for = 0, products = 0;
  each_matrix_group(c, phase, first, last, after, [&](int64_t channel, auto blocks, const MatrixWeights& weights) {
    constexpr int kBlocks = decltype(blocks)::kValue;
    if (made_for != kBlocks) {
      products = matrix_products<E, kBlocks>(c, phase, all_taps(phase.rows), all_taps(phase.columns), scratch.steps);
      made_for = kBlocks;
    }
    const auto target = [&](int64_t y, int64_t x) {
      const int64_t left = c.base_width - x;
      return matrix_target(c, c.up * (top + y) + number / c.up, c.up * x + number % c.up, channel,
                           smaller(left, kMatrixSide), left);
    };
    matrix_group<kBlocks>(c, unit, scratch, products, weights, bias_of(c, number, channel), channel, rows, columns,
                          statistics, input, target);
  });
}

template <typename E>
void matrix_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  Scratch scratch{memory};
  const int64_t first_row = band_row(c, begin), last_row = band_row(c, end), phases = c.up * c.up;
  const int64_t last_owned = last_row == c.base_height ? c.in_height : last_row * c.stride;
  MatrixRing<E> ring(c, scratch, first_row * c.stride + c.first, first_row * c.stride, last_owned);
  const MatrixScratch work(c.matrix_products, scratch);
  MatrixUnit unit;
  for (int64_t band = begin; band < end; ++band) {
    const int64_t top = band_row(c, band), rows = band_row(c, band + 1) - top;
    ring.advance_to((top + rows - 1) * c.stride + c.last);
    const char* const* const window = ring.window(top * c.stride + c.first);
    for (int64_t i = 0; i < phases; ++i) {
      float* const statistics = c.statistics ? c.statistics + (band * phases + i) * 2 * c.out_channels : nullptr;
      const Phase& after = i + 1 < phases ? c.phases[i + 1] : band + 1 < end ? c.phases[0] : Phase{};
      matrix_rows<E>(c, window, unit, work, i, top, rows, 0, c.out_channels, after, statistics);
    }
    clear_output_border(c, c.up * top, c.up * (top + rows));
  }
  if (c.save) ring.advance_to(last_owned - 1);
}

// What each product reads of few pixels in rows narrower than a tile, side by side: [product][pixel][32]. Returns how
// many products there are; kernel rows and columns that see zeros alone are left out.
template <typename E, int kBlocks>
int gather_products(const Convolution& c, const Phase& phase, const char* const* window, int64_t tiles, bool copies,
                    MatrixStep* steps, char* gathered) {
  const Taps rows(phase.rows, phase.dy, c.stride, c.base_height, c.in_height, c.padding);
  const Taps columns(phase.columns, phase.dx, c.stride, c.base_width, c.in_width, c.padding);
  const int products = matrix_products<E, kBlocks>(c, phase, rows, columns, steps);
  for (int i = 0; i < products; ++i) {
    MatrixStep& step = steps[i];
    char* to = gathered + i * tiles * kMatrixTileBytes;
    for (int64_t y = 0; y < c.base_height && copies; ++y) {
      const char* from = window[y * c.stride + phase.dy - c.first + step.row] + step.source;
      for (int64_t x = 0; x < c.base_width; ++x, from += step.stride, to += 64) __builtin_memcpy(to, from, 64);
    }
    step.row = 0, step.source = static_cast<int32_t>(i * tiles * kMatrixTileBytes), step.stride = 64;
  }
  return products;
}

// Where weights are most of what is read, each thread takes a share of the output channels, and reads all of the input.
template <typename E>
void matrix_small_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  constexpr int64_t kUnitChannels = kMaxTileBlocks * kChannelBlock;
  Scratch scratch{memory};
  MatrixRing<E> ring(c, scratch, c.first, begin == 0 ? 0 : c.in_height, c.in_height);
  const MatrixScratch work(c.matrix_products, scratch);
  ring.advance_to(larger((c.base_height - 1) * c.stride + c.last, c.save ? c.in_height - 1 : 0));
  const char* const* const window = ring.window(c.first);
  const int64_t pixels = c.base_height * c.base_width, tiles = (pixels + kMatrixSide - 1) / kMatrixSide;
  const int64_t first = begin * kUnitChannels, last = smaller(end * kUnitChannels, c.out_channels);
  if (begin == 0) clear_output_border(c, 0, c.up * c.base_height);
  char* const gathered = c.gathers ? scratch.take<char>(c.matrix_products * tiles * kMatrixTileBytes) : nullptr;
  MatrixUnit unit;
  for (int64_t number = 0; number < c.up * c.up; ++number) {
    const Phase& phase = c.phases[number];
    const Phase& after = number + 1 < c.up * c.up ? c.phases[number + 1] : Phase{};
    float* const statistics = c.statistics ? c.statistics + number * 2 * c.out_channels : nullptr;
    if (!c.gathers) {
      matrix_rows<E>(c, window, unit, work, number, 0, c.base_height, first, last, after, statistics);
      continue;
    }
    const char* const rows[1] = {gathered};
    const auto input = [&](int64_t, int64_t pixel) -> MatrixInput { return {rows, pixel}; };
    int made_for = 0, products = 0;
    each_matrix_group(c, phase, first, last, after, [&](int64_t channel, auto blocks, const MatrixWeights& weights) {
      constexpr int kBlocks = decltype(blocks)::kValue;
      if (made_for != kBlocks) {
        products = gather_products<E, kBlocks>(c, phase, window, tiles, made_for == 0, work.steps, gathered);
        made_for = kBlocks;
      }
      const auto target = [&](int64_t, int64_t pixel) {
        const int64_t y = pixel / c.base_width, x = pixel % c.base_width;
        return matrix_target(c, c.up * y + number / c.up, c.up * x + number % c.up, channel,
                             smaller(pixels - pixel, kMatrixSide), c.base_width - x);
      };
      matrix_group<kBlocks>(c, unit, work, products, weights, bias_of(c, number, channel), channel, 1, tiles,
                            statistics, input, target);
    });
  }
}

inline void multiply_single_tiles(const uint16_t* a, const uint16_t* b, float* sums) {
  MatrixUnit unit;
  MatrixUnit::settle();
  unit.load<0>(reinterpret_cast<const char*>(sums), 64);
  unit.load<1>(reinterpret_cast<const char*>(a), 64);
  unit.load<2>(reinterpret_cast<const char*>(b), 64);
  unit.multiply<0, 1, 2>();
  unit.store<0>(sums, 64);
}
