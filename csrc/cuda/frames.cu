#include "csrc/cuda/frames.h"

#include "csrc/cuda/device.h"

namespace streamgan {
namespace {

constexpr int kThreads = 256;
// A thread takes so many neighbouring pixels of a row: 12 bytes of a frame, 24 or 48 of a tensor.
constexpr int kPixels = 4;

struct Word3 {
  uint32_t at[3];
};

__device__ inline int reflected(int index, int size) {
  if (size == 1) return 0;
  const int period = 2 * (size - 1), phase = index % period;
  return phase < size ? phase : period - phase;
}

__device__ inline bool is_aligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<unsigned>(bytes) == 0;
}

template <typename Element>
__global__ void __launch_bounds__(kThreads) frames_to_tensor(const FramesToTensorParameters p) {
  const int runs = (p.width + kPixels - 1) / kPixels;
  const int64_t run = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (run >= static_cast<int64_t>(p.images) * p.height * runs) return;
  const int64_t row = run / runs;  // of all images
  const int x = static_cast<int>(run - row * runs) * kPixels;
  const int image = static_cast<int>(row / p.height),
            y = static_cast<int>(row - static_cast<int64_t>(image) * p.height);
  const uint8_t* from = p.frames + image * p.image_stride + reflected(y, p.input_height) * p.row_stride;
  auto* to = static_cast<Element*>(p.tensor) + (row * p.width + x) * 3;

  alignas(4) uint8_t bytes[3 * kPixels];
  if (x + kPixels <= p.input_width && is_aligned(from + 3 * x, 4)) {
    const auto* words = reinterpret_cast<const uint32_t*>(from + 3 * x);
#pragma unroll
    for (int i = 0; i < 3; ++i) reinterpret_cast<uint32_t*>(bytes)[i] = words[i];
  } else {
#pragma unroll
    for (int pixel = 0; pixel < kPixels; ++pixel) {
      const uint8_t* bgr = from + 3 * reflected(min(x + pixel, p.width - 1), p.input_width);
#pragma unroll
      for (int c = 0; c < 3; ++c) bytes[3 * pixel + c] = bgr[c];
    }
  }
  // 8 bytes of half precision, 16 of single: what the start of every fourth pixel is a multiple of.
  constexpr int kPackElements = 4;
  Pack<Element, kPackElements> packs[3];
#pragma unroll
  for (int i = 0; i < 3 * kPixels; ++i) {
    const float bgr = static_cast<float>(bytes[i / 3 * 3 + 2 - i % 3]);
    packs[i / kPackElements].at[i % kPackElements] = from_float<Element>(__fadd_rn(__fdiv_rn(bgr, p.divisor), p.low));
  }
  if (x + kPixels <= p.width && is_aligned(to, sizeof(packs[0]))) {
#pragma unroll
    for (int i = 0; i < 3; ++i) reinterpret_cast<Pack<Element, kPackElements>*>(to)[i] = packs[i];
  } else {
#pragma unroll
    for (int i = 0; i < 3 * kPixels; ++i) {
      if (x + i / 3 < p.width) to[i] = packs[i / kPackElements].at[i % kPackElements];
    }
  }
}

__device__ inline uint32_t quantised(float value, const TensorToFramesParameters& p) {
  const float level = __fmul_rn(__fsub_rn(p.tanh ? tanhf(value) : value, p.low), p.scale);
  return static_cast<uint32_t>(__float2int_rn(fminf(fmaxf(level, 0.0f), 255.0f)));  // fmaxf makes 0 of NaN
}

template <typename Element>
__global__ void __launch_bounds__(kThreads) tensor_to_frames(const TensorToFramesParameters p) {
  const int runs = (p.width + kPixels - 1) / kPixels;
  const int64_t run = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (run >= static_cast<int64_t>(p.images) * p.height * runs) return;
  const int64_t row = run / runs;
  const int x = static_cast<int>(run - row * runs) * kPixels;
  const int image = static_cast<int>(row / p.height),
            y = static_cast<int>(row - static_cast<int64_t>(image) * p.height);
  const auto* from = static_cast<const Element*>(p.tensor) + image * p.image_stride + y * p.row_stride;
  uint8_t* to = p.frames + (row * p.width + x) * 3;
  Word3 words = {};
#pragma unroll
  for (int i = 0; i < 3 * kPixels; ++i) {
    const int pixel = min(x + i / 3, p.width - 1), channel = 2 - i % 3;
    const float value = to_float(from[pixel * p.pixel_stride + channel * p.channel_stride]);
    words.at[i / 4] |= quantised(value, p) << (8 * (i % 4));
  }
  if (x + kPixels <= p.width && is_aligned(to, 4)) {
#pragma unroll
    for (int i = 0; i < 3; ++i) reinterpret_cast<uint32_t*>(to)[i] = words.at[i];
  } else {
#pragma unroll
    for (int i = 0; i < 3 * kPixels; ++i) {
      if (x + i / 3 < p.width) to[i] = static_cast<uint8_t>(words.at[i / 4] >> (8 * (i % 4)));
    }
  }
}

LaunchShape one_thread_per_run(int images, int height, int width) {
  const int64_t threads = static_cast<int64_t>(images) * height * ((width + kPixels - 1) / kPixels);
  return {(threads + kThreads - 1) / kThreads, kThreads, 0, 1};
}

}  // namespace

const char* launch_frames_to_tensor(const FramesToTensorParameters& parameters, Dtype dtype, Stream stream) {
  const LaunchShape shape = one_thread_per_run(parameters.images, parameters.height, parameters.width);
  switch (dtype) {
    case kFloat32:
      return launch(frames_to_tensor<float>, shape, stream, parameters);
    case kBFloat16:
      return launch(frames_to_tensor<__nv_bfloat16>, shape, stream, parameters);
    case kFloat16:
      return launch(frames_to_tensor<__half>, shape, stream, parameters);
    default:
      return "unknown element type";
  }
}

const char* launch_tensor_to_frames(const TensorToFramesParameters& parameters, Dtype dtype, Stream stream) {
  const LaunchShape shape = one_thread_per_run(parameters.images, parameters.height, parameters.width);
  switch (dtype) {
    case kFloat32:
      return launch(tensor_to_frames<float>, shape, stream, parameters);
    case kBFloat16:
      return launch(tensor_to_frames<__nv_bfloat16>, shape, stream, parameters);
    case kFloat16:
      return launch(tensor_to_frames<__half>, shape, stream, parameters);
    default:
      return "unknown element type";
  }
}

}  // namespace streamgan
