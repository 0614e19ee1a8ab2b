// The fused convolution, for any vector length. Included inside an anonymous namespace, after vector.h and
// kTilePixels, kTileBlocks: how many pixels and channel blocks the micro-kernel does at once.

constexpr int kBlockVectors = static_cast<int>(kChannelBlock) / kLanes;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Scratch is handed out from the front, aligned for any vector.
struct Scratch {
  char* next;

  template <typename T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(next);
    next += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return taken;
  }
};

// --- input rows

// The row of the picture that stands at `row` beyond its edges; -1 for a row of zeros.
inline int64_t padded_index(int64_t row, int64_t size, Padding padding) {
  if (row >= 0 && row < size) return row;
  if (padding == Padding::kZeros) return -1;
  if (padding == Padding::kReplicate) return row < 0 ? 0 : size - 1;
  const int64_t mirrored = row < 0 ? -row : 2 * (size - 1) - row;
  return mirrored >= 0 && mirrored < size ? mirrored : -1;  // what is further out belongs to tiles cut off later
}

inline float image_value(const char* at, Dtype dtype) {
  if (dtype == kFloat32) return *reinterpret_cast<const float*>(at);
  const uint32_t bits = static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(at)) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename E>
void store_values(const float* values, int64_t count, const Image& image, typename E::Storage* to) {
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    E::store(to + i, Float32::load(values + i) * image.scale + image.offset);
  }
  for (int64_t i = whole; i < count; ++i) to[i] = E::round(values[i] * image.scale + image.offset);
}

template <typename E>
void read_image_row(const Image& image, int64_t row, int64_t first, int64_t width, typename E::Storage* to) {
  if (image.read) {
    constexpr int64_t kPixels = 64;
    float values[kPixels * kImageChannels];
    for (int64_t x = 0; x < width; x += kPixels) {
      const int64_t count = smaller(width - x, kPixels);
      image.read(image.data, row, first + x, count, values);
      store_values<E>(values, count * kImageChannels, image, to + x * kImageChannels);
    }
    return;
  }
  const char* from = image.data + row * image.row_bytes + first * image.pixel_bytes;
  constexpr int64_t kPixel = kImageChannels * sizeof(float);
  if (image.dtype == kFloat32 && image.pixel_bytes == kPixel && image.channel_bytes == sizeof(float) &&
      image.channels == kImageChannels) {
    // The usual one, of frames: as many values as pixels and channels, one after the other.
    return store_values<E>(reinterpret_cast<const float*>(from), width * kImageChannels, image, to);
  }
  for (int64_t x = 0; x < width; ++x, from += image.pixel_bytes, to += kImageChannels) {
    for (int64_t c = 0; c < kImageChannels; ++c) {
      const float value = c < image.channels ? image_value(from + c * image.channel_bytes, image.dtype) : 0.0f;
      to[c] = c < image.channels ? E::round(value * image.scale + image.offset) : 0;
    }
  }
}

inline __attribute__((always_inline)) void write_output(char* to, V value, Writing writing) {
  if (writing == Writing::kFloats) {
    Float32::store(reinterpret_cast<float*>(to), value);
  } else if (writing == Writing::kFloatsPastCaches) {
    stream(reinterpret_cast<float*>(to), value);
  } else if (writing == Writing::kHalves) {
    BFloat16::store(reinterpret_cast<uint16_t*>(to), value);
  } else {
    uint16_t rounded[kLanes];
    BFloat16::store(rounded, value);
    Halves halves;
    __builtin_memcpy(&halves, rounded, sizeof halves);
    stream(reinterpret_cast<uint16_t*>(to), halves);
  }
}

inline int64_t bytes_of(Writing writing) {
  return writing == Writing::kFloats || writing == Writing::kFloatsPastCaches ? 4 : 2;
}

// A vector of the layer's input, of channels from `channel` on.
inline __attribute__((always_inline)) V activated(V value, Activation activation, const Convolution& c,
                                                  int64_t channel) {
  if (activation == Activation::kRelu) return maximum(value, V{});
  if (activation == Activation::kLeakyRelu) return maximum(value, value * c.slope);
  if (activation == Activation::kPRelu) {
    return multiply_add(minimum(value, V{}), Float32::load(c.slopes + channel), maximum(value, V{}));
  }
  return value;
}

