// Winograd convolution (Lavin and Gray, arXiv:1509.09308): Y = A^T [(G g G^T) * (B^T d B)] A. Included after
// fused_convolution_x.h.
//
// Kernels are kept as their taps and transformed each time: 9 numbers where tiles of 8x8 outputs multiply 100. If those
// of a layer, transformed, fit in a core's own cache, each thread transforms them first, and then takes segments of
// tile rows and works through them one at a time, so that all it touches stays near it. Otherwise a layer is worked
// on in chunks of whole tile rows, each in two parallel passes: the input of all its tiles is transformed, then each
// thread takes a part of the tiles, as far as possible those that it has transformed, and output channels, transforms
// their kernels, multiplies, and transforms what comes out.

template <const TileSide& kOf>
struct Side {
  static constexpr int kIn = static_cast<int>(kOf.in), kFrequencies = static_cast<int>(kOf.frequencies);
  static constexpr int kOut = static_cast<int>(kOf.out), kStep = static_cast<int>(kOf.step);
  static constexpr int kTaps = static_cast<int>(kOf.taps);
};

// One side of each transform. A tile's are those of its rows and those of its columns. kInput is B^T, kKernel G,
// kOutput A^T.

template <int kRows, int kColumns>
struct Matrix {
  float values[kRows][kColumns] = {};

  constexpr const float (&operator[](int row) const)[kColumns] { return values[row]; }
};

// Toom and Cook's algorithm with the points p and -p of each pair, infinity, and 0 if kHasZero. A point's row of G is
// its powers over the product of its distances to the others, its row of B^T the polynomial that is zero at the others;
// where there is no 0 both have the other sign for -p, so that pairs differ in odd powers only.
template <int kPairs, int kTaps = 3, bool kHasZero = true>
struct ToomCook {
  static constexpr int kSize = 2 * kPairs + (kHasZero ? 2 : 1), kOut = kSize - kTaps + 1;
  Matrix<kSize, kSize> input;
  Matrix<kSize, kTaps> kernel;
  Matrix<kOut, kSize> output;

  constexpr explicit ToomCook(const double (&points)[kPairs]) {
    constexpr int kZero = kHasZero ? 1 : 0;
    // Of x^2 - p^2 over all pairs but one.
    const auto product = [&](int left_out, double (&polynomial)[kSize]) {
      for (double& factor : polynomial) factor = 0.0;
      polynomial[0] = 1.0;
      for (int pair = 0; pair < kPairs; ++pair) {
        if (pair == left_out) continue;
        for (int i = kSize - 1; i >= 0; --i) {
          polynomial[i] = (i >= 2 ? polynomial[i - 2] : 0.0) - points[pair] * points[pair] * polynomial[i];
        }
      }
    };
    double polynomial[kSize] = {};
    product(kPairs, polynomial);
    for (int i = 0; i < kSize; ++i) {
      if (kHasZero) input.values[0][i] = static_cast<float>(polynomial[i]);
      input.values[kSize - 1][i] = i >= kZero ? static_cast<float>(polynomial[i - kZero]) : 0.0f;
    }
    if (kHasZero) {
      kernel.values[0][0] = static_cast<float>(1.0 / polynomial[0]);
      output.values[0][0] = 1.0f;
    }
    kernel.values[kSize - 1][kTaps - 1] = output.values[kOut - 1][kSize - 1] = 1.0f;
    for (int pair = 0; pair < kPairs; ++pair) {
      product(pair, polynomial);
      const double p = points[pair];
      double distance = 0.0, power = kHasZero ? 2.0 * p * p : 2.0 * p;
      for (int i = 0; i < kSize; i += 2, power *= p * p) distance += polynomial[i] * power;
      for (int sign = 0; sign < 2; ++sign) {
        const int row = kZero + 2 * pair + sign;
        // The polynomial times x + p or x - p and, with zero, times x.
        for (int i = 0; i < kSize; ++i) {
          const double once = i >= kZero ? polynomial[i - kZero] : 0.0,
                       next = i > kZero ? polynomial[i - kZero - 1] : 0.0;
          const double value = sign == 0 ? next + p * once : next - p * once;
          input.values[row][i] = static_cast<float>(sign == 1 && !kHasZero ? -value : value);
        }
        power = 1.0;
        for (int i = 0; i < kSize; ++i, power *= sign == 0 ? p : -p) {
          if (i < kTaps) kernel.values[row][i] = static_cast<float>(power / distance);
          if (i < kOut) output.values[i][row] = static_cast<float>(power);
        }
      }
    }
  }
};

template <const TileSide& kOf, const auto& kMatrices>
struct ToomCookSide : Side<kOf> {
  static constexpr auto kInput = kMatrices.input;
  static constexpr auto kKernel = kMatrices.kernel;
  static constexpr auto kOutput = kMatrices.output;
};

