// Winograd convolution (Lavin and Gray, arXiv:1509.09308): Y = A^T [(G g G^T) * (B^T d B)] A. Included after
// fused_convolution_x.h. G is applied where weights are packed, in engine/fuse.py.

template <const TileSide& kOf>
struct Side {
  static constexpr int kIn = static_cast<int>(kOf.in), kFrequencies = static_cast<int>(kOf.frequencies);
  static constexpr int kOut = static_cast<int>(kOf.out), kStep = static_cast<int>(kOf.step);
};

// One side of each transform. A tile's are those of its rows and those of its columns.

// F(2, 3), points 0, 1, -1.
struct Side2 : Side<kSide2> {
  static constexpr float kInput[4][4] = {{-1, 0, 1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}};
  static constexpr float kOutput[2][4] = {{1, 1, 1, 0}, {0, 1, -1, 1}};
};

// F(4, 3), points 0, 1, -1, 2, -2.
struct Side4 : Side<kSide4> {
  static constexpr float kInput[6][6] = {{4, 0, -5, 0, 1, 0},  {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
                                         {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
  static constexpr float kOutput[4][6] = {
      {1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}};
};

// The same with points 0, 0.6, -0.6, 1.5, -1.5, which lose less where factors are bfloat16 (Barabasz et al.,
// arXiv:1803.10986, on how to choose points).
struct Side4Near : Side<kSide4> {
  static constexpr float kInput[6][6] = {{0.81f, 0, -2.61f, 0, 1, 0},     {0, -1.35f, -2.25f, 0.6f, 1, 0},
                                         {0, 1.35f, -2.25f, -0.6f, 1, 0}, {0, -0.54f, -0.36f, 1.5f, 1, 0},
                                         {0, 0.54f, -0.36f, -1.5f, 1, 0}, {0, 0.81f, 0, -2.61f, 0, 1}};
  static constexpr float kOutput[4][6] = {{1, 1, 1, 1, 1, 0},
                                          {0, 0.6f, -0.6f, 1.5f, -1.5f, 0},
                                          {0, 0.36f, 0.36f, 2.25f, 2.25f, 0},
                                          {0, 0.216f, -0.216f, 3.375f, -3.375f, 1}};
};

// F(2, 2), points 0 and 1.
struct SidePairs : Side<kSidePairs> {
  static constexpr float kInput[3][3] = {{-1, 1, 0}, {0, 1, 0}, {0, -1, 1}};
  static constexpr float kOutput[2][3] = {{1, 1, 0}, {0, 1, 1}};
};

// Three taps, stride 2: of pixels -1 to 3 those of even number see the middle tap, those of odd number F(2, 2) of the
// others.
struct SideStrided : Side<kSideStrided> {
  static constexpr float kInput[5][5] = {
      {0, 1, 0, 0, 0}, {0, 0, 0, 1, 0}, {1, 0, -1, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, -1, 0, 1}};
  static constexpr float kOutput[2][5] = {{1, 0, 1, 1, 0}, {0, 1, 0, 1, 1}};
};

// Three taps, transposed with stride 2: outputs of even number are the middle tap's, those of odd number F(2, 2) of the
// others.
struct SideTransposed : Side<kSideTransposed> {
  static constexpr float kInput[5][3] = {{1, 0, 0}, {0, 1, 0}, {1, -1, 0}, {0, 1, 0}, {0, -1, 1}};
  static constexpr float kOutput[4][5] = {{1, 0, 0, 0, 0}, {0, 0, 1, 1, 0}, {0, 1, 0, 0, 0}, {0, 0, 0, 1, 1}};
};

// sum over i of coefficients[i] * values[i * step], with nothing done for zeros; unrolled by the compiler.
template <int kCount>
inline __attribute__((always_inline)) V combine(const float (&coefficients)[kCount], const V* values, int step) {
  V sum = V{};
  bool is_first = true;
#pragma GCC unroll 8
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

// to[f * to_step] = row f of B^T times the values.
template <typename S, int kRow = 0>
inline __attribute__((always_inline)) void apply_input(const V* values, int step, V* to, int to_step) {
  if constexpr (kRow < S::kFrequencies) {
    constexpr int kNext = kRow + 1 < S::kFrequencies ? kRow + 1 : kRow;
    if constexpr (kNext != kRow && is_mirrored(S::kInput[kRow], S::kInput[kNext])) {
      constexpr Parts<S::kIn> kParts(S::kInput[kRow]);
      const V even = combine(kParts.even, values, step), odd = combine(kParts.odd, values, step);
      to[kRow * to_step] = even + odd;
      to[kNext * to_step] = even - odd;
      apply_input<S, kRow + 2>(values, step, to, to_step);
    } else {
      to[kRow * to_step] = combine(S::kInput[kRow], values, step);
      apply_input<S, kRow + 1>(values, step, to, to_step);
    }
  }
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
#pragma GCC unroll 8
  for (int f = 0; f < S::kFrequencies; ++f) {
    if (f > 0 && kRows.begins_pair[f - 1]) {
      parts[f] = values[f - 1] - values[f];
    } else {
      parts[f] = kRows.begins_pair[f] ? values[f] + values[f + 1 < S::kFrequencies ? f + 1 : f] : values[f];
    }
  }
#pragma GCC unroll 8
  for (int y = 0; y < S::kOut; ++y) to[y * to_step] = combine(kRows.rows[y], parts, 1);
}

template <typename E, typename Rows, typename Columns>
inline void transform_input(const float* const (&rows)[Rows::kIn], int64_t channels, int64_t pixel_step,
                            typename E::Storage* to, int64_t frequency_step) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    V half[Rows::kFrequencies * Columns::kIn];
#pragma GCC unroll 8
    for (int x = 0; x < Columns::kIn; ++x) {
      V column[Rows::kIn];
#pragma GCC unroll 8
      for (int y = 0; y < Rows::kIn; ++y) column[y] = Float32::load(rows[y] + x * pixel_step + c);
      apply_input<Rows>(column, 1, half + x, Columns::kIn);
    }
#pragma GCC unroll 8
    for (int f = 0; f < Rows::kFrequencies; ++f) {
      V row[Columns::kFrequencies];
      apply_input<Columns>(half + f * Columns::kIn, 1, row, 1);
#pragma GCC unroll 8
      for (int g = 0; g < Columns::kFrequencies; ++g) {
        E::store(to + (f * Columns::kFrequencies + g) * frequency_step + c, row[g]);
      }
    }
  }
}

template <typename Rows, typename Columns>
inline void transform_output(const float* from, int64_t frequency_step, V bias, float* to, int64_t row_step,
                             int64_t pixel_step, int64_t rows, int64_t columns, V& total, V& squares) {
  V half[Rows::kOut * Columns::kFrequencies];
#pragma GCC unroll 8
  for (int g = 0; g < Columns::kFrequencies; ++g) {
    V column[Rows::kFrequencies];
#pragma GCC unroll 8
    for (int f = 0; f < Rows::kFrequencies; ++f) {
      column[f] = Float32::load(from + (f * Columns::kFrequencies + g) * frequency_step);
    }
    apply_output<Rows>(column, half + g, Columns::kFrequencies);
  }
#pragma GCC unroll 8
  for (int y = 0; y < Rows::kOut; ++y) {
    if (y >= rows) break;
    V row[Columns::kFrequencies], values[Columns::kOut];
#pragma GCC unroll 8
    for (int g = 0; g < Columns::kFrequencies; ++g) row[g] = half[y * Columns::kFrequencies + g];
    apply_output<Columns>(row, values, 1);
#pragma GCC unroll 8
    for (int x = 0; x < Columns::kOut; ++x) {
      if (x >= columns) break;
      const V value = values[x] + bias;
      total = total + value;
      squares = multiply_add(value, value, squares);
      Float32::store(to + y * row_step + x * pixel_step, value);
    }
  }
}

// The tiles of a unit that are worked on at once.
struct Tiles {
  int64_t row, column;  // of the first one
  int64_t rows, columns;
  int64_t room;  // for how many there is memory
  int64_t count() const { return rows * columns; }
};

// Output channels [channel, channel + 16 kBlocks) of a phase of transformed tiles.
template <typename E, typename Rows, typename Columns, int kBlocks>
void winograd_blocks(const Convolution& c, int64_t phase, int64_t channel, const typename E::Storage* transformed,
                     const Tiles& tiles, float* products, V* total, V* squares) {
  constexpr int64_t kFrequencies = Rows::kFrequencies * Columns::kFrequencies, kWidth = kBlocks * kChannelBlock;
  const int64_t depth = c.planes * c.planes * c.in_channels;
  Product<E> product = {};
  product.count = 1;
  product.length = product.pixel_step = depth;
  product.block_step = kFrequencies * depth * kChannelBlock;
  const auto* weights =
      static_cast<const typename E::Storage*>(c.phases[phase].weights) + channel / kChannelBlock * product.block_step;
  for (int64_t f = 0; f < kFrequencies; ++f) {
    product.runs[0] = transformed + f * tiles.room * depth;
    product.weights = weights + f * depth * kChannelBlock;
    // Tiles beyond the last ones are multiplied too; nobody reads them.
    multiply_pixels<E, kBlocks>(product, round_up(tiles.count(), kTilePixels), products + f * tiles.room * kWidth,
                                kWidth);
  }
  const int64_t spread = c.spread, height = c.up * c.base_height / spread, width = c.up * c.base_width / spread;
  const int64_t pixel_step = spread * c.out_channels, row_step = spread * c.up * c.base_width * c.out_channels;
  for (int64_t t = 0; t < tiles.count(); ++t) {
    const int64_t y = (tiles.row + t / tiles.columns) * Rows::kOut;
    const int64_t x = (tiles.column + t % tiles.columns) * Columns::kOut;
    float* to = output_at(c, spread * y + phase / spread, spread * x + phase % spread) + channel;
    for (int v = 0; v < kBlocks * kBlockVectors; ++v) {
      transform_output<Rows, Columns>(products + t * kWidth + v * kLanes, tiles.room * kWidth,
                                      Float32::load(c.bias + channel + v * kLanes), to + v * kLanes, row_step,
                                      pixel_step, height - y, width - x, total[v], squares[v]);
    }
  }
}

// With planes the input is four pictures of every other pixel, side by side along the channels.
template <typename E, typename Rows, typename Columns>
void transform_tiles(const Convolution& c, const RowRing<Float32>& ring, const Phase& phase, const Tiles& tiles,
                     typename E::Storage* transformed) {
  const int64_t planes = c.planes, depth = planes * planes * c.in_channels;
  for (int64_t t = 0; t < tiles.count(); ++t) {
    const int64_t y = (tiles.row + t / tiles.columns) * Rows::kStep * planes + phase.dy;
    const int64_t x = (tiles.column + t % tiles.columns) * Columns::kStep * planes + phase.dx;
    for (int64_t plane = 0; plane < planes * planes; ++plane) {
      const float* from[Rows::kIn];
      for (int r = 0; r < Rows::kIn; ++r) from[r] = ring.at(y + plane / planes + r * planes, x + plane % planes);
      transform_input<E, Rows, Columns>(from, c.in_channels, planes * c.in_channels,
                                        transformed + t * depth + plane * c.in_channels, tiles.room * depth);
    }
  }
}

template <typename E, typename Rows, typename Columns = Rows>
void winograd_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  using Storage = typename E::Storage;
  constexpr int64_t kFrequencies = Rows::kFrequencies * Columns::kFrequencies;
  Scratch scratch{memory};
  const int64_t unit_rows = c.unit_rows * Rows::kStep * c.planes;  // of the input
  const int64_t phases = c.spread * c.spread;
  const int64_t tile_rows = (c.up * c.base_height / c.spread + Rows::kOut - 1) / Rows::kOut;
  const int64_t tile_columns = (c.up * c.base_width / c.spread + Columns::kOut - 1) / Columns::kOut;
  const int64_t last_owned = end * c.unit_rows >= tile_rows ? c.in_height : end * unit_rows;
  RowRing<Float32> ring(c, scratch, begin * unit_rows + c.first, begin * unit_rows, last_owned);
  const int64_t room = round_up(c.unit_rows * c.segment_tiles, kTilePixels);
  auto* transformed = scratch.take<Storage>(kFrequencies * room * c.planes * c.planes * c.in_channels);
  auto* products = scratch.take<float>(kFrequencies * room * kTileBlocks * kChannelBlock);
  for (int64_t unit = begin; unit < end; ++unit) {
    ring.advance_to(unit * unit_rows + c.last);
    const int64_t rows = smaller(c.unit_rows, tile_rows - unit * c.unit_rows);
    for (int64_t part = 0; part < c.segments * phases; ++part) {
      const int64_t first = part / phases * c.segment_tiles, phase = part % phases;
      const Tiles tiles = {unit * c.unit_rows, first, rows, smaller(c.segment_tiles, tile_columns - first), room};
      transform_tiles<E, Rows, Columns>(c, ring, c.phases[phase], tiles, transformed);
      float* statistics =
          c.statistics ? c.statistics + (unit * c.segments * phases + part) * 2 * c.out_channels : nullptr;
      const auto multiply = [&](int64_t channel, auto blocks) {
        constexpr int kBlocks = decltype(blocks)::kValue;
        V total[kBlocks * kBlockVectors] = {}, squares[kBlocks * kBlockVectors] = {};
        winograd_blocks<E, Rows, Columns, kBlocks>(c, phase, channel, transformed, tiles, products, total, squares);
        if (statistics) write_statistics(statistics, c.out_channels, channel, total, squares);
      };
      int64_t channel = 0;
      for (; channel + kTileBlocks * kChannelBlock <= c.out_channels; channel += kTileBlocks * kChannelBlock) {
        multiply(channel, Constant<kTileBlocks>{});
      }
      for (; channel < c.out_channels; channel += kChannelBlock) multiply(channel, Constant<1>{});
    }
  }
  if (c.save) ring.advance_to(last_owned - 1);
}