// Pixels of one source, channels [channel, channel + source.channels) of the layer's input. `kept`, unless null, gets
// the same values in float32, [width][c.save_step].
template <typename R, typename S, bool kNormalised, Activation kActivation>
void read_source_pixels(const Convolution& c, const Source& source, int64_t channel, int64_t first_pixel, int64_t width,
                        typename R::Storage* to, float* kept) {
  const auto* from = static_cast<const typename S::Storage*>(source.data) + first_pixel * source.pixel_step;
  for (int64_t x = 0; x < width; ++x, from += source.pixel_step, to += c.in_channels) {
    for (int64_t k = 0; k < source.channels; k += kLanes) {
      V value = S::load(from + k);
      if (kNormalised) value = multiply_add(value, Float32::load(source.scale + k), Float32::load(source.shift + k));
      value = activated(value, kActivation, c, channel + k);
      R::store(to + k, value);
      if (kept) write_output(reinterpret_cast<char*>(kept + x * c.save_step + k), value, c.saving);
    }
  }
}

template <typename R, typename S, bool kNormalised>
void read_source_row(const Convolution& c, const Source& source, int64_t channel, int64_t first_pixel, int64_t width,
                     typename R::Storage* to, float* kept) {
  const Activation activation = c.activation;
  const auto read = activation == Activation::kNone   ? read_source_pixels<R, S, kNormalised, Activation::kNone>
                    : activation == Activation::kRelu ? read_source_pixels<R, S, kNormalised, Activation::kRelu>
                    : activation == Activation::kLeakyRelu
                        ? read_source_pixels<R, S, kNormalised, Activation::kLeakyRelu>
                        : read_source_pixels<R, S, kNormalised, Activation::kPRelu>;
  read(c, source, channel, first_pixel, width, to, kept);
}

// A residual block's end and the next one's beginning: normalise, then add what went around.
template <typename R, typename S>
void read_with_residual(const Convolution& c, int64_t first_pixel, int64_t width, typename R::Storage* to,
                        float* kept) {
  const Source &source = c.sources[0], &residual = c.residual, &second = c.second_residual;
  const auto* from = static_cast<const typename S::Storage*>(source.data) + first_pixel * source.pixel_step;
  const auto* around = static_cast<const float*>(residual.data) + first_pixel * residual.pixel_step;
  const auto* further =
      second.data ? static_cast<const float*>(second.data) + first_pixel * second.pixel_step : nullptr;
  const V factor = splat(c.residual_scale);
  for (int64_t x = 0; x < width; ++x) {
    for (int64_t k = 0; k < c.in_channels; k += kLanes) {
      V value = S::load(from + k);
      if (source.scale) value = multiply_add(value, Float32::load(source.scale + k), Float32::load(source.shift + k));
      value = activated(value, c.activation, c, k);
      V other = Float32::load(around + k);
      if (residual.scale) {
        other = multiply_add(other, Float32::load(residual.scale + k), Float32::load(residual.shift + k));
      }
      value = multiply_add(other, factor, value);
      if (further) value = value + Float32::load(further + k);
      R::store(to + k, value);
      if (kept) write_output(reinterpret_cast<char*>(kept + x * c.save_step + k), value, c.saving);
    }
    from += source.pixel_step, around += residual.pixel_step, to += c.in_channels;
    if (further) further += second.pixel_step;
  }
}

// `width` pixels of a row, from `first` on.
template <typename R>
void read_inside(const Convolution& c, int64_t row, int64_t first, int64_t width, typename R::Storage* to,
                 float* kept) {
  if (c.image.data) return read_image_row<R>(c.image, row, first, width, to);
  const int64_t first_pixel = row * c.in_width + first;
  if (c.residual.data) {
    const auto read = c.sources[0].dtype == kFloat32 ? read_with_residual<R, Float32> : read_with_residual<R, BFloat16>;
    return read(c, first_pixel, width, to, kept);
  }
  int64_t channel = 0;
  for (const Source& source : c.sources) {
    if (!source.data) continue;
    const bool is_float32 = source.dtype == kFloat32;
    const auto read = source.scale
                          ? (is_float32 ? read_source_row<R, Float32, true> : read_source_row<R, BFloat16, true>)
                      : is_float32 ? read_source_row<R, Float32, false>
                                   : read_source_row<R, BFloat16, false>;
    read(c, source, channel, first_pixel, width, to + channel, kept ? kept + channel : nullptr);
    channel += source.channels;
  }
}