constexpr ToomCook<1> kToomCook2({1.0});
constexpr ToomCook<2> kToomCook4({1.0, 2.0});
// These lose less where factors are bfloat16 (Barabasz et al., arXiv:1803.10986, on how to choose points).
constexpr ToomCook<2> kToomCook4Near({0.6, 1.5});
// The best of a search: each layer's error in float32 is 1.5e-5 of its output, that of F(4, 3) 1.4e-6.
constexpr ToomCook<4> kToomCook8({0.4375, 0.8125, 1.25, 2.5});
// F(4, 2).
constexpr ToomCook<2, 2, false> kToomCookPairs4({0.5, 1.25});

using Side2 = ToomCookSide<kSide2, kToomCook2>;
using Side4 = ToomCookSide<kSide4, kToomCook4>;
using Side4Near = ToomCookSide<kSide4, kToomCook4Near>;
using Side8 = ToomCookSide<kSide8, kToomCook8>;
using SidePairs4 = ToomCookSide<kSidePairs4, kToomCookPairs4>;

// F(2, 2), points 0 and 1.
struct SidePairs : Side<kSidePairs> {
  static constexpr Matrix<3, 3> kInput = {{{-1, 1, 0}, {0, 1, 0}, {0, -1, 1}}};
  static constexpr Matrix<3, 2> kKernel = {{{-1, 0}, {1, 1}, {0, 1}}};
  static constexpr Matrix<2, 3> kOutput = {{{1, 1, 0}, {0, 1, 1}}};
};

// Three taps, stride 2: of pixels -1 to 3 those of even number see the middle tap, those of odd number F(2, 2) of the
// others.
struct SideStrided : Side<kSideStrided> {
  static constexpr Matrix<5, 5> kInput = {
      {{0, 1, 0, 0, 0}, {0, 0, 0, 1, 0}, {1, 0, -1, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, -1, 0, 1}}};
  static constexpr Matrix<5, 3> kKernel = {{{0, 1, 0}, {0, 1, 0}, {1, 0, 0}, {1, 0, 1}, {0, 0, 1}}};
  static constexpr Matrix<2, 5> kOutput = {{{1, 0, 1, 1, 0}, {0, 1, 0, 1, 1}}};
};

// Three taps, transposed with stride 2: outputs of even number are the middle tap's, those of odd number F(2, 2) of the
// others.
struct SideTransposed : Side<kSideTransposed> {
  static constexpr Matrix<5, 3> kInput = {{{1, 0, 0}, {0, 1, 0}, {1, -1, 0}, {0, 1, 0}, {0, -1, 1}}};
  static constexpr Matrix<5, 3> kKernel = {{{0, 1, 0}, {0, 1, 0}, {0, 0, 1}, {1, 0, 1}, {1, 0, 0}}};
  static constexpr Matrix<4, 5> kOutput = {{{1, 0, 0, 0, 0}, {0, 0, 1, 1, 0}, {0, 1, 0, 0, 0}, {0, 0, 0, 1, 1}}};
};

// The same two with F(4, 2).
struct Strided4 {
  Matrix<9, 9> input;
  Matrix<9, 3> kernel;
  Matrix<4, 9> output;

  constexpr Strided4() {
    for (int o = 0; o < 4; ++o) input.values[o][2 * o + 1] = kernel.values[o][1] = output.values[o][o] = 1.0f;
    for (int f = 0; f < 5; ++f) {
      for (int i = 0; i < 5; ++i) input.values[4 + f][2 * i] = kToomCookPairs4.input[f][i];
      for (int i = 0; i < 2; ++i) kernel.values[4 + f][2 * i] = kToomCookPairs4.kernel[f][i];
      for (int o = 0; o < 4; ++o) output.values[o][4 + f] = kToomCookPairs4.output[o][f];
    }
  }
};

struct Transposed4 {
  Matrix<9, 5> input;
  Matrix<9, 3> kernel;
  Matrix<8, 9> output;

  constexpr Transposed4() {
    for (int o = 0; o < 4; ++o) input.values[o][o] = kernel.values[o][1] = output.values[2 * o][o] = 1.0f;
    for (int f = 0; f < 5; ++f) {
      for (int i = 0; i < 5; ++i) input.values[4 + f][i] = kToomCookPairs4.input[f][i];
      for (int i = 0; i < 2; ++i) kernel.values[4 + f][2 - 2 * i] = kToomCookPairs4.kernel[f][i];
      for (int o = 0; o < 4; ++o) output.values[2 * o + 1][4 + f] = kToomCookPairs4.output[o][f];
    }
  }
};

constexpr Strided4 kStrided4;
constexpr Transposed4 kTransposed4;
using SideStrided4 = ToomCookSide<kSideStrided4, kStrided4>;
using SideTransposed4 = ToomCookSide<kSideTransposed4, kTransposed4>;

