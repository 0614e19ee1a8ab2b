// The rows of tensor_to_frames on 16-element vectors. Included inside an anonymous namespace after
// pixel_shuffles_x86.h and one of vec16_*.h.

// Stores 16 pixels given as the three registers of their 48 RGB bytes.
inline void store_swapped(uint8_t* bgr, __m128i first, __m128i second, __m128i third) {
  static constexpr ShuffleMask k00 = swap_mask(0, 0, 0), k01 = swap_mask(0, 16, 0);
  static constexpr ShuffleMask k10 = swap_mask(16, 0, 0), k11 = swap_mask(16, 16, 0), k12 = swap_mask(16, 32, 0);
  static constexpr ShuffleMask k21 = swap_mask(32, 16, 0), k22 = swap_mask(32, 32, 0);
  store_bytes(bgr, _mm_or_si128(shuffle(first, k00), shuffle(second, k01)));
  store_bytes(bgr + 16, _mm_or_si128(_mm_or_si128(shuffle(first, k10), shuffle(second, k11)), shuffle(third, k12)));
  store_bytes(bgr + 32, _mm_or_si128(shuffle(second, k21), shuffle(third, k22)));
}

template <int kWindow>
inline __m128i interleave(__m128i blue, __m128i green, __m128i red) {
  static constexpr ShuffleMask kBlue = interleave_mask(16 * kWindow, 0), kGreen = interleave_mask(16 * kWindow, 1),
                               kRed = interleave_mask(16 * kWindow, 2);
  return _mm_or_si128(_mm_or_si128(shuffle(blue, kBlue), shuffle(green, kGreen)), shuffle(red, kRed));
}

template <typename Element>
inline void interleaved_row(const void* in, uint8_t* bgr, int64_t pixels, float low, float scale) {
  if (pixels < kBlock)
    return kScalarKernels.tensor_to_frames->interleaved[Element::kIndex](in, bgr, pixels, low, scale);
  const F32x16 lows = broadcast(low), scales = broadcast(scale);
  const auto* rgb = static_cast<const typename Element::Storage*>(in);
  const auto quantise = [&](const typename Element::Storage* from) {
    return to_bytes(multiply(subtract(Element::load(from), lows), scales));
  };
  for_each_block(pixels, [&](int64_t pixel) {
    const auto* from = rgb + 3 * pixel;
    store_swapped(bgr + 3 * pixel, quantise(from), quantise(from + 16), quantise(from + 32));
  });
}

template <typename Element>
inline void planar_row(const void* red, const void* green, const void* blue, uint8_t* bgr, int64_t pixels, float low,
                       float scale) {
  if (pixels < kBlock)
    return kScalarKernels.tensor_to_frames->planar[Element::kIndex](red, green, blue, bgr, pixels, low, scale);
  const F32x16 lows = broadcast(low), scales = broadcast(scale);
  const auto quantise = [&](const void* plane, int64_t pixel) {
    const auto* from = static_cast<const typename Element::Storage*>(plane) + pixel;
    return to_bytes(multiply(subtract(Element::load(from), lows), scales));
  };
  for_each_block(pixels, [&](int64_t pixel) {
    const __m128i r = quantise(red, pixel), g = quantise(green, pixel), b = quantise(blue, pixel);
    uint8_t* to = bgr + 3 * pixel;
    store_bytes(to, interleave<0>(b, g, r));
    store_bytes(to + 16, interleave<1>(b, g, r));
    store_bytes(to + 32, interleave<2>(b, g, r));
  });
}

constexpr TensorToFramesKernels kTensorToFrames = {
    {interleaved_row<Float32>, interleaved_row<BFloat16>, interleaved_row<Float16>},
    {planar_row<Float32>, planar_row<BFloat16>, planar_row<Float16>}};
