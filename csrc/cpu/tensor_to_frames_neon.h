// The rows of tensor_to_frames on NEON. Included inside an anonymous namespace after pixel_blocks.h and
// vec16_neon.h.

template <typename Element>
inline void interleaved_row(const void* in, uint8_t* bgr, int64_t pixels, float low, float scale) {
  if (pixels < kBlock)
    return kScalarKernels.tensor_to_frames->interleaved[Element::kIndex](in, bgr, pixels, low, scale);
  const F32x16 lows = broadcast(low), scales = broadcast(scale);
  const auto* rgb = static_cast<const typename Element::Storage*>(in);
  const auto quantise = [&](const F32x16& plane) { return to_bytes(multiply(subtract(plane, lows), scales)); };
  for_each_block(pixels, [&](int64_t pixel) {
    F32x16 planes[3];
    Element::load_planes(rgb + 3 * pixel, planes);
    const uint8x16x3_t bytes = {{quantise(planes[2]), quantise(planes[1]), quantise(planes[0])}};
    vst3q_u8(bgr + 3 * pixel, bytes);
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
    const uint8x16x3_t bytes = {{quantise(blue, pixel), quantise(green, pixel), quantise(red, pixel)}};
    vst3q_u8(bgr + 3 * pixel, bytes);
  });
}

constexpr TensorToFramesKernels kTensorToFrames = {
    {interleaved_row<Float32>, interleaved_row<BFloat16>, interleaved_row<Float16>},
    {planar_row<Float32>, planar_row<BFloat16>, planar_row<Float16>}};
