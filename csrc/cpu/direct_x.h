// Direct convolution: each output is the sum of its taps' products. Included after micro_kernel_x.h.
//
// A unit's rows take their weights from memory together. Few pixels (the middle of a U-Net) have nearly all their time
// in reading weights, so there each thread takes some output channels and the whole input.

// The sums of a vector of channels, and of their squares.
struct Sums {
  V total = {}, squares = {};

  inline __attribute__((always_inline)) void count(V value) {
    total = total + value;
    squares = multiply_add(value, value, squares);
  }
};

// Adds those of channels from `channel` on to a slot.
template <int kVectors>
void add_statistics(const Sums (&sums)[kVectors], float* slot, int64_t channels, int64_t channel) {
  for (int v = 0; slot && v < kVectors; ++v) {
    float* const to = slot + channel + v * kLanes;
    Float32::store(to, Float32::load(to) + sums[v].total);
    Float32::store(to + channels, Float32::load(to + channels) + sums[v].squares);
  }
}

// The slot of a unit, or of a phase of one, with zeros for channels [first, last); null if there are no statistics.
inline float* cleared_statistics(const Convolution& c, int64_t slot, int64_t first, int64_t last) {
  if (!c.statistics) return nullptr;
  float* const statistics = c.statistics + slot * 2 * c.out_channels;
  const size_t bytes = static_cast<size_t>(last - first) * sizeof(float);
  __builtin_memset(statistics + first, 0, bytes);
  __builtin_memset(statistics + c.out_channels + first, 0, bytes);
  return statistics;
}

// Bias, statistics and storing of one pixel's sums.
template <int kVectors>
inline __attribute__((always_inline)) void store_pixel(const float* from, char* to, const V (&bias)[kVectors],
                                                       Sums (&sums)[kVectors], Writing writing) {
  UNROLLED (v, kVectors) {
    const V value = Float32::load(from + v * kLanes) + bias[v];
    sums[v].count(value);
    write_output(to + v * kLanes * bytes_of(writing), value, writing);
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
  return static_cast<char*>(c.output.data) +
         (y * c.output.row_step + x * c.output.pixel_step + channel) * bytes_of(c.output.writing);
}

inline const float* bias_of(const Convolution& c, int64_t phase, int64_t channel) {
  return c.bias + phase * c.bias_step + channel;
}

inline void load_biases(const Convolution& c, int64_t phase, int64_t channel, V* biases, int count) {
  for (int v = 0; v < count; ++v) biases[v] = Float32::load(bias_of(c, phase, channel) + v * kLanes);
}

// Works on the ring from top to bottom: use(ring, unit) makes a unit's rows.
template <typename R, typename Use>
void each_row_unit(const Convolution& c, typename R::Storage* memory, int64_t begin, int64_t end, const Use& use) {
  RowRing<R> ring(c, memory, owned_rows(c, begin, end));
  for (int64_t unit = begin; unit < end; ++unit) {
    ring.advance_to(unit * c.direct.unit_rows * c.stride + c.last);
    use(ring, unit);
  }
  ring.finish();
}

// A phase of a unit: output rows 2 y + a ..., columns 2 x + b of rows [begin, end) of the base grid.
struct PhaseRows {
  int64_t begin, end, a, b;
};

// The same with use(ring, rows, statistics) for each phase of each unit.
template <typename R, typename Use>
void each_phase(const Convolution& c, typename R::Storage* memory, int64_t begin, int64_t end, const Use& use) {
  each_row_unit<R>(c, memory, begin, end, [&](const RowRing<R>& ring, int64_t unit) {
    const int64_t row = unit * c.direct.unit_rows, last = min_of(row + c.direct.unit_rows, c.base_height);
    for (int64_t phase = 0; phase < c.up * c.up; ++phase) {
      use(ring, {row, last, phase / c.up, phase % c.up},
          cleared_statistics(c, unit * c.up * c.up + phase, 0, c.out_channels));
    }
  });
}

template <typename E>
struct DirectScratch : Scratch {
  using Scratch::Scratch;
  typename E::Storage* ring = RowRing<E>::take(*this);
};

// Output channels [channel, channel + 16 kBlocks).
template <typename E, int kBlocks>
void direct_blocks(const Convolution& c, const RowRing<E>& ring, const PhaseRows& rows, int64_t channel,
                   float* statistics) {
  const int64_t number = rows.a * c.up + rows.b;
  constexpr int kVectors = kBlocks * kBlockVectors;
  const Phase& phase = c.phases[number];
  Product<E> product = product_of<E>(c, phase, channel);
  V bias[kVectors];
  Sums sums[kVectors];
  load_biases(c, number, channel, bias, kVectors);
  alignas(64) float tile[kTilePixels * kBlocks * kChannelBlock];
  const int64_t pixel_step = c.up * c.output.pixel_step * bytes_of(c.output.writing);
  for (int64_t y = rows.begin; y < rows.end; ++y) {
    for (int64_t r = 0; r < phase.rows; ++r) product.runs[r] = ring.at(y * c.stride + phase.dy + r, phase.dx);
    char* to = output_at(c, c.up * y + rows.a, rows.b, channel);
    multiply_and_use<E, kBlocks>(product, c.base_width, tile, [&](int64_t pixel, int count) {
      for (int p = 0; p < count; ++p) {
        store_pixel(tile + p * kBlocks * kChannelBlock, to + (pixel + p) * pixel_step, bias, sums, c.output.writing);
      }
    });
  }
  add_statistics(sums, statistics, c.out_channels, channel);
}

template <typename E>
void direct_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const DirectScratch<E> work(c, memory);
  each_phase<E>(c, work.ring, begin, end, [&](const RowRing<E>& ring, const PhaseRows& rows, float* statistics) {
    each_block(0, c.out_channels, [&](int64_t channel, auto blocks) {
      direct_blocks<E, decltype(blocks)::kValue>(c, ring, rows, channel, statistics);
    });
  });
}