// Brings columns [begin, end) of row `row`, all of which may lie in the padding, to `to`. Those inside are kept where
// the input is to be kept. Padding repeats pixels that are among them.
template <typename R>
void read_columns(const Convolution& c, int64_t row, int64_t begin, int64_t end, bool keeps, typename R::Storage* to) {
  const int64_t step = c.in_channels, width = c.in_width;
  const int64_t from = padded_index(row, c.in_height, c.padding);
  if (step % 2 != 0) to[(end - begin) * step] = 0;
  if (from < 0) {
    __builtin_memset(to, 0, static_cast<size_t>((end - begin) * step) * sizeof(typename R::Storage));
    return;
  }
  const int64_t first = larger(begin, 0), last = smaller(end, width);
  auto* const zero = to - begin * step;  // column 0
  read_inside<R>(
      c, from, first, last - first, zero + first * step,
      c.save && keeps && from == row ? static_cast<float*>(c.save) + (row * width + first) * c.save_step : nullptr);
  for (int64_t x = begin < first ? begin : last; x < end; x = x == first - 1 ? last : x + 1) {
    const int64_t source = padded_index(x, width, c.padding);
    const size_t bytes = static_cast<size_t>(step) * sizeof(typename R::Storage);
    if (source < 0) {
      __builtin_memset(zero + x * step, 0, bytes);
    } else {
      __builtin_memcpy(zero + x * step, zero + source * step, bytes);
    }
  }
}

// The whole row: `before` columns of padding, in_width, `after`.
template <typename R>
void read_row(const Convolution& c, int64_t row, bool keeps, typename R::Storage* to) {
  read_columns<R>(c, row, -c.before, c.in_width + c.after, keeps, to);
}

// The last rows that were read, each once; a thread goes through its part of the picture from top to bottom.
template <typename R>
class RowRing {
 public:
  using Storage = typename R::Storage;

  // Keeps input rows [first_owned, last_owned) where the input is to be kept.
  RowRing(const Convolution& convolution, Scratch& scratch, int64_t first_row, int64_t first_owned, int64_t last_owned)
      : convolution_(convolution),
        rows_(convolution.last - convolution.first + 1),
        next_(first_row),
        first_owned_(first_owned),
        last_owned_(last_owned),
        row_elements_(row_elements(convolution)),
        buffer_(scratch.take<Storage>(rows_ * row_elements_)) {}

  // Reads on until `row` is there.
  void advance_to(int64_t row) {
    for (; next_ <= row; ++next_) {
      read_row<R>(convolution_, next_, next_ >= first_owned_ && next_ < last_owned_, slot(next_));
    }
  }

  // Column `x` of a row that is there.
  const Storage* at(int64_t row, int64_t x) const {
    return slot(row) + (convolution_.before + x) * convolution_.in_channels;
  }

 private:
  // Rows above the picture have negative numbers.
  Storage* slot(int64_t row) const { return buffer_ + ((row + (rows_ << 8)) % rows_) * row_elements_; }

  const Convolution& convolution_;
  const int64_t rows_;
  int64_t next_;
  const int64_t first_owned_, last_owned_, row_elements_;
  Storage* const buffer_;
};

// --- the micro-kernel

// What a tile of neighbouring output pixels multiplies: runs of elements, one per kernel row, and weights beside them.
template <typename E>
struct Product {
  const typename E::Storage* runs[kMaxKernel];  // of the first pixel
  int count;
  int64_t length, pixel_step;
  int64_t row_pixels, row_step;  // where a tile may go on in the next row: pixels of a row, and the step to the next
  const typename E::Storage* weights;  // of the first channel block
  int64_t run_step, block_step;        // to the next run, and to the next block
};

template <typename E, int kPixels>
inline __attribute__((always_inline)) void pixel_offsets(const Product<E>& product, int64_t first,
                                                         int64_t (&offsets)[kPixels]) {
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    const int64_t pixel = first + p;
    offsets[p] = product.row_pixels == 0
                     ? pixel * product.pixel_step
                     : pixel / product.row_pixels * product.row_step + pixel % product.row_pixels * product.pixel_step;
  }
}

