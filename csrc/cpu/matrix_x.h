// Direct convolution by a matrix unit: products of tiles of bfloat16, summed in float32. Included after
// fused_convolution_x.h and a MatrixUnit (matrix_unit_amx.h, or its emulation).
//
// An output tile is 16 neighbouring pixels of a row by 16 channels. A step multiplies 16 pixels by 32 input values of
// each, which lie side by side in memory: a block of 32 input channels of one tap, or of neighbouring taps where a
// pixel has fewer channels (two of 16; eight of the image, whose pixels are stored with four).
//
//   input row    [part][channel block][pixel][32 channels], bfloat16, in a ring of the last rows
//   weights      [32 output channels][channel block][kernel row][taps][part][2 blocks of 16][16 pairs][16][2], bfloat16
//
// Float32 values are two parts, high and low: x = bf16(x) + bf16(x - bf16(x)). Of the four products the one of both
// low parts is left out, which is below the rounding of float32 sums. Weights alone may be in two parts too.
//
// A thread works on a band of rows: it brings the input rows to the ring, then takes 32 output channels after the
// other, and for each all tiles of the band, four at a time (two rows, two blocks of channels), so that weights come
// from afar once a band. What is to be done to the sums of four tiles (bias, statistics, rounding, writing) is done a
// pixel at a time between the products of the next four, where the vector units have nothing else to do.
// (Reading the next band's rows there as well gained nothing: docs/notes/amx.md.)

// One product: where its input and its weights are.
struct MatrixStep {
  int32_t row;      // kernel row
  int32_t source;   // bytes from the beginning of the input row, for output column 0
  int32_t stride;   // bytes from one output pixel to the next
  int32_t weights;  // bytes from the group's first
  int32_t ahead;    // bytes from the output column of the input that is fetched meanwhile; -1: none
  bool reuses;      // the input of the step before it
};
static_assert(sizeof(MatrixStep) == kMatrixStepBytes);

template <typename E>
struct MatrixParts {
  static constexpr int kCount = E::kGroup == 1 ? 2 : 1;  // float32 is in two parts
};

// Bytes of a group of 32 output channels, or of 16.
inline int64_t matrix_group_bytes(const Convolution& c, const Phase& phase, int64_t blocks) {
  return matrix_steps(c, phase.rows, phase.columns) * c.weight_parts * blocks * kMatrixTileBytes;
}

// Pixels of the source that each tap fetches ahead, a power of two; 0: none.
inline int64_t pixels_ahead(const Convolution& c, const Phase& phase) {
  if (!c.reads_directly || c.stride != 1) return 0;
  int64_t pixels = 1;
  while (pixels * phase.rows * phase.columns < 2 * kMatrixSide) pixels *= 2;
  return pixels;
}

// Writes the products of a phase for groups of kBlocks blocks; returns how many there are. Kernel rows and columns
// that see zeros alone are left out.
template <typename E, int kBlocks>
int matrix_products(const Convolution& c, const Phase& phase, const Taps& rows, const Taps& columns, MatrixStep* to) {
  constexpr int64_t kBytes = kBlocks * kMatrixTileBytes;
  const int64_t part_bytes = matrix_part_bytes(c);
  const int64_t ahead_pixels = pixels_ahead(c, phase);
  int count = 0;
  int64_t weights = 0;
  for (int64_t block = 0; block < matrix_blocks(c); ++block) {
    const int64_t channels = matrix_block_channels(c, block), taps = kMatrixDepth / channels;
    const int64_t begin = block * kMatrixDepth * (c.reads_directly ? 1 : c.row_pixels) * 2;
    const int64_t pixel = (c.reads_directly ? c.sources[0].pixel_step : channels) * 2;
    for (int64_t r = 0; r < phase.rows; ++r) {
      for (int64_t k = 0; k < phase.columns; k += taps, weights += c.weight_parts * kBytes) {
        if (r < rows.first || r >= rows.last || k + taps <= columns.first || k >= columns.last) continue;
        const int64_t source = begin + (c.before + phase.dx + k) * pixel;
        // Each tap fetches some of the pixels that two rows of tiles in the next columns are the first to read.
        const int64_t tap = (r * phase.columns + k) * ahead_pixels, last = c.before + phase.dx + phase.columns - 1;
        const int64_t ahead =
            begin + tap / kMatrixSide * c.sources[0].row_step * 2 + (last + kMatrixSide + tap % kMatrixSide) * pixel;
        const auto add = [&](int64_t input_part, int64_t weight_part) {
          to[count++] = {static_cast<int32_t>(r),
                         static_cast<int32_t>(source + input_part * part_bytes),
                         static_cast<int32_t>(c.stride * pixel),
                         static_cast<int32_t>(weights + weight_part * kBytes),
                         static_cast<int32_t>(ahead_pixels > 0 && tap < 2 * kMatrixSide ? ahead : -1),
                         weight_part > 0};
        };
        add(0, 0);
        if (c.weight_parts == 2) add(0, 1);
        if constexpr (MatrixParts<E>::kCount == 2) add(1, 0);
      }
    }
  }
  return count;
}

