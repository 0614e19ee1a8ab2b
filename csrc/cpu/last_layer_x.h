// The last layer: its few channels are multiplied as columns, shifted and added up; then come the base, tanh and
// writing to the picture. Included after direct_x.h.

// exp(x) for |x| <= 40: 2^n times a polynomial (Taylor's, on half a power of two to either side; below 2e-7).
inline V exponential(V x) {
  const V n = round_to_integer(x * 1.44269504088896341f);
  const V r = multiply_add(n, splat(-0.693359375f), x) - n * -2.12194440e-4f;
  constexpr float kTerms[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  V sum = splat(1.0f / 720);
  for (const float term : kTerms) sum = multiply_add(sum, r, splat(term));
  return sum * power_of_two(n);
}

// 1 - 2 / (exp(2 x) + 1), within 2e-7.
inline V hyperbolic_tangent(V x) {
  const V limited = minimum(maximum(x, splat(-10.0f)), splat(10.0f));
  return splat(1.0f) - splat(2.0f) / (exponential(limited + limited) + splat(1.0f));
}

// The products of one row, [columns][out_channels].
template <typename E>
void multiply_columns(const Convolution& c, const Phase& phase, const RowRing<E>& ring, int64_t y, int64_t first_column,
                      int64_t columns, float* products) {
  each_block(0, c.out_channels, [&](int64_t channel, auto blocks) {
    Product<E> product = product_of<E>(c, phase, channel);
    for (int64_t r = 0; r < phase.rows; ++r) product.runs[r] = ring.at(y + phase.dy + r, first_column);
    multiply_pixels<E, decltype(blocks)::kValue>(product, columns, products + channel, c.out_channels);
  });
}

// Output column x is the sum of filter columns k at product column x + k.
inline void add_columns(const Convolution& c, const float* products, float* row) {
  const int64_t pictures = c.picture.channels, step = c.out_channels + pictures;
  if (pictures == 3) {
    // Four at a time, of which the next pixel writes over the last.
    typedef float Four __attribute__((vector_size(16)));
    const Four bias = {c.bias[0], c.bias[1], c.bias[2], 0.0f};
    for (int64_t x = 0; x < c.base_width; ++x) {
      Four sum = bias, product;
      for (int64_t k = 0; k < c.picture.filter_width; ++k) {
        __builtin_memcpy(&product, products + x * c.out_channels + k * step, sizeof product);
        sum += product;
      }
      __builtin_memcpy(row + x * pictures, &sum, sizeof sum);
    }
    return;
  }
  for (int64_t x = 0; x < c.base_width; ++x) {
    for (int64_t p = 0; p < pictures; ++p) {
      const float* from = products + x * c.out_channels + p;
      float sum = c.bias[p];
      for (int64_t k = 0; k < c.picture.filter_width; ++k) sum += from[k * step];
      row[x * pictures + p] = sum;
    }
  }
}

// In a transposed convolution of stride 2 product column i and filter column k belong to output column 2 i + k - pad.
inline void add_transposed_columns(const Convolution& c, int64_t pad, const float* products, float* row) {
  const int64_t pictures = c.picture.channels;
  for (int64_t x = 0; x < 2 * c.base_width; ++x) {
    for (int64_t p = 0; p < pictures; ++p) {
      float sum = c.bias[p];
      for (int64_t k = (x + pad) % 2; k < c.picture.filter_width; k += 2) {
        const int64_t i = (x + pad - k) / 2;
        if (x + pad >= k && i < c.base_width) sum += products[i * c.out_channels + k * pictures + p];
      }
      row[x * pictures + p] = sum;
    }
  }
}

// The place of a row or column of the base: between rows `first` and first + 1 of the image, `share` of the way.
struct BasePlace {
  int64_t first;
  float share;

  BasePlace(Base base, int64_t place, int64_t scale) : first(place / scale), share(0.0f) {
    if (base == Base::kNearest) return;
    const double from_middle = (static_cast<double>(place % scale) + 0.5) / static_cast<double>(scale) - 0.5;
    if (from_middle < 0.0) --first;
    share = static_cast<float>(from_middle < 0.0 ? from_middle + 1.0 : from_middle);
  }
};

// Two rows of the image with a pixel before and after them, a mix of them, and what is read beyond.
inline int64_t base_elements(const Convolution& c) {
  return c.picture.base == Base::kNone ? 0 : 3 * ((c.picture.image_width + 2) * kImageChannels + kChannelBlock);
}

// A row of the image as [pixel][kImageChannels], with the first and the last pixel repeated, and zeros after it.
inline void read_base_row(const Convolution& c, int64_t row, float* to) {
  const int64_t inside = min_of(max_of(row, 0), c.picture.image_height - 1),
                values = c.picture.image_width * kImageChannels;
  read_image_row<Float32>(c.picture.base_image, inside, 0, c.picture.image_width, to + kImageChannels);
  for (int64_t k = 0; k < kImageChannels; ++k) {
    to[k] = to[kImageChannels + k];
    to[kImageChannels + values + k] = to[values + k];
  }
  for (int64_t k = 0; k < kChannelBlock; ++k) to[2 * kImageChannels + values + k] = 0.0f;
}

// Adds the base to row `y` of the picture, [pixel][picture channel], which may be written a value further.
inline void add_base(const Convolution& c, int64_t y, float* row, float* scratch) {
  if (c.picture.base == Base::kNone) return;
  const int64_t scale = c.picture.base_scale, step = base_elements(c) / 3, pictures = c.picture.channels;
  float *const first = scratch, *const second = first + step, *const mixed = second + step;
  const BasePlace down(c.picture.base, y, scale);
  read_base_row(c, down.first, first);
  if (down.share != 0.0f) {
    read_base_row(c, down.first + 1, second);
    for (int64_t i = 0; i <= (c.picture.image_width + 2) * kImageChannels; i += kLanes) {
      const V value = Float32::load(first + i);
      Float32::store(mixed + i, multiply_add(Float32::load(second + i) - value, splat(down.share), value));
    }
  }
  const float* const from = down.share != 0.0f ? mixed : first;
  for (int64_t b = 0; b < scale; ++b) {
    const BasePlace across(c.picture.base, b, scale);
    const float* left = from + (across.first + 1) * kImageChannels;
    float* to = row + b * pictures;
    if (pictures == kImageChannels && scale > 1) {
      // Four at a time, of which the last stays as it is.
      typedef float Four __attribute__((vector_size(16)));
      const Four rest = {1.0f - across.share, 1.0f - across.share, 1.0f - across.share, 0.0f};
      const Four share = {across.share, across.share, across.share, 0.0f};
      for (int64_t x = 0; x < c.picture.image_width; ++x, left += kImageChannels, to += scale * pictures) {
        Four one, other, sum;
        __builtin_memcpy(&one, left, sizeof one);
        __builtin_memcpy(&other, left + kImageChannels, sizeof other);
        __builtin_memcpy(&sum, to, sizeof sum);
        sum += one * rest + other * share;
        __builtin_memcpy(to, &sum, sizeof sum);
      }
      continue;
    }
    for (int64_t x = 0; x < c.picture.image_width; ++x, left += kImageChannels, to += scale * pictures) {
      for (int64_t p = 0; p < pictures; ++p) to[p] += left[p] + (left[kImageChannels + p] - left[p]) * across.share;
    }
  }
}

// Writes values [begin, end) of a row of the picture, whole pixels if to a frame; floats past the caches, for whoever
// reads the picture comes later.
inline void write_picture_values(const OutputView& picture, int64_t y, const float* row, int64_t values, int64_t begin,
                                 int64_t end) {
  if (picture.data) {
    float* const to = picture.data + y * values;
    const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to + begin) % kLineBytes / sizeof(float));
    const int64_t first = misaligned == 0 ? begin : min_of(begin + kLineBytes / 4 - misaligned, end);
    __builtin_memcpy(to + begin, row + begin, static_cast<size_t>(first - begin) * sizeof(float));
    int64_t i = first;
    for (; i + kLanes <= end; i += kLanes) stream(to + i, Float32::load(row + i));
    __builtin_memcpy(to + i, row + i, static_cast<size_t>(end - i) * sizeof(float));
  } else if (y < picture.frame_height) {
    const int64_t first = begin / kImageChannels, last = min_of(end / kImageChannels, picture.frame_width);
    if (first >= last) return;
    picture.interleaved(row + begin, picture.frame + (y * picture.frame_width + first) * kImageChannels, last - first,
                        picture.low, picture.scale);
  }
}