// Writes the sums of a tile, [kPixels][to_step] with 16 kBlocks channels each. A function of its own, so that what is
// around it leaves its registers alone.
template <typename E, int kPixels, int kBlocks>
__attribute__((noinline)) void multiply_tile(const Product<E>& product, int64_t first_pixel, float* to,
                                             int64_t to_step) {
  constexpr int kVectors = kBlocks * kBlockVectors;
  using Storage = typename E::Storage;
  V sums[kPixels][kVectors];
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[p][v] = V{};
  }
  const int64_t block_step = product.block_step, length = product.length;
  int64_t offsets[kPixels];
  pixel_offsets(product, first_pixel, offsets);
  for (int run = 0; run < product.count; ++run) {
    const Storage* from = product.runs[run];
    const Storage* weights = product.weights + run * product.run_step;
    for (int64_t k = 0; k < length; k += E::kGroup) {
      typename E::Weights w[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        w[v] = E::load_weights(weights + (v / kBlockVectors) * block_step + (v % kBlockVectors) * kLanes * E::kGroup);
      }
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        const typename E::Broadcast value = E::broadcast(from + offsets[p] + k);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[p][v] = E::dot(value, w[v], sums[p][v]);
      }
      weights += kChannelBlock * E::kGroup;
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Float32::store(to + p * to_step + v * kLanes, sums[p][v]);
  }
}

// The sums of all `pixels`, [pixels][to_step].
template <typename E, int kBlocks, int kPixels = kTilePixels>
void multiply_pixels(const Product<E>& product, int64_t pixels, float* to, int64_t to_step, int64_t pixel = 0) {
  for (; pixel + kPixels <= pixels; pixel += kPixels) {
    multiply_tile<E, kPixels, kBlocks>(product, pixel, to + pixel * to_step, to_step);
  }
  if constexpr (kPixels > 1) {
    if (pixel < pixels) multiply_pixels<E, kBlocks, kPixels / 2>(product, pixels, to, to_step, pixel);
  }
}

// The same, with the sums of each tile in the same place, and use(first pixel, number) after each.
template <typename E, int kBlocks, int kPixels = kTilePixels, typename Use>
void multiply_and_use(const Product<E>& product, int64_t pixels, float* tile, const Use& use, int64_t pixel = 0) {
  for (; pixel + kPixels <= pixels; pixel += kPixels) {
    multiply_tile<E, kPixels, kBlocks>(product, pixel, tile, kBlocks * kChannelBlock);
    use(pixel, kPixels);
  }
  if constexpr (kPixels > 1) {
    if (pixel < pixels) multiply_and_use<E, kBlocks, kPixels / 2>(product, pixels, tile, use, pixel);
  }
}

// Calls use(channel, Constant<blocks>) for output channels [first, last), as many at once as the micro-kernel takes.
template <typename Use>
void each_block(int64_t first, int64_t last, const Use& use) {
  int64_t channel = first;
  for (; channel + kTileBlocks * kChannelBlock <= last; channel += kTileBlocks * kChannelBlock) {
    use(channel, Constant<kTileBlocks>{});
  }
  for (; channel < last; channel += kChannelBlock) use(channel, Constant<1>{});
}

// --- direct convolution

// Bias, statistics and storing of one pixel's sums.
template <int kVectors>
inline __attribute__((always_inline)) void store_pixel(const float* sums, char* to, const V (&bias)[kVectors],
                                                       V (&total)[kVectors], V (&squares)[kVectors], Writing writing) {
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const V value = Float32::load(sums + v * kLanes) + bias[v];
    total[v] = total[v] + value;
    squares[v] = multiply_add(value, value, squares[v]);
    write_output(to + v * kLanes * bytes_of(writing), value, writing);
  }
}

template <int kVectors>
inline void write_statistics(float* slot, int64_t channels, int64_t channel, const V (&total)[kVectors],
                             const V (&squares)[kVectors]) {
  for (int v = 0; v < kVectors; ++v) {
    Float32::store(slot + channel + v * kLanes, total[v]);
    Float32::store(slot + channels + channel + v * kLanes, squares[v]);
  }
}

