// streamgan::tensor_to_frames: normalised tensor -> cropped uint8 frames.
#include "csrc/cpu/tensor_to_frames.h"

#include <string.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "csrc/kernels.h"
#include "csrc/ops/frames.h"

namespace streamgan {
namespace {

#include "csrc/cpu/dtypes_scalar.h"

// The tanh of one row of pixels, of any strides, as dense interleaved float32.
void tanh_of_row(const char* from, Dtype dtype, int64_t pixels, int64_t pixel_bytes, int64_t channel_bytes, float* to) {
  for (int64_t i = 0; i < 3 * pixels; ++i) {
    const char* element = from + i / 3 * pixel_bytes + i % 3 * channel_bytes;
    uint16_t half = 0;
    float value = 0;
    if (dtype == kFloat32) {
      std::memcpy(&value, element, sizeof value);
    } else {
      std::memcpy(&half, element, sizeof half);
      value = dtype == kFloat16 ? Float16::load(half) : BFloat16::load(half);
    }
    to[i] = std::tanh(value);
  }
}

Tensor tensor_to_frames(const Tensor& input, double low, double high, int64_t height, int64_t width, bool tanh) {
  TensorToFramesTask task = tensor_to_frames_task(input, low, high, height, width);
  const Tensor& tensor = task.tensor;
  const TensorToFramesKernels& kernels = tensor_to_frames_kernels();
  const int64_t element_bytes = image_element_bytes(task.dtype);
  const int64_t image_bytes = tensor.stride(0) * element_bytes, plane_bytes = tensor.stride(1) * element_bytes,
                row_bytes = tensor.stride(2) * element_bytes, pixel_bytes = tensor.stride(3) * element_bytes;
  const auto* from = static_cast<const char*>(tensor.const_data_ptr());
  auto* to = static_cast<uint8_t*>(task.output.mutable_data_ptr());
  parallel_rows(task.images * height, width, [&](int64_t row) {
    const char* red = from + row / height * image_bytes + row % height * row_bytes;
    uint8_t* bgr = to + row * width * 3;
    if (tanh) {
      std::vector<float> values(static_cast<size_t>(3 * width));
      tanh_of_row(red, task.dtype, width, pixel_bytes, plane_bytes, values.data());
      kernels.interleaved[kFloat32](values.data(), bgr, width, task.low, task.scale);
    } else if (task.interleaved) {
      kernels.interleaved[task.dtype](red, bgr, width, task.low, task.scale);
    } else {
      kernels.planar[task.dtype](red, red + plane_bytes, red + 2 * plane_bytes, bgr, width, task.low, task.scale);
    }
  });
  return task.output;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(streamgan, library) { library.def(kTensorToFramesSchema); }

STABLE_TORCH_LIBRARY_IMPL(streamgan, CPU, library) { library.impl(kTensorToFrames, TORCH_BOX(&tensor_to_frames)); }

}  // namespace streamgan