// sum over i of coefficients[i] * values[i * step], with nothing done for zeros; unrolled by the compiler.
template <int kCount>
inline __attribute__((always_inline)) V combine(const float (&coefficients)[kCount], const V* values, int step) {
  V sum = V{};
  bool is_first = true;
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) {
    const float f = coefficients[i];
    const V value = values[i * step];
    if (f == 0.0f) continue;
    if (is_first) {
      sum = f == 1.0f ? value : value * f;
    } else {
      sum = f == 1.0f ? sum + value : f == -1.0f ? sum - value : multiply_add(value, splat(f), sum);
    }
    is_first = false;
  }
  return sum;
}

// Points p and -p give rows of B^T, and columns of A^T, that are the same but for the signs of odd powers. Their even
// and odd parts are computed once, added and subtracted.
template <int kCount>
constexpr bool is_mirrored(const float (&row)[kCount], const float (&other)[kCount]) {
  for (int i = 0; i < kCount; ++i) {
    if (row[i] != (i % 2 == 0 ? other[i] : -other[i])) return false;
  }
  return true;
}

template <int kCount>
struct Parts {
  float even[kCount] = {}, odd[kCount] = {};

  constexpr explicit Parts(const float (&row)[kCount]) {
    for (int i = 0; i < kCount; ++i) (i % 2 == 0 ? even : odd)[i] = row[i];
  }
};

// to[f * to_step] = row f of the matrix, B^T or G, times the values.
template <int kRows, int kColumns, const Matrix<kRows, kColumns>& kMatrix, int kRow = 0>
inline __attribute__((always_inline)) void apply_matrix(const V* values, int step, V* to, int to_step) {
  if constexpr (kRow < kRows) {
    constexpr int kNext = kRow + 1 < kRows ? kRow + 1 : kRow;
    if constexpr (kNext != kRow && is_mirrored(kMatrix[kRow], kMatrix[kNext])) {
      constexpr Parts<kColumns> kParts(kMatrix[kRow]);
      const V even = combine(kParts.even, values, step), odd = combine(kParts.odd, values, step);
      to[kRow * to_step] = even + odd;
      to[kNext * to_step] = even - odd;
      apply_matrix<kRows, kColumns, kMatrix, kRow + 2>(values, step, to, to_step);
    } else {
      to[kRow * to_step] = combine(kMatrix[kRow], values, step);
      apply_matrix<kRows, kColumns, kMatrix, kRow + 1>(values, step, to, to_step);
    }
  }
}

template <typename S>
inline __attribute__((always_inline)) void apply_input(const V* values, int step, V* to, int to_step) {
  apply_matrix<S::kFrequencies, S::kIn, S::kInput>(values, step, to, to_step);
}

// A^T for sums and differences of mirrored columns in the place of these columns.
template <typename S>
struct Output {
  bool begins_pair[S::kFrequencies] = {};
  float rows[S::kOut][S::kFrequencies] = {};

  constexpr Output() {
    for (int y = 0; y < S::kOut; ++y) {
      for (int f = 0; f < S::kFrequencies; ++f) rows[y][f] = S::kOutput[y][f];
    }
    for (int f = 0; f + 1 < S::kFrequencies; ++f) {
      begins_pair[f] = true;
      for (int y = 0; y < S::kOut; ++y) {
        const float other = S::kOutput[y][f + 1];
        if (S::kOutput[y][f] != (y % 2 == 0 ? other : -other)) begins_pair[f] = false;
      }
      if (!begins_pair[f]) continue;
      for (int y = 0; y < S::kOut; ++y) rows[y][y % 2 == 0 ? f + 1 : f] = 0.0f, rows[y][f + y % 2] = S::kOutput[y][f];
      ++f;
    }
  }
};

// to[y * to_step] = row y of A^T times the values.
template <typename S>
inline __attribute__((always_inline)) void apply_output(const V (&values)[S::kFrequencies], V* to, int to_step) {
  constexpr Output<S> kRows{};
  V parts[S::kFrequencies];
#pragma GCC unroll 16
  for (int f = 0; f < S::kFrequencies; ++f) {
    if (f > 0 && kRows.begins_pair[f - 1]) {
      parts[f] = values[f - 1] - values[f];
    } else {
      parts[f] = kRows.begins_pair[f] ? values[f] + values[f + 1 < S::kFrequencies ? f + 1 : f] : values[f];
    }
  }
#pragma GCC unroll 16
  for (int y = 0; y < S::kOut; ++y) to[y * to_step] = combine(kRows.rows[y], parts, 1);
}