template <typename E>
Product<E> product_of(const Convolution& c, const Phase& phase, int64_t channel) {
  Product<E> product = {};
  product.count = static_cast<int>(phase.rows);
  product.length = round_up(phase.columns * c.in_channels, E::kGroup);
  product.pixel_step = c.stride * c.in_channels;
  product.block_step = product.length * kChannelBlock;
  product.run_step = product.length * c.out_channels;
  product.weights =
      static_cast<const typename E::Storage*>(phase.weights) + channel / kChannelBlock * product.block_step;
  return product;
}

inline char* output_at(const Convolution& c, int64_t y, int64_t x, int64_t channel) {
  return static_cast<char*>(c.output) + (y * c.output_row + x * c.output_step + channel) * bytes_of(c.writing);
}

inline const float* bias_of(const Convolution& c, int64_t phase, int64_t channel) {
  return c.bias + phase * c.bias_step + channel;
}

inline void load_biases(const Convolution& c, int64_t phase, int64_t channel, V* biases, int count) {
  for (int v = 0; v < count; ++v) biases[v] = Float32::load(bias_of(c, phase, channel) + v * kLanes);
}

// Output channels [channel, channel + 16 kBlocks) of phase (a, b) of rows [begin, end).
template <typename E, int kBlocks>
void direct_blocks(const Convolution& c, const RowRing<E>& ring, int64_t begin, int64_t end, int64_t a, int64_t b,
                   int64_t channel, float* statistics) {
  constexpr int kVectors = kBlocks * kBlockVectors;
  const Phase& phase = c.phases[a * c.up + b];
  Product<E> product = product_of<E>(c, phase, channel);
  V bias[kVectors], total[kVectors] = {}, squares[kVectors] = {};
  load_biases(c, a * c.up + b, channel, bias, kVectors);
  alignas(64) float tile[kTilePixels * kBlocks * kChannelBlock];
  const int64_t pixel_step = c.up * c.output_step * bytes_of(c.writing);
  for (int64_t y = begin; y < end; ++y) {
    for (int64_t r = 0; r < phase.rows; ++r) product.runs[r] = ring.at(y * c.stride + phase.dy + r, phase.dx);
    char* to = output_at(c, c.up * y + a, b, channel);
    multiply_and_use<E, kBlocks>(product, c.base_width, tile, [&](int64_t pixel, int count) {
      for (int p = 0; p < count; ++p) {
        store_pixel(tile + p * kBlocks * kChannelBlock, to + (pixel + p) * pixel_step, bias, total, squares, c.writing);
      }
    });
  }
  if (statistics) write_statistics(statistics, c.out_channels, channel, total, squares);
}

template <typename E>
void direct_unit(const Convolution& c, const RowRing<E>& ring, int64_t unit) {
  const int64_t begin = unit * c.unit_rows, end = smaller(begin + c.unit_rows, c.base_height);
  for (int64_t a = 0; a < c.up; ++a) {
    for (int64_t b = 0; b < c.up; ++b) {
      float* statistics = c.statistics ? c.statistics + ((unit * c.up + a) * c.up + b) * 2 * c.out_channels : nullptr;
      each_block(0, c.out_channels, [&](int64_t channel, auto blocks) {
        direct_blocks<E, decltype(blocks)::kValue>(c, ring, begin, end, a, b, channel, statistics);
      });
    }
  }
}

// --- direct convolution of few pixels

// Taps [first, last) of a kernel's side, of those that see the picture at one of the output's places; the others see
// zeros alone. In the middle of a U-Net that is half of a side, and the weights are most of what such a layer reads.
struct Taps {
  int64_t first, last;

  Taps(int64_t taps, int64_t offset, int64_t stride, int64_t places, int64_t size, Padding padding)
      : first(0), last(taps) {
    if (padding != Padding::kZeros) return;
    first = larger(0, -(offset + (places - 1) * stride));
    last = larger(first, smaller(taps, size - offset));
  }
};

