// Scratch memory, and the input of all algorithms but the matrix unit's: rows of earlier activations, or of the image,
// normalised, activated and padded into a ring of the last rows. Included inside an anonymous namespace, after
// vector.h.

// A loop whose turns, at most 16, the compiler writes out.
#define UNROLLED(index, count) _Pragma("GCC unroll 16") for (int index = 0; index < (count); ++index)

constexpr int kBlockVectors = static_cast<int>(kChannelBlock) / kLanes;

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Memory of one call, handed out from the front at multiples of 64 bytes. Each algorithm has a struct made of it, whose
// members take what they need. Without memory it only counts.
struct Scratch {
  const Convolution& c;
  char* memory;
  int64_t used = 0;

  Scratch(const Convolution& convolution, char* all) : c(convolution), memory(all) {}

  template <typename T>
  T* take(int64_t count) {
    T* const taken = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
    used += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return taken;
  }
};

template <typename AlgorithmScratch>
int64_t scratch_bytes(const Convolution& c) {
  return AlgorithmScratch(c, nullptr).used;
}

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
void store_values(const float* values, int64_t count, const InputView& image, typename E::Storage* to) {
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    E::store(to + i, Float32::load(values + i) * image.scale + image.offset);
  }
  for (int64_t i = whole; i < count; ++i) to[i] = E::round(values[i] * image.scale + image.offset);
}

template <typename E>
void read_image_row(const InputView& image, int64_t row, int64_t first, int64_t width, typename E::Storage* to) {
  if (image.read) {
    constexpr int64_t kPixels = 64;
    float values[kPixels * kImageChannels];
    for (int64_t x = 0; x < width; x += kPixels) {
      const int64_t count = min_of(width - x, kPixels);
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
// the same values in float32, [width][c.save.pixel_step].
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
      if (kept) write_output(reinterpret_cast<char*>(kept + x * c.save.pixel_step + k), value, c.save.writing);
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
      if (kept) write_output(reinterpret_cast<char*>(kept + x * c.save.pixel_step + k), value, c.save.writing);
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
  const int64_t first = max_of(begin, 0), last = min_of(end, width);
  auto* const zero = to - begin * step;  // column 0
  read_inside<R>(c, from, first, last - first, zero + first * step,
                 c.save.data && keeps && from == row
                     ? static_cast<float*>(c.save.data) + (row * width + first) * c.save.pixel_step
                     : nullptr);
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

// Input rows that a call is the first to read, and keeps where the input is to be kept.
struct OwnedRows {
  int64_t first, last;
};

// Those of units [begin, end) of rows.
inline OwnedRows owned_rows(const Convolution& c, int64_t begin, int64_t end) {
  const int64_t last_row = min_of(end * c.direct.unit_rows, c.base_height);
  return {begin * c.direct.unit_rows * c.stride, last_row == c.base_height ? c.in_height : last_row * c.stride};
}

// Elements of a row of the ring. An odd number of channels (the image's) leaves one more, zero, for the products of
// pairs to end with.
inline int64_t row_elements(const Convolution& c) {
  return (c.before + c.in_width + c.after) * c.in_channels + c.in_channels % 2;
}

// The last rows that were read, each once; a call goes through its rows from top to bottom.
template <typename R>
class RowRing {
 public:
  using Storage = typename R::Storage;

  static Storage* take(Scratch& scratch) {
    return scratch.take<Storage>((scratch.c.last - scratch.c.first + 1) * row_elements(scratch.c));
  }

  RowRing(const Convolution& convolution, Storage* memory, int64_t first_row, const OwnedRows& owned)
      : convolution_(convolution),
        rows_(convolution.last - convolution.first + 1),
        next_(first_row),
        owned_(owned),
        row_elements_(row_elements(convolution)),
        memory_(memory) {}

  // Begins with the rows that it owns.
  RowRing(const Convolution& convolution, Storage* memory, const OwnedRows& owned)
      : RowRing(convolution, memory, owned.first + convolution.first, owned) {}

  // Reads on until `row` is there.
  void advance_to(int64_t row) {
    for (; next_ <= row; ++next_) {
      read_row<R>(convolution_, next_, next_ >= owned_.first && next_ < owned_.last, slot(next_));
    }
  }

  // Keeps what no output has read.
  void finish() {
    if (convolution_.save.data) advance_to(owned_.last - 1);
  }

  // Column `x` of a row that is there.
  const Storage* at(int64_t row, int64_t x) const {
    return slot(row) + (convolution_.before + x) * convolution_.in_channels;
  }

 private:
  // Rows above the picture have negative numbers.
  Storage* slot(int64_t row) const { return memory_ + ((row + (rows_ << 8)) % rows_) * row_elements_; }

  const Convolution& convolution_;
  const int64_t rows_;
  int64_t next_;
  const OwnedRows owned_;
  const int64_t row_elements_;
  Storage* const memory_;
};
