// Direct convolution by a matrix unit: products of tiles of bfloat16, summed in float32. Included after direct_x.h and
// a MatrixUnit (matrix_unit_amx.h, or its emulation).
//
// An output tile is 16 neighbouring pixels of a row by 16 channels. A step multiplies 16 pixels by 32 input values of
// each, which lie side by side in memory: a block of 32 input channels of one tap, or of neighbouring taps where a
// pixel has fewer channels (two of 16; eight of the image, whose pixels are stored with four).
//
//   input row    [term][channel block][pixel][32 channels], in a ring of the last rows
//   weights      [32 output channels][channel block][row of taps][taps][term][2 blocks of 16][16 pairs][16][2]
//
// Float32 values are the sum of two terms, high and low: x = bf16(x) + bf16(x - bf16(x)). Of the four products the one
// of both low terms is left out, which is below the rounding of float32 sums. Weights alone may have two terms too.
//
// Registers: 8 tiles. Sums take 4 (2 tiles of pixels x 2 blocks of channels, or 4 x 1), input 2 (or 3), weights 2
// (or 1).
//
// A thread works on a band of rows: it brings the input rows to the ring, then takes 32 output channels after the
// other, and for each all tiles of the band, four at a time (two rows, two blocks of channels), so that weights come
// from afar once a band. What is to be done to the sums of four tiles (statistics or activation and residuals,
// rounding, writing) is done a pixel at a time between the products of the next four, where the vector units have
// nothing else to do.
//
// A generator without norms has its activations finished when they are written, with zeros around them. Products then
// read them where they lie, [row][pixel][channels], and fetch what the next column of tiles reads first.

// One product: where its input and its weights are.
struct MatrixStep {
  int32_t row;      // row of taps
  int32_t source;   // bytes from the beginning of the input row, for output column 0
  int32_t stride;   // bytes from one output pixel to the next
  int32_t weights;  // bytes from the group's first
  int32_t ahead;    // bytes from the output column of the input that is fetched meanwhile; -1: none
  bool reuses;      // the input of the step before it
};

template <typename E>
struct MatrixTerms {
  static constexpr int kCount = E::kGroup == 1 ? 2 : 1;  // float32 has two
};

struct MatrixScratch : Scratch {
  using Scratch::Scratch;
  // The last layer keeps those for one block of channels and for two.
  MatrixStep* steps = take<MatrixStep>(c.matrix.products * (c.algorithm == Algorithm::kMatrixLast ? 2 : 1));
  float* sums = take<float>(4 * kMatrixSide * kMatrixSide);    // of four tiles
  float* biases = take<float>(2 * kMatrixSide * kMatrixSide);  // of two
  char* unused_tile = take<char>(kMatrixTileBytes);
};

// Bytes of a group of 32 output channels, or of 16.
inline int64_t matrix_group_bytes(const Convolution& c, const Phase& phase, int64_t blocks) {
  return matrix_steps(c, phase.rows, phase.columns) * c.matrix.weight_terms * blocks * kMatrixTileBytes;
}

// Pixels of the source that each tap fetches ahead, a power of two; 0: none.
inline int64_t pixels_ahead(const Convolution& c, const Phase& phase) {
  if (!c.matrix.reads_directly || c.stride != 1) return 0;
  int64_t pixels = 1;
  while (pixels * phase.rows * phase.columns < 2 * kMatrixSide) pixels *= 2;
  return pixels;
}