template <typename E, int kBlocks>
void small_blocks(const Convolution& c, const typename E::Storage* input, int64_t row_step, int64_t channel) {
  constexpr int kVectors = kBlocks * kBlockVectors;
  V bias[kVectors];
  alignas(64) float tile[kTilePixels * kBlocks * kChannelBlock];
  for (int64_t a = 0; a < c.up; ++a) {
    for (int64_t b = 0; b < c.up; ++b) {
      load_biases(c, a * c.up + b, channel, bias, kVectors);
      const Phase& phase = c.phases[a * c.up + b];
      Product<E> product = product_of<E>(c, phase, channel);
      product.row_pixels = c.base_width;
      product.row_step = c.stride * row_step;
      const Taps rows(phase.rows, phase.dy, c.stride, c.base_height, c.in_height, c.padding);
      const Taps columns(phase.columns, phase.dx, c.stride, c.base_width, c.in_width,
                         c.in_channels % E::kGroup == 0 ? c.padding : Padding::kReflect);
      product.count = static_cast<int>(rows.last - rows.first);
      product.length -= (phase.columns - (columns.last - columns.first)) * c.in_channels;
      product.weights += rows.first * product.run_step + columns.first * c.in_channels * kChannelBlock;
      for (int64_t r = rows.first; r < rows.last; ++r) {
        product.runs[r - rows.first] =
            input + (phase.dy + r - c.first) * row_step + (c.before + phase.dx + columns.first) * c.in_channels;
      }
      V total[kVectors] = {}, squares[kVectors] = {};
      multiply_and_use<E, kBlocks>(product, c.base_height * c.base_width, tile, [&](int64_t first, int count) {
        for (int64_t pixel = first; pixel < first + count; ++pixel) {
          char* to = output_at(c, c.up * (pixel / c.base_width) + a, c.up * (pixel % c.base_width) + b, channel);
          store_pixel(tile + (pixel - first) * kBlocks * kChannelBlock, to, bias, total, squares, c.writing);
        }
      });
      if (c.statistics) {
        write_statistics(c.statistics + (a * c.up + b) * 2 * c.out_channels, c.out_channels, channel, total, squares);
      }
    }
  }
}

template <typename E>
void small_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  Scratch scratch{memory};
  const int64_t row_step = row_elements(c), rows = c.last - c.first + 1;
  auto* input = scratch.take<typename E::Storage>(rows * row_step);
  for (int64_t r = 0; r < rows; ++r) read_row<E>(c, c.first + r, begin == 0, input + r * row_step);
  constexpr int64_t kUnitChannels = kMaxTileBlocks * kChannelBlock;
  each_block(begin * kUnitChannels, smaller(end * kUnitChannels, c.out_channels), [&](int64_t channel, auto blocks) {
    small_blocks<E, decltype(blocks)::kValue>(c, input, row_step, channel);
  });
}

// --- the last layer

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
  Product<E> product = {};
  product.count = static_cast<int>(phase.rows);
  for (int64_t r = 0; r < phase.rows; ++r) product.runs[r] = ring.at(y + phase.dy + r, first_column);
  product.length = product.pixel_step = c.in_channels;
  product.block_step = product.length * kChannelBlock;
  product.run_step = product.length * c.out_channels;
  each_block(0, c.out_channels, [&](int64_t channel, auto blocks) {
    product.weights =
        static_cast<const typename E::Storage*>(phase.weights) + channel / kChannelBlock * product.block_step;
    multiply_pixels<E, decltype(blocks)::kValue>(product, columns, products + channel, c.out_channels);
  });
}