// Transformed tiles are kept in groups of kTilePixels, [group][channels / 16][frequency][kTilePixels][16]: what a tile
// writes lies near what its neighbours write. A line more a block, so that blocks are not in the same sets of the
// caches.
constexpr int64_t kGroupPixel = kTilePixels * kChannelBlock;

template <typename E>
constexpr int64_t block_elements(int64_t frequencies) {
  return frequencies * kGroupPixel + kLineBytes / static_cast<int64_t>(sizeof(typename E::Storage));
}

// Channels [0, kChannelBlock) of a tile. Fetches those of the tile beside it. Outer loops are not unrolled here, nor in
// transform_output: 10 x 10 values would be 100 registers.
template <typename E, typename Rows, typename Columns>
__attribute__((noinline)) void transform_input(const float* const (&rows)[Rows::kIn], int64_t pixel_step,
                                               typename E::Storage* to) {
  for (int64_t c = 0; c < kChannelBlock; c += kLanes) {
    V half[Rows::kFrequencies][Columns::kIn];
    for (int x = 0; x < Columns::kIn; ++x) {
      V column[Rows::kIn];
#pragma GCC unroll 16
      for (int y = 0; y < Rows::kIn; ++y) {
        column[y] = Float32::load(rows[y] + x * pixel_step + c);
        __builtin_prefetch(rows[y] + (x + Columns::kStep) * pixel_step + c);
      }
      apply_input<Rows>(column, 1, half[0] + x, Columns::kIn);
    }
    for (int f = 0; f < Rows::kFrequencies; ++f) {
      V row[Columns::kFrequencies];
      apply_input<Columns>(half[f], 1, row, 1);
#pragma GCC unroll 16
      for (int g = 0; g < Columns::kFrequencies; ++g) {
        E::store(to + (f * Columns::kFrequencies + g) * kGroupPixel + c, row[g]);
      }
    }
  }
}

// The sums of a vector of channels, and of their squares.
struct Sums {
  V total = {}, squares = {};

  void add_to(float* slot, int64_t channels, int64_t channel) const {
    Float32::store(slot + channel, Float32::load(slot + channel) + total);
    Float32::store(slot + channels + channel, Float32::load(slot + channels + channel) + squares);
  }
};

// The part of a tile's outputs that lies in the picture.
struct TilePart {
  int64_t first_row, last_row, first_column, last_column;
};

// A part of the output of a tile, all of it if kWhole.
template <typename Rows, typename Columns, bool kWhole>
__attribute__((noinline)) void transform_output(const float* from, int64_t frequency_step, V bias, char* to,
                                                int64_t row_step, int64_t pixel_step, const TilePart& part,
                                                Writing writing, Sums& sums) {
  V half[Rows::kOut][Columns::kFrequencies], total = sums.total, squares = sums.squares;
  for (int g = 0; g < Columns::kFrequencies; ++g) {
    V column[Rows::kFrequencies];
#pragma GCC unroll 16
    for (int f = 0; f < Rows::kFrequencies; ++f) {
      column[f] = Float32::load(from + (f * Columns::kFrequencies + g) * frequency_step);
    }
    apply_output<Rows>(column, half[0] + g, Columns::kFrequencies);
  }
  for (int64_t y = kWhole ? 0 : part.first_row; y < (kWhole ? Rows::kOut : part.last_row); ++y) {
    V values[Columns::kOut];
    apply_output<Columns>(half[y], values, 1);
#pragma GCC unroll 16
    for (int x = 0; x < Columns::kOut; ++x) {
      if (!kWhole && (x < part.first_column || x >= part.last_column)) continue;
      const V value = values[x] + bias;
      total = total + value;
      squares = multiply_add(value, value, squares);
      write_output(to + y * row_step + x * pixel_step, value, writing);
    }
  }
  sums.total = total, sums.squares = squares;
}

template <int64_t kWidth>
void stream_pixels(const uint16_t* from, int64_t count, uint16_t* to, int64_t to_step) {
  for (int64_t i = 0; i < count; ++i, from += kWidth, to += to_step) {
    for (int64_t k = 0; k < kWidth; k += kLanes) {
      Halves halves;
      __builtin_memcpy(&halves, from + k, sizeof halves);
      stream(to + k, halves);
    }
  }
}

// A chunk's tiles in the order of their rows.
inline int64_t chunk_tiles(const Convolution& c) { return c.chunk_rows * c.tile_columns; }

inline int64_t winograd_depth(const Convolution& c) { return c.planes * c.planes * c.in_channels; }

template <typename E>
typename E::Storage* transformed_input(const Convolution& c, int64_t phase, int64_t frequencies) {
  const int64_t groups = c.tile_room / kTilePixels;
  return static_cast<typename E::Storage*>(c.transformed) +
         phase * groups * c.transformed_blocks * block_elements<E>(frequencies);
}

