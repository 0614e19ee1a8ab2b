// The input of the matrix unit's steps (matrix_x.h): rows of earlier activations, normalised, activated, padded and
// rounded into a ring; or those rows themselves, where nothing is left to be done to them. Included by matrix_x.h.

// Vectors one after the other as bfloat16; two of them are one instruction where there is one.
template <int kVectors>
inline __attribute__((always_inline)) void store_halves(char* to, const V (&values)[kVectors]) {
#if defined(__AVX512BF16__)
  if constexpr (kVectors == 2) {
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(values[1], values[0]));
    return;
  }
#endif
  UNROLLED (v, kVectors) BFloat16::store(reinterpret_cast<uint16_t*>(to) + v * kLanes, values[v]);
}

// All terms that the values are multiplied in.
template <typename E, int kVectors>
inline __attribute__((always_inline)) void store_terms(V (&values)[kVectors], char* to, int64_t term_bytes) {
  store_halves(to, values);
  if constexpr (MatrixTerms<E>::kCount == 2) {
    UNROLLED (v, kVectors) {
      values[v] = values[v] - BFloat16::load(reinterpret_cast<uint16_t*>(to) + v * kLanes);
    }
    store_halves(to + term_bytes, values);
  }
}

// 16 kBlocks channels of a pixel.
template <int kBlocks>
inline __attribute__((always_inline)) void write_pixel(char* to, const V (&values)[kBlocks * kBlockVectors],
                                                       Writing writing) {
  if (writing == Writing::kHalves) return store_halves(to, values);
#if defined(__AVX512BF16__)
  if (kBlocks == 2 && writing == Writing::kHalvesPastCaches) {
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(values[kBlocks - 1], values[0]);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), halves);
    return;
  }
#endif
  UNROLLED (v, kBlocks * kBlockVectors) {
    write_output(to + v * kLanes * bytes_of(writing), values[v], writing);
  }
}

struct NoResidual {
  using Storage = char;
  static constexpr int kGroup = 0;
};

// 16 kHalves channels of `width` pixels of a source, from `channel` of the source on, which is `at` of the input; a
// residual is of type R.
template <typename E, typename S, typename R, int kHalves, bool kHasSlope>
void read_matrix_channels(const Convolution& c, const Source& source, int64_t row, int64_t first, int64_t channel,
                          int64_t at, int64_t width, char* to, int64_t pixel_bytes, char* kept) {
  constexpr bool kHasResidual = R::kGroup > 0;
  constexpr int kVectors = kHalves * kBlockVectors;
  const Source &residual = c.residual, &second = c.second_residual;
  V scale[kVectors], shift[kVectors], slope[kVectors], other_scale[kVectors], other_shift[kVectors];
  const V same_slope = splat(c.slope);
  // A ReLU, or nothing, is the larger of this and the value; a NaN is what it was.
  const V least = splat(c.activation == Activation::kRelu ? 0.0f : -__builtin_inff());
  const V factor = splat(c.residual_scale);
  for (int v = 0; v < kVectors; ++v) {
    const int64_t k = channel + v * kLanes;
    scale[v] = source.scale ? Float32::load(source.scale + k) : splat(1.0f);
    shift[v] = source.scale ? Float32::load(source.shift + k) : V{};
    slope[v] = c.activation == Activation::kPRelu ? Float32::load(c.slopes + at + v * kLanes) : same_slope;
    other_scale[v] = residual.scale ? Float32::load(residual.scale + k) * factor : factor;
    other_shift[v] = residual.scale ? Float32::load(residual.shift + k) * factor : V{};
  }
  const int64_t term_bytes = matrix_term_bytes(c), kept_bytes = bytes_of(c.save.writing);
  const auto begin = [&](const Source& of) { return row * of.row_step + first * of.pixel_step + channel; };
  const auto* from = static_cast<const typename S::Storage*>(source.data) + begin(source);
  const typename R::Storage *around = nullptr, *further = nullptr;
  if constexpr (kHasResidual) {
    around = static_cast<const typename R::Storage*>(residual.data) + begin(residual);
    if (second.data) further = static_cast<const typename R::Storage*>(second.data) + begin(second);
  }
  for (int64_t x = 0; x < width; ++x, from += source.pixel_step, to += pixel_bytes) {
    V values[kVectors];
    UNROLLED (v, kVectors) {
      const V value = multiply_add(S::load(from + v * kLanes), scale[v], shift[v]);
      values[v] = kHasSlope ? multiply_add(minimum(value, V{}), slope[v], maximum(value, V{})) : maximum(least, value);
      if constexpr (kHasResidual) {
        values[v] = values[v] + multiply_add(R::load(around + v * kLanes), other_scale[v], other_shift[v]);
        if (further) values[v] = values[v] + R::load(further + v * kLanes);
      }
    }
    if (kept) write_pixel<kHalves>(kept, values, c.save.writing);
    store_terms<E>(values, to, term_bytes);
    if constexpr (kHasResidual) {
      around += residual.pixel_step;
      if (further) further += second.pixel_step;
    }
    if (kept) kept += c.save.pixel_step * kept_bytes;
  }
}