// --- input rows

// Vectors one after the other as bfloat16; two of them are one instruction where there is one.
template <int kVectors>
inline __attribute__((always_inline)) void store_halves(char* to, const V (&values)[kVectors]) {
#if defined(__AVX512BF16__)
  if constexpr (kVectors == 2) {
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(values[1], values[0]));
    return;
  }
#endif
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) BFloat16::store(reinterpret_cast<uint16_t*>(to) + v * kLanes, values[v]);
}

// All parts that the values are multiplied in.
template <typename E, int kVectors>
inline __attribute__((always_inline)) void store_parts(V (&values)[kVectors], char* to, int64_t part_bytes) {
  store_halves(to, values);
  if constexpr (MatrixParts<E>::kCount == 2) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      values[v] = values[v] - BFloat16::load(reinterpret_cast<uint16_t*>(to) + v * kLanes);
    }
    store_halves(to + part_bytes, values);
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
#pragma GCC unroll 8
  for (int v = 0; v < kBlocks * kBlockVectors; ++v) {
    write_output(to + v * kLanes * bytes_of(writing), values[v], writing);
  }
}

struct NoResidual {
  using Storage = char;
};

template <typename A, typename B>
struct IsSame {
  static constexpr bool kValue = false;
};
template <typename A>
struct IsSame<A, A> {
  static constexpr bool kValue = true;
};

// 16 kHalves channels of `width` pixels of a source, from `channel` of the source on, which is `at` of the input; a
// residual is of type R.
template <typename E, typename S, typename R, int kHalves, bool kHasSlope>
void read_matrix_channels(const Convolution& c, const Source& source, int64_t row, int64_t first, int64_t channel,
                          int64_t at, int64_t width, char* to, int64_t pixel_bytes, char* kept) {
  constexpr bool kHasResidual = !IsSame<R, NoResidual>::kValue;
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
  const int64_t part_bytes = matrix_part_bytes(c), kept_bytes = bytes_of(c.saving);
  const auto begin = [&](const Source& of) { return row * of.row_step + first * of.pixel_step + channel; };
  const auto* from = static_cast<const typename S::Storage*>(source.data) + begin(source);
  const typename R::Storage *around = nullptr, *further = nullptr;
  if constexpr (kHasResidual) {
    around = static_cast<const typename R::Storage*>(residual.data) + begin(residual);
    if (second.data) further = static_cast<const typename R::Storage*>(second.data) + begin(second);
  }
  for (int64_t x = 0; x < width; ++x, from += source.pixel_step, to += pixel_bytes) {
    V values[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const V value = multiply_add(S::load(from + v * kLanes), scale[v], shift[v]);
      values[v] = kHasSlope ? multiply_add(minimum(value, V{}), slope[v], maximum(value, V{})) : maximum(least, value);
      if constexpr (kHasResidual) {
        values[v] = values[v] + multiply_add(R::load(around + v * kLanes), other_scale[v], other_shift[v]);
        if (further) values[v] = values[v] + R::load(further + v * kLanes);
      }
    }
    if (kept) write_pixel<kHalves>(kept, values, c.saving);
    store_parts<E>(values, to, part_bytes);
    if constexpr (kHasResidual) {
      around += residual.pixel_step;
      if (further) further += second.pixel_step;
    }
    if (kept) kept += c.save_step * kept_bytes;
  }
}

template <typename E, typename S, typename R, int kHalves>
void read_matrix_source(const Convolution& c, const Source& source, int64_t row, int64_t first, int64_t channel,
                        int64_t at, int64_t width, char* to, int64_t pixel_bytes, char* kept) {
  const bool has_slope = c.activation == Activation::kLeakyRelu || c.activation == Activation::kPRelu;
  const auto read =
      has_slope ? read_matrix_channels<E, S, R, kHalves, true> : read_matrix_channels<E, S, R, kHalves, false>;
  read(c, source, row, first, channel, at, width, to, pixel_bytes, kept);
}

template <typename E, typename S, int kHalves>
void read_matrix_source(const Convolution& c, const Source& source, int64_t row, int64_t first, int64_t channel,
                        int64_t at, int64_t width, char* to, int64_t pixel_bytes, char* kept) {
  const auto read = !c.residual.data               ? read_matrix_source<E, S, NoResidual, kHalves>
                    : c.residual.dtype == kFloat32 ? read_matrix_source<E, S, Float32, kHalves>
                                                   : read_matrix_source<E, S, BFloat16, kHalves>;
  read(c, source, row, first, channel, at, width, to, pixel_bytes, kept);
}