// --- few pixels

// Taps [first, last) of a filter's side, of those that see the picture at one of the output's places; the others see
// zeros alone. In the middle of a U-Net that is half of a side, and the weights are most of what such a layer reads.
struct Taps {
  int64_t first, last;

  Taps(int64_t taps, int64_t offset, int64_t stride, int64_t places, int64_t size, Padding padding)
      : first(0), last(taps) {
    if (padding != Padding::kZeros) return;
    first = max_of(0, -(offset + (places - 1) * stride));
    last = max_of(first, min_of(taps, size - offset));
  }
};

template <typename E, int kBlocks>
void few_pixels_blocks(const Convolution& c, const typename E::Storage* input, int64_t row_step, int64_t channel) {
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
      Sums sums[kVectors];
      multiply_and_use<E, kBlocks>(product, c.base_height * c.base_width, tile, [&](int64_t first, int count) {
        for (int64_t pixel = first; pixel < first + count; ++pixel) {
          char* to = output_at(c, c.up * (pixel / c.base_width) + a, c.up * (pixel % c.base_width) + b, channel);
          store_pixel(tile + (pixel - first) * kBlocks * kChannelBlock, to, bias, sums, c.output.writing);
        }
      });
      const int64_t last = channel + kBlocks * kChannelBlock;
      add_statistics(sums, cleared_statistics(c, a * c.up + b, channel, last), c.out_channels, channel);
    }
  }
}

template <typename E>
struct FewPixelsScratch : Scratch {
  using Scratch::Scratch;
  int64_t rows = c.last - c.first + 1, row_step = row_elements(c);
  typename E::Storage* input = take<typename E::Storage>(rows * row_step);
};

template <typename E>
void few_pixels_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const FewPixelsScratch<E> work(c, memory);
  for (int64_t r = 0; r < work.rows; ++r) read_row<E>(c, c.first + r, begin == 0, work.input + r * work.row_step);
  each_block(begin * kUnitChannels, min_of(end * kUnitChannels, c.out_channels), [&](int64_t channel, auto blocks) {
    few_pixels_blocks<E, decltype(blocks)::kValue>(c, work.input, work.row_step, channel);
  });
}