// Transforms tiles [begin, end) of tile row `row`, of a phase; the first one is tile `number` of `transformed`. With
// planes the input is four pictures of every other pixel, side by side along the channels.
template <typename E, typename Rows, typename Columns>
void transform_tiles(const Convolution& c, const RowRing<Float32>& ring, int64_t row, const Phase& phase, int64_t begin,
                     int64_t end, int64_t number, typename E::Storage* transformed) {
  constexpr int64_t kBlock = block_elements<E>(Rows::kFrequencies * Columns::kFrequencies);
  const int64_t planes = c.planes, blocks = winograd_depth(c) / kChannelBlock, last = number + end - begin;
  for (int64_t tile = number; tile < last;) {
    const int64_t group = tile / kTilePixels, end_of_group = smaller((group + 1) * kTilePixels, last);
    auto* to = transformed + group * c.transformed_blocks * kBlock;
    for (int64_t block = 0; block < blocks; ++block, to += kBlock) {
      const int64_t plane = block * kChannelBlock / c.in_channels, channel = block * kChannelBlock % c.in_channels;
      const int64_t y = row * Rows::kStep * planes + phase.dy + plane / planes;
      for (int64_t t = tile; t < end_of_group; ++t) {
        const int64_t x = (begin + t - number) * Columns::kStep * planes + phase.dx + plane % planes;
        const float* from[Rows::kIn];
        for (int r = 0; r < Rows::kIn; ++r) from[r] = ring.at(y + r * planes, x) + channel;
        transform_input<E, Rows, Columns>(from, planes * c.in_channels, to + t % kTilePixels * kChannelBlock);
      }
    }
    tile = end_of_group;
  }
}

// Input rows that tile rows [first, last) are the first to read.
template <typename Rows>
struct OwnedTileRows {
  int64_t first, last;

  OwnedTileRows(const Convolution& c, int64_t first_row, int64_t last_row)
      : first(first_row * Rows::kStep * c.planes),
        last(last_row == c.tile_rows ? c.in_height : last_row * Rows::kStep * c.planes) {}
};

// The channels of a convolution's one source that are not transformed yet, as an input of their own.
inline Convolution unseen_channels(const Convolution& c) {
  Convolution unseen = c;
  Source& source = unseen.sources[0];
  source.data = static_cast<const char*>(source.data) + c.seen_channels * (source.dtype == kFloat32 ? 4 : 2);
  source.channels -= c.seen_channels;
  unseen.in_channels -= c.seen_channels;
  if (c.slopes) unseen.slopes += c.seen_channels;
  unseen.seen_channels = 0;
  return unseen;
}

// Transforms the input of tile rows [begin, end) of the chunk.
template <typename E, typename Rows, typename Columns = Rows>
void winograd_input(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  constexpr int64_t kFrequencies = Rows::kFrequencies * Columns::kFrequencies;
  if (c.seen_channels > 0) {
    Convolution unseen = unseen_channels(c);
    unseen.transformed = static_cast<typename E::Storage*>(c.transformed) +
                         c.seen_channels / kChannelBlock * block_elements<E>(kFrequencies);
    return winograd_input<E, Rows, Columns>(unseen, begin, end, memory);
  }
  Scratch scratch{memory};
  const OwnedTileRows<Rows> owned(c, c.chunk_row + begin, c.chunk_row + end);
  RowRing<Float32> ring(c, scratch, owned.first + c.first, owned.first, owned.last);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t tile_row = c.chunk_row + row;
    ring.advance_to(tile_row * Rows::kStep * c.planes + c.last);
    for (int64_t i = 0; i < c.input_phases; ++i) {
      transform_tiles<E, Rows, Columns>(c, ring, tile_row, c.phases[i], 0, c.tile_columns, row * c.tile_columns,
                                        transformed_input<E>(c, i, kFrequencies));
    }
  }
  if (c.save) ring.advance_to(owned.last - 1);
}

