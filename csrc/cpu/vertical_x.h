// Winograd convolution down the columns alone, for the tall filters of first and last layers: with seven taps and tiles
// of six outputs 12 products stand for 42. Included after winograd_x.h.
//
// Rows are transformed as they are, whatever their channels, a strip of columns at a time; a frequency's products are
// those of a filter of one row.

constexpr int64_t kVerticalStrip = 64, kPictureStrip = 128;  // columns

// With 12 points a layer's error in float32 is 4e-6 of its output.
constexpr double kVerticalPoints[5] = {0.3125, 0.6875, 1.0, 1.4375, 1.9375};
constexpr ToomCook<5, 7> kToomCookVertical7(kVerticalPoints);
constexpr ToomCook<5, 9> kToomCookVertical9(kVerticalPoints);
using SideVertical7 = ToomCookSide<kSideVertical7, kToomCookVertical7>;
using SideVertical9 = ToomCookSide<kSideVertical9, kToomCookVertical9>;

// Values of one row of taps, for one output channel.
inline int64_t vertical_run(const Convolution& c) { return c.phases[0].columns * c.in_channels; }

// Transforms the filters of output channels [begin, end) times kUnitChannels: [row][channel block][run][16] becomes
// [channel block][frequency][run][16].
template <typename S>
void vertical_filters(const Convolution& c, int64_t begin, int64_t end, char*) {
  const int64_t row = vertical_run(c) * kChannelBlock;
  for (int64_t block = begin * kMaxTileBlocks; block < min_of(end * kMaxTileBlocks, c.out_channels / kChannelBlock);
       ++block) {
    const float* from = static_cast<const float*>(c.phases[0].weights) + block * row;
    float* to = c.vertical.filters + block * S::kFrequencies * row;
    for (int64_t i = 0; i < row; i += kLanes) {
      V taps[S::kTaps], values[S::kFrequencies];
      UNROLLED (r, S::kTaps) taps[r] = Float32::load(from + r * vertical_run(c) * c.out_channels + i);
      apply_matrix<S::kFrequencies, S::kTaps, S::kFilter>(taps, 1, values, 1);
      UNROLLED (f, S::kFrequencies) Float32::store(to + f * row + i, values[f]);
    }
  }
}

template <typename S>
struct VerticalScratch : DirectScratch<Float32> {
  using DirectScratch<Float32>::DirectScratch;
  // Each row of the input has a spare line, so that rows are not in the same sets of the caches.
  int64_t input_step =
      round_up((kVerticalStrip + c.phases[0].columns - 1) * c.in_channels, kChannelBlock) + kChannelBlock;
  float* input = take<float>(S::kFrequencies * input_step);  // [frequency][input_step], of a strip
  float* products = take<float>(kVerticalStrip * S::kFrequencies * kUnitChannels);
};

// Transforms `count` elements of the input rows from `first` on, of a strip that begins at column `x`.
template <typename S>
void transform_strip(const RowRing<Float32>& ring, int64_t first, int64_t x, int64_t count,
                     const VerticalScratch<S>& to) {
  const float* rows[S::kIn];
  for (int r = 0; r < S::kIn; ++r) rows[r] = ring.at(first + r, x);
  for (int64_t i = 0; i < count; i += kLanes) {
    V values[S::kIn], transformed[S::kFrequencies];
    UNROLLED (r, S::kIn) values[r] = Float32::load(rows[r] + i);
    apply_input<S>(values, 1, transformed, 1);
    UNROLLED (f, S::kFrequencies) Float32::store(to.input + f * to.input_step + i, transformed[f]);
  }
}

// The products of `pixels` of a strip, of output channels [channel, channel + 16 kBlocks).
template <typename S, int kBlocks>
void multiply_strip(const Convolution& c, int64_t pixels, int64_t channel, const VerticalScratch<S>& scratch) {
  const int64_t run = vertical_run(c);
  Product<Float32> product = {};
  product.count = 1;
  product.length = run;
  product.pixel_step = c.in_channels;
  product.block_step = S::kFrequencies * run * kChannelBlock;
  const float* filters = c.vertical.filters + channel / kChannelBlock * product.block_step;
  constexpr int64_t kWidth = kBlocks * kChannelBlock;
  for (int f = 0; f < S::kFrequencies; ++f) {
    product.runs[0] = scratch.input + f * scratch.input_step;
    product.weights = filters + f * run * kChannelBlock;
    multiply_pixels<Float32, kBlocks>(product, pixels, scratch.products + f * kWidth, S::kFrequencies * kWidth);
  }
}