template <typename E, int kHalves>
void read_matrix_source(const Convolution& c, const Source& source, int64_t row, int64_t first, int64_t channel,
                        int64_t at, int64_t width, char* to, int64_t pixel_bytes, char* kept) {
  const auto read =
      source.dtype == kFloat32 ? read_matrix_source<E, Float32, kHalves> : read_matrix_source<E, BFloat16, kHalves>;
  read(c, source, row, first, channel, at, width, to, pixel_bytes, kept);
}

// A row of the image; `to` is its first pixel.
template <typename E>
void read_matrix_image(const Convolution& c, int64_t row, char* to) {
  constexpr int64_t kPixels = 64, kValues = kPixels * kImageChannels;
  float values[kValues];
  uint16_t parts[MatrixParts<E>::kCount][kValues + kLanes];
  const int64_t part_bytes = matrix_part_bytes(c);
  for (int64_t x = 0; x < c.in_width; x += kPixels) {
    const int64_t count = smaller(c.in_width - x, kPixels);
    read_image_row<Float32>(c.image, row, x, count, values);
    for (int64_t i = 0; i < count * kImageChannels; i += kLanes) {
      V vector[1] = {Float32::load(values + i)};
      store_parts<E>(vector, reinterpret_cast<char*>(parts[0] + i), sizeof parts[0]);
    }
    for (int part = 0; part < MatrixParts<E>::kCount; ++part) {
      for (int64_t i = 0; i < count; ++i) {
        uint64_t pixel;  // and one value of the next one, which is not wanted
        __builtin_memcpy(&pixel, parts[part] + i * kImageChannels, sizeof pixel);
        pixel &= 0x0000ffffffffffffull;
        __builtin_memcpy(to + part * part_bytes + (x + i) * 8, &pixel, sizeof pixel);
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

// 16 or 32 channels of a source, and where they stand among all.
struct MatrixChannels {
  int32_t source, channel, at, halves;
};

inline int64_t matrix_channel_groups(const Convolution& c, MatrixChannels* to) {
  int64_t count = 0, first = 0;
  for (int i = 0; i < 2; ++i) {
    const int64_t channels = c.sources[i].data ? c.sources[i].channels : 0;
    for (int64_t channel = 0; channel < channels;) {
      const int64_t at = first + channel;
      const int64_t halves = at % kMatrixDepth == 0 && channel + kMatrixDepth <= channels ? 2 : 1;
      to[count++] = {i, static_cast<int32_t>(channel), static_cast<int32_t>(at), static_cast<int32_t>(halves)};
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
  const int64_t bytes = bytes_of(c.writing);
  clear_border({static_cast<char*>(c.output), c.output_step * bytes, c.output_row * bytes, c.output_border,
                c.up * c.base_height, c.up * c.base_width, c.out_channels * bytes},
               first, last);
}

// The last rows of the input as the products read them, each read once; or the source's own rows.
template <typename E>
class MatrixRing {
 public:
  // Keeps input rows [first_owned, last_owned) where the input is to be kept.
  MatrixRing(const Convolution& convolution, Scratch& scratch, int64_t first_row, int64_t first_owned,
             int64_t last_owned)
      : convolution_(convolution),
        groups_(scratch.take<MatrixChannels>(convolution.in_channels / kChannelBlock + 1)),
        group_count_(matrix_channel_groups(convolution, groups_)),
        next_(first_row),
        first_owned_(first_owned),
        last_owned_(last_owned),
        part_bytes_(matrix_part_bytes(convolution)),
        row_bytes_(MatrixParts<E>::kCount * part_bytes_),
        window_(scratch.take<const char*>(convolution.ring_rows)),
        buffer_(scratch.take<char>(convolution.reads_directly ? 0 : convolution.ring_rows * row_bytes_)) {}

  // The rows from `first` on, as many as are kept.
  const char* const* window(int64_t first) {
    for (int64_t i = 0; i < convolution_.ring_rows; ++i) {
      window_[i] = convolution_.reads_directly ? source_row(first + i) : slot(first + i);
    }
    return window_;
  }

  // Reads on until `row` is there.
  void advance_to(int64_t row) {
    if (convolution_.reads_directly) return;
    for (; next_ <= row; ++next_) read_row(next_, slot(next_));
  }

 private:
  // Pixels that are read of all channels before the next ones.
  static constexpr int64_t kPiecePixels = 16;

  // The first pixel that products read. What lies beyond the border is multiplied for outputs that nobody keeps.
  const char* source_row(int64_t row) const {
    const Source& source = convolution_.sources[0];
    const int64_t last = convolution_.in_height - 1 + source.border;
    const int64_t at = smaller(row, last) * source.row_step - convolution_.before * source.pixel_step;
    return static_cast<const char*>(source.data) + at * 2;
  }

  // Rows above the picture have negative numbers.
  char* slot(int64_t row) const {
    return buffer_ + (row + (convolution_.ring_rows << 8)) % convolution_.ring_rows * row_bytes_;
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
      const bool keeps = c.save && from == row && row >= first_owned_ && row < last_owned_;
      for (int64_t x = 0; x < c.in_width; x += kPiecePixels) {
        const int64_t count = smaller(c.in_width - x, kPiecePixels);
        for (int64_t i = 0; i < group_count_; ++i) read_channels(groups_[i], from, x, count, keeps, to);
      }
      if (keeps) {
        const int64_t bytes = bytes_of(c.saving);
        clear_border({static_cast<char*>(c.save), c.save_step * bytes, c.save_row * bytes, c.save_border, c.in_height,
                      c.in_width, c.in_channels * bytes},
                     row, row + 1);
      }
    }
    for (int64_t part = 0; part < MatrixParts<E>::kCount; ++part) {
      for (int64_t block = 0; block < matrix_blocks(c); ++block) {
        pad_matrix_row(c, block_of(to, block) + part * part_bytes_, matrix_block_channels(c, block));
      }
    }
  }

  char* block_of(char* row, int64_t block) const { return row + block * kMatrixDepth * convolution_.row_pixels * 2; }

  void read_channels(const MatrixChannels& group, int64_t row, int64_t x, int64_t count, bool keeps, char* to) const {
    const Convolution& c = convolution_;
    const int64_t block = group.at / kMatrixDepth, pixel_bytes = matrix_block_channels(c, block) * 2;
    const auto read = group.halves == 2 ? read_matrix_source<E, 2> : read_matrix_source<E, 1>;
    char* const kept =
        keeps ? static_cast<char*>(c.save) + (row * c.save_row + x * c.save_step + group.at) * bytes_of(c.saving)
              : nullptr;
    read(c, c.sources[group.source], row, x, group.channel, group.at, count,
         block_of(to, block) + (c.before + x) * pixel_bytes + group.at % kMatrixDepth * 2, pixel_bytes, kept);
  }

  const Convolution& convolution_;
  MatrixChannels* const groups_;
  const int64_t group_count_;
  int64_t next_;
  const int64_t first_owned_, last_owned_, part_bytes_, row_bytes_;
  const char** const window_;
  char* const buffer_;
};

// --- products

// Two stores of tiles should not lie further apart than some 2,000 cycles: the next one would take 1,000 more.
constexpr int kStepsBetweenStores = 16;

// Lines of the next weights that are fetched in each step, at least.
constexpr int kLeastLines = 2;

// Where a tile of pixels reads: the input row of each kernel row, and its first output column.
struct MatrixInput {
  const char* const* rows;
  int64_t column;
};

// How many tiles of pixels are multiplied at once. Three keep their input in registers, for a second part of the
// weights.
template <int kBlocks>
constexpr int kMostTiles = kBlocks == 2 ? 2 : 4;

// Where the sums of the tiles go that were multiplied before, [tile][16][16 kBlocks]; null: they are not wanted. The
// next sums begin with `first`, a tile for each block, or with zeros if that is null.
struct MatrixSums {
  float* tiles[4];
  int64_t row_bytes;
  const float* first;
};

// What is fetched beside the products: so many pixels a step, `pixel_bytes` apart.
struct MatrixAhead {
  const char* from = nullptr;
  int64_t pixels = 0, pixel_bytes = 0;
};

// Stores a sum, and begins another one.
template <int kSum, int kBlocks>
inline __attribute__((always_inline)) void next_sum(MatrixUnit& unit, const MatrixSums& sums) {
  if (sums.tiles[0]) unit.template store<kSum>(sums.tiles[kSum / kBlocks] + kSum % kBlocks * 16, sums.row_bytes);
  if (sums.first) {
    unit.template load<kSum>(reinterpret_cast<const char*>(sums.first + kSum % kBlocks * 256), 64);
  } else {
    unit.template zero<kSum>();
  }
}

template <int kTiles, int kBlocks>
void next_sums(MatrixUnit& unit, const MatrixSums& sums) {
  next_sum<0, kBlocks>(unit, sums);
  if constexpr (kTiles * kBlocks > 1) next_sum<1, kBlocks>(unit, sums);
  if constexpr (kTiles * kBlocks > 2) next_sum<2, kBlocks>(unit, sums);
  if constexpr (kTiles * kBlocks > 3) next_sum<3, kBlocks>(unit, sums);
  MatrixUnit::settle();
}

// Multiplies kTiles tiles of pixels by kBlocks blocks of output channels: 2 by 2, 4 by 1, 3 by 1, or a single tile.
// Tiles are loaded in turn with the products that need them. The sums stay in the unit, until the next products, or
// `next_sums`, store them: so products need not wait for those before them.
template <int kTiles, int kBlocks, typename Beside>
__attribute__((noinline)) void multiply_matrix(MatrixUnit& unit, const MatrixStep* steps, int count,
                                               const MatrixInput (&input)[kTiles], const char* weights,
                                               char* unused_tile, Beside& beside, const MatrixSums& sums,
                                               const MatrixAhead& ahead) {
  static_assert(kTiles * kBlocks <= 4);
  constexpr bool kKeepsInput = kTiles < 4;
  constexpr int kA = kTiles == 3 ? 3 : 4, kB = kBlocks == 2 ? 6 : 7;
  MatrixUnit::settle();
  if (count == 0) return next_sums<kTiles, kBlocks>(unit, sums);
  int until_store = kStepsBetweenStores;
  const auto multiply = [&](const MatrixStep* step, auto is_first) __attribute__((always_inline)) {
    constexpr bool kFirst = decltype(is_first)::kValue;
    const bool loads = kFirst || !kKeepsInput || !step->reuses;
    const auto pixels = [&](int tile) {
      return input[tile].rows[step->row] + step->source + input[tile].column * step->stride;
    };
    const char* const b = weights + step->weights;
    unit.template load<kB>(b, 64);
    if (loads) unit.template load<kA>(pixels(0), step->stride);
    if constexpr (kBlocks == 2) {
      unit.template load<kB + 1>(b + kMatrixTileBytes, 64);
      if constexpr (kTiles == 2) {
        if (loads) unit.template load<kA + 1>(pixels(1), step->stride);
      }
      if constexpr (kFirst) next_sum<0, kBlocks>(unit, sums);
      unit.template multiply<0, kA, kB>();
      if constexpr (kFirst) next_sum<1, kBlocks>(unit, sums);
      unit.template multiply<1, kA, kB + 1>();
      if constexpr (kTiles == 2) {
        if constexpr (kFirst) next_sum<2, kBlocks>(unit, sums);
        unit.template multiply<2, kA + 1, kB>();
        if constexpr (kFirst) next_sum<3, kBlocks>(unit, sums);
        unit.template multiply<3, kA + 1, kB + 1>();
      }
    } else {
      if constexpr (kTiles > 1) {
        if (loads) unit.template load<kA + 1>(pixels(1), step->stride);
      }
      if constexpr (kFirst) next_sum<0, kBlocks>(unit, sums);
      unit.template multiply<0, kA, kB>();
      if constexpr (kTiles > 2) {
        if (loads) unit.template load<kA + 2>(pixels(2), step->stride);
      }
      if constexpr (kTiles > 1) {
        if constexpr (kFirst) next_sum<1, kBlocks>(unit, sums);
        unit.template multiply<1, kA + 1, kB>();
      }
      if constexpr (kTiles > 3) unit.template load<kA>(pixels(3), step->stride);
      if constexpr (kTiles > 2) {
        if constexpr (kFirst) next_sum<2, kBlocks>(unit, sums);
        unit.template multiply<2, kA + 2, kB>();
      }
      if constexpr (kTiles > 3) {
        if constexpr (kFirst) next_sum<3, kBlocks>(unit, sums);
        unit.template multiply<3, kA, kB>();
      }
    }
    if (step->ahead >= 0) {
      const char* from = ahead.from + step->ahead;
      for (int64_t i = 0; i < ahead.pixels; ++i, from += ahead.pixel_bytes) __builtin_prefetch(from, 0, 2);
    }
    beside.step();
    if (--until_store == 0) {
      unit.template store<kB>(unused_tile, 64);
      until_store = kStepsBetweenStores;
    }
  };
  multiply(steps, Constant<1>{});
  MatrixUnit::settle();
  for (const MatrixStep* step = steps + 1; step < steps + count; ++step) multiply(step, Constant<0>{});
  MatrixUnit::settle();
}

// --- output

// Where the pixels of a tile go: from `at` on, of which `in_row` are left in a row of the output; and what is added to
// them, or null.
struct MatrixTarget {
  char* at;
  int64_t pixels, in_row;
  const char *residual, *second_residual;
};

// Where a residual is, for pixel (y, x) of the output.
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
    count = smaller(smaller(count, target.pixels - pixel), target.in_row);
    const float* from = sums + (tile * kMatrixSide + pixel) * kBlocks * kChannelBlock;
    char* to = target.at;
    int64_t i = 0;
    for (; i + kChains <= count; i += kChains) {
#pragma GCC unroll 4
      for (int chain = 0; chain < kChains; ++chain) {
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
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
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
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
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
    weights.next_bytes = smaller(next < last ? (last - next) / kChannelBlock : 2, 2) * block_bytes;
    if (next >= last && after.weights == nullptr) weights.next_bytes = 0;
    if (next <= last) {
      use(channel, Constant<2>{}, weights);
    } else {
      use(channel, Constant<1>{}, weights);
    }
  }
}

// What a thread multiplies with, beside its ring.
struct MatrixScratch {
  MatrixStep* steps;
  float *sums, *biases;  // of four tiles, and of two
  char* unused_tile;

  MatrixScratch(int64_t products, Scratch& scratch)
      : steps(scratch.take<MatrixStep>(products)),
        sums(scratch.take<float>(4 * kMatrixSide * kMatrixSide)),
        biases(scratch.take<float>(2 * kMatrixSide * kMatrixSide)),
        unused_tile(scratch.take<char>(kMatrixTileBytes)) {}
};

// Output channels [channel, channel + 16 kBlocks) of `rows` rows of a phase, each of `columns` tiles: input(y, x) says
// where the tile of pixels from x on reads, and target(y, x) where it is written. Tiles of one column follow each
// other, so that those which are multiplied together share input rows.
template <int kTiles, int kBlocks, bool kCounts, typename Input, typename Target>
void matrix_channels(const Convolution& c, MatrixUnit& unit, const MatrixScratch& scratch, int products,
                     const MatrixWeights& weights, const float* bias, int64_t channel, int64_t rows, int64_t columns,
                     float* statistics, const Input& input, const Target& target) {
  constexpr int64_t kTileSums = kMatrixSide * kBlocks * kChannelBlock;
  const int64_t tiles = rows * columns, steps = larger((tiles + kTiles - 1) / kTiles * products, 1),
                bytes = bytes_of(c.writing);
  MatrixOutput<kBlocks, kCounts> pending;
  pending.finishing = &c.finish;
  for (int64_t i = 0; i < kBlocks * kChannelBlock; ++i) {
    const Activation activation = c.finish.activation;
    pending.slopes[i] = activation == Activation::kNone    ? 1.0f
                        : activation == Activation::kPRelu ? c.finish.slopes[channel + i]
                                                           : c.finish.slope;
  }
  pending.writing = c.writing;
  pending.pixel_bytes = c.up * c.output_step * bytes;
  pending.row_pixels = c.base_width;
  pending.row_step = c.up * (c.output_row - c.base_width * c.output_step) * bytes;
  pending.pixels_at_once = (kTiles * kMatrixSide + products - 1) / larger(products, 1);
  pending.lines_at_once = larger((weights.next_bytes / kLineBytes + steps - 1) / steps, kLeastLines);
  // The first channels bring the input to the caches for all others.
  const Phase& phase = c.phases[0];
  MatrixAhead ahead;
  if (channel == 0 && !c.gathers && weights.data == phase.weights) {
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
    made = static_cast<int>(smaller(tiles - first, kTiles));
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
    if (c.weight_parts == 2) return multiply(Constant<3>{});
  }
  multiply(Constant<kMostTiles<kBlocks>>{});
}

// --- bands of rows, and shares of the output channels

// All of a kernel's rows or columns.
inline Taps all_taps(int64_t taps) { return Taps(taps, 0, 1, 1, 1, Padding::kReflect); }

// Output channels [first, last) of a phase of rows [top, top + rows); `window` holds their input from the first row
// that any phase reads.
template <typename E>
void matrix_rows(const Convolution& c, const char* const* window, MatrixUnit& unit, const MatrixScratch& scratch,
                 int64_t number, int64_t top, int64_t rows, int64_t first, int64_t last, const Phase& after,
                 float* statistics) {
  const Phase& phase = c.phases[number];
  const int64_t columns = (c.base_width + kMatrixSide - 1) / kMatrixSide;
  const auto input = [&](int64_t y, int64_t x) -> MatrixInput {
    return {window + y * c.stride + phase.dy - c.first, x};
  };
  int made_for = 0, products = 0;
  each_matrix_group(c, phase, first, last, after, [&](int64_t channel, auto blocks, const MatrixWeights& weights) {
    constexpr int kBlocks = decltype(blocks)::kValue;
    if (made_for != kBlocks) {
      products = matrix_products<E, kBlocks>(c, phase, all_taps(phase.rows), all_taps(phase.columns), scratch.steps);
      made_for = kBlocks;
    }
    const auto target = [&](int64_t y, int64_t x) {
      const int64_t left = c.base_width - x;
      return matrix_target(c, c.up * (top + y) + number / c.up, c.up * x + number % c.up, channel,
                           smaller(left, kMatrixSide), left);
    };
    matrix_group<kBlocks>(c, unit, scratch, products, weights, bias_of(c, number, channel), channel, rows, columns,
                          statistics, input, target);
  });
}

template <typename E>
void matrix_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  Scratch scratch{memory};
  const int64_t first_row = band_row(c, begin), last_row = band_row(c, end), phases = c.up * c.up;
  const int64_t last_owned = last_row == c.base_height ? c.in_height : last_row * c.stride;
  MatrixRing<E> ring(c, scratch, first_row * c.stride + c.first, first_row * c.stride, last_owned);
  const MatrixScratch work(c.matrix_products, scratch);
  MatrixUnit unit;
  for (int64_t band = begin; band < end; ++band) {
    const int64_t top = band_row(c, band), rows = band_row(c, band + 1) - top;
    ring.advance_to((top + rows - 1) * c.stride + c.last);
    const char* const* const window = ring.window(top * c.stride + c.first);
    for (int64_t i = 0; i < phases; ++i) {
      float* const statistics = c.statistics ? c.statistics + (band * phases + i) * 2 * c.out_channels : nullptr;
      const Phase& after = i + 1 < phases ? c.phases[i + 1] : band + 1 < end ? c.phases[0] : Phase{};
      matrix_rows<E>(c, window, unit, work, i, top, rows, 0, c.out_channels, after, statistics);
    }
    clear_output_border(c, c.up * top, c.up * (top + rows));
  }
  if (c.save) ring.advance_to(last_owned - 1);
}

// What each product reads of few pixels in rows narrower than a tile, side by side: [product][pixel][32]. Returns how
// many products there are; kernel rows and columns that see zeros alone are left out.
template <typename E, int kBlocks>
int gather_products(const Convolution& c, const Phase& phase, const char* const* window, int64_t tiles, bool copies,
                    MatrixStep* steps, char* gathered) {
  const Taps rows(phase.rows, phase.dy, c.stride, c.base_height, c.in_height, c.padding);
  const Taps columns(phase.columns, phase.dx, c.stride, c.base_width, c.in_width, c.padding);
  const int products = matrix_products<E, kBlocks>(c, phase, rows, columns, steps);
  for (int i = 0; i < products; ++i) {
    MatrixStep& step = steps[i];
    char* to = gathered + i * tiles * kMatrixTileBytes;
    for (int64_t y = 0; y < c.base_height && copies; ++y) {
      const char* from = window[y * c.stride + phase.dy - c.first + step.row] + step.source;
      for (int64_t x = 0; x < c.base_width; ++x, from += step.stride, to += 64) __builtin_memcpy(to, from, 64);
    }
    step.row = 0, step.source = static_cast<int32_t>(i * tiles * kMatrixTileBytes), step.stride = 64;
  }
  return products;
}

// Where weights are most of what is read, each thread takes a share of the output channels, and reads all of the input.
template <typename E>
void matrix_small_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  constexpr int64_t kUnitChannels = kMaxTileBlocks * kChannelBlock;
  Scratch scratch{memory};
  MatrixRing<E> ring(c, scratch, c.first, begin == 0 ? 0 : c.in_height, c.in_height);
  const MatrixScratch work(c.matrix_products, scratch);
  ring.advance_to(larger((c.base_height - 1) * c.stride + c.last, c.save ? c.in_height - 1 : 0));
  const char* const* const window = ring.window(c.first);
  const int64_t pixels = c.base_height * c.base_width, tiles = (pixels + kMatrixSide - 1) / kMatrixSide;
  const int64_t first = begin * kUnitChannels, last = smaller(end * kUnitChannels, c.out_channels);
  if (begin == 0) clear_output_border(c, 0, c.up * c.base_height);
  char* const gathered = c.gathers ? scratch.take<char>(c.matrix_products * tiles * kMatrixTileBytes) : nullptr;
  MatrixUnit unit;
  for (int64_t number = 0; number < c.up * c.up; ++number) {
    const Phase& phase = c.phases[number];
    const Phase& after = number + 1 < c.up * c.up ? c.phases[number + 1] : Phase{};
    float* const statistics = c.statistics ? c.statistics + number * 2 * c.out_channels : nullptr;
    if (!c.gathers) {
      matrix_rows<E>(c, window, unit, work, number, 0, c.base_height, first, last, after, statistics);
      continue;
    }
    const char* const rows[1] = {gathered};
    const auto input = [&](int64_t, int64_t pixel) -> MatrixInput { return {rows, pixel}; };
    int made_for = 0, products = 0;
    each_matrix_group(c, phase, first, last, after, [&](int64_t channel, auto blocks, const MatrixWeights& weights) {
      constexpr int kBlocks = decltype(blocks)::kValue;
      if (made_for != kBlocks) {
        products = gather_products<E, kBlocks>(c, phase, window, tiles, made_for == 0, work.steps, gathered);
        made_for = kBlocks;
      }
      const auto target = [&](int64_t, int64_t pixel) {
        const int64_t y = pixel / c.base_width, x = pixel % c.base_width;
        return matrix_target(c, c.up * y + number / c.up, c.up * x + number % c.up, channel,
                             smaller(pixels - pixel, kMatrixSide), c.base_width - x);
      };
      matrix_group<kBlocks>(c, unit, work, products, weights, bias_of(c, number, channel), channel, 1, tiles,
                            statistics, input, target);
    });
  }
}

// --- the last layer

// Each place of the base grid makes a block of c.block by c.block pixels of the picture, so that few picture channels
// fill a tile; output channels are [row of the block][column of the block][picture channel].

// The rows of the picture that a row of the base grid makes, on their way there: a piece at a time beside the products
// of the next row.
class MatrixPictureRows {
 public:
  MatrixPictureRows(const Convolution& c, Scratch& scratch)
      : c_(c),
        values_(c.block * c.picture_channels),
        row_(scratch.take<float>(round_up(c.base_width * values_, kChannelBlock) + kChannelBlock)),
        biases_(scratch.take<float>(round_up(c.block * values_, kChannelBlock) + kChannelBlock)),
        base_scratch_(scratch.take<float>(base_elements(c))) {
    for (int64_t i = 0; i < c.block * values_; ++i) biases_[i] = c.bias[i];
    for (int64_t i = 0; i < kChannelBlock; ++i) biases_[c.block * values_ + i] = 0.0f;
  }

  // Products are [base_width][out_channels], and 16 values more; `steps` is how often `step` will be called.
  void begin(const float* products, int64_t y, int64_t steps) {
    products_ = products, y_ = y, row_of_block_ = 0, at_ = 0;
    const int64_t pieces = c_.block * (c_.base_width / kPlaces + 2 * (c_.base_width * values_ / kValues) + 4);
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
    const int64_t picture_row = y_ * c_.block + row_of_block_;
    if (!is_spread_) {
      spread(smaller(at_ + kPlaces, c_.base_width));
      if (at_ < c_.base_width) return;
      add_base(c_, picture_row, row_, base_scratch_);
      is_spread_ = true, at_ = 0, written_ = 0;
      return;
    }
    const int64_t values = c_.picture_width * c_.picture_channels;
    if (c_.tanh && at_ < values) {
      const int64_t end = smaller(at_ + kValues, values);
      for (; at_ < end; at_ += kLanes) Float32::store(row_ + at_, hyperbolic_tangent(Float32::load(row_ + at_)));
      return;
    }
    const int64_t end = smaller(written_ + kValues, values);
    write_picture_values(c_.picture, picture_row, row_, values, written_, end);
    written_ = end;
    if (written_ < values) return;
    is_spread_ = false, at_ = 0;
    is_pending_ = ++row_of_block_ < c_.block && picture_row + 1 < c_.picture_height;
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
void matrix_picture_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  Scratch scratch{memory};
  const int64_t last_owned = end == c.base_height ? c.in_height : end * c.stride;
  MatrixRing<E> ring(c, scratch, begin * c.stride + c.first, begin * c.stride, last_owned);
  const MatrixScratch work(2 * c.matrix_products, scratch);
  const int64_t tiles = (c.base_width + kMatrixSide - 1) / kMatrixSide;
  const int64_t product_values = round_up(tiles, 4) * kMatrixSide * c.out_channels + kChannelBlock;
  float* const products[2] = {scratch.take<float>(product_values), scratch.take<float>(product_values)};
  MatrixPictureRows rows(c, scratch);
  const Phase& phase = c.phases[0];
  MatrixStep* const steps[2] = {work.steps, work.steps + c.matrix_products};
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
        for (int i = 0; i < kTiles; ++i) inputs[i] = {window, smaller(tile + i, tiles - 1) * kMatrixSide};
        multiply_matrix<kTiles, kBlocks>(unit, steps[kBlocks - 1], counts[kBlocks - 1], inputs, weights.data,
                                         work.unused_tile, rows, sums, {});
        for (int i = 0; i < kTiles; ++i) {
          sums.tiles[i] = products[y % 2] + (tile + i) * kMatrixSide * c.out_channels + channel;
        }
      }
      next_sums<kTiles, kBlocks>(unit, sums);
    });
    rows.finish();
    rows.begin(products[y % 2], y, all_steps);
  }
  rows.finish();
  if (c.save) ring.advance_to(last_owned - 1);
}

inline void multiply_single_tiles(const uint16_t* a, const uint16_t* b, float* sums) {
  MatrixUnit unit;
  MatrixUnit::settle();
  unit.load<0>(reinterpret_cast<const char*>(sums), 64);
  unit.load<1>(reinterpret_cast<const char*>(a), 64);
  unit.load<2>(reinterpret_cast<const char*>(b), 64);
  unit.multiply<0, 1, 2>();
  unit.store<0>(sums, 64);
}
