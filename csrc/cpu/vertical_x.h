// Winograd convolution down the columns alone, for the tall kernels of first and last layers: with seven taps and tiles
// of six outputs 12 products stand for 42. Included after winograd_x.h.
//
// Rows are transformed as they are, whatever their channels, a strip at a time; a frequency's products are those of a
// kernel of one row.

// With 12 points a layer's error in float32 is 4e-6 of its output.
constexpr double kVerticalPoints[5] = {0.3125, 0.6875, 1.0, 1.4375, 1.9375};
constexpr ToomCook<5, 7> kToomCookVertical7(kVerticalPoints);
constexpr ToomCook<5, 9> kToomCookVertical9(kVerticalPoints);
using SideVertical7 = ToomCookSide<kSideVertical7, kToomCookVertical7>;
using SideVertical9 = ToomCookSide<kSideVertical9, kToomCookVertical9>;

// Values of one kernel row, for one output channel.
inline int64_t vertical_run(const Convolution& c) { return c.phases[0].columns * c.in_channels; }

// Transforms the kernels of output channels [begin, end) times 16 kMaxTileBlocks: c.kernels becomes [channel
// block][frequency][run][16], of [row][channel block][run][16].
template <typename S>
void vertical_kernels_of(const Convolution& c, int64_t begin, int64_t end) {
  const int64_t row = vertical_run(c) * kChannelBlock;
  for (int64_t block = begin * kMaxTileBlocks; block < smaller(end * kMaxTileBlocks, c.out_channels / kChannelBlock);
       ++block) {
    const float* from = static_cast<const float*>(c.phases[0].weights) + block * row;
    float* to = static_cast<float*>(c.kernels) + block * S::kFrequencies * row;
    for (int64_t i = 0; i < row; i += kLanes) {
      V taps[S::kTaps], values[S::kFrequencies];
#pragma GCC unroll 16
      for (int r = 0; r < S::kTaps; ++r) taps[r] = Float32::load(from + r * vertical_run(c) * c.out_channels + i);
      apply_matrix<S::kFrequencies, S::kTaps, S::kKernel>(taps, 1, values, 1);
#pragma GCC unroll 16
      for (int f = 0; f < S::kFrequencies; ++f) Float32::store(to + f * row + i, values[f]);
    }
  }
}

inline void vertical_kernels(const Convolution& c, int64_t begin, int64_t end, char*) {
  if (c.phases[0].rows == kSideVertical7.taps) {
    vertical_kernels_of<SideVertical7>(c, begin, end);
  } else {
    vertical_kernels_of<SideVertical9>(c, begin, end);
  }
}

// What a thread works in.
struct VerticalScratch {
  float* input;     // [frequency][input_step], of a strip
  float* products;  // [kVerticalStrip][frequency][16 kTileBlocks]
  int64_t input_step;
};

// Transforms `count` elements of the input rows from `first` on, of a strip that begins at column `x`.
template <typename S>
void transform_strip(const RowRing<Float32>& ring, int64_t first, int64_t x, int64_t count, const VerticalScratch& to) {
  const float* rows[S::kIn];
  for (int r = 0; r < S::kIn; ++r) rows[r] = ring.at(first + r, x);
  for (int64_t i = 0; i < count; i += kLanes) {
    V values[S::kIn], transformed[S::kFrequencies];
#pragma GCC unroll 16
    for (int r = 0; r < S::kIn; ++r) values[r] = Float32::load(rows[r] + i);
    apply_input<S>(values, 1, transformed, 1);
#pragma GCC unroll 16
    for (int f = 0; f < S::kFrequencies; ++f) Float32::store(to.input + f * to.input_step + i, transformed[f]);
  }
}

// The products of `pixels` of a strip, of output channels [channel, channel + 16 kBlocks).
template <typename S, int kBlocks>
void multiply_strip(const Convolution& c, int64_t pixels, int64_t channel, const VerticalScratch& scratch) {
  const int64_t run = vertical_run(c);
  Product<Float32> product = {};
  product.count = 1;
  product.length = run;
  product.pixel_step = c.in_channels;
  product.block_step = S::kFrequencies * run * kChannelBlock;
  const float* kernels = static_cast<const float*>(c.kernels) + channel / kChannelBlock * product.block_step;
  constexpr int64_t kWidth = kBlocks * kChannelBlock;
  for (int f = 0; f < S::kFrequencies; ++f) {
    product.runs[0] = scratch.input + f * scratch.input_step;
    product.weights = kernels + f * run * kChannelBlock;
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
#pragma GCC unroll 16
      for (int f = 0; f < S::kFrequencies; ++f) column[f] = Float32::load(products + f * kWidth + v * kLanes);
      apply_output<S>(column, values, 1);
      use(x, v, values);
    }
  }
}

