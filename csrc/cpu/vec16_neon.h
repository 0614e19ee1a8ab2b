// 16 float32 values in four NEON registers, and the element types that load and store them, alone or as one of three
// interleaved planes. Included inside an anonymous namespace after <arm_neon.h>; uses BF16 instructions where enabled.

struct F32x16 {
  float32x4_t quarters[4];
};

template <typename Function>
inline F32x16 each_quarter(const Function& function) {
  return {{function(0), function(1), function(2), function(3)}};
}

inline F32x16 broadcast(float value) {
  return each_quarter([&](int) { return vdupq_n_f32(value); });
}
inline F32x16 add(const F32x16& a, const F32x16& b) {
  return each_quarter([&](int i) { return vaddq_f32(a.quarters[i], b.quarters[i]); });
}
inline F32x16 subtract(const F32x16& a, const F32x16& b) {
  return each_quarter([&](int i) { return vsubq_f32(a.quarters[i], b.quarters[i]); });
}
inline F32x16 multiply(const F32x16& a, const F32x16& b) {
  return each_quarter([&](int i) { return vmulq_f32(a.quarters[i], b.quarters[i]); });
}
inline F32x16 divide(const F32x16& a, const F32x16& b) {
  return each_quarter([&](int i) { return vdivq_f32(a.quarters[i], b.quarters[i]); });
}

inline F32x16 from_bytes(uint8x16_t bytes) {
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
  return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
           vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))}};
}

// Rounds half to even. Every step saturates, which clamps to 0..255; NaN gives 0.
inline uint8x16_t to_bytes(const F32x16& value) {
  const auto words = [&](int i) { return vqmovn_u32(vcvtnq_u32_f32(value.quarters[i])); };
  return vcombine_u8(vqmovn_u16(vcombine_u16(words(0), words(1))), vqmovn_u16(vcombine_u16(words(2), words(3))));
}

struct Float32 {
  using Storage = float;
  static constexpr Dtype kIndex = kFloat32;

  static F32x16 load(const float* from) {
    return each_quarter([&](int i) { return vld1q_f32(from + 4 * i); });
  }
  static void load_planes(const float* from, F32x16 (&planes)[3]) {
    for (int i = 0; i < 4; ++i) {
      const float32x4x3_t pixels = vld3q_f32(from + 12 * i);
      for (int c = 0; c < 3; ++c) planes[c].quarters[i] = pixels.val[c];
    }
  }
  static void store_planes(float* to, const F32x16 (&planes)[3]) {
    for (int i = 0; i < 4; ++i) {
      const float32x4x3_t pixels = {{planes[0].quarters[i], planes[1].quarters[i], planes[2].quarters[i]}};
      vst3q_f32(to + 12 * i, pixels);
    }
  }
};

// Elements of 16 bits: `Conversion` has widen(uint16x4_t) and narrow(float32x4_t).
template <Dtype kOf, typename Conversion>
struct Elements16 {
  using Storage = uint16_t;
  static constexpr Dtype kIndex = kOf;

  static F32x16 load(const uint16_t* from) {
    return each_quarter([&](int i) { return Conversion::widen(vld1_u16(from + 4 * i)); });
  }
  static void load_planes(const uint16_t* from, F32x16 (&planes)[3]) {
    for (int i = 0; i < 4; ++i) {
      const uint16x4x3_t pixels = vld3_u16(from + 12 * i);
      for (int c = 0; c < 3; ++c) planes[c].quarters[i] = Conversion::widen(pixels.val[c]);
    }
  }
  static void store_planes(uint16_t* to, const F32x16 (&planes)[3]) {
    for (int i = 0; i < 4; ++i) {
      const auto narrow = [&](int c) { return Conversion::narrow(planes[c].quarters[i]); };
      const uint16x4x3_t pixels = {{narrow(0), narrow(1), narrow(2)}};
      vst3_u16(to + 12 * i, pixels);
    }
  }
};

struct BFloat16Conversion {
  static float32x4_t widen(uint16x4_t elements) { return vreinterpretq_f32_u32(vshll_n_u16(elements, 16)); }
  // For finite values.
  static uint16x4_t narrow(float32x4_t value) {
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    return vreinterpret_u16_bf16(vcvt_bf16_f32(value));
#else
    const uint32x4_t bits = vreinterpretq_u32_f32(value);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vshrn_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd), 16);
#endif
  }
};

struct Float16Conversion {
  static float32x4_t widen(uint16x4_t elements) { return vcvt_f32_f16(vreinterpret_f16_u16(elements)); }
  static uint16x4_t narrow(float32x4_t value) { return vreinterpret_u16_f16(vcvt_f16_f32(value)); }
};

using BFloat16 = Elements16<kBFloat16, BFloat16Conversion>;
using Float16 = Elements16<kFloat16, Float16Conversion>;
