// The last layer on the matrix unit. Included after matrix_x.h.
//
// Each place of the base grid makes a block of `block` by `block` pixels of the picture, so that few picture channels
// fill a tile; output channels are [row of the block][column of the block][picture channel].

// The rows of the picture that a row of the base grid makes, on their way there: a piece at a time beside the products
// of the next row.
class MatrixPictureRows {
 public:
  MatrixPictureRows(const Convolution& c, float* row, float* biases, float* base)
      : c_(c), values_(c.matrix.block * c.picture.channels), row_(row), biases_(biases), base_scratch_(base) {
    for (int64_t i = 0; i < c.matrix.block * values_; ++i) biases_[i] = c.bias[i];
    for (int64_t i = 0; i < kChannelBlock; ++i) biases_[c.matrix.block * values_ + i] = 0.0f;
  }

  // Products are [base_width][out_channels], and 16 values more; `steps` is how often `step` will be called.
  void begin(const float* products, int64_t y, int64_t steps) {
    products_ = products, y_ = y, row_of_block_ = 0, at_ = 0;
    const int64_t pieces = c_.matrix.block * (c_.base_width / kPlaces + 2 * (c_.base_width * values_ / kValues) + 4);
    at_once_ = steps > 0 ? (pieces + steps - 1) / steps : 0;
    is_spread_ = false, is_pending_ = true;
  }

  void step() {
    for (int64_t i = 0; i < at_once_ && is_pending_; ++i) do_piece();
  }
  void finish() {
    while (is_pending_) do_piece();
  }

 private:
  static constexpr int64_t kPlaces = 16, kValues = 192;  // whole pixels, and whole lines

  void do_piece() {
    const int64_t picture_row = y_ * c_.matrix.block + row_of_block_;
    if (!is_spread_) {
      spread(min_of(at_ + kPlaces, c_.base_width));
      if (at_ < c_.base_width) return;
      add_base(c_, picture_row, row_, base_scratch_);
      is_spread_ = true, at_ = 0, written_ = 0;
      return;
    }
    const int64_t values = c_.picture.width * c_.picture.channels;
    if (c_.picture.tanh && at_ < values) {
      const int64_t end = min_of(at_ + kValues, values);
      for (; at_ < end; at_ += kLanes) Float32::store(row_ + at_, hyperbolic_tangent(Float32::load(row_ + at_)));
      return;
    }
    const int64_t end = min_of(written_ + kValues, values);
    write_picture_values(c_.picture.view, picture_row, row_, values, written_, end);
    written_ = end;
    if (written_ < values) return;
    is_spread_ = false, at_ = 0;
    is_pending_ = ++row_of_block_ < c_.matrix.block && picture_row + 1 < c_.picture.height;
  }

  // Places [at_, end) of a row of the block, whole vectors, whose ends the next place writes over.
  void spread(int64_t end) {
    const float* const bias = biases_ + row_of_block_ * values_;
    const float* from = products_ + at_ * c_.out_channels + row_of_block_ * values_;
    float* to = row_ + at_ * values_;
    for (; at_ < end; ++at_, from += c_.out_channels, to += values_) {
      for (int64_t k = 0; k < values_; k += kLanes) {
        Float32::store(to + k, Float32::load(from + k) + Float32::load(bias + k));
      }
    }
  }

  const Convolution& c_;
  const int64_t values_;
  float *const row_, *const biases_, *const base_scratch_;
  const float* products_ = nullptr;
  int64_t y_ = 0, row_of_block_ = 0, at_ = 0, written_ = 0, at_once_ = 0;
  bool is_spread_ = false, is_pending_ = false;
};

template <typename E>
struct MatrixLastScratch : BandScratch<E> {
  using BandScratch<E>::BandScratch, BandScratch<E>::c;

  // Products of two rows: one is written to the picture while the next one is multiplied.
  int64_t products_of_row = round_up(c.base_width, 4 * kMatrixSide) * c.out_channels + kChannelBlock;
  float* products[2] = {take_floats(products_of_row), take_floats(products_of_row)};
  float *row = take_places(c.base_width), *biases = take_places(c.matrix.block);
  float* base = take_floats(base_elements(c));

 private:
  float* take_floats(int64_t count) { return this->template take<float>(count); }
  float* take_places(int64_t places) {
    return take_floats(round_up(places * c.matrix.block * c.picture.channels, kChannelBlock) + kChannelBlock);
  }
};

template <typename E>
void matrix_last_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const MatrixLastScratch<E> work(c, memory);
  MatrixRing<E> ring(c, work, {begin * c.stride, end == c.base_height ? c.in_height : end * c.stride});
  const int64_t tiles = (c.base_width + kMatrixSide - 1) / kMatrixSide;
  MatrixPictureRows rows(c, work.row, work.biases, work.base);
  const Phase& phase = c.phases[0];
  MatrixStep* const steps[2] = {work.steps, work.steps + c.matrix.products};
  const int counts[2] = {matrix_products<E, 1>(c, phase, all_taps(phase.rows), all_taps(phase.columns), steps[0]),
                         matrix_products<E, 2>(c, phase, all_taps(phase.rows), all_taps(phase.columns), steps[1])};
  const int64_t pairs = c.out_channels / kMatrixDepth, odd = c.out_channels / kChannelBlock % 2;
  const int64_t all_steps = counts[1] * pairs * ((tiles + 1) / 2) + counts[0] * odd * ((tiles + 3) / 4);
  MatrixUnit unit;
  for (int64_t y = begin; y < end; ++y) {
    ring.advance_to(y * c.stride + c.last);
    const char* const* const window = ring.window(y * c.stride + c.first);
    each_matrix_group(c, phase, 0, c.out_channels, {}, [&](int64_t channel, auto blocks, const MatrixWeights& weights) {
      constexpr int kBlocks = decltype(blocks)::kValue, kTiles = kMostTiles<kBlocks>;
      MatrixInput inputs[kTiles];
      MatrixSums sums = {{}, c.out_channels * 4, nullptr};
      for (int64_t tile = 0; tile < tiles; tile += kTiles) {
        for (int i = 0; i < kTiles; ++i) inputs[i] = {window, min_of(tile + i, tiles - 1) * kMatrixSide};
        multiply_matrix<kTiles, kBlocks>(unit, steps[kBlocks - 1], counts[kBlocks - 1], inputs, weights.data,
                                         work.unused_tile, rows, sums, {});
        for (int i = 0; i < kTiles; ++i) {
          sums.tiles[i] = work.products[y % 2] + (tile + i) * kMatrixSide * c.out_channels + channel;
        }
      }
      next_sums<kTiles, kBlocks>(unit, sums);
    });
    rows.finish();
    rows.begin(work.products[y % 2], y, all_steps);
  }
  rows.finish();
  ring.finish();
}