// Bias, statistics and storing of output channels [channel, channel + 16 kBlocks) of rows [y, y + rows).
template <typename S, int kBlocks>
void vertical_channels(const Convolution& c, int64_t y, int64_t rows, int64_t x, int64_t pixels, int64_t channel,
                       const VerticalScratch& scratch, float* statistics) {
  constexpr int kVectors = kBlocks * kBlockVectors;
  multiply_strip<S, kBlocks>(c, pixels, channel, scratch);
  V bias[kVectors];
  Sums sums[kVectors];
  load_biases(c, 0, channel, bias, kVectors);
  char* const to = output_at(c, y, x, channel);
  const int64_t bytes = bytes_of(c.writing), pixel_step = c.output_step * bytes, row_step = c.base_width * pixel_step;
  transform_products<S, kBlocks>(pixels, scratch.products, [&](int64_t pixel, int v, const V(&values)[S::kOut]) {
    V total = sums[v].total, squares = sums[v].squares;
#pragma GCC unroll 16
    for (int r = 0; r < S::kOut; ++r) {
      if (r >= rows) break;
      const V value = values[r] + bias[v];
      total = total + value;
      squares = multiply_add(value, value, squares);
      write_output(to + r * row_step + pixel * pixel_step + v * kLanes * bytes, value, c.writing);
    }
    sums[v].total = total, sums[v].squares = squares;
  });
  for (int v = 0; v < kVectors && statistics; ++v) sums[v].add_to(statistics, c.out_channels, channel + v * kLanes);
}

template <typename S>
void vertical_rows(const Convolution& c, const RowRing<Float32>& ring, int64_t y, int64_t rows,
                   const VerticalScratch& scratch, float* statistics) {
  const Phase& phase = c.phases[0];
  for (int64_t x = 0; x < c.base_width; x += kVerticalStrip) {
    const int64_t pixels = smaller(c.base_width - x, kVerticalStrip);
    transform_strip<S>(ring, y + phase.dy, x + phase.dx, (pixels + phase.columns - 1) * c.in_channels, scratch);
    each_block(0, c.out_channels, [&](int64_t channel, auto blocks) {
      vertical_channels<S, decltype(blocks)::kValue>(c, y, rows, x, pixels, channel, scratch, statistics);
    });
  }
}

template <typename S>
void vertical_units_of(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  Scratch scratch{memory};
  const OwnedRows owned(c, begin, end);
  RowRing<Float32> ring(c, scratch, owned.first + c.first, owned.first, owned.last);
  VerticalScratch strip = {};
  strip.input_step = vertical_input_step(c);
  strip.input = scratch.take<float>(S::kFrequencies * strip.input_step);
  strip.products = scratch.take<float>(kVerticalStrip * S::kFrequencies * kMaxTileBlocks * kChannelBlock);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t y = unit * S::kOut;
    ring.advance_to(y + c.last);
    float* const statistics = c.statistics ? c.statistics + unit * 2 * c.out_channels : nullptr;
    if (statistics) clear_statistics(c, statistics, 0, c.out_channels);
    vertical_rows<S>(c, ring, y, smaller(c.base_height - y, S::kOut), strip, statistics);
  }
  if (c.save) ring.advance_to(owned.last - 1);
}

inline void vertical_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  if (c.phases[0].rows == kSideVertical7.taps) {
    vertical_units_of<SideVertical7>(c, begin, end, memory);
  } else {
    vertical_units_of<SideVertical9>(c, begin, end, memory);
  }
}

// --- the last layer

// Its few channels leave most of a vector empty, so here lanes are pixels: the input lies in planes, [channel][column],
// and a product is one of them, from any column on, times a number.