// Row `f` of the frequencies of the kernels of 16 kBlocks output channels: from [depth][taps][16] a block to
// [depth / group][frequency of a column][16 kBlocks][group]. Frequencies beside each other are written twice as fast as
// with a plane for each.
template <typename E, typename Rows, typename Columns, int kBlocks>
void transform_kernels(const float* from, int64_t block_step, int64_t depth, int64_t f, typename E::Storage* to) {
  constexpr int64_t kTaps = Rows::kTaps * Columns::kTaps, kWidth = kBlocks * kChannelBlock;
  V factors[Rows::kTaps];
  for (int r = 0; r < Rows::kTaps; ++r) factors[r] = splat(Rows::kKernel[static_cast<int>(f)][r]);
  for (int block = 0; block < kBlocks; ++block, from += block_step) {
    for (int64_t k = 0; k < depth; k += E::kGroup) {
      for (int lane = 0; lane < kChannelBlock; lane += kLanes) {
        V values[E::kGroup][Columns::kFrequencies];
#pragma GCC unroll 2
        for (int i = 0; i < E::kGroup; ++i) {
          const float* taps = from + (k + i) * kTaps * kChannelBlock + lane;
          V row[Columns::kTaps];
#pragma GCC unroll 16
          for (int x = 0; x < Columns::kTaps; ++x) {
            row[x] = Float32::load(taps + x * kChannelBlock) * factors[0];
#pragma GCC unroll 16
            for (int y = 1; y < Rows::kTaps; ++y) {
              row[x] = multiply_add(Float32::load(taps + (y * Columns::kTaps + x) * kChannelBlock), factors[y], row[x]);
            }
          }
          apply_matrix<Columns::kFrequencies, Columns::kTaps, Columns::kKernel>(row, 1, values[i], 1);
        }
#pragma GCC unroll 16
        for (int g = 0; g < Columns::kFrequencies; ++g) {
          const V* group[E::kGroup];
          for (int i = 0; i < E::kGroup; ++i) group[i] = values[i] + g;
          E::store_group(
              to + (k * Columns::kFrequencies + g * E::kGroup) * kWidth + (block * kChannelBlock + lane) * E::kGroup,
              group);
        }
      }
    }
  }
}

// Sums of a group of tiles, kTilePixels times [16 kBlocks], of its input, depth / 16 times [kTilePixels][16], and
// transformed kernels. `next` is the input that is multiplied after it: it comes from afar, and what the processor
// fetches by itself leaves a quarter of the time unused.
template <typename E, int kBlocks>
__attribute__((noinline)) void multiply_tiles(const typename E::Storage* input, int64_t block_step, int64_t depth,
                                              const typename E::Storage* kernels, int64_t kernel_step, float* to,
                                              int64_t to_step, const typename E::Storage* next) {
  constexpr int kVectors = kBlocks * kBlockVectors;
  V sums[kTilePixels][kVectors];
#pragma GCC unroll 16
  for (int p = 0; p < kTilePixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[p][v] = V{};
  }
  constexpr int kStepBytes = kTilePixels * E::kGroup * static_cast<int>(sizeof(typename E::Storage));
  constexpr int kPrefetchSteps = kStepBytes < kLineBytes ? static_cast<int>(kLineBytes) / kStepBytes : 1;
  for (int64_t block = 0; block < depth; block += kChannelBlock) {
#pragma GCC unroll 16
    for (int step = 0; step < kChannelBlock / E::kGroup; ++step) {
      if (step % kPrefetchSteps == 0) __builtin_prefetch(next + step * kTilePixels * E::kGroup, 0, 0);
      typename E::Weights w[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) w[v] = E::load_weights(kernels + v * kLanes * E::kGroup);
      kernels += kernel_step;
#pragma GCC unroll 16
      for (int p = 0; p < kTilePixels; ++p) {
        const typename E::Broadcast value = E::broadcast(input + p * kChannelBlock + step * E::kGroup);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[p][v] = E::dot(value, w[v], sums[p][v]);
      }
    }
    input += block_step;
    next += block_step;
  }
#pragma GCC unroll 16
  for (int p = 0; p < kTilePixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Float32::store(to + p * to_step + v * kLanes, sums[p][v]);
  }
}

// Of all transformed kernels those of output channels from `channel` on, [row of frequencies].
template <typename E, typename Rows, typename Columns>
typename E::Storage* kernels_of(const Convolution& c, typename E::Storage* kernels, int64_t phase, int64_t channel) {
  return kernels + (phase * c.out_channels + channel) * Rows::kFrequencies * Columns::kFrequencies * winograd_depth(c);
}

// Where the taps of output channels from `channel` on are.
template <typename Rows, typename Columns>
const float* taps_of(const Convolution& c, int64_t phase, int64_t channel) {
  return static_cast<const float*>(c.phases[phase].weights) +
         channel * winograd_depth(c) * Rows::kTaps * Columns::kTaps;
}

