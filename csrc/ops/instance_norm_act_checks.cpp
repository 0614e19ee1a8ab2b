#include "csrc/ops/instance_norm_act.h"

namespace streamgan {
namespace {

bool is_interleaved(const Tensor& tensor) {
  const int64_t channels = tensor.size(1), height = tensor.size(2), width = tensor.size(3);
  return (tensor.stride(1) == 1 || channels == 1) && (tensor.stride(3) == channels || width == 1) &&
         (tensor.stride(2) == width * channels || height == 1) &&
         (tensor.stride(0) == height * width * channels || tensor.size(0) == 1);
}

}  // namespace

NormShape norm_shape(const Tensor& input) {
  check(input.dim() == 4 && input.numel() > 0, kInstanceNormAct,
        ": input must be [N, C, H, W] and hold something, not ", shape_of(input));
  const Dtype dtype = image_dtype(kInstanceNormAct, input.scalar_type());
  // Of one channel both layouts are the same.
  const bool interleaved = is_interleaved(input) && !(input.is_contiguous() && input.size(1) == 1);
  return {input.size(0), input.size(1), input.size(2), input.size(3), interleaved, dtype, image_element_bytes(dtype)};
}

Tensor in_norm_layout(const Tensor& tensor, const NormShape& shape, const char* name) {
  check(tensor.dim() == 4 && tensor.size(0) == shape.images && tensor.size(1) == shape.channels &&
            tensor.size(2) == shape.height && tensor.size(3) == shape.width &&
            image_dtype(kInstanceNormAct, tensor.scalar_type()) == shape.dtype,
        kInstanceNormAct, ": ", name, " must have the shape and dtype of input, not ", shape_of(tensor));
  if (shape.interleaved) {
    if (is_interleaved(tensor)) return tensor;
    Tensor copy = torch::stable::empty({shape.images, shape.height, shape.width, shape.channels}, tensor.scalar_type(),
                                       std::nullopt, tensor.device());
    copy = torch::stable::transpose(torch::stable::transpose(copy, 2, 3), 1, 2);
    torch::stable::copy_(copy, tensor);
    return copy;
  }
  return torch::stable::contiguous(tensor);
}

// [N, C, height, width] in the layout of the input.
Tensor empty_in_norm_layout(const Tensor& input, const NormShape& shape, int64_t height, int64_t width) {
  if (!shape.interleaved) {
    return torch::stable::empty({shape.images, shape.channels, height, width}, input.scalar_type(), std::nullopt,
                                input.device());
  }
  Tensor memory = torch::stable::empty({shape.images, height, width, shape.channels}, input.scalar_type(), std::nullopt,
                                       input.device());
  return torch::stable::transpose(torch::stable::transpose(memory, 2, 3), 1, 2);
}

void check_norm_output(const Tensor& output, const NormShape& shape, int64_t height, int64_t width) {
  check(output.dim() == 4 && output.size(0) == shape.images && output.size(1) == shape.channels &&
            output.size(2) == height && output.size(3) == width &&
            image_dtype(kInstanceNormAct, output.scalar_type()) == shape.dtype &&
            (shape.interleaved ? is_interleaved(output) : output.is_contiguous()),
        kInstanceNormAct, ": output must be [", shape.images, ", ", shape.channels, ", ", height, ", ", width,
        "] in the dtype and layout of input, not ", shape_of(output));
}

void check_norm_device(const Tensor& tensor, const Tensor& input, const char* name) {
  check(tensor.device() == input.device(), kInstanceNormAct, ": ", name, " must be on the device of input");
}

const float* channel_values(const std::optional<Tensor>& tensor, const NormShape& shape, const Tensor& input,
                            const char* name) {
  if (!tensor) return nullptr;
  check_norm_device(*tensor, input, name);
  check(tensor->dim() == 1 && tensor->size(0) == shape.channels && tensor->scalar_type() == ScalarType::Float &&
            tensor->is_contiguous(),
        kInstanceNormAct, ": ", name, " must be Float [", shape.channels, "], not ", shape_of(*tensor));
  return static_cast<const float*>(tensor->const_data_ptr());
}

Padding norm_padding(const std::vector<int64_t>& pad, const NormShape& shape) {
  check(pad.size() == 4, kInstanceNormAct, ": pad must be [left, right, top, bottom]");
  for (size_t i = 0; i < 4; ++i) {
    const int64_t size = i < 2 ? shape.width : shape.height;
    check(pad[i] >= 0 && pad[i] < size, kInstanceNormAct, ": pad=", pad[i], " must be at least 0 and below the side, ",
          size);
  }
  return {pad[0], pad[1], pad[2], pad[3]};
}

}  // namespace streamgan