// Writes the products of a phase for groups of kBlocks blocks; returns how many there are. Rows and columns of taps
// that see zeros alone are left out.
template <typename E, int kBlocks>
int matrix_products(const Convolution& c, const Phase& phase, const Taps& rows, const Taps& columns, MatrixStep* to) {
  constexpr int64_t kBytes = kBlocks * kMatrixTileBytes;
  const int64_t term_bytes = matrix_term_bytes(c);
  const int64_t ahead_pixels = pixels_ahead(c, phase);
  int count = 0;
  int64_t weights = 0;
  for (int64_t block = 0; block < matrix_blocks(c); ++block) {
    const int64_t channels = matrix_block_channels(c, block), taps = kMatrixDepth / channels;
    const int64_t begin = block * kMatrixDepth * (c.matrix.reads_directly ? 1 : c.matrix.row_pixels) * 2;
    const int64_t pixel = (c.matrix.reads_directly ? c.sources[0].pixel_step : channels) * 2;
    for (int64_t r = 0; r < phase.rows; ++r) {
      for (int64_t k = 0; k < phase.columns; k += taps, weights += c.matrix.weight_terms * kBytes) {
        if (r < rows.first || r >= rows.last || k + taps <= columns.first || k >= columns.last) continue;
        const int64_t source = begin + (c.before + phase.dx + k) * pixel;
        // Each tap fetches some of the pixels that two rows of tiles in the next columns are the first to read.
        const int64_t tap = (r * phase.columns + k) * ahead_pixels, last = c.before + phase.dx + phase.columns - 1;
        const int64_t ahead =
            begin + tap / kMatrixSide * c.sources[0].row_step * 2 + (last + kMatrixSide + tap % kMatrixSide) * pixel;
        const auto add = [&](int64_t input_term, int64_t weight_term) {
          to[count++] = {static_cast<int32_t>(r),
                         static_cast<int32_t>(source + input_term * term_bytes),
                         static_cast<int32_t>(c.stride * pixel),
                         static_cast<int32_t>(weights + weight_term * kBytes),
                         static_cast<int32_t>(ahead_pixels > 0 && tap < 2 * kMatrixSide ? ahead : -1),
                         weight_term > 0};
        };
        add(0, 0);
        if (c.matrix.weight_terms == 2) add(0, 1);
        if constexpr (MatrixTerms<E>::kCount == 2) add(1, 0);
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

// The input of a tile of pixels: a row for each row of taps, and the first output column.
struct MatrixInput {
  const char* const* rows;
  int64_t column;
};

// How many tiles of pixels are multiplied at once. Three keep their input in registers, for a second term of the
// weights.
template <int kBlocks>
constexpr int kMostTiles = kBlocks == 2 ? 2 : 4;

// Memory for the sums of the tiles that were multiplied before, [tile][16][16 kBlocks]; null: they are not wanted. The
// next sums begin with `first`, a tile for each block, or with zeros if that is null.
struct MatrixSums {
  float* tiles[4];
  int64_t row_bytes;
  const float* first;
};

// Input that is prefetched during the products: `pixels` a step, `pixel_bytes` apart.
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

// Calls use(Constant<0>), use(Constant<1>) ... before kCount.
template <int kCount, int kFirst = 0, typename Use>
inline __attribute__((always_inline)) void each_number(const Use& use) {
  if constexpr (kFirst < kCount) {
    use(Constant<kFirst>{});
    each_number<kCount, kFirst + 1>(use);
  }
}

template <int kTiles, int kBlocks>
void next_sums(MatrixUnit& unit, const MatrixSums& sums) {
  each_number<kTiles * kBlocks>([&](auto sum) { next_sum<decltype(sum)::kValue, kBlocks>(unit, sums); });
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
    const char* const b = weights + step->weights;
    // The fourth of four tiles takes the place of the first.
    const auto load_pixels = [&](auto tile) __attribute__((always_inline)) {
      constexpr int kTile = decltype(tile)::kValue;
      if (!loads) return;
      const char* const row = input[kTile].rows[step->row] + step->source;
      unit.template load<kA + kTile % 3>(row + input[kTile].column * step->stride, step->stride);
    };
    unit.template load<kB>(b, 64);
    load_pixels(Constant<0>{});
    if constexpr (kBlocks == 2) unit.template load<kB + 1>(b + kMatrixTileBytes, 64);
    if constexpr (kBlocks == 2 && kTiles == 2) load_pixels(Constant<1>{});
    each_number<kTiles * kBlocks>([&](auto sum) __attribute__((always_inline)) {
      constexpr int kSum = decltype(sum)::kValue, kTile = kSum / kBlocks;
      if constexpr (kBlocks == 1 && kTile + 1 < kTiles) load_pixels(Constant<kTile + 1>{});
      if constexpr (kFirst) next_sum<kSum, kBlocks>(unit, sums);
      unit.template multiply<kSum, kA + kTile % 3, kB + kSum % kBlocks>();
    });
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

// All of a filter's rows or columns.
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
                           min_of(left, kMatrixSide), left);
    };
    matrix_group<kBlocks>(c, unit, scratch, products, weights, bias_of(c, number, channel), channel, rows, columns,
                          statistics, input, target);
  });
}

