// streamgan::frames_to_tensor: uint8 frames -> normalised, reflection-padded channels_last tensor.
#include "csrc/cpu/frames_to_tensor.h"

#include <algorithm>
#include <cstring>

#include "csrc/isa.h"
#include "csrc/ops/frames.h"

namespace streamgan {
namespace {

const KernelTable<FramesToTensorKernels> kKernels(kFramesToTensor,
                                                  {&kFramesToTensorScalar,
                                                   STREAMGAN_IF_X86(&kFramesToTensorAvx2, &kFramesToTensorAvx512,
                                                                    &kFramesToTensorAvx512Bf16)});

// Index below `size` that `index` shows when the axis is mirrored at its first and last element without repeating
// them: 0 1 2 3 2 1 0 1 2 ..., of period 2 * (size - 1). A single element repeats.
int64_t reflected(int64_t index, int64_t size) {
  if (size == 1) return 0;
  const int64_t period = 2 * (size - 1);
  const int64_t phase = index % period;
  return phase < size ? phase : period - phase;
}

Tensor frames_to_tensor(const Tensor& input, double low, double high, int64_t height, int64_t width,
                        ScalarType scalar_type) {
  FramesToTensorTask task = frames_to_tensor_task(input, low, high, height, width, scalar_type);
  const FramesToTensorRow kernel = kKernels.active().row[task.dtype];
  const int64_t image_stride = task.frames.stride(0), row_stride = task.frames.stride(1);
  const int64_t pixel_bytes = 3 * image_element_bytes(task.dtype);
  const auto* from = static_cast<const uint8_t*>(task.frames.const_data_ptr());
  auto* to = static_cast<char*>(task.output.mutable_data_ptr());
  parallel_rows(task.images * height, width, [&](int64_t row) {
    const int64_t image = row / height, y = reflected(row % height, task.input_height);
    char* pixels = to + row * width * pixel_bytes;
    kernel(from + image * image_stride + y * row_stride, pixels, task.input_width, task.divisor, task.low);
    for (int64_t x = task.input_width; x < width; ++x) {
      std::memcpy(pixels + x * pixel_bytes, pixels + reflected(x, task.input_width) * pixel_bytes,
                  static_cast<size_t>(pixel_bytes));
    }
  });
  return task.output;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(streamgan, library) { library.def(kFramesToTensorSchema); }

STABLE_TORCH_LIBRARY_IMPL(streamgan, CPU, library) { library.impl(kFramesToTensor, TORCH_BOX(&frames_to_tensor)); }

}  // namespace streamgan