using MatrixReader = void (*)(const Convolution& c, const Source& source, int64_t row, int64_t first, int64_t channel,
                              int64_t at, int64_t width, char* to, int64_t pixel_bytes, char* kept);

template <typename E, typename S, typename R, int kHalves>
MatrixReader matrix_reader(const Convolution& c) {
  const bool has_slope = c.activation == Activation::kLeakyRelu || c.activation == Activation::kPRelu;
  return has_slope ? read_matrix_channels<E, S, R, kHalves, true> : read_matrix_channels<E, S, R, kHalves, false>;
}

template <typename E, typename S, int kHalves>
MatrixReader matrix_reader(const Convolution& c) {
  return !c.residual.data               ? matrix_reader<E, S, NoResidual, kHalves>(c)
         : c.residual.dtype == kFloat32 ? matrix_reader<E, S, Float32, kHalves>(c)
                                        : matrix_reader<E, S, BFloat16, kHalves>(c);
}

template <typename E, int kHalves>
MatrixReader matrix_reader(const Convolution& c, const Source& source) {
  return source.dtype == kFloat32 ? matrix_reader<E, Float32, kHalves>(c) : matrix_reader<E, BFloat16, kHalves>(c);
}

// A row of the image; `to` is its first pixel.
template <typename E>
void read_matrix_image(const Convolution& c, int64_t row, char* to) {
  constexpr int64_t kPixels = 64, kValues = kPixels * kImageChannels;
  float values[kValues];
  uint16_t terms[MatrixTerms<E>::kCount][kValues + kLanes];
  const int64_t term_bytes = matrix_term_bytes(c);
  for (int64_t x = 0; x < c.in_width; x += kPixels) {
    const int64_t count = min_of(c.in_width - x, kPixels);
    read_image_row<Float32>(c.image, row, x, count, values);
    for (int64_t i = 0; i < count * kImageChannels; i += kLanes) {
      V vector[1] = {Float32::load(values + i)};
      store_terms<E>(vector, reinterpret_cast<char*>(terms[0] + i), sizeof terms[0]);
    }
    for (int term = 0; term < MatrixTerms<E>::kCount; ++term) {
      for (int64_t i = 0; i < count; ++i) {
        uint64_t pixel;  // and one value of the next one, which is not wanted
        __builtin_memcpy(&pixel, terms[term] + i * kImageChannels, sizeof pixel);
        pixel &= 0x0000ffffffffffffull;
        __builtin_memcpy(to + term * term_bytes + (x + i) * 8, &pixel, sizeof pixel);
      }
    }
  }
}

// Repeats pixels where padding does, and clears the others, in a block of a row whose picture is there.
template <size_t kPixelBytes>
void pad_matrix_block(const Convolution& c, char* block) {
  constexpr int64_t kTaps = kLineBytes / kPixelBytes;
  const auto pixel = [&](int64_t x) { return block + (c.before + x) * static_cast<int64_t>(kPixelBytes); };
  // Beyond the row lie pixels that have no weights, which a step of several taps reads all the same.
  for (int64_t x = -c.before; x < c.in_width + c.after + kTaps - 1; x = x == -1 ? c.in_width : x + 1) {
    const int64_t source = x < c.in_width + c.after ? padded_index(x, c.in_width, c.padding) : -1;
    if (source < 0) {
      __builtin_memset(pixel(x), 0, kPixelBytes);
    } else {
      __builtin_memcpy(pixel(x), pixel(source), kPixelBytes);
    }
  }
}

