// The row of frames_to_tensor on NEON. Included inside an anonymous namespace after pixel_blocks.h and vec16_neon.h.

template <typename Element>
inline void row(const uint8_t* bgr, void* out, int64_t pixels, float divisor, float low) {
  if (pixels < kBlock) return kScalarKernels.frames_to_tensor->row[Element::kIndex](bgr, out, pixels, divisor, low);
  const F32x16 divisors = broadcast(divisor), lows = broadcast(low);
  const auto normalise = [&](uint8x16_t bytes) { return add(divide(from_bytes(bytes), divisors), lows); };
  auto* rgb = static_cast<typename Element::Storage*>(out);
  for_each_block(pixels, [&](int64_t pixel) {
    const uint8x16x3_t from = vld3q_u8(bgr + 3 * pixel);
    Element::store_planes(rgb + 3 * pixel, {normalise(from.val[2]), normalise(from.val[1]), normalise(from.val[0])});
  });
}

constexpr FramesToTensorKernels kFramesToTensor = {{row<Float32>, row<BFloat16>, row<Float16>}};
