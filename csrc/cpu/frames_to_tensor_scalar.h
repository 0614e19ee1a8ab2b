// The row of frames_to_tensor in plain C++. Included inside an anonymous namespace after dtypes_scalar.h.

// Two simple loops, the second over consecutive elements, which compilers turn into whatever vectors the target has.
template <typename Element>
void row(const uint8_t* bgr, void* out, int64_t pixels, float divisor, float low) {
  constexpr int64_t kBlock = 64;
  uint8_t rgb[3 * kBlock];
  auto* elements = static_cast<typename Element::Storage*>(out);
  for (int64_t begin = 0; begin < pixels; begin += kBlock) {
    const int64_t count = 3 * (pixels - begin < kBlock ? pixels - begin : kBlock);
    for (int64_t i = 0; i < count; i += 3) {
      rgb[i] = bgr[3 * begin + i + 2];
      rgb[i + 1] = bgr[3 * begin + i + 1];
      rgb[i + 2] = bgr[3 * begin + i];
    }
    auto* to = elements + 3 * begin;
    for (int64_t i = 0; i < count; ++i) to[i] = Element::store(static_cast<float>(rgb[i]) / divisor + low);
  }
}

constexpr FramesToTensorKernels kFramesToTensor = {{row<Float32>, row<BFloat16>, row<Float16>}};
