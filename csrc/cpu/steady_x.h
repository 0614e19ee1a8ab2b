// The rows of csrc/cpu/steady.h, which the compiler turns into vectors of whichever tier includes this inside an
// anonymous namespace.

inline int32_t steady_mix(int32_t a, int32_t b, int32_t fraction) {
  return (a * (256 - fraction) + b * fraction + 128) >> 8;
}

inline int32_t steady_clamp(int32_t value, int32_t low, int32_t high) {
  const int32_t raised = value < low ? low : value;
  return raised > high ? high : raised;
}

inline void steady_mix_row(const int32_t* __restrict a, const int32_t* __restrict b, int32_t fraction,
                           int32_t* __restrict mixed, int64_t count) {
  for (int64_t i = 0; i < count; ++i) mixed[i] = steady_mix(a[i], b[i], fraction);
}

// So many pixels' places are worked out before their bytes are read: the first is work for vectors, the second isn't.
constexpr int64_t kSteadyBlock = 64;

inline int64_t steady_correct_row(const uint8_t* __restrict history, const uint8_t* __restrict fresh,
                                  const int32_t* __restrict flow_x, const int32_t* __restrict flow_y,
                                  const int32_t* __restrict weight, const MapColumns& columns, int64_t row,
                                  int64_t width, int64_t height, int16_t* __restrict correction,
                                  int16_t* __restrict weight_out) {
  const int32_t last_x = static_cast<int32_t>(width) - 2, last_y = static_cast<int32_t>(height) - 2;
  const int64_t stride = 3 * width;
  const int32_t* __restrict lefts = columns.left;
  const int32_t* __restrict fractions = columns.fraction;
  int32_t offset[kSteadyBlock], across[kSteadyBlock], down[kSteadyBlock], share[kSteadyBlock];
  int64_t sum = 0;
  for (int64_t begin = 0; begin < width; begin += kSteadyBlock) {
    const int64_t count = width - begin < kSteadyBlock ? width - begin : kSteadyBlock;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t left = lefts[begin + i], fraction = fractions[begin + i];
      const int32_t x = (static_cast<int32_t>(begin + i) << 8) + steady_mix(flow_x[left], flow_x[left + 1], fraction);
      const int32_t y = (static_cast<int32_t>(row) << 8) + steady_mix(flow_y[left], flow_y[left + 1], fraction);
      const int32_t inside_x = steady_clamp(x, 0, (last_x + 1) << 8), inside_y = steady_clamp(y, 0, (last_y + 1) << 8);
      const int32_t column = steady_clamp(inside_x >> 8, 0, last_x), line = steady_clamp(inside_y >> 8, 0, last_y);
      across[i] = inside_x - (column << 8);
      down[i] = inside_y - (line << 8);
      offset[i] = line * static_cast<int32_t>(stride) + 3 * column;
      share[i] = steady_mix(weight[left], weight[left + 1], fraction);
      weight_out[begin + i] = static_cast<int16_t>(share[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      const uint8_t* __restrict top = history + offset[i];
      const uint8_t* __restrict bottom = top + stride;
      const uint8_t* __restrict now = fresh + 3 * (begin + i);
      int16_t* __restrict to = correction + 3 * (begin + i);
      const int32_t right = across[i], lower = down[i], factor = share[i];
      for (int c = 0; c < 3; ++c) {
        const int32_t above = top[c] * (256 - right) + top[3 + c] * right;
        const int32_t below = bottom[c] * (256 - right) + bottom[3 + c] * right;
        const int32_t moved = (above * (256 - lower) + below * lower + (1 << 11)) >> 12;
        to[c] = static_cast<int16_t>((factor * (moved - 16 * now[c]) + 128) >> 8);
      }
    }
    for (int64_t i = 0; i < 3 * count; ++i) {
      const int32_t value = correction[3 * begin + i];
      sum += value * value;
    }
  }
  return sum;
}

inline void steady_blend_row(const uint8_t* __restrict fresh, const int16_t* __restrict correction, int32_t factor,
                             int16_t* __restrict blended, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    blended[i] = static_cast<int16_t>(16 * fresh[i] + ((factor * correction[i] + 128) >> 8));
  }
}

inline uint8_t steady_sharpened(int32_t value, int32_t neighbours, int32_t factor) {
  const int32_t sharp = value + ((factor * (4 * value - neighbours) + 512) >> 10);
  return static_cast<uint8_t>(steady_clamp((sharp + 8) >> 4, 0, 255));
}

inline int64_t steady_sharpen_row(const int16_t* __restrict above, const int16_t* __restrict middle,
                                  const int16_t* __restrict below, const int16_t* __restrict weight,
                                  const uint8_t* __restrict fresh, int32_t gain, int64_t width,
                                  uint8_t* __restrict out) {
  const auto at = [&](int64_t pixel, int64_t left, int64_t right) {
    const int32_t factor = (gain * weight[pixel]) >> 8;
    for (int64_t c = 0; c < 3; ++c) {
      const int64_t i = 3 * pixel + c;
      out[i] = steady_sharpened(middle[i], above[i] + below[i] + middle[3 * left + c] + middle[3 * right + c], factor);
    }
  };
  at(0, 0, 1);
  for (int64_t pixel = 1; pixel + 1 < width; ++pixel) at(pixel, pixel - 1, pixel + 1);
  at(width - 1, width - 2, width - 1);
  int64_t sum = 0;
  for (int64_t i = 0; i < 3 * width; ++i) {
    const int32_t difference = out[i] - fresh[i];
    sum += difference * difference;
  }
  return sum;
}

inline int64_t steady_detail_row(const uint8_t* __restrict above, const uint8_t* __restrict middle,
                                 const uint8_t* __restrict below, int64_t width) {
  int64_t sum = 0;
  for (int64_t i = 3; i < 3 * (width - 1); ++i) {
    const int32_t value = 4 * middle[i] - above[i] - below[i] - middle[i - 3] - middle[i + 3];
    sum += value * value;
  }
  return sum;
}

constexpr SteadyKernels kSteady = {steady_mix_row, steady_correct_row, steady_blend_row, steady_sharpen_row,
                                   steady_detail_row};
