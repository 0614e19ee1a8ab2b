// Depthwise convolutions and linear interpolation, which work on each channel by itself. Included after direct_x.h.

// --- depthwise convolution

// Output pixels [x, x + kPixels) of a row, kLanes channels of them.
template <int kPixels>
inline __attribute__((always_inline)) void depthwise_pixels(const Convolution& c, const Phase& phase,
                                                            const float* const* rows, const float* weights, int64_t x,
                                                            V bias, float* to, int64_t to_step, Sums& counted) {
  const int64_t pixel_step = c.stride * c.in_channels;
  V sums[kPixels];
  UNROLLED (p, kPixels) sums[p] = bias;
  for (int64_t r = 0; r < phase.rows; ++r) {
    for (int64_t k = 0; k < phase.columns; ++k) {
      const V weight = Float32::load(weights + (r * phase.columns + k) * c.in_channels);
      const float* from = rows[r] + x * pixel_step + k * c.in_channels;
      UNROLLED (p, kPixels) sums[p] = multiply_add(Float32::load(from + p * pixel_step), weight, sums[p]);
    }
  }
  UNROLLED (p, kPixels) {
    counted.count(sums[p]);
    Float32::store(to + (x + p) * to_step, sums[p]);
  }
}

// Weights are [row][column][channel].
inline void depthwise_rows(const Convolution& c, const RowRing<Float32>& ring, const PhaseRows& phase_rows,
                           float* statistics) {
  constexpr int kPixels = 4;
  const int64_t number = phase_rows.a * c.up + phase_rows.b;
  const Phase& phase = c.phases[number];
  const int64_t to_step = c.up * c.output.pixel_step;
  for (int64_t channel = 0; channel < c.out_channels; channel += kLanes) {
    const float* weights = static_cast<const float*>(phase.weights) + channel;
    const V bias = Float32::load(bias_of(c, number, channel));
    Sums sums[1];
    for (int64_t y = phase_rows.begin; y < phase_rows.end; ++y) {
      const float* rows[kMaxTaps];
      for (int64_t r = 0; r < phase.rows; ++r) rows[r] = ring.at(y * c.stride + phase.dy + r, phase.dx) + channel;
      float* to = reinterpret_cast<float*>(output_at(c, c.up * y + phase_rows.a, phase_rows.b, channel));
      int64_t x = 0;
      for (; x + kPixels <= c.base_width; x += kPixels) {
        depthwise_pixels<kPixels>(c, phase, rows, weights, x, bias, to, to_step, sums[0]);
      }
      for (; x < c.base_width; ++x) {
        depthwise_pixels<1>(c, phase, rows, weights, x, bias, to, to_step, sums[0]);
      }
    }
    add_statistics(sums, statistics, c.out_channels, channel);
  }
}

inline void depthwise_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const DirectScratch<Float32> work(c, memory);
  each_phase<Float32>(c, work.ring, begin, end,
                      [&](const RowRing<Float32>& ring, const PhaseRows& rows, float* statistics) {
                        depthwise_rows(c, ring, rows, statistics);
                      });
}

// --- linear interpolation to twice the size

// How much of output 2 y + a is from the second of the two pixels it lies between: y - 1 and y, or y and y + 1.
inline float share_of_second(int64_t y, int64_t a, int64_t size, bool aligns_corners) {
  if (!aligns_corners) return a == 0 ? 0.75f : 0.25f;
  const double step = 2 * size > 1 ? static_cast<double>(size - 1) / static_cast<double>(2 * size - 1) : 0.0;
  return static_cast<float>(static_cast<double>(2 * y + a) * step - static_cast<double>(y - 1 + a));
}

inline V between(V first, V second, V share) { return multiply_add(second - first, share, first); }

struct BilinearScratch : DirectScratch<Float32> {
  using DirectScratch<Float32>::DirectScratch;
  float* row = take<float>((c.in_width + 2) * c.in_channels);  // columns -1 to in_width
};

inline void bilinear_units(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const BilinearScratch work(c, memory);
  const int64_t channels = c.in_channels, elements = (c.in_width + 2) * channels;
  each_row_unit<Float32>(c, work.ring, begin, end, [&](const RowRing<Float32>& ring, int64_t unit) {
    for (int64_t y = unit * c.direct.unit_rows; y < min_of((unit + 1) * c.direct.unit_rows, c.base_height); ++y) {
      for (int64_t a = 0; a < 2; ++a) {
        const float *first = ring.at(y - 1 + a, -1), *second = ring.at(y + a, -1);
        const V down = splat(share_of_second(y, a, c.in_height, c.direct.aligns_corners));
        for (int64_t i = 0; i < elements; i += kLanes) {
          Float32::store(work.row + i, between(Float32::load(first + i), Float32::load(second + i), down));
        }
        float* to = reinterpret_cast<float*>(output_at(c, 2 * y + a, 0, 0));
        for (int64_t x = 0; x < 2 * c.base_width; ++x, to += c.output.pixel_step) {
          const float* left = work.row + (x / 2 + x % 2) * channels;  // column x / 2 - 1 + x % 2
          const V across = splat(share_of_second(x / 2, x % 2, c.in_width, c.direct.aligns_corners));
          for (int64_t k = 0; k < channels; k += kLanes) {
            Float32::store(to + k, between(Float32::load(left + k), Float32::load(left + channels + k), across));
          }
        }
      }
    }
  });
}