// Output column x is the sum of kernel columns k at product column x + k.
inline void add_columns(const Convolution& c, const float* products, float* row) {
  const int64_t pictures = c.picture_channels, step = c.out_channels + pictures;
  if (pictures == 3) {
    // Four at a time, of which the next pixel writes over the last.
    typedef float Four __attribute__((vector_size(16)));
    const Four bias = {c.bias[0], c.bias[1], c.bias[2], 0.0f};
    for (int64_t x = 0; x < c.base_width; ++x) {
      Four sum = bias, product;
      for (int64_t k = 0; k < c.kernel_width; ++k) {
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
      for (int64_t k = 0; k < c.kernel_width; ++k) sum += from[k * step];
      row[x * pictures + p] = sum;
    }
  }
}

// Of a transposed convolution of stride 2: product column i and kernel column k belong to output column 2 i + k - pad.
inline void add_transposed_columns(const Convolution& c, int64_t pad, const float* products, float* row) {
  const int64_t pictures = c.picture_channels;
  for (int64_t x = 0; x < 2 * c.base_width; ++x) {
    for (int64_t p = 0; p < pictures; ++p) {
      float sum = c.bias[p];
      for (int64_t k = (x + pad) % 2; k < c.kernel_width; k += 2) {
        const int64_t i = (x + pad - k) / 2;
        if (x + pad >= k && i < c.base_width) sum += products[i * c.out_channels + k * pictures + p];
      }
      row[x * pictures + p] = sum;
    }
  }
}

// Where output row or column y * scale + a of a base lies: between rows `first` and first + 1 of the image, by `share`
// nearer to the second.
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

// A row of the image as [pixel][kImageChannels], with the first and the last pixel repeated, and zeros after it.
inline void read_base_row(const Convolution& c, int64_t row, float* to) {
  const int64_t inside = smaller(larger(row, 0), c.image_height - 1), values = c.image_width * kImageChannels;
  read_image_row<Float32>(c.base_image, inside, 0, c.image_width, to + kImageChannels);
  for (int64_t k = 0; k < kImageChannels; ++k) {
    to[k] = to[kImageChannels + k];
    to[kImageChannels + values + k] = to[values + k];
  }
  for (int64_t k = 0; k < kChannelBlock; ++k) to[2 * kImageChannels + values + k] = 0.0f;
}

// Adds the base to row `y` of the picture, [pixel][picture channel], which may be written a value further.
inline void add_base(const Convolution& c, int64_t y, float* row, float* scratch) {
  if (c.base == Base::kNone) return;
  const int64_t scale = c.base_scale, step = base_elements(c) / 3, pictures = c.picture_channels;
  float *const first = scratch, *const second = first + step, *const mixed = second + step;
  const BasePlace down(c.base, y, scale);
  read_base_row(c, down.first, first);
  if (down.share != 0.0f) {
    read_base_row(c, down.first + 1, second);
    for (int64_t i = 0; i <= (c.image_width + 2) * kImageChannels; i += kLanes) {
      const V value = Float32::load(first + i);
      Float32::store(mixed + i, multiply_add(Float32::load(second + i) - value, splat(down.share), value));
    }
  }
  const float* const from = down.share != 0.0f ? mixed : first;
  for (int64_t b = 0; b < scale; ++b) {
    const BasePlace across(c.base, b, scale);
    const float* left = from + (across.first + 1) * kImageChannels;
    float* to = row + b * pictures;
    if (pictures == kImageChannels && scale > 1) {
      // Four at a time, of which the last stays as it is.
      typedef float Four __attribute__((vector_size(16)));
      const Four rest = {1.0f - across.share, 1.0f - across.share, 1.0f - across.share, 0.0f};
      const Four share = {across.share, across.share, across.share, 0.0f};
      for (int64_t x = 0; x < c.image_width; ++x, left += kImageChannels, to += scale * pictures) {
        Four one, other, sum;
        __builtin_memcpy(&one, left, sizeof one);
        __builtin_memcpy(&other, left + kImageChannels, sizeof other);
        __builtin_memcpy(&sum, to, sizeof sum);
        sum += one * rest + other * share;
        __builtin_memcpy(to, &sum, sizeof sum);
      }
      continue;
    }
    for (int64_t x = 0; x < c.image_width; ++x, left += kImageChannels, to += scale * pictures) {
      for (int64_t p = 0; p < pictures; ++p) to[p] += left[p] + (left[kImageChannels + p] - left[p]) * across.share;
    }
  }
}

// Writes values [begin, end) of a row of the picture, whole pixels if to a frame; floats past the caches, for whoever
// reads the picture comes later.
inline void write_picture_values(const Picture& picture, int64_t y, const float* row, int64_t values, int64_t begin,
                                 int64_t end) {
  if (picture.data) {
    float* const to = picture.data + y * values;
    const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to + begin) % kLineBytes / sizeof(float));
    const int64_t first = misaligned == 0 ? begin : smaller(begin + kLineBytes / 4 - misaligned, end);
    __builtin_memcpy(to + begin, row + begin, static_cast<size_t>(first - begin) * sizeof(float));
    int64_t i = first;
    for (; i + kLanes <= end; i += kLanes) stream(to + i, Float32::load(row + i));
    __builtin_memcpy(to + i, row + i, static_cast<size_t>(end - i) * sizeof(float));
  } else if (y < picture.frame_height) {
    const int64_t first = begin / kImageChannels, last = smaller(end / kImageChannels, picture.frame_width);
    if (first >= last) return;
    picture.interleaved(row + begin, picture.frame + (y * picture.frame_width + first) * kImageChannels, last - first,
                        picture.low, picture.scale);
  }
}

