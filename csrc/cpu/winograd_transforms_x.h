// How Winograd's transforms are applied to vectors of channels. Included after winograd_sides_x.h.

// sum over i of coefficients[i] * values[i * step], with nothing done for zeros; unrolled by the compiler.
template <int kCount>
inline __attribute__((always_inline)) V combine(const float (&coefficients)[kCount], const V* values, int step) {
  V sum = V{};
  bool is_first = true;
  UNROLLED (i, kCount) {
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
// and odd powers are summed once, then added and subtracted.
template <int kCount>
constexpr bool is_mirrored(const float (&row)[kCount], const float (&other)[kCount]) {
  for (int i = 0; i < kCount; ++i) {
    if (row[i] != (i % 2 == 0 ? other[i] : -other[i])) return false;
  }
  return true;
}

template <int kCount>
struct EvenOdd {
  float even[kCount] = {}, odd[kCount] = {};

  constexpr explicit EvenOdd(const float (&row)[kCount]) {
    for (int i = 0; i < kCount; ++i) (i % 2 == 0 ? even : odd)[i] = row[i];
  }
};

// to[f * to_step] = row f of the matrix, B^T or G, times the values.
template <int kRows, int kColumns, const Matrix<kRows, kColumns>& kMatrix, int kRow = 0>
inline __attribute__((always_inline)) void apply_matrix(const V* values, int step, V* to, int to_step) {
  if constexpr (kRow < kRows) {
    constexpr int kNext = kRow + 1 < kRows ? kRow + 1 : kRow;
    if constexpr (kNext != kRow && is_mirrored(kMatrix[kRow], kMatrix[kNext])) {
      constexpr EvenOdd<kColumns> kPowers(kMatrix[kRow]);
      const V even = combine(kPowers.even, values, step), odd = combine(kPowers.odd, values, step);
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
  V pairs[S::kFrequencies];
  UNROLLED (f, S::kFrequencies) {
    if (f > 0 && kRows.begins_pair[f - 1]) {
      pairs[f] = values[f - 1] - values[f];
    } else {
      pairs[f] = kRows.begins_pair[f] ? values[f] + values[f + 1 < S::kFrequencies ? f + 1 : f] : values[f];
    }
  }
  UNROLLED (y, S::kOut) to[y * to_step] = combine(kRows.rows[y], pairs, 1);
}

// The layout of transformed tiles, which the micro-kernel multiplies in groups of kTilePixels:
//
//   all         [group 0][group 1] ...
//   a group     [channels 0 to 15][channels 16 to 31] ...
//   a block     [frequency 0][frequency 1] ... [a spare line]
//   a frequency [tile 0: 16 channels][tile 1: 16 channels] ... [tile kTilePixels - 1: 16 channels]
//
// So neighbouring tiles write close to each other. The spare line keeps blocks out of the same sets of the caches.
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
      UNROLLED (y, Rows::kIn) {
        column[y] = Float32::load(rows[y] + x * pixel_step + c);
        __builtin_prefetch(rows[y] + (x + Columns::kStep) * pixel_step + c);
      }
      apply_input<Rows>(column, 1, half[0] + x, Columns::kIn);
    }
    for (int f = 0; f < Rows::kFrequencies; ++f) {
      V row[Columns::kFrequencies];
      apply_input<Columns>(half[f], 1, row, 1);
      UNROLLED (g, Columns::kFrequencies) {
        E::store(to + (f * Columns::kFrequencies + g) * kGroupPixel + c, row[g]);
      }
    }
  }
}

// Those of a tile's outputs that lie in the picture.
struct TileInside {
  int64_t first_row, last_row, first_column, last_column;
};

// The output of a tile, all of it if kWhole.
template <typename Rows, typename Columns, bool kWhole>
__attribute__((noinline)) void transform_output(const float* from, int64_t frequency_step, V bias, char* to,
                                                int64_t row_step, int64_t pixel_step, const TileInside& inside,
                                                Writing writing, Sums& sums) {
  V half[Rows::kOut][Columns::kFrequencies];
  Sums counted = sums;
  for (int g = 0; g < Columns::kFrequencies; ++g) {
    V column[Rows::kFrequencies];
    UNROLLED (f, Rows::kFrequencies) {
      column[f] = Float32::load(from + (f * Columns::kFrequencies + g) * frequency_step);
    }
    apply_output<Rows>(column, half[0] + g, Columns::kFrequencies);
  }
  for (int64_t y = kWhole ? 0 : inside.first_row; y < (kWhole ? Rows::kOut : inside.last_row); ++y) {
    V values[Columns::kOut];
    apply_output<Columns>(half[y], values, 1);
    UNROLLED (x, Columns::kOut) {
      if (!kWhole && (x < inside.first_column || x >= inside.last_column)) continue;
      const V value = values[x] + bias;
      counted.count(value);
      write_output(to + y * row_step + x * pixel_step, value, writing);
    }
  }
  sums = counted;
}
