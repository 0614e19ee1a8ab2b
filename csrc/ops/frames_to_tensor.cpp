// streamgan::frames_to_tensor: uint8 frames -> normalised, reflection-padded channels_last tensor.
#include "csrc/generator/frames.h"
#include "csrc/kernels.h"
#include "csrc/ops/frames.h"

namespace streamgan {
namespace {

Tensor frames_to_tensor(const Tensor& input, double low, double high, int64_t height, int64_t width,
                        ScalarType scalar_type) {
  FramesToTensorTask task = frames_to_tensor_task(input, low, high, height, width, scalar_type);
  const FramesToTensorRow kernel = frames_to_tensor_kernels().row[task.dtype];
  const int64_t image_stride = task.frames.stride(0), row_stride = task.frames.stride(1);
  const int64_t pixel_bytes = 3 * image_element_bytes(task.dtype);
  const auto* from = static_cast<const uint8_t*>(task.frames.const_data_ptr());
  auto* to = static_cast<char*>(task.output.mutable_data_ptr());
  parallel_rows(task.images * height, width, [&](int64_t row) {
    const Frame frame = {from + row / height * image_stride, row_stride, task.input_height, task.input_width};
    write_image_row(kernel, task.dtype, frame, {low, high}, row % height, 0, width, to + row * width * pixel_bytes);
  });
  return task.output;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(streamgan, library) { library.def(kFramesToTensorSchema); }

STABLE_TORCH_LIBRARY_IMPL(streamgan, CPU, library) { library.impl(kFramesToTensor, TORCH_BOX(&frames_to_tensor)); }

}  // namespace streamgan