inline void pad_matrix_row(const Convolution& c, char* block, int64_t channels) {
  if (channels == kMatrixDepth) return pad_matrix_block<64>(c, block);
  if (channels == kChannelBlock) return pad_matrix_block<32>(c, block);
  pad_matrix_block<8>(c, block);
}

// 16 or 32 channels of a source, where they stand among all, and what reads them.
struct MatrixChannels {
  int32_t source, channel, at, halves;
  MatrixReader read;
};

template <typename E>
int64_t matrix_channel_groups(const Convolution& c, MatrixChannels* to) {
  int64_t count = 0, first = 0;
  for (int i = 0; i < 2; ++i) {
    const int64_t channels = c.sources[i].data ? c.sources[i].channels : 0;
    for (int64_t channel = 0; channel < channels;) {
      const int64_t at = first + channel;
      const int64_t halves = at % kMatrixDepth == 0 && channel + kMatrixDepth <= channels ? 2 : 1;
      to[count++] = {i, static_cast<int32_t>(channel), static_cast<int32_t>(at), static_cast<int32_t>(halves),
                     halves == 2 ? matrix_reader<E, 2>(c, c.sources[i]) : matrix_reader<E, 1>(c, c.sources[i])};
      channel += halves * kChannelBlock;
    }
    first += channels;
  }
  return count;
}

// An activation in memory from its first pixel on, of whose pixels some channels are meant.
struct MatrixArea {
  char* first;
  int64_t pixel_bytes, row_bytes, border, height, width, channel_bytes;
};

// Zeros around rows [first, last) of it.
inline void clear_border(const MatrixArea& area, int64_t first, int64_t last) {
  if (area.border == 0) return;
  const auto clear = [&](int64_t row, int64_t begin, int64_t end) {
    char* pixel = area.first + row * area.row_bytes + begin * area.pixel_bytes;
    for (int64_t x = begin; x < end; ++x, pixel += area.pixel_bytes) {
      __builtin_memset(pixel, 0, static_cast<size_t>(area.channel_bytes));
    }
  };
  const int64_t left = -area.border, right = area.width + area.border;
  for (int64_t row = first == 0 ? left : first; row < 0; ++row) clear(row, left, right);
  for (int64_t row = first; row < last; ++row) clear(row, left, 0), clear(row, area.width, right);
  if (last < area.height) return;
  for (int64_t row = area.height; row < area.height + area.border; ++row) clear(row, left, right);
}

// Zeros around output rows [first, last), of all output channels.
inline void clear_output_border(const Convolution& c, int64_t first, int64_t last) {
  const int64_t bytes = bytes_of(c.output.writing);
  clear_border({static_cast<char*>(c.output.data), c.output.pixel_step * bytes, c.output.row_step * bytes,
                c.output.border, c.up * c.base_height, c.up * c.base_width, c.out_channels * bytes},
               first, last);
}

template <typename E>
struct BandScratch : MatrixScratch {
  using MatrixScratch::MatrixScratch;
  MatrixChannels* groups = take<MatrixChannels>(c.in_channels / kChannelBlock + 1);
  const char** window = take<const char*>(c.matrix.ring_rows);
  char* ring =
      take<char>(c.matrix.reads_directly ? 0 : c.matrix.ring_rows * MatrixTerms<E>::kCount * matrix_term_bytes(c));
};

// The last rows of the input as the products read them, each read once; or the source's own rows.
template <typename E>
class MatrixRing {
 public:
  MatrixRing(const Convolution& convolution, const BandScratch<E>& scratch, int64_t first_row, const OwnedRows& owned)
      : convolution_(convolution),
        scratch_(scratch),
        group_count_(matrix_channel_groups<E>(convolution, scratch.groups)),
        next_(first_row),
        owned_(owned),
        term_bytes_(matrix_term_bytes(convolution)),
        row_bytes_(MatrixTerms<E>::kCount * term_bytes_) {}