// Calls use(pixel, vector, values of the rows) for each vector of channels of the outputs of a strip.
template <typename S, int kBlocks, typename Use>
inline __attribute__((always_inline)) void transform_products(int64_t pixels, const float* products, const Use& use) {
  constexpr int64_t kWidth = kBlocks * kChannelBlock;
  for (int64_t x = 0; x < pixels; ++x, products += S::kFrequencies * kWidth) {
    for (int v = 0; v < kBlocks * kBlockVectors; ++v) {
      V column[S::kFrequencies], values[S::kOut];
      UNROLLED (f, S::kFrequencies) column[f] = Float32::load(products + f * kWidth + v * kLanes);
      apply_output<S>(column, values, 1);
      use(x, v, values);
    }
  }
}

// Bias, statistics and storing of output channels [channel, channel + 16 kBlocks) of rows [y, y + rows).
template <typename S, int kBlocks>
void vertical_channels(const Convolution& c, int64_t y, int64_t rows, int64_t x, int64_t pixels, int64_t channel,
                       const VerticalScratch<S>& scratch, float* statistics) {
  constexpr int kVectors = kBlocks * kBlockVectors;
  multiply_strip<S, kBlocks>(c, pixels, channel, scratch);
  V bias[kVectors];
  Sums sums[kVectors];
  load_biases(c, 0, channel, bias, kVectors);
  char* const to = output_at(c, y, x, channel);
  const int64_t bytes = bytes_of(c.output.writing), pixel_step = c.output.pixel_step * bytes,
                row_step = c.base_width * pixel_step;
  transform_products<S, kBlocks>(pixels, scratch.products, [&](int64_t pixel, int v, const V(&values)[S::kOut]) {
    Sums counted = sums[v];
    UNROLLED (r, S::kOut) {
      if (r >= rows) break;
      const V value = values[r] + bias[v];
      counted.count(value);
      write_output(to + r * row_step + pixel * pixel_step + v * kLanes * bytes, value, c.output.writing);
    }
    sums[v] = counted;
  });
  add_statistics(sums, statistics, c.out_channels, channel);
}

template <typename S>
void vertical_rows(const Convolution& c, const RowRing<Float32>& ring, int64_t y, int64_t rows,
                   const VerticalScratch<S>& scratch, float* statistics) {
  const Phase& phase = c.phases[0];
  for (int64_t x = 0; x < c.base_width; x += kVerticalStrip) {
    const int64_t pixels = min_of(c.base_width - x, kVerticalStrip);
    transform_strip<S>(ring, y + phase.dy, x + phase.dx, (pixels + phase.columns - 1) * c.in_channels, scratch);
    each_block(0, c.out_channels, [&](int64_t channel, auto blocks) {
      vertical_channels<S, decltype(blocks)::kValue>(c, y, rows, x, pixels, channel, scratch, statistics);
    });
  }
}

template <typename S>
void vertical_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const VerticalScratch<S> work(c, memory);
  each_row_unit<Float32>(c, work.ring, begin, end, [&](const RowRing<Float32>& ring, int64_t unit) {
    const int64_t y = unit * S::kOut;
    float* const statistics = cleared_statistics(c, unit, 0, c.out_channels);
    vertical_rows<S>(c, ring, y, min_of(c.base_height - y, S::kOut), work, statistics);
  });
}

// --- the last layer

// Its few channels leave most of a vector empty, so here lanes are pixels: the input lies in planes, [channel][column],
// and a product is one of them, from any column on, times a number.

// Exchanges the upper block of kStep lanes of `first` with the lower one of `second`, in each pair of blocks, and
// returns one of the two. Lanes are counted through both vectors.
template <int kStep, bool kIsSecond, int... kSources>
inline __attribute__((always_inline)) V exchange(V first, V second) {
  constexpr int kLane = sizeof...(kSources), kUpper = (kLane & kStep) != 0 ? kLanes - kStep : 0;
  if constexpr (kLane == kLanes) {
    return __builtin_shufflevector(first, second, kSources...);
  } else {
    return exchange<kStep, kIsSecond, kSources..., kLane + kUpper + (kIsSecond ? kStep : 0)>(first, second);
  }
}

// Transposes blocks of kStep rows and columns within blocks of twice as many.
template <int kStep>
inline __attribute__((always_inline)) void transpose(V (&rows)[kLanes]) {
  UNROLLED (i, kLanes) {
    if (i & kStep) continue;
    const V first = rows[i], second = rows[i + kStep];
    rows[i] = exchange<kStep, false>(first, second);
    rows[i + kStep] = exchange<kStep, true>(first, second);
  }
  if constexpr (2 * kStep < kLanes) transpose<2 * kStep>(rows);
}

