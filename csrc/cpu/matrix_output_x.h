// The output of the matrix unit's steps (matrix_x.h): sums of tiles become activations, some pixels at a time beside
// the next products. Included by matrix_x.h.

// The output of a tile: its pixels go to `at` on, `in_row` of them before the next row of the output. Residuals may be
// null.
struct MatrixTarget {
  char* at;
  int64_t pixels, in_row;
  const char *residual, *second_residual;
};

inline const char* residual_at(const Source& residual, int64_t y, int64_t x, int64_t channel) {
  if (!residual.data) return nullptr;
  return static_cast<const char*>(residual.data) + (y * residual.row_step + x * residual.pixel_step + channel) * 2;
}

// The target of `pixels` pixels from (y, x) of the output on.
inline MatrixTarget matrix_target(const Convolution& c, int64_t y, int64_t x, int64_t channel, int64_t pixels,
                                  int64_t in_row) {
  MatrixTarget target = {output_at(c, y, x, channel), pixels, in_row, nullptr, nullptr};
  if (c.finish.residual.data) {
    target.residual = residual_at(c.finish.residual, y, x, channel);
    target.second_residual = residual_at(c.finish.second_residual, y, x, channel);
  }
  return target;
}

// The sums of up to four tiles on their way to the output, some pixels at a time beside the products of the next ones.
// Statistics are counted, or else what is written is finished.
template <int kBlocks, bool kCounts>
struct MatrixOutput {
  static constexpr int kVectors = kBlocks * kBlockVectors;
  static constexpr int kChains = 2;  // of additions that do not wait for each other

  MatrixTarget* targets = nullptr;
  const float* sums = nullptr;  // [tile][16][16 kBlocks]
  float slopes[kBlocks * kChannelBlock];
  const Finish* finishing;
  Writing writing;
  int64_t pixel_bytes, row_pixels, row_step;  // row_step: from the end of one row to the beginning of the next
  int64_t pixels_at_once, lines_at_once;
  const char *prefetch, *prefetch_end;  // the weights that are multiplied next
  int tile = 0, tiles = 0;
  int64_t pixel = 0;
  V total[kChains][kVectors] = {}, squares[kChains][kVectors] = {};

  void begin(MatrixTarget* to, int count) {
    targets = to;
    tile = 0, tiles = count, pixel = 0;
  }

  void step() {
    if (prefetch < prefetch_end) {
      for (int64_t i = 0; i < lines_at_once; ++i, prefetch += kLineBytes) __builtin_prefetch(prefetch, 0, 2);
    }
    if (tile < tiles) write(pixels_at_once);
  }

  void finish() {
    while (tile < tiles) write(kMatrixSide);
  }

  // Writes at most `count` pixels of a tile.
  void write(int64_t count) {
    MatrixTarget& target = targets[tile];
    count = min_of(min_of(count, target.pixels - pixel), target.in_row);
    const float* from = sums + (tile * kMatrixSide + pixel) * kBlocks * kChannelBlock;
    char* to = target.at;
    int64_t i = 0;
    for (; i + kChains <= count; i += kChains) {
      UNROLLED (chain, kChains) {
        write_next(chain, target, from, to);
        from += kBlocks * kChannelBlock, to += pixel_bytes;
      }
    }
    for (; i < count; ++i, from += kBlocks * kChannelBlock, to += pixel_bytes) {
      write_next(0, target, from, to);
    }
    pixel += count;
    target.in_row -= count;
    if (target.in_row == 0) {
      target.in_row = row_pixels, to += row_step;
      if (!kCounts) move(target, end_of_row(finishing->residual), end_of_row(finishing->second_residual));
    }
    target.at = to;
    if (pixel == target.pixels) ++tile, pixel = 0;
  }

