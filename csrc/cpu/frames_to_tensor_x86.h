// The row of frames_to_tensor on 16-element vectors. Included inside an anonymous namespace after
// pixel_shuffles_x86.h and one of vec16_*.h.

// The window of 16 RGB bytes at 16 * kWindow of a block of 48.
template <int kWindow>
inline __m128i load_swapped(const uint8_t* bgr) {
  constexpr int kStart = 15 * kWindow;
  static constexpr ShuffleMask kFirst = swap_mask(16 * kWindow, kStart, 0);
  static constexpr ShuffleMask kRest = swap_mask(16 * kWindow, kStart + 2, kStart + 16);
  return _mm_or_si128(shuffle(load_bytes(bgr + kStart), kFirst), shuffle(load_bytes(bgr + kStart + 2), kRest));
}

template <typename Element>
inline void row(const uint8_t* bgr, void* out, int64_t pixels, float divisor, float low) {
  if (pixels < kBlock) return kScalarKernels.frames_to_tensor->row[Element::kIndex](bgr, out, pixels, divisor, low);

  const F32x16 divisors = broadcast(divisor), lows = broadcast(low);
  const auto normalise = [&](__m128i bytes) { return add(divide(from_bytes(bytes), divisors), lows); };
  auto* rgb = static_cast<typename Element::Storage*>(out);
  for_each_block(pixels, [&](int64_t pixel) {
    const uint8_t* from = bgr + 3 * pixel;
    auto* to = rgb + 3 * pixel;
    Element::store(to, normalise(load_swapped<0>(from)));
    Element::store(to + 16, normalise(load_swapped<1>(from)));
    Element::store(to + 32, normalise(load_swapped<2>(from)));
  });
}

constexpr FramesToTensorKernels kFramesToTensor = {{row<Float32>, row<BFloat16>, row<Float16>}};