// [pixels][channels] to planes, in whole vectors of pixels.
inline void write_planes(const float* pixels, int64_t count, int64_t channels, float* planes, int64_t plane_step) {
  for (int64_t x = 0; x < count; x += kLanes) {
    for (int64_t k = 0; k < channels; k += kLanes) {
      V block[kLanes];
      UNROLLED (i, kLanes) block[i] = Float32::load(pixels + (x + i) * channels + k);
      transpose<1>(block);
      UNROLLED (i, kLanes) Float32::store(planes + (k + i) * plane_step + x, block[i]);
    }
  }
}

// Adds to sums of [kPictures][kVectors] vectors of pixels, or begins them.
template <int kPictures, int kVectors>
__attribute__((noinline)) void multiply_planes(const float* planes, int64_t plane_step, int64_t channels,
                                               int64_t columns, const float* filter, bool begins, float* to) {
  V sums[kPictures][kVectors];
  UNROLLED (p, kPictures) {
    UNROLLED (v, kVectors) sums[p][v] = begins ? V{} : Float32::load(to + p * kPictureStrip + v * kLanes);
  }
  for (int64_t channel = 0; channel < channels; ++channel, planes += plane_step) {
    for (int64_t k = 0; k < columns; ++k, filter += kPictures) {
      V factors[kPictures];
      UNROLLED (p, kPictures) factors[p] = splat(filter[p]);
      UNROLLED (v, kVectors) {
        const V value = loaded(Float32::load(planes + k + v * kLanes));
        UNROLLED (p, kPictures) sums[p][v] = multiply_add(value, factors[p], sums[p][v]);
      }
    }
  }
  store_sums(sums, to, kPictureStrip);
}

// [row][block of columns and picture channels][input channel][16] becomes [frequency][input channel][column][picture
// channel]. All of it is one unit.
template <typename S>
void vertical_last_filters(const Convolution& c, int64_t begin, int64_t, char*) {
  if (begin > 0) return;
  const int64_t pictures = c.picture.channels, run = c.picture.filter_width * pictures;
  for (int64_t block = 0; block * kChannelBlock < run; ++block) {
    const float* from = static_cast<const float*>(c.phases[0].weights) + block * c.in_channels * kChannelBlock;
    for (int64_t i = 0; i < c.in_channels * kChannelBlock; i += kLanes) {
      V taps[S::kTaps], values[S::kFrequencies];
      UNROLLED (r, S::kTaps) taps[r] = Float32::load(from + r * c.in_channels * c.out_channels + i);
      apply_matrix<S::kFrequencies, S::kTaps, S::kFilter>(taps, 1, values, 1);
      const int64_t channel = i / kChannelBlock, first = block * kChannelBlock + i % kChannelBlock;
      for (int f = 0; f < S::kFrequencies; ++f) {
        float* const to = c.vertical.filters + (f * c.in_channels + channel) * run;
        for (int64_t lane = 0; lane < min_of(kLanes, run - first); ++lane) to[first + lane] = values[f][lane];
      }
    }
  }
}

// A thread takes a strip of columns from top to bottom.
template <typename S>
struct VerticalLastScratch : Scratch {
  using Scratch::Scratch;
  // Columns of the input, whole vectors of them, and what is read beyond.
  int64_t strip_step = (kPictureStrip + c.picture.filter_width + 2 * kChannelBlock) / kChannelBlock * kChannelBlock;
  float* pixels = take<float>(strip_step * c.in_channels);                   // a row, [column][channel]
  float* ring = take<float>(S::kIn * c.in_channels * strip_step);            // [row][channel][strip_step]
  float* input = take<float>(S::kFrequencies * kChannelBlock * strip_step);  // transformed
  float* products = take<float>(S::kFrequencies * c.picture.channels * kPictureStrip);
  float* picture = take<float>(S::kOut * c.picture.channels * kPictureStrip);  // [row][channel][column]
};

// Transforms 16 channels, from `channel` on, of `columns` columns of the rows.
template <typename S>
void transform_planes(const float* const (&rows)[S::kIn], int64_t channel, int64_t columns,
                      const VerticalLastScratch<S>& to) {
  for (int64_t k = 0; k < kChannelBlock; ++k) {
    for (int64_t i = 0; i < columns; i += kLanes) {
      V values[S::kIn], transformed[S::kFrequencies];
      UNROLLED (r, S::kIn) values[r] = Float32::load(rows[r] + (channel + k) * to.strip_step + i);
      apply_input<S>(values, 1, transformed, 1);
      UNROLLED (f, S::kFrequencies) {
        Float32::store(to.input + (f * kChannelBlock + k) * to.strip_step + i, transformed[f]);
      }
    }
  }
}