inline void write_picture_row(const Picture& picture, int64_t y, const float* row, int64_t values) {
  write_picture_values(picture, y, row, values, 0, values);
}

// Adds the base to row `y` of the picture, [pixel][picture channel], applies tanh, and writes it.
inline void finish_picture_row(const Convolution& c, int64_t y, float* row, float* base_scratch) {
  const int64_t values = c.picture_width * c.picture_channels;
  add_base(c, y, row, base_scratch);
  if (c.tanh) {
    for (int64_t i = 0; i < values; i += kLanes) Float32::store(row + i, hyperbolic_tangent(Float32::load(row + i)));
  }
  write_picture_row(c.picture, y, row, values);
}

template <typename E>
void columns_row(const Convolution& c, const RowRing<E>& ring, int64_t y, float* products, float* row,
                 float* base_scratch) {
  for (int64_t a = 0; a < c.up; ++a) {
    const Phase& phase = c.phases[a];
    if (c.up == 1) {
      multiply_columns(c, phase, ring, y, phase.dx, c.base_width + c.kernel_width - 1, products);
      add_columns(c, products, row);
    } else {
      multiply_columns(c, phase, ring, y, 0, c.base_width, products);
      add_transposed_columns(c, -phase.dx, products, row);
    }
    finish_picture_row(c, c.up * y + a, row, base_scratch);
  }
}

// --- units of rows

// Input rows that units [begin, end) are the first to read, and keep where the input is to be kept.
struct OwnedRows {
  int64_t first, last;

  OwnedRows(const Convolution& c, int64_t begin, int64_t end) {
    const int64_t last_row = smaller(end * c.unit_rows, c.base_height);
    first = begin * c.unit_rows * c.stride;
    last = last_row == c.base_height ? c.in_height : last_row * c.stride;
  }
};

template <typename E>
void direct_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  Scratch scratch{memory};
  const bool is_columns = c.method == Method::kColumns;
  const OwnedRows owned(c, begin, end);
  RowRing<E> ring(c, scratch, owned.first + c.first, owned.first, owned.last);
  float* products = nullptr;
  float *row = nullptr, *base_scratch = nullptr;
  if (is_columns) {
    products = scratch.take<float>((c.base_width + c.kernel_width - 1) * c.out_channels);
    row = scratch.take<float>(picture_row_elements(c));
    base_scratch = scratch.take<float>(base_elements(c));
  }
  for (int64_t unit = begin; unit < end; ++unit) {
    ring.advance_to(unit * c.unit_rows * c.stride + c.last);
    if (is_columns) {
      columns_row<E>(c, ring, unit, products, row, base_scratch);
    } else {
      direct_unit<E>(c, ring, unit);
    }
  }
  if (c.save) ring.advance_to(owned.last - 1);
}

// --- pixel shuffle to the picture

// Units of rows of the base grid. Of a row the channels of each of its `up` picture rows lie side by side.
inline void shuffle_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  Scratch scratch{memory};
  const int64_t run = c.up * c.picture_channels;
  auto* const values = scratch.take<float>(row_elements(c));
  auto* const row = scratch.take<float>(picture_row_elements(c));
  auto* const base_scratch = scratch.take<float>(base_elements(c));
  for (int64_t y = begin * c.unit_rows; y < smaller(end * c.unit_rows, c.base_height); ++y) {
    read_row<Float32>(c, y, true, values);
    for (int64_t a = 0; a < c.up; ++a) {
      const float* from = values + a * run;
      for (int64_t x = 0; x < c.base_width; ++x, from += c.in_channels) {
        __builtin_memcpy(row + x * run, from, static_cast<size_t>(run) * sizeof(float));
      }
      finish_picture_row(c, c.up * y + a, row, base_scratch);
    }
  }
}
