// The rows of csrc/cpu/steady.h, which the compiler turns into vectors of whichever tier includes this inside an
// anonymous namespace after <string.h>.

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

// Four 16-bit or 32-bit values, and eight bytes or 16-bit ones, in a register where the tier has registers.
using SteadyBytes = uint8_t __attribute__((vector_size(8)));
using SteadyWords = uint16_t __attribute__((vector_size(16)));
using SteadyFour = int32_t __attribute__((vector_size(16)));
using SteadyFourWords = int16_t __attribute__((vector_size(8)));

// Two pixels that lie side by side, of which nothing behind them is read.
inline SteadyWords steady_pair(const uint8_t* from) {
  uint32_t first;
  uint16_t rest;
  memcpy(&first, from, sizeof first);
  memcpy(&rest, from + sizeof first, sizeof rest);
  const uint64_t both = first | static_cast<uint64_t>(rest) << 32;
  SteadyBytes bytes;
  memcpy(&bytes, &both, sizeof bytes);
  return __builtin_convertvector(bytes, SteadyWords);
}

// The value of a picture between four pixels, fine: first between rows, then between columns. Writes four values, of
// which three are a pixel.
inline void steady_between(const uint8_t* top, const uint8_t* bottom, int32_t right, int32_t lower, int16_t* to) {
  const auto upper_share = static_cast<uint16_t>(256 - lower), lower_share = static_cast<uint16_t>(lower);
  const SteadyWords mixed = (steady_pair(top) * upper_share + steady_pair(bottom) * lower_share + 8) >> 4;
  const SteadyFour left = __builtin_convertvector(__builtin_shufflevector(mixed, mixed, 0, 1, 2, 3), SteadyFour);
  const SteadyFour next = __builtin_convertvector(__builtin_shufflevector(mixed, mixed, 3, 4, 5, 6), SteadyFour);
  const SteadyFourWords moved = __builtin_convertvector(left + (((next - left) * right + 128) >> 8), SteadyFourWords);
  memcpy(to, &moved, sizeof moved);
}

inline int64_t steady_correct_row(const uint8_t* __restrict history, const uint8_t* __restrict fresh,
                                  const int32_t* __restrict flow_x, const int32_t* __restrict flow_y,
                                  const int32_t* __restrict weight, const MapColumns& columns, int64_t row,
                                  int64_t width, int64_t height, int16_t* __restrict correction,
                                  int16_t* __restrict weight_out) {
  const int32_t last_x = static_cast<int32_t>(width) - 2, last_y = static_cast<int32_t>(height) - 2;
  const int32_t stride = 3 * static_cast<int32_t>(width);
  const int32_t* __restrict lefts = columns.left;
  const int32_t* __restrict fractions = columns.fraction;
  int32_t offset[kSteadyBlock], across[kSteadyBlock], down[kSteadyBlock];
  int16_t moved[3 * kSteadyBlock + 1];
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
      offset[i] = line * stride + 3 * column;
      const auto share = static_cast<int16_t>(steady_mix(weight[left], weight[left + 1], fraction));
      int16_t* to = weight_out + 3 * (begin + i);
      to[0] = to[1] = to[2] = share;
    }
    for (int64_t i = 0; i < count; ++i) {
      const uint8_t* top = history + offset[i];
      steady_between(top, top + stride, across[i], down[i], moved + 3 * i);
    }
    int32_t squares = 0;  // of bytes, so that the sum fits
    for (int64_t i = 0; i < 3 * count; ++i) {
      const int64_t at = 3 * begin + i;
      const int32_t value = (weight_out[at] * (moved[i] - 16 * fresh[at]) + 128) >> 8;
      correction[at] = static_cast<int16_t>(value);
      squares += (value * value) >> 8;
    }
    sum += squares;
  }
  return sum;
}

inline void steady_blend_row(const uint8_t* __restrict fresh, const int16_t* __restrict correction, int32_t factor,
                             int16_t* __restrict blended, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    blended[i] = static_cast<int16_t>(16 * fresh[i] + ((factor * correction[i] + 128) >> 8));
  }
}

inline int64_t steady_sharpen_row(const int16_t* __restrict above, const int16_t* __restrict middle,
                                  const int16_t* __restrict below, const int16_t* __restrict weight,
                                  const uint8_t* __restrict fresh, int32_t gain, int64_t width,
                                  uint8_t* __restrict out) {
  const auto sharpen = [&](int64_t i, int64_t left, int64_t right) {
    const int32_t value = middle[i], edge = 4 * value - above[i] - below[i] - middle[left] - middle[right];
    const int32_t sharp = value + ((((gain * weight[i]) >> 8) * edge + 512) >> 10);
    out[i] = static_cast<uint8_t>(steady_clamp((sharp + 8) >> 4, 0, 255));
  };
  const int64_t count = 3 * width;
  for (int64_t i = 0; i < 3; ++i) sharpen(i, i, i + 3);
  for (int64_t i = 3; i < count - 3; ++i) sharpen(i, i - 3, i + 3);
  for (int64_t i = count - 3; i < count; ++i) sharpen(i, i - 3, i);
  int64_t sum = 0;
  for (int64_t begin = 0; begin < count; begin += 1024) {
    const int64_t end = begin + 1024 < count ? begin + 1024 : count;
    int32_t squares = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int32_t difference = out[i] - fresh[i];
      squares += difference * difference;
    }
    sum += squares;
  }
  return sum;
}

inline void steady_limit_row(const uint8_t* __restrict fresh, int32_t factor, uint8_t* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<uint8_t>(fresh[i] + factor * (out[i] - fresh[i]) / 256);
  }
}

inline int64_t steady_detail_row(const uint8_t* __restrict above, const uint8_t* __restrict middle,
                                 const uint8_t* __restrict below, int64_t width) {
  // Shares of blue, green and red in the light, in eighths.
  const auto light = [](const uint8_t* bgr) { return bgr[0] + 5 * bgr[1] + 2 * bgr[2]; };
  int64_t sum = 0;
  for (int64_t i = 3; i < 3 * (width - 1); i += 3) {
    const int32_t value =
        4 * light(middle + i) - light(above + i) - light(below + i) - light(middle + i - 3) - light(middle + i + 3);
    sum += value * value;
  }
  return sum;
}

constexpr SteadyKernels kSteady = {steady_mix_row,     steady_correct_row, steady_blend_row,
                                   steady_sharpen_row, steady_limit_row,   steady_detail_row};