// Output channels [channel, channel + 16 kBlocks) of `count` tiles of a phase, of which `first` is the first of the
// whole layer; `input` is theirs. `kernels` are transformed ones, [row of frequencies], or null. Adds to `statistics`.
template <typename E, typename Rows, typename Columns, int kBlocks>
void winograd_channels(const Convolution& c, int64_t phase, int64_t channel, int64_t first, int64_t count,
                       const typename E::Storage* input, const typename E::Storage* kernels, float* statistics,
                       Scratch scratch) {
  using Storage = typename E::Storage;
  constexpr int64_t kFrequencies = Rows::kFrequencies * Columns::kFrequencies, kWidth = kBlocks * kChannelBlock;
  constexpr int64_t kTileStep = kFrequencies * kWidth;
  const int64_t depth = winograd_depth(c), block_step = block_elements<E>(kFrequencies);
  const int64_t group_step = c.transformed_blocks * block_step,
                raw_step = depth * Rows::kTaps * Columns::kTaps * kChannelBlock;
  const int64_t kernel_row = Columns::kFrequencies * depth * kWidth;
  Storage* const own_kernels = kernels ? nullptr : scratch.take<Storage>(kernel_row);
  auto* products = scratch.take<float>(round_up(count, kTilePixels) * kTileStep);
  for (int64_t f = 0; f < kFrequencies; ++f) {
    const int64_t row = f / Columns::kFrequencies, column = f % Columns::kFrequencies;
    if (own_kernels && column == 0) {
      transform_kernels<E, Rows, Columns, kBlocks>(taps_of<Rows, Columns>(c, phase, channel), raw_step, depth, row,
                                                   own_kernels);
    }
    const Storage* const kernel =
        (own_kernels ? own_kernels : kernels + row * kernel_row) + column * E::kGroup * kWidth;
    const Storage* from = input + f * kGroupPixel;
    // Tiles beyond the last ones are multiplied too; nobody reads them.
    for (int64_t t = 0; t < count; t += kTilePixels) {
      const Storage* next = t + kTilePixels < count ? from + group_step : input + (f + 1) * kGroupPixel;
      multiply_tiles<E, kBlocks>(from, block_step, depth, kernel, Columns::kFrequencies * kWidth * E::kGroup,
                                 products + t * kTileStep + f * kWidth, kTileStep, next);
      from = next;
    }
  }
  const int64_t spread = c.spread, height = c.up * c.base_height / spread, width = c.up * c.base_width / spread;
  const int64_t bytes = bytes_of(c.writing), pixel_step = spread * c.output_step * bytes,
                row_step = c.up * c.base_width * pixel_step;
  const bool is_shifted = c.input_phases == 1;
  const int64_t up = is_shifted ? c.phases[phase].dy - c.phases[0].dy : 0;
  const int64_t left = is_shifted ? c.phases[phase].dx - c.phases[0].dx : 0;
  Sums sums[kBlocks * kBlockVectors];
  for (int64_t t = 0; t < count; ++t) {
    const int64_t y = (first + t) / c.tile_columns * Rows::kOut - up;
    const int64_t x = (first + t) % c.tile_columns * Columns::kOut - left;
    char* to = output_at(c, spread * y + phase / spread, spread * x + phase % spread, channel);
    const TilePart part = {larger(-y, 0), smaller(Rows::kOut, height - y), larger(-x, 0),
                           smaller(Columns::kOut, width - x)};
    const bool is_whole =
        part.last_row - part.first_row == Rows::kOut && part.last_column - part.first_column == Columns::kOut;
    const auto transform = is_whole ? transform_output<Rows, Columns, true> : transform_output<Rows, Columns, false>;
    // Halves of lines of the caches, which vectors are then, can't be written past these.
    alignas(64) uint16_t lines[Rows::kOut * Columns::kOut * kWidth];
    const bool in_lines = c.writing == Writing::kHalvesPastCaches;
    const int64_t step = in_lines ? kWidth * bytes : pixel_step;
    for (int v = 0; v < kBlocks * kBlockVectors; ++v) {
      transform(products + t * kTileStep + v * kLanes, kWidth, Float32::load(bias_of(c, phase, channel) + v * kLanes),
                (in_lines ? reinterpret_cast<char*>(lines) : to) + v * kLanes * bytes,
                in_lines ? Columns::kOut * step : row_step, step, part, in_lines ? Writing::kHalves : c.writing,
                sums[v]);
    }
    for (int64_t r = part.first_row; in_lines && r < part.last_row; ++r) {
      stream_pixels<kWidth>(
          lines + (r * Columns::kOut + part.first_column) * kWidth, part.last_column - part.first_column,
          reinterpret_cast<uint16_t*>(to + r * row_step + part.first_column * pixel_step), pixel_step / bytes);
    }
  }
  for (int v = 0; v < kBlocks * kBlockVectors && statistics; ++v)
    sums[v].add_to(statistics, c.out_channels, channel + v * kLanes);
}

inline void clear_statistics(const Convolution& c, float* slot, int64_t first, int64_t last) {
  const size_t bytes = static_cast<size_t>(last - first) * sizeof(float);
  __builtin_memset(slot + first, 0, bytes);
  __builtin_memset(slot + c.out_channels + first, 0, bytes);
}