// Exchanges the upper block of kStep lanes of `first` with the lower one of `second`, in each pair of blocks, and
// returns one of the two. Lanes are counted through both vectors.
template <int kStep, bool kIsSecond>
inline __attribute__((always_inline)) V exchange(V first, V second) {
  const auto source = [](int i) constexpr {
    const bool is_upper = (i & kStep) != 0;
    return kIsSecond ? (is_upper ? kLanes + i : i + kStep) : (is_upper ? kLanes + i - kStep : i);
  };
#if defined(__clang__)  // which has no __builtin_shuffle
  V result;
  for (int i = 0; i < kLanes; ++i) result[i] = source(i) < kLanes ? first[source(i)] : second[source(i) - kLanes];
  return result;
#else
  Integers order = {};
  for (int i = 0; i < kLanes; ++i) order[i] = source(i);
  return __builtin_shuffle(first, second, order);
#endif
}

// Transposes blocks of kStep rows and columns within blocks of twice as many.
template <int kStep>
inline __attribute__((always_inline)) void transpose(V (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
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
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) block[i] = Float32::load(pixels + (x + i) * channels + k);
      transpose<1>(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) Float32::store(planes + (k + i) * plane_step + x, block[i]);
    }
  }
}

// Adds to sums of [kPictures][kVectors] vectors of pixels, or begins them.
template <int kPictures, int kVectors>
__attribute__((noinline)) void multiply_planes(const float* planes, int64_t plane_step, int64_t channels,
                                               int64_t columns, const float* kernel, bool begins, float* to) {
  V sums[kPictures][kVectors];
#pragma GCC unroll 4
  for (int p = 0; p < kPictures; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[p][v] = begins ? V{} : Float32::load(to + p * kPictureStrip + v * kLanes);
  }
  for (int64_t channel = 0; channel < channels; ++channel, planes += plane_step) {
    for (int64_t k = 0; k < columns; ++k, kernel += kPictures) {
      V factors[kPictures];
#pragma GCC unroll 4
      for (int p = 0; p < kPictures; ++p) factors[p] = splat(kernel[p]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const V value = loaded(Float32::load(planes + k + v * kLanes));
#pragma GCC unroll 4
        for (int p = 0; p < kPictures; ++p) sums[p][v] = multiply_add(value, factors[p], sums[p][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPictures; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Float32::store(to + p * kPictureStrip + v * kLanes, sums[p][v]);
  }
}

// The kernel becomes [frequency][input channel][column][picture channel], of [row][block of columns and picture
// channels][input channel][16].
template <typename S>
void picture_kernels_of(const Convolution& c) {
  const int64_t pictures = c.picture_channels, run = c.kernel_width * pictures;
  for (int64_t block = 0; block * kChannelBlock < run; ++block) {
    const float* from = static_cast<const float*>(c.phases[0].weights) + block * c.in_channels * kChannelBlock;
    for (int64_t i = 0; i < c.in_channels * kChannelBlock; i += kLanes) {
      V taps[S::kTaps], values[S::kFrequencies];
#pragma GCC unroll 16
      for (int r = 0; r < S::kTaps; ++r) taps[r] = Float32::load(from + r * c.in_channels * c.out_channels + i);
      apply_matrix<S::kFrequencies, S::kTaps, S::kKernel>(taps, 1, values, 1);
      const int64_t channel = i / kChannelBlock, first = block * kChannelBlock + i % kChannelBlock;
      for (int f = 0; f < S::kFrequencies; ++f) {
        float* const to = static_cast<float*>(c.kernels) + (f * c.in_channels + channel) * run;
        for (int64_t lane = 0; lane < smaller(kLanes, run - first); ++lane) to[first + lane] = values[f][lane];
      }
    }
  }
}

inline void picture_kernels(const Convolution& c, int64_t begin, int64_t, char*) {
  if (begin > 0) return;
  if (c.phases[0].rows == kSideVertical7.taps) {
    picture_kernels_of<SideVertical7>(c);
  } else {
    picture_kernels_of<SideVertical9>(c);
  }
}

// Where a thread works on a strip of columns, from top to bottom.
struct PictureScratch {
  float* pixels;    // a row of the strip, [column][channel]
  float* ring;      // the last rows, [row][channel][strip_step]
  float* input;     // transformed, [frequency][16 channels][strip_step]
  float* products;  // [frequency][picture channel][kPictureStrip]
  float* picture;   // [row][picture channel][kPictureStrip]
  int64_t strip_step;
};

// Transforms 16 channels, from `channel` on, of `columns` columns of the rows.
template <typename S>
void transform_planes(const float* const (&rows)[S::kIn], int64_t channel, int64_t columns, const PictureScratch& to) {
  for (int64_t k = 0; k < kChannelBlock; ++k) {
    for (int64_t i = 0; i < columns; i += kLanes) {
      V values[S::kIn], transformed[S::kFrequencies];
#pragma GCC unroll 16
      for (int r = 0; r < S::kIn; ++r) values[r] = Float32::load(rows[r] + (channel + k) * to.strip_step + i);
      apply_input<S>(values, 1, transformed, 1);
#pragma GCC unroll 16
      for (int f = 0; f < S::kFrequencies; ++f) {
        Float32::store(to.input + (f * kChannelBlock + k) * to.strip_step + i, transformed[f]);
      }
    }
  }
}

// `pixels` of rows [y, y + rows) of the picture, from column `x` on, out of the products.
template <typename S, int kPictures>
void write_picture(const Convolution& c, int64_t y, int64_t rows, int64_t x, int64_t pixels,
                   const PictureScratch& scratch) {
  for (int p = 0; p < kPictures; ++p) {
    const V bias = splat(c.bias[p]);
    for (int64_t i = 0; i < pixels; i += kLanes) {
      V column[S::kFrequencies], values[S::kOut];
#pragma GCC unroll 16
      for (int f = 0; f < S::kFrequencies; ++f) {
        column[f] = Float32::load(scratch.products + (f * kPictures + p) * kPictureStrip + i);
      }
      apply_output<S>(column, values, 1);
      for (int r = 0; r < S::kOut; ++r) {
        const V value = values[r] + bias;
        Float32::store(scratch.picture + (r * kPictures + p) * kPictureStrip + i,
                       c.tanh ? hyperbolic_tangent(value) : value);
      }
    }
  }
  const Picture& picture = c.picture;
  if (!picture.data) {
    // Strips begin in the picture, but perhaps beyond the frame.
    const int64_t count = smaller(pixels, picture.frame_width - x), last = smaller(rows, picture.frame_height - y);
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
void picture_strip(const Convolution& c, int64_t begin, int64_t end, int64_t x, const PictureScratch& scratch) {
  constexpr int kVectors = (kLanes == 16 ? 8 : 4) / (kPictures > 3 ? 2 : 1);
  const int64_t channels = c.in_channels, step = scratch.strip_step, first = x + c.phases[0].dx;
  const int64_t pixels = smaller(c.base_width - x, kPictureStrip), columns = pixels + c.kernel_width - 1;
  const auto slot = [&](int64_t y) { return scratch.ring + (y + S::kIn * kMaxKernel) % S::kIn * channels * step; };
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
        const float* const kernel =
            static_cast<const float*>(c.kernels) + (f * channels + channel) * c.kernel_width * kPictures;
        for (int64_t i = 0; i < pixels; i += kVectors * kLanes) {
          multiply_planes<kPictures, kVectors>(scratch.input + f * kChannelBlock * step + i, step, kChannelBlock,
                                               c.kernel_width, kernel, channel == 0,
                                               scratch.products + f * kPictures * kPictureStrip + i);
        }
      }
    }
    write_picture<S, kPictures>(c, y, smaller(c.base_height - y, S::kOut), x, pixels, scratch);
  }
}

template <typename S>
void picture_units_of(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  Scratch scratch{memory};
  PictureScratch strip = {};
  strip.strip_step = picture_strip_step(c);
  strip.pixels = scratch.take<float>(strip.strip_step * c.in_channels);
  strip.ring = scratch.take<float>(S::kIn * c.in_channels * strip.strip_step);
  strip.input = scratch.take<float>(S::kFrequencies * kChannelBlock * strip.strip_step);
  strip.products = scratch.take<float>(S::kFrequencies * c.picture_channels * kPictureStrip);
  strip.picture = scratch.take<float>(S::kOut * c.picture_channels * kPictureStrip);
  const auto work = c.picture_channels == 1   ? picture_strip<S, 1>
                    : c.picture_channels == 2 ? picture_strip<S, 2>
                    : c.picture_channels == 3 ? picture_strip<S, 3>
                                              : picture_strip<S, 4>;
  for (int64_t x = 0; x < c.base_width; x += kPictureStrip) work(c, begin, end, x, strip);
}

inline void picture_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  if (c.phases[0].rows == kSideVertical7.taps) {
    picture_units_of<SideVertical7>(c, begin, end, memory);
  } else {
    picture_units_of<SideVertical9>(c, begin, end, memory);
  }
}