  // Begins with the rows that it owns.
  MatrixRing(const Convolution& convolution, const BandScratch<E>& scratch, const OwnedRows& owned)
      : MatrixRing(convolution, scratch, owned.first + convolution.first, owned) {}

  // The rows from `first` on, as many as are kept.
  const char* const* window(int64_t first) {
    for (int64_t i = 0; i < convolution_.matrix.ring_rows; ++i) {
      scratch_.window[i] = convolution_.matrix.reads_directly ? source_row(first + i) : slot(first + i);
    }
    return scratch_.window;
  }

  // Reads on until `row` is there.
  void advance_to(int64_t row) {
    if (convolution_.matrix.reads_directly) return;
    for (; next_ <= row; ++next_) read_row(next_, slot(next_));
  }

  // Keeps what no output has read.
  void finish() {
    if (convolution_.save.data) advance_to(owned_.last - 1);
  }

 private:
  // Values that are read of all channels before the next pixels.
  static constexpr int64_t kPieceValues = 4096, kLeastPixels = 16;

  // The first pixel that products read. What lies beyond the border is multiplied for outputs that nobody keeps.
  const char* source_row(int64_t row) const {
    const Source& source = convolution_.sources[0];
    const int64_t last = convolution_.in_height - 1 + source.border;
    const int64_t at = min_of(row, last) * source.row_step - convolution_.before * source.pixel_step;
    return static_cast<const char*>(source.data) + at * 2;
  }

  // Rows above the picture have negative numbers.
  char* slot(int64_t row) const {
    return scratch_.ring + (row + (convolution_.matrix.ring_rows << 8)) % convolution_.matrix.ring_rows * row_bytes_;
  }

  void read_row(int64_t row, char* to) const {
    const Convolution& c = convolution_;
    const int64_t from = padded_index(row, c.in_height, c.padding);
    if (from < 0) {
      __builtin_memset(to, 0, static_cast<size_t>(row_bytes_));
      return;
    }
    if (c.image.data) {
      read_matrix_image<E>(c, from, to + c.before * kMatrixImageChannels * 2);
    } else {
      const bool keeps = c.save.data && from == row && row >= owned_.first && row < owned_.last;
      const int64_t piece = max_of(kPieceValues / c.in_channels, kLeastPixels);
      for (int64_t x = 0; x < c.in_width; x += piece) {
        const int64_t count = min_of(c.in_width - x, piece);
        for (int64_t i = 0; i < group_count_; ++i) read_channels(scratch_.groups[i], from, x, count, keeps, to);
      }
      if (keeps) {
        const int64_t bytes = bytes_of(c.save.writing);
        clear_border({static_cast<char*>(c.save.data), c.save.pixel_step * bytes, c.save.row_step * bytes,
                      c.save.border, c.in_height, c.in_width, c.in_channels * bytes},
                     row, row + 1);
      }
    }
    for (int64_t term = 0; term < MatrixTerms<E>::kCount; ++term) {
      for (int64_t block = 0; block < matrix_blocks(c); ++block) {
        pad_matrix_row(c, block_of(to, block) + term * term_bytes_, matrix_block_channels(c, block));
      }
    }
  }

  char* block_of(char* row, int64_t block) const {
    return row + block * kMatrixDepth * convolution_.matrix.row_pixels * 2;
  }

  void read_channels(const MatrixChannels& group, int64_t row, int64_t x, int64_t count, bool keeps, char* to) const {
    const Convolution& c = convolution_;
    const int64_t block = group.at / kMatrixDepth, pixel_bytes = matrix_block_channels(c, block) * 2;
    char* const kept = keeps ? static_cast<char*>(c.save.data) +
                                   (row * c.save.row_step + x * c.save.pixel_step + group.at) * bytes_of(c.save.writing)
                             : nullptr;
    group.read(c, c.sources[group.source], row, x, group.channel, group.at, count,
               block_of(to, block) + (c.before + x) * pixel_bytes + group.at % kMatrixDepth * 2, pixel_bytes, kept);
  }

  const Convolution& convolution_;
  const BandScratch<E>& scratch_;
  const int64_t group_count_;
  int64_t next_;
  const OwnedRows owned_;
  const int64_t term_bytes_, row_bytes_;
};