// A row of the picture, and what its base is made in.
struct PictureRowScratch : Scratch {
  using Scratch::Scratch;
  float* row = take<float>(round_up(c.picture.width * c.picture.channels, kChannelBlock) + kChannelBlock);
  float* base = take<float>(base_elements(c));
};

// Adds the base to row `y` of the picture, [pixel][picture channel], applies tanh, and writes it.
inline void finish_picture_row(const Convolution& c, int64_t y, const PictureRowScratch& scratch) {
  float* const row = scratch.row;
  const int64_t values = c.picture.width * c.picture.channels;
  add_base(c, y, row, scratch.base);
  if (c.picture.tanh) {
    for (int64_t i = 0; i < values; i += kLanes) Float32::store(row + i, hyperbolic_tangent(Float32::load(row + i)));
  }
  write_picture_values(c.picture.view, y, row, values, 0, values);
}

template <typename E>
struct ColumnsScratch : PictureRowScratch {
  using PictureRowScratch::PictureRowScratch;
  typename E::Storage* ring = RowRing<E>::take(*this);
  float* products = take<float>((c.base_width + c.picture.filter_width - 1) * c.out_channels);  // of a row
};

template <typename E>
void columns_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const ColumnsScratch<E> work(c, memory);
  each_row_unit<E>(c, work.ring, begin, end, [&](const RowRing<E>& ring, int64_t y) {
    for (int64_t a = 0; a < c.up; ++a) {
      const Phase& phase = c.phases[a];
      if (c.up == 1) {
        multiply_columns(c, phase, ring, y, phase.dx, c.base_width + c.picture.filter_width - 1, work.products);
        add_columns(c, work.products, work.row);
      } else {
        multiply_columns(c, phase, ring, y, 0, c.base_width, work.products);
        add_transposed_columns(c, -phase.dx, work.products, work.row);
      }
      finish_picture_row(c, c.up * y + a, work);
    }
  });
}

// --- pixel shuffle to the picture

struct ShuffleScratch : PictureRowScratch {
  using PictureRowScratch::PictureRowScratch;
  float* values = take<float>(row_elements(c));  // a row of the input
};

// The channels of each of the `up` picture rows of an input row lie side by side.
inline void shuffle_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const ShuffleScratch work(c, memory);
  const int64_t run = c.up * c.picture.channels;
  for (int64_t y = begin * c.direct.unit_rows; y < min_of(end * c.direct.unit_rows, c.base_height); ++y) {
    read_row<Float32>(c, y, true, work.values);
    for (int64_t a = 0; a < c.up; ++a) {
      const float* from = work.values + a * run;
      for (int64_t x = 0; x < c.base_width; ++x, from += c.in_channels) {
        __builtin_memcpy(work.row + x * run, from, static_cast<size_t>(run) * sizeof(float));
      }
      finish_picture_row(c, c.up * y + a, work);
    }
  }
}