// Multiplies a chunk: units [begin, end) of kMaxTileBlocks blocks of output channels, times the phases, times the parts
// that the chunk's tiles are worked on in.
template <typename E, typename Rows, typename Columns = Rows>
void winograd_output(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  constexpr int64_t kUnitChannels = kMaxTileBlocks * kChannelBlock;
  constexpr int64_t kFrequencies = Rows::kFrequencies * Columns::kFrequencies;
  const int64_t channel_units = (c.out_channels + kUnitChannels - 1) / kUnitChannels;
  const int64_t phases = c.spread * c.spread, groups = round_up(chunk_tiles(c), kTilePixels) / kTilePixels;
  const int64_t group_step = c.transformed_blocks * block_elements<E>(kFrequencies);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t slot = unit / channel_units, phase = slot % phases, part = slot / phases;
    const int64_t group = part * groups / c.parts, tile = group * kTilePixels;
    const int64_t last_tile = smaller((part + 1) * groups / c.parts * kTilePixels, chunk_tiles(c));
    const auto* const input = transformed_input<E>(c, phase % c.input_phases, kFrequencies) + group * group_step;
    float* const statistics = c.statistics ? c.statistics + slot * 2 * c.out_channels : nullptr;
    const int64_t first = unit % channel_units * kUnitChannels, last = smaller(first + kUnitChannels, c.out_channels);
    if (statistics) clear_statistics(c, statistics, first, last);
    each_block(first, last, [&](int64_t channel, auto blocks) {
      winograd_channels<E, Rows, Columns, decltype(blocks)::kValue>(
          c, phase, channel, c.chunk_row * c.tile_columns + tile, last_tile - tile, input, nullptr, statistics,
          Scratch{memory});
    });
  }
}

// Transforms all kernels: [phase][channel block][row of frequencies] of what transform_kernels makes.
template <typename E, typename Rows, typename Columns>
void all_winograd_kernels(const Convolution& c, typename E::Storage* kernels) {
  constexpr int64_t kTaps = Rows::kTaps * Columns::kTaps;
  const int64_t depth = winograd_depth(c);
  for (int64_t phase = 0; phase < c.spread * c.spread; ++phase) {
    each_block(0, c.out_channels, [&](int64_t channel, auto blocks) {
      constexpr int kBlocks = decltype(blocks)::kValue;
      auto* const to = kernels_of<E, Rows, Columns>(c, kernels, phase, channel);
      for (int64_t f = 0; f < Rows::kFrequencies; ++f) {
        transform_kernels<E, Rows, Columns, kBlocks>(taps_of<Rows, Columns>(c, phase, channel),
                                                     depth * kTaps * kChannelBlock, depth, f,
                                                     to + f * Columns::kFrequencies * depth * kBlocks * kChannelBlock);
      }
    });
  }
}

// Units [begin, end), each a segment of a tile row. Each thread transforms all kernels for itself, which takes less
// time than fetching what another one has written.
template <typename E, typename Rows, typename Columns = Rows>
void winograd_segments(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  constexpr int64_t kFrequencies = Rows::kFrequencies * Columns::kFrequencies;
  Scratch scratch{memory};
  const int64_t in_row = segments_of_row(c), phases = c.spread * c.spread;
  auto* const kernels = scratch.take<typename E::Storage>(phases * kFrequencies * winograd_depth(c) * c.out_channels);
  all_winograd_kernels<E, Rows, Columns>(c, kernels);
  // A row's first segment owns its input.
  const OwnedTileRows<Rows> owned(c, (begin + in_row - 1) / in_row, (end + in_row - 1) / in_row);
  const int64_t row_step = Rows::kStep * c.planes, blocks = winograd_depth(c) / kChannelBlock;
  RowRing<Float32> ring(c, scratch, begin / in_row * row_step + c.first, owned.first, owned.last);
  auto* const input = scratch.take<typename E::Storage>(round_up(c.segment, kTilePixels) / kTilePixels * blocks *
                                                        block_elements<E>(kFrequencies));
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t row = unit / in_row, tile = unit % in_row * c.segment;
    const int64_t last = smaller(tile + c.segment, c.tile_columns);
    ring.advance_to(row * row_step + c.last);
    for (int64_t phase = 0; phase < phases; ++phase) {
      float* const statistics = c.statistics ? c.statistics + (unit * phases + phase) * 2 * c.out_channels : nullptr;
      if (statistics) clear_statistics(c, statistics, 0, c.out_channels);
      if (phase < c.input_phases) {
        transform_tiles<E, Rows, Columns>(c, ring, row, c.phases[phase], tile, last, 0, input);
      }
      each_block(0, c.out_channels, [&](int64_t channel, auto blocks_at_once) {
        winograd_channels<E, Rows, Columns, decltype(blocks_at_once)::kValue>(
            c, phase, channel, row * c.tile_columns + tile, last - tile, input,
            kernels_of<E, Rows, Columns>(c, kernels, phase, channel), statistics, scratch);
      });
    }
  }
  if (c.save) ring.advance_to(owned.last - 1);
}