  inline __attribute__((always_inline)) void write_next(int chain, MatrixTarget& target, const float* from, char* to) {
    V values[kVectors];
    UNROLLED (v, kVectors) {
      values[v] = Float32::load(from + v * kLanes);
      if constexpr (kCounts) {
        total[chain][v] = total[chain][v] + values[v];
        squares[chain][v] = multiply_add(values[v], values[v], squares[chain][v]);
      } else {
        values[v] = multiply_add(minimum(values[v], V{}), Float32::load(slopes + v * kLanes), maximum(values[v], V{}));
      }
    }
    if (!kCounts && target.residual) add_residuals(target, values);
    write_pixel<kBlocks>(to, values, writing);
  }

  inline __attribute__((always_inline)) void add_residuals(MatrixTarget& target, V (&values)[kVectors]) const {
    const auto channels = [](const char* from, int v) {
      return BFloat16::load(reinterpret_cast<const uint16_t*>(from) + v * kLanes);
    };
    const V factor = splat(finishing->residual_scale);
    UNROLLED (v, kVectors) {
      values[v] = multiply_add(channels(target.residual, v), factor, values[v]);
      if (target.second_residual) values[v] = values[v] + channels(target.second_residual, v);
    }
    move(target, finishing->residual.pixel_step * 2, finishing->second_residual.pixel_step * 2);
  }

  static void move(MatrixTarget& target, int64_t bytes, int64_t second_bytes) {
    if (target.residual) target.residual += bytes;
    if (target.second_residual) target.second_residual += second_bytes;
  }

  int64_t end_of_row(const Source& residual) const {
    return (residual.row_step - row_pixels * residual.pixel_step) * 2;
  }

  void write_statistics(float* slot, int64_t channels, int64_t channel) const {
    for (int v = 0; v < kVectors; ++v) {
      V all = total[0][v], all_squares = squares[0][v];
      for (int i = 1; i < kChains; ++i) all = all + total[i][v], all_squares = all_squares + squares[i][v];
      Float32::store(slot + channel + v * kLanes, all);
      Float32::store(slot + channels + channel + v * kLanes, all_squares);
    }
  }
};

// The weights of a group of output channels, and those that are multiplied after them.
struct MatrixWeights {
  const char* data;
  const char* next;
  int64_t next_bytes;
};

// Calls use(channel, number of blocks, weights) for groups of two blocks of output channels, and a last one of one.
// After the last group comes `after`.
template <typename Use>
void each_matrix_group(const Convolution& c, const Phase& phase, int64_t first, int64_t last, const Phase& after,
                       const Use& use) {
  const int64_t block_bytes = matrix_group_bytes(c, phase, 1);
  const auto* const all = static_cast<const char*>(phase.weights);
  for (int64_t channel = first; channel < last; channel += kMatrixDepth) {
    MatrixWeights weights = {all + channel / kChannelBlock * block_bytes, static_cast<const char*>(after.weights), 0};
    const int64_t next = channel + kMatrixDepth;
    if (next < last) weights.next = all + next / kChannelBlock * block_bytes;
    weights.next_bytes = min_of(next < last ? (last - next) / kChannelBlock : 2, 2) * block_bytes;
    if (next >= last && after.weights == nullptr) weights.next_bytes = 0;
    if (next <= last) {
      use(channel, Constant<2>{}, weights);
    } else {
      use(channel, Constant<1>{}, weights);
    }
  }
}