// `pixels` of rows [y, y + rows) of the picture, from column `x` on, out of the products.
template <typename S, int kPictures>
void write_picture(const Convolution& c, int64_t y, int64_t rows, int64_t x, int64_t pixels,
                   const VerticalLastScratch<S>& scratch) {
  for (int p = 0; p < kPictures; ++p) {
    const V bias = splat(c.bias[p]);
    for (int64_t i = 0; i < pixels; i += kLanes) {
      V column[S::kFrequencies], values[S::kOut];
      UNROLLED (f, S::kFrequencies) {
        column[f] = Float32::load(scratch.products + (f * kPictures + p) * kPictureStrip + i);
      }
      apply_output<S>(column, values, 1);
      for (int r = 0; r < S::kOut; ++r) {
        const V value = values[r] + bias;
        Float32::store(scratch.picture + (r * kPictures + p) * kPictureStrip + i,
                       c.picture.tanh ? hyperbolic_tangent(value) : value);
      }
    }
  }
  const OutputView& picture = c.picture.view;
  if (!picture.data) {
    // Strips begin in the picture, but perhaps beyond the frame.
    const int64_t count = min_of(pixels, picture.frame_width - x), last = min_of(rows, picture.frame_height - y);
    for (int64_t r = 0; r < last && count > 0 && kPictures == kImageChannels; ++r) {
      const float* const planes = scratch.picture + r * kPictures * kPictureStrip;
      picture.planar(planes, planes + kPictureStrip, planes + 2 * kPictureStrip,
                     picture.frame + ((y + r) * picture.frame_width + x) * kImageChannels, count, picture.low,
                     picture.scale);
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* const to = picture.data + ((y + r) * c.base_width + x) * kPictures;
    const float* const planes = scratch.picture + r * kPictures * kPictureStrip;
    for (int64_t i = 0; i < pixels; ++i) {
      for (int p = 0; p < kPictures; ++p) to[i * kPictures + p] = planes[p * kPictureStrip + i];
    }
  }
}

template <typename S, int kPictures>
void picture_strip(const Convolution& c, int64_t begin, int64_t end, int64_t x, const VerticalLastScratch<S>& scratch) {
  constexpr int kVectors = (kLanes == 16 ? 8 : 4) / (kPictures > 3 ? 2 : 1);
  const int64_t channels = c.in_channels, step = scratch.strip_step, first = x + c.phases[0].dx;
  const int64_t pixels = min_of(c.base_width - x, kPictureStrip), columns = pixels + c.picture.filter_width - 1;
  const auto slot = [&](int64_t y) { return scratch.ring + (y + S::kIn * kMaxTaps) % S::kIn * channels * step; };
  int64_t next = begin * S::kOut + c.first;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t y = unit * S::kOut;
    for (; next <= y + c.last; ++next) {
      read_columns<Float32>(c, next, first, first + columns, false, scratch.pixels);
      write_planes(scratch.pixels, columns, channels, slot(next), step);
    }
    const float* rows[S::kIn];
    for (int r = 0; r < S::kIn; ++r) rows[r] = slot(y + c.first + r);
    for (int64_t channel = 0; channel < channels; channel += kChannelBlock) {
      transform_planes<S>(rows, channel, columns, scratch);
      for (int f = 0; f < S::kFrequencies; ++f) {
        const float* const filter = c.vertical.filters + (f * channels + channel) * c.picture.filter_width * kPictures;
        for (int64_t i = 0; i < pixels; i += kVectors * kLanes) {
          multiply_planes<kPictures, kVectors>(scratch.input + f * kChannelBlock * step + i, step, kChannelBlock,
                                               c.picture.filter_width, filter, channel == 0,
                                               scratch.products + f * kPictures * kPictureStrip + i);
        }
      }
    }
    write_picture<S, kPictures>(c, y, min_of(c.base_height - y, S::kOut), x, pixels, scratch);
  }
}

template <typename S>
void vertical_last_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const VerticalLastScratch<S> work(c, memory);
  const auto strip = c.picture.channels == 1   ? picture_strip<S, 1>
                     : c.picture.channels == 2 ? picture_strip<S, 2>
                     : c.picture.channels == 3 ? picture_strip<S, 3>
                                               : picture_strip<S, 4>;
  for (int64_t x = 0; x < c.base_width; x += kPictureStrip) strip(c, begin, end, x, work);
}
