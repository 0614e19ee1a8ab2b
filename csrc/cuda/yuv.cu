#include "csrc/cuda/yuv.h"

#include "csrc/cuda/device.h"

namespace streamgan {
namespace {

constexpr int kThreads = 256;
// A thread takes so many neighbouring pixels of two rows: 8 or 16 bytes of luma, as many of chroma, 24 of BGR in each.
constexpr int kPixels = 8;
constexpr int kWords = 3 * kPixels / 4;  // of 4 bytes, of BGR

using EightBytes = Pack<uint32_t, 2>;

struct ToBgr {
  YuvToBgrParameters at;
  float near, far;  // shares in a pixel's chroma: of its own sample, twice, and of the next one
  float black, luma_scale, middle, cb_blue, cb_green, cr_green, cr_red;
};

struct ToYuv {
  BgrToYuvParameters at;
  float black, luma[3], cb[3], cr[3];  // of blue, green, red; of chroma for sums of weight 16
};

__device__ inline bool is_aligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<unsigned>(bytes) == 0;
}

__device__ inline uint32_t as_byte(float level) {
  return static_cast<uint32_t>(__float2int_rn(fminf(fmaxf(level, 0.0f), 255.0f)));
}

// kPixels samples of a row from x on; beyond its end the last `period` ones again.
template <typename Sample>
__device__ inline Pack<Sample, kPixels> load_run(const Sample* row, int x, int count, int period) {
  if (x + kPixels <= count && is_aligned(row + x, kPixels * sizeof(Sample))) {
    return *reinterpret_cast<const Pack<Sample, kPixels>*>(row + x);
  }
  Pack<Sample, kPixels> run;
#pragma unroll
  for (int i = 0; i < kPixels; ++i) run.at[i] = row[x + i < count ? x + i : count - period + i % period];
  return run;
}

// Where `bytes` bytes remain to the end of the row.
__device__ inline void store_bytes(uint8_t* to, const uint32_t* words, int count, int bytes) {
  if (bytes >= 4 * count && is_aligned(to, sizeof(EightBytes))) {
#pragma unroll
    for (int i = 0; i < kWords / 2; ++i) {
      if (2 * i < count) reinterpret_cast<EightBytes*>(to)[i] = {{words[2 * i], words[2 * i + 1]}};
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4 * kWords; ++i) {
      if (i < 4 * count && i < bytes) to[i] = static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)));
    }
  }
}

template <typename Sample>
__global__ void __launch_bounds__(kThreads) yuv_to_bgr(const ToBgr p) {
  const int height = p.at.height, width = p.at.width, runs = (width + kPixels - 1) / kPixels;
  const int64_t run = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (run >= static_cast<int64_t>((height + 1) / 2) * runs) return;
  const int pair = static_cast<int>(run / runs);  // of rows, and the row of chroma
  const int x = static_cast<int>(run - static_cast<int64_t>(pair) * runs) * kPixels;
  const int samples = (width + 1) / 2 * 2;  // of a row of chroma
  const auto* own = static_cast<const Sample*>(p.at.chroma) + pair * p.at.chroma_row_stride;
  const Sample* above = pair == 0 ? own : own - p.at.chroma_row_stride;
  const Pack<Sample, kPixels> own_run = load_run(own, x, samples, 2), above_run = load_run(above, x, samples, 2);
  int chroma[2][kPixels + 2];  // twice that of the even row and of the odd one, from x on
#pragma unroll
  for (int i = 0; i < kPixels; ++i) chroma[0][i] = own_run.at[i] + above_run.at[i], chroma[1][i] = 2 * own_run.at[i];
  const int after = min(x + kPixels, samples - 2);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    chroma[0][kPixels + i] = own[after + i] + above[after + i], chroma[1][kPixels + i] = 2 * own[after + i];
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const int y = 2 * pair + row;
    if (y >= height) return;
    const auto* luma = static_cast<const Sample*>(p.at.luma) + y * p.at.luma_row_stride;
    const Pack<Sample, kPixels> samples_of_luma = load_run(luma, x, width, 1);
    uint32_t words[kWords] = {};
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      float c[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int sample = i / 2 * 2 + k;
        const float near = __fmul_rn(static_cast<float>(chroma[row][sample]), p.near);
        const float far = __fmul_rn(static_cast<float>(chroma[row][sample + 2]), p.far);
        c[k] = __fsub_rn(__fadd_rn(near, far), p.middle);
      }
      const float light = __fmul_rn(__fsub_rn(static_cast<float>(samples_of_luma.at[i]), p.black), p.luma_scale);
      const float green = __fadd_rn(light, __fmul_rn(c[0], p.cb_green));
      const uint32_t bgr[3] = {as_byte(__fadd_rn(light, __fmul_rn(c[0], p.cb_blue))),
                               as_byte(__fadd_rn(green, __fmul_rn(c[1], p.cr_green))),
                               as_byte(__fadd_rn(light, __fmul_rn(c[1], p.cr_red)))};
#pragma unroll
      for (int k = 0; k < 3; ++k) words[(3 * i + k) / 4] |= bgr[k] << (8 * ((3 * i + k) % 4));
    }
    uint8_t* to = p.at.bgr + (static_cast<int64_t>(y) * width + x) * 3;
    store_bytes(to, words, kWords, 3 * (width - x));
  }
}

