// The rows of tensor_to_frames in plain C++. Included inside an anonymous namespace after dtypes_scalar.h.

constexpr int64_t kBlock = 64;  // pixels

// A simple loop over consecutive elements, which compilers turn into whatever vectors the target has.
template <typename Element>
void quantise(const typename Element::Storage* from, uint8_t* bytes, int64_t count, float low, float scale) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = (Element::load(from[i]) - low) * scale;
    const float floored = value > 0.0f ? value : 0.0f;  // 0 for NaN too
    const float clamped = floored < 255.0f ? floored : 255.0f;
    // In a sum with 2^23 no bits are left for a fraction: it is rounded, halves to even, and ends in the integer.
    bytes[i] = static_cast<uint8_t>(bits_of(clamped + 0x1p23f));
  }
}

template <typename Element>
void interleaved_row(const void* in, uint8_t* bgr, int64_t pixels, float low, float scale) {
  const auto* rgb = static_cast<const typename Element::Storage*>(in);
  uint8_t bytes[3 * kBlock];
  for (int64_t begin = 0; begin < pixels; begin += kBlock) {
    const int64_t count = 3 * (pixels - begin < kBlock ? pixels - begin : kBlock);
    quantise<Element>(rgb + 3 * begin, bytes, count, low, scale);
    uint8_t* to = bgr + 3 * begin;
    for (int64_t i = 0; i < count; i += 3) {
      to[i] = bytes[i + 2];
      to[i + 1] = bytes[i + 1];
      to[i + 2] = bytes[i];
    }
  }
}

template <typename Element>
void planar_row(const void* red, const void* green, const void* blue, uint8_t* bgr, int64_t pixels, float low,
                float scale) {
  using Storage = typename Element::Storage;
  const void* const planes[3] = {blue, green, red};
  uint8_t bytes[3][kBlock];
  for (int64_t begin = 0; begin < pixels; begin += kBlock) {
    const int64_t count = pixels - begin < kBlock ? pixels - begin : kBlock;
    for (int channel = 0; channel < 3; ++channel) {
      quantise<Element>(static_cast<const Storage*>(planes[channel]) + begin, bytes[channel], count, low, scale);
    }
    uint8_t* to = bgr + 3 * begin;
    for (int64_t pixel = 0; pixel < count; ++pixel) {
      for (int channel = 0; channel < 3; ++channel) to[3 * pixel + channel] = bytes[channel][pixel];
    }
  }
}

constexpr TensorToFramesKernels kTensorToFrames = {
    {interleaved_row<Float32>, interleaved_row<BFloat16>, interleaved_row<Float16>},
    {planar_row<Float32>, planar_row<BFloat16>, planar_row<Float16>}};