// Output channels [channel, channel + 16 kBlocks) of `rows` rows of a phase, each of `columns` tiles: input(y, x) says
// where the tile of pixels from x on reads, and target(y, x) where it is written. Tiles of one column follow each
// other, so that those which are multiplied together share input rows.
template <int kTiles, int kBlocks, bool kCounts, typename Input, typename Target>
void matrix_channels(const Convolution& c, MatrixUnit& unit, const MatrixScratch& scratch, int products,
                     const MatrixWeights& weights, const float* bias, int64_t channel, int64_t rows, int64_t columns,
                     float* statistics, const Input& input, const Target& target) {
  constexpr int64_t kTileSums = kMatrixSide * kBlocks * kChannelBlock;
  const int64_t tiles = rows * columns, steps = max_of((tiles + kTiles - 1) / kTiles * products, 1),
                bytes = bytes_of(c.output.writing);
  MatrixOutput<kBlocks, kCounts> pending;
  pending.finishing = &c.finish;
  for (int64_t i = 0; i < kBlocks * kChannelBlock; ++i) {
    const Activation activation = c.finish.activation;
    pending.slopes[i] = activation == Activation::kNone    ? 1.0f
                        : activation == Activation::kPRelu ? c.finish.slopes[channel + i]
                                                           : c.finish.slope;
  }
  pending.writing = c.output.writing;
  pending.pixel_bytes = c.up * c.output.pixel_step * bytes;
  pending.row_pixels = c.base_width;
  pending.row_step = c.up * (c.output.row_step - c.base_width * c.output.pixel_step) * bytes;
  pending.pixels_at_once = (kTiles * kMatrixSide + products - 1) / max_of(products, 1);
  pending.lines_at_once = max_of((weights.next_bytes / kLineBytes + steps - 1) / steps, kLeastLines);
  // The first channels bring the input to the caches for all others.
  const Phase& phase = c.phases[0];
  MatrixAhead ahead;
  if (channel == 0 && !c.matrix.gathers && weights.data == phase.weights) {
    ahead = {nullptr, pixels_ahead(c, phase), c.sources[0].pixel_step * 2};
  }
  const int64_t ahead_row = ahead.pixels > 0 ? phase.rows - 1 : 0;
  pending.prefetch = weights.next;
  pending.prefetch_end = weights.next + weights.next_bytes;
  for (int64_t row = 0; row < kBlocks * kMatrixSide; ++row) {
    const float* const of_block = bias + row / kMatrixSide * kMatrixSide;
    __builtin_memcpy(scratch.biases + row * kMatrixSide, of_block, kMatrixSide * sizeof(float));
  }
  MatrixInput inputs[kTiles];
  MatrixTarget targets[2][kTiles];
  MatrixSums sums = {{}, kBlocks * kChannelBlock * 4, scratch.biases};
  pending.sums = scratch.sums;
  int made = 0, turn = 0;
  for (int64_t first = 0, y = 0, x = 0; first < tiles; first += kTiles) {
    pending.begin(targets[turn], made);
    turn = 1 - turn;
    made = static_cast<int>(min_of(tiles - first, kTiles));
    for (int i = 0; i < kTiles; ++i) {
      inputs[i] = i < made ? input(y, x) : inputs[0];
      if (i < made) targets[turn][i] = target(y, x);
      if (++y == rows) y = 0, x += kMatrixSide;
    }
    ahead.from = inputs[0].rows[ahead_row] + inputs[0].column * ahead.pixel_bytes;
    multiply_matrix<kTiles, kBlocks>(unit, scratch.steps, products, inputs, weights.data, scratch.unused_tile, pending,
                                     sums, ahead);
    pending.finish();
    for (int i = 0; i < kTiles; ++i) sums.tiles[i] = scratch.sums + i * kTileSums;
  }
  next_sums<kTiles, kBlocks>(unit, sums);
  pending.begin(targets[turn], made);
  pending.finish();
  if constexpr (kCounts) pending.write_statistics(statistics, c.out_channels, channel);
}

// The same, with as many tiles at once as is fastest.
template <int kBlocks, typename Input, typename Target>
void matrix_group(const Convolution& c, MatrixUnit& unit, const MatrixScratch& scratch, int products,
                  const MatrixWeights& weights, const float* bias, int64_t channel, int64_t rows, int64_t columns,
                  float* statistics, const Input& input, const Target& target) {
  const auto multiply = [&](auto tiles) {
    const auto make = statistics ? matrix_channels<decltype(tiles)::kValue, kBlocks, true, Input, Target>
                                 : matrix_channels<decltype(tiles)::kValue, kBlocks, false, Input, Target>;
    make(c, unit, scratch, products, weights, bias, channel, rows, columns, statistics, input, target);
  };
  if (rows * columns == 1) return multiply(Constant<1>{});
  if constexpr (kBlocks == 1) {
    if (c.matrix.weight_terms == 2) return multiply(Constant<3>{});
  }
  multiply(Constant<kMostTiles<kBlocks>>{});
}
