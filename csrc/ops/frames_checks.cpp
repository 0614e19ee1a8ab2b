#include "csrc/ops/frames.h"

namespace streamgan {
namespace {

// Rows and images may lie apart (a crop, say); pixels may not.
bool has_packed_rows(const Tensor& frames) {
  return frames.stride(3) == 1 && (frames.stride(2) == 3 || frames.size(2) == 1);
}

// Rows and images may lie apart (a crop, say); pixels may not. The stride of an axis of size 1 means nothing.
bool has_interleaved_rows(const Tensor& tensor) {
  return tensor.stride(1) == 1 && (tensor.stride(3) == 3 || tensor.size(3) == 1);
}

bool has_planar_rows(const Tensor& tensor) { return tensor.stride(3) == 1 || tensor.size(3) == 1; }

}  // namespace

FramesToTensorTask frames_to_tensor_task(const Tensor& input, double low, double high, int64_t height, int64_t width,
                                         ScalarType scalar_type) {
  check(input.scalar_type() == ScalarType::Byte, kFramesToTensor, ": frames must be uint8, not ",
        torch::headeronly::toString(input.scalar_type()));
  check(input.dim() == 4 && input.size(3) == 3, kFramesToTensor, ": frames must be [N, H, W, 3], not ",
        shape_of(input));
  const int64_t images = input.size(0), input_height = input.size(1), input_width = input.size(2);
  check(input_height > 0 && input_width > 0, kFramesToTensor, ": frames ", shape_of(input), " have no pixels");
  check(height >= input_height && width >= input_width, kFramesToTensor, ": height=", height, ", width=", width,
        " are smaller than the frames, ", shape_of(input), "; it pads, it doesn't crop");
  check_range(kFramesToTensor, low, high);
  const Dtype dtype = image_dtype(kFramesToTensor, scalar_type);

  const Tensor frames = has_packed_rows(input) ? input : torch::stable::contiguous(input);
  Tensor output = torch::stable::empty({images, 3, height, width}, scalar_type, std::nullopt, input.device(),
                                       std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
  return {frames,
          output,
          dtype,
          images,
          input_height,
          input_width,
          height,
          width,
          static_cast<float>(255.0 / (high - low)),
          static_cast<float>(low)};
}

TensorToFramesTask tensor_to_frames_task(const Tensor& input, double low, double high, int64_t height, int64_t width) {
  check(input.dim() == 4 && input.size(1) == 3, kTensorToFrames, ": tensor must be [N, 3, H, W], not ",
        shape_of(input));
  check(height >= 1 && width >= 1 && height <= input.size(2) && width <= input.size(3), kTensorToFrames,
        ": height=", height, ", width=", width, " must be at least 1 and within the tensor, ", shape_of(input),
        "; it crops, it doesn't pad");
  check_range(kTensorToFrames, low, high);
  const Dtype dtype = image_dtype(kTensorToFrames, input.scalar_type());

  const bool interleaved = has_interleaved_rows(input);
  const Tensor tensor = interleaved || has_planar_rows(input) ? input : torch::stable::contiguous(input);
  const int64_t images = tensor.size(0);
  Tensor output = torch::stable::empty({images, height, width, 3}, ScalarType::Byte, std::nullopt, input.device());
  return {tensor,
          interleaved,
          output,
          dtype,
          images,
          height,
          width,
          static_cast<float>(low),
          static_cast<float>(255.0 / (high - low))};
}

}  // namespace streamgan
