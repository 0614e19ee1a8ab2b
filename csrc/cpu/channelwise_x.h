// What works on each channel by itself: depthwise convolutions, and linear interpolation. Included after
// fused_convolution_x.h.

// --- depthwise convolution

// Output pixels [x, x + kPixels) of a row, kLanes channels of them.
template <int kPixels>
inline __attribute__((always_inline)) void depthwise_pixels(const Convolution& c, const Phase& phase,
                                                            const float* const* rows, const float* weights, int64_t x,
                                                            V bias, float* to, int64_t to_step, V& total, V& squares) {
  const int64_t pixel_step = c.stride * c.in_channels;
  V sums[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) sums[p] = bias;
  for (int64_t r = 0; r < phase.rows; ++r) {
    for (int64_t k = 0; k < phase.columns; ++k) {
      const V weight = Float32::load(weights + (r * phase.columns + k) * c.in_channels);
      const float* from = rows[r] + x * pixel_step + k * c.in_channels;
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) sums[p] = multiply_add(Float32::load(from + p * pixel_step), weight, sums[p]);
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) {
    total = total + sums[p];
    squares = multiply_add(sums[p], sums[p], squares);
    Float32::store(to + (x + p) * to_step, sums[p]);
  }
}

// Phase (a, b) of rows [begin, end); weights are [row][column][channel].
inline void depthwise_rows(const Convolution& c, const RowRing<Float32>& ring, int64_t begin, int64_t end, int64_t a,
                           int64_t b, float* statistics) {
  constexpr int kPixels = 4;
  const Phase& phase = c.phases[a * c.up + b];
  const int64_t to_step = c.up * c.output_step;
  for (int64_t channel = 0; channel < c.out_channels; channel += kLanes) {
    const float* weights = static_cast<const float*>(phase.weights) + channel;
    const V bias = Float32::load(bias_of(c, a * c.up + b, channel));
    V total[1] = {}, squares[1] = {};
    for (int64_t y = begin; y < end; ++y) {
      const float* rows[kMaxKernel];
      for (int64_t r = 0; r < phase.rows; ++r) rows[r] = ring.at(y * c.stride + phase.dy + r, phase.dx) + channel;
      float* to = reinterpret_cast<float*>(output_at(c, c.up * y + a, b, channel));
      int64_t x = 0;
      for (; x + kPixels <= c.base_width; x += kPixels) {
        depthwise_pixels<kPixels>(c, phase, rows, weights, x, bias, to, to_step, total[0], squares[0]);
      }
      for (; x < c.base_width; ++x) {
        depthwise_pixels<1>(c, phase, rows, weights, x, bias, to, to_step, total[0], squares[0]);
      }
    }
    if (statistics) write_statistics(statistics, c.out_channels, channel, total, squares);
  }
}

inline void depthwise_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  Scratch scratch{memory};
  const OwnedRows owned(c, begin, end);
  RowRing<Float32> ring(c, scratch, owned.first + c.first, owned.first, owned.last);
  for (int64_t unit = begin; unit < end; ++unit) {
    ring.advance_to(unit * c.unit_rows * c.stride + c.last);
    const int64_t row = unit * c.unit_rows, row_end = smaller(row + c.unit_rows, c.base_height);
    for (int64_t a = 0; a < c.up; ++a) {
      for (int64_t b = 0; b < c.up; ++b) {
        float* statistics = c.statistics ? c.statistics + ((unit * c.up + a) * c.up + b) * 2 * c.out_channels : nullptr;
        depthwise_rows(c, ring, row, row_end, a, b, statistics);
      }
    }
  }
  if (c.save) ring.advance_to(owned.last - 1);
}

// --- linear interpolation to twice the size

// How much of output 2 y + a is from the second of the two pixels it lies between: y - 1 and y, or y and y + 1.
inline float share_of_second(int64_t y, int64_t a, int64_t size, bool aligns_corners) {
  if (!aligns_corners) return a == 0 ? 0.75f : 0.25f;
  const double step = 2 * size > 1 ? static_cast<double>(size - 1) / static_cast<double>(2 * size - 1) : 0.0;
  return static_cast<float>(static_cast<double>(2 * y + a) * step - static_cast<double>(y - 1 + a));
}

inline V between(V first, V second, V share) { return multiply_add(second - first, share, first); }

inline void bilinear_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  Scratch scratch{memory};
  const OwnedRows owned(c, begin, end);
  RowRing<Float32> ring(c, scratch, owned.first + c.first, owned.first, owned.last);
  const int64_t channels = c.in_channels, elements = (c.in_width + 2) * channels;
  float* row = scratch.take<float>(elements);  // of columns -1 to in_width
  for (int64_t unit = begin; unit < end; ++unit) {
    ring.advance_to(unit * c.unit_rows + c.last);
    for (int64_t y = unit * c.unit_rows; y < smaller((unit + 1) * c.unit_rows, c.base_height); ++y) {
      for (int64_t a = 0; a < 2; ++a) {
        const float *first = ring.at(y - 1 + a, -1), *second = ring.at(y + a, -1);
        const V down = splat(share_of_second(y, a, c.in_height, c.aligns_corners));
        for (int64_t i = 0; i < elements; i += kLanes) {
          Float32::store(row + i, between(Float32::load(first + i), Float32::load(second + i), down));
        }
        float* to = reinterpret_cast<float*>(output_at(c, 2 * y + a, 0, 0));
        for (int64_t x = 0; x < 2 * c.base_width; ++x, to += c.output_step) {
          const float* left = row + (x / 2 + x % 2) * channels;  // column x / 2 - 1 + x % 2
          const V across = splat(share_of_second(x / 2, x % 2, c.in_width, c.aligns_corners));
          for (int64_t k = 0; k < channels; k += kLanes) {
            Float32::store(to + k, between(Float32::load(left + k), Float32::load(left + channels + k), across));
          }
        }
      }
    }
  }
  if (c.save) ring.advance_to(owned.last - 1);
}