__device__ inline float weighted(const float (&weights)[3], float blue, float green, float red) {
  return __fadd_rn(__fadd_rn(__fmul_rn(blue, weights[0]), __fmul_rn(green, weights[1])), __fmul_rn(red, weights[2]));
}

__global__ void __launch_bounds__(kThreads) bgr_to_yuv(const ToYuv p) {
  const int height = p.at.height, width = p.at.width, runs = (width + kPixels - 1) / kPixels;
  const int64_t run = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (run >= static_cast<int64_t>(height / 2) * runs) return;
  const int pair = static_cast<int>(run / runs);
  const int x = static_cast<int>(run - static_cast<int64_t>(pair) * runs) * kPixels;

  int sums[kPixels + 2][3] = {};  // of each column from x - 1 on, over three rows
#pragma unroll
  for (int row = 0; row <= 2; ++row) {
    const int y = min(2 * pair + row, height - 1);
    const uint8_t* from = p.at.bgr + y * p.at.bgr_row_stride;
    uint32_t words[kWords] = {};
    if (x + kPixels <= width && is_aligned(from + 3 * x, sizeof(EightBytes))) {
#pragma unroll
      for (int i = 0; i < kWords / 2; ++i) {
        const EightBytes eight = reinterpret_cast<const EightBytes*>(from + 3 * x)[i];
        words[2 * i] = eight.at[0], words[2 * i + 1] = eight.at[1];
      }
    } else {
#pragma unroll
      for (int i = 0; i < 3 * kPixels; ++i) {
        words[i / 4] |= static_cast<uint32_t>(from[3 * min(x + i / 3, width - 1) + i % 3]) << (8 * (i % 4));
      }
    }
    const int weight = row == 1 ? 2 : 1;
    uint32_t luma[kPixels / 4] = {};
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      int bgr[3];
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        bgr[k] = static_cast<int>(words[(3 * i + k) / 4] >> (8 * ((3 * i + k) % 4)) & 255);
        sums[i + 1][k] += weight * bgr[k];
      }
      const float light =
          weighted(p.luma, static_cast<float>(bgr[0]), static_cast<float>(bgr[1]), static_cast<float>(bgr[2]));
      luma[i / 4] |= as_byte(__fadd_rn(light, p.black)) << (8 * (i % 4));
    }
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      sums[0][k] += weight * from[3 * max(x - 1, 0) + k];
      sums[kPixels + 1][k] += weight * from[3 * min(x + kPixels, width - 1) + k];
    }
    if (row < 2) {
      store_bytes(p.at.yuv + (2 * pair + row) * p.at.yuv_row_stride + x, luma, kPixels / 4, width - x);
    }
  }

  uint32_t chroma[kPixels / 4] = {};