// First row of the base grid of a band: an even one, for products take two rows at a time.
inline int64_t band_row(const Convolution& c, int64_t band) {
  return min_of((c.base_height + 1) / 2 * band / c.matrix.bands * 2, c.base_height);
}

template <typename E>
void matrix_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const BandScratch<E> work(c, memory);
  const int64_t last_row = band_row(c, end), phases = c.up * c.up;
  MatrixRing<E> ring(c, work,
                     {band_row(c, begin) * c.stride, last_row == c.base_height ? c.in_height : last_row * c.stride});
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
  ring.finish();
}

// Copies the input of each product side by side, [product][pixel][32], where rows are narrower than a tile. Returns how
// many products there are; rows and columns of taps that see zeros alone are left out.
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

inline int64_t few_pixels_tiles(const Convolution& c) {
  return (c.base_height * c.base_width + kMatrixSide - 1) / kMatrixSide;
}

template <typename E>
struct FewPixelsMatrixScratch : BandScratch<E> {
  using BandScratch<E>::BandScratch, BandScratch<E>::c;
  // [product][tile]
  char* gathered =
      this->template take<char>(c.matrix.gathers ? c.matrix.products * few_pixels_tiles(c) * kMatrixTileBytes : 0);
};

// Where weights are most of what is read, each thread takes a share of the output channels, and reads all of the input.
template <typename E>
void matrix_few_pixels_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const FewPixelsMatrixScratch<E> work(c, memory);
  MatrixRing<E> ring(c, work, c.first, {begin == 0 ? 0 : c.in_height, c.in_height});
  ring.advance_to(max_of((c.base_height - 1) * c.stride + c.last, c.save.data ? c.in_height - 1 : 0));
  const char* const* const window = ring.window(c.first);
  const int64_t pixels = c.base_height * c.base_width, tiles = few_pixels_tiles(c);
  const int64_t first = begin * kUnitChannels, last = min_of(end * kUnitChannels, c.out_channels);
  if (begin == 0) clear_output_border(c, 0, c.up * c.base_height);
  MatrixUnit unit;
  for (int64_t number = 0; number < c.up * c.up; ++number) {
    const Phase& phase = c.phases[number];
    const Phase& after = number + 1 < c.up * c.up ? c.phases[number + 1] : Phase{};
    float* const statistics = c.statistics ? c.statistics + number * 2 * c.out_channels : nullptr;
    if (!c.matrix.gathers) {
      matrix_rows<E>(c, window, unit, work, number, 0, c.base_height, first, last, after, statistics);
      continue;
    }
    const char* const rows[1] = {work.gathered};
    const auto input = [&](int64_t, int64_t pixel) -> MatrixInput { return {rows, pixel}; };
    int made_for = 0, products = 0;
    each_matrix_group(c, phase, first, last, after, [&](int64_t channel, auto blocks, const MatrixWeights& weights) {
      constexpr int kBlocks = decltype(blocks)::kValue;
      if (made_for != kBlocks) {
        products = gather_products<E, kBlocks>(c, phase, window, tiles, made_for == 0, work.steps, work.gathered);
        made_for = kBlocks;
      }
      const auto target = [&](int64_t, int64_t pixel) {
        const int64_t y = pixel / c.base_width, x = pixel % c.base_width;
        return matrix_target(c, c.up * y + number / c.up, c.up * x + number % c.up, channel,
                             min_of(pixels - pixel, kMatrixSide), c.base_width - x);
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