#pragma unroll
  for (int i = 0; i < kPixels; i += 2) {
    float sum[3];
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      sum[k] = static_cast<float>(sums[i][k] + 2 * sums[i + 1][k] + sums[i + 2][k]);
    }
    const uint32_t cb = as_byte(__fadd_rn(weighted(p.cb, sum[0], sum[1], sum[2]), 128.0f));
    const uint32_t cr = as_byte(__fadd_rn(weighted(p.cr, sum[0], sum[1], sum[2]), 128.0f));
    chroma[i / 4] |= (cb | cr << 8) << (8 * (i % 4));
  }
  store_bytes(p.at.yuv + (height + pair) * p.at.yuv_row_stride + x, chroma, kPixels / 4, width - x);
}

LaunchShape one_thread_per_run(int height, int width) {
  const int64_t threads = static_cast<int64_t>((height + 1) / 2) * ((width + kPixels - 1) / kPixels);
  return {(threads + kThreads - 1) / kThreads, kThreads, 0, 1};
}

ToBgr to_bgr(const YuvToBgrParameters& at) {
  const double kr = at.color.kr, kb = at.color.kb, kg = 1.0 - kr - kb;
  const double level = at.bits == 8 ? 1.0 : 256.0;  // of 8 bits, in samples
  const double peak = at.bits == 8 ? 255.0 : 65536.0 - static_cast<double>(1 << (16 - at.bits));
  const double luma = 255.0 / (at.color.full_range ? peak : 219.0 * level);
  const double chroma = 255.0 / (at.color.full_range ? peak : 224.0 * level);
  return {at,
          at.left_sited ? 0.375f : 0.5f,
          at.left_sited ? 0.125f : 0.0f,
          static_cast<float>(at.color.full_range ? 0.0 : 16.0 * level),
          static_cast<float>(luma),
          static_cast<float>(128.0 * level),
          static_cast<float>(2.0 * (1.0 - kb) * chroma),
          static_cast<float>(-2.0 * kb * (1.0 - kb) / kg * chroma),
          static_cast<float>(-2.0 * kr * (1.0 - kr) / kg * chroma),
          static_cast<float>(2.0 * (1.0 - kr) * chroma)};
}

ToYuv to_yuv(const BgrToYuvParameters& at) {
  const double kr = at.color.kr, kb = at.color.kb, kg = 1.0 - kr - kb;
  const double luma = at.color.full_range ? 1.0 : 219.0 / 255.0;
  const double cb = (at.color.full_range ? 1.0 : 224.0 / 255.0) / (32.0 * (1.0 - kb));
  const double cr = (at.color.full_range ? 1.0 : 224.0 / 255.0) / (32.0 * (1.0 - kr));
  const auto single = [](double value) { return static_cast<float>(value); };
  return {at,
          at.color.full_range ? 0.0f : 16.0f,
          {single(kb * luma), single(kg * luma), single(kr * luma)},
          {single((1.0 - kb) * cb), single(-kg * cb), single(-kr * cb)},
          {single(-kb * cr), single(-kg * cr), single((1.0 - kr) * cr)}};
}

}  // namespace

const char* launch_yuv_to_bgr(const YuvToBgrParameters& parameters, Stream stream) {
  const LaunchShape shape = one_thread_per_run(parameters.height, parameters.width);
  const ToBgr work = to_bgr(parameters);
  return parameters.bits == 8 ? launch(yuv_to_bgr<uint8_t>, shape, stream, work)
                              : launch(yuv_to_bgr<uint16_t>, shape, stream, work);
}

const char* launch_bgr_to_yuv(const BgrToYuvParameters& parameters, Stream stream) {
  return launch(bgr_to_yuv, one_thread_per_run(parameters.height, parameters.width), stream, to_yuv(parameters));
}

}  // namespace streamgan
