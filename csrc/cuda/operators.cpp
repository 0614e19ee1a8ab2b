// The operators on CUDA tensors. They run on the current stream, wait for nothing, and take their memory from torch, so
// they may be captured into a CUDA graph. Built into a library of its own, which only a torch with CUDA can load.
#include <tuple>

#include "csrc/cuda/frames.h"
#include "csrc/cuda/instance_norm_act.h"
#include "csrc/cuda/yuv.h"
#include "csrc/ops/frames.h"
#include "csrc/ops/instance_norm_act.h"
#include "csrc/ops/yuv.h"

#if !defined(STREAMGAN_EMULATE)
#include <torch/csrc/stable/accelerator.h>

// Of torch/csrc/inductor/aoti_torch/c/shim.h, which has it only where all of CUDA's headers are asked for.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
#endif

namespace streamgan {
namespace {

#if !defined(STREAMGAN_EMULATE)
// Makes the device of a tensor the current one while it lives, and knows its stream.
class CurrentDevice {
 public:
  explicit CurrentDevice(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
    check(aoti_torch_get_current_cuda_stream(index_, &stream_) == AOTI_TORCH_SUCCESS, "torch has no current stream");
  }
  Stream stream() const { return stream_; }
  const DeviceLimits& limits() const { return device_limits(index_); }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};
#endif

void require_launched(const char* op, const char* wrong) {
  check(wrong == nullptr, op, ": the kernel could not be run: ", wrong == nullptr ? "" : wrong);
}

int as_int(const char* op, int64_t value) {
  check(value >= 0 && value <= 0x7fffffff, op, ": a tensor is too large for it");
  return static_cast<int>(value);
}

Tensor frames_to_tensor(const Tensor& frames, double low, double high, int64_t height, int64_t width,
                        ScalarType dtype) {
  const CurrentDevice device(frames);
  FramesToTensorTask task = frames_to_tensor_task(frames, low, high, height, width, dtype);
  FramesToTensorParameters parameters = {};
  parameters.frames = static_cast<const uint8_t*>(task.frames.const_data_ptr());
  parameters.image_stride = task.frames.stride(0), parameters.row_stride = task.frames.stride(1);
  parameters.tensor = task.output.mutable_data_ptr();
  parameters.images = as_int(kFramesToTensor, task.images);
  parameters.input_height = as_int(kFramesToTensor, task.input_height);
  parameters.input_width = as_int(kFramesToTensor, task.input_width);
  parameters.height = as_int(kFramesToTensor, height), parameters.width = as_int(kFramesToTensor, width);
  parameters.divisor = task.divisor, parameters.low = task.low;
  if (task.images > 0) {
    require_launched(kFramesToTensor, launch_frames_to_tensor(parameters, task.dtype, device.stream()));
  }
  return task.output;
}

Tensor tensor_to_frames(const Tensor& tensor, double low, double high, int64_t height, int64_t width, bool tanh) {
  const CurrentDevice device(tensor);
  TensorToFramesTask task = tensor_to_frames_task(tensor, low, high, height, width);
  TensorToFramesParameters parameters = {};
  parameters.tensor = task.tensor.const_data_ptr();
  parameters.image_stride = task.tensor.stride(0), parameters.channel_stride = task.tensor.stride(1);
  parameters.row_stride = task.tensor.stride(2), parameters.pixel_stride = task.tensor.stride(3);
  parameters.frames = static_cast<uint8_t*>(task.output.mutable_data_ptr());
  parameters.images = as_int(kTensorToFrames, task.images);
  parameters.height = as_int(kTensorToFrames, height), parameters.width = as_int(kTensorToFrames, width);
  parameters.low = task.low, parameters.scale = task.scale, parameters.tanh = tanh;
  if (task.images > 0) {
    require_launched(kTensorToFrames, launch_tensor_to_frames(parameters, task.dtype, device.stream()));
  }
  return task.output;
}

Tensor yuv_to_bgr(const Tensor& luma, const Tensor& chroma, double kr, double kb, bool full_range, bool left_sited,
                  int64_t bits) {
  const CurrentDevice device(luma);
  YuvToBgrTask task = yuv_to_bgr_task(luma, chroma, kr, kb, bits);
  YuvToBgrParameters parameters = {};
  parameters.luma = task.luma.const_data_ptr(), parameters.chroma = task.chroma.const_data_ptr();
  parameters.luma_row_stride = task.luma.stride(0), parameters.chroma_row_stride = task.chroma.stride(0);
  parameters.bgr = static_cast<uint8_t*>(task.output.mutable_data_ptr());
  parameters.height = as_int(kYuvToBgr, task.height), parameters.width = as_int(kYuvToBgr, task.width);
  parameters.bits = static_cast<int>(bits), parameters.left_sited = left_sited;
  parameters.color = {kr, kb, full_range};
  require_launched(kYuvToBgr, launch_yuv_to_bgr(parameters, device.stream()));
  return task.output;
}

Tensor bgr_to_yuv(const Tensor& frame, double kr, double kb, bool full_range) {
  const CurrentDevice device(frame);
  BgrToYuvTask task = bgr_to_yuv_task(frame, kr, kb);
  BgrToYuvParameters parameters = {};
  parameters.bgr = static_cast<const uint8_t*>(task.frame.const_data_ptr());
  parameters.bgr_row_stride = task.frame.stride(0), parameters.yuv_row_stride = task.output.stride(0);
  parameters.yuv = static_cast<uint8_t*>(task.output.mutable_data_ptr());
  parameters.height = as_int(kBgrToYuv, task.height), parameters.width = as_int(kBgrToYuv, task.width);
  parameters.color = {kr, kb, full_range};
  require_launched(kBgrToYuv, launch_bgr_to_yuv(parameters, device.stream()));
  return task.output;
}

bool has_unit_pixels(const Tensor& tensor, const NormShape& shape) {
  return (tensor.stride(1) == 1 || shape.channels == 1) && (tensor.stride(3) == shape.channels || shape.width == 1);
}

// Rows and images of an interleaved residual may lie apart, as in the middle of a padded tensor: it is read in place.
Tensor norm_residual(const Tensor& residual, const NormShape& shape) {
  const bool in_place = shape.interleaved && residual.dim() == 4 && residual.size(0) == shape.images &&
                        residual.size(1) == shape.channels && residual.size(2) == shape.height &&
                        residual.size(3) == shape.width && has_unit_pixels(residual, shape) &&
                        image_dtype(kInstanceNormAct, residual.scalar_type()) == shape.dtype;
  return in_place ? residual : in_norm_layout(residual, shape, "residual");
}

// `given`: where to write; null: into memory of its own.
std::tuple<Tensor, Tensor, Tensor> normalise(const Tensor& tensor, const std::optional<Tensor>& weight,
                                             const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                                             double epsilon, double slope, bool over_channels,
                                             const std::vector<int64_t>& pads, const Tensor* given) {
  const CurrentDevice device(tensor);
  const NormShape shape = norm_shape(tensor);
  const Padding pad = norm_padding(pads, shape);
  as_int(kInstanceNormAct, shape.places() * (shape.interleaved ? 1 : shape.channels));
  const Tensor input = in_norm_layout(tensor, shape, "input");
  std::optional<Tensor> around;
  if (residual) {
    check_norm_device(*residual, tensor, "residual");
    around = norm_residual(*residual, shape);
  }

  const std::vector<int64_t> statistics_shape = {shape.images, shape.channels};
  Tensor mean = torch::stable::empty(statistics_shape, ScalarType::Float, std::nullopt, tensor.device());
  Tensor rstd = torch::stable::empty(statistics_shape, ScalarType::Float, std::nullopt, tensor.device());
  const int64_t height = pad.top + shape.height + pad.bottom, width = pad.left + shape.width + pad.right;
  if (given != nullptr) {
    check_norm_device(*given, tensor, "output");
    check_norm_output(*given, shape, height, width);
  }
  Tensor output = given != nullptr ? *given : empty_in_norm_layout(input, shape, height, width);
  NormParameters norm = {};
  norm.input = input.const_data_ptr();
  norm.output = output.mutable_data_ptr();
  norm.weight = channel_values(weight, shape, tensor, "weight"),
  norm.bias = channel_values(bias, shape, tensor, "bias");
  norm.mean = static_cast<float*>(mean.mutable_data_ptr());
  norm.rstd = static_cast<float*>(rstd.mutable_data_ptr());
  norm.images = as_int(kInstanceNormAct, shape.images), norm.channels = as_int(kInstanceNormAct, shape.channels);
  norm.height = as_int(kInstanceNormAct, shape.height), norm.width = as_int(kInstanceNormAct, shape.width);
  norm.left = static_cast<int>(pad.left), norm.right = static_cast<int>(pad.right);
  norm.top = static_cast<int>(pad.top), norm.bottom = static_cast<int>(pad.bottom);
  norm.epsilon = static_cast<float>(epsilon), norm.slope = static_cast<float>(slope);
  norm.over_channels = over_channels;

  constexpr int64_t kAccessBytes = 16;
  const auto allows_vectors = [&](const void* pointer, int64_t stride) {
    return reinterpret_cast<uintptr_t>(pointer) % kAccessBytes == 0 && stride * shape.element_bytes % kAccessBytes == 0;
  };
  bool vectors = allows_vectors(norm.input, 0) && allows_vectors(norm.output, 0);
  if (around) {
    norm.residual = around->const_data_ptr();
    norm.residual_row_stride = around->stride(2), norm.residual_image_stride = around->stride(0);
    vectors = vectors && allows_vectors(norm.residual, 0);
    if (shape.interleaved) {
      vectors = vectors && (shape.height == 1 || allows_vectors(norm.residual, norm.residual_row_stride)) &&
                (shape.images == 1 || allows_vectors(norm.residual, norm.residual_image_stride));
    }
  }
  const NormPlan plan = plan_instance_norm(norm, shape.dtype, shape.interleaved, vectors, device.limits());
  const Tensor workspace =
      torch::stable::empty({norm_workspace(norm, plan)}, ScalarType::Float, std::nullopt, tensor.device());
  norm.partial = static_cast<float*>(workspace.mutable_data_ptr());
  require_launched(kInstanceNormAct,
                   launch_instance_norm_act(norm, plan, shape.dtype, shape.interleaved, device.stream()));
  return {output, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_act(const Tensor& tensor, const std::optional<Tensor>& weight,
                                                     const std::optional<Tensor>& bias,
                                                     const std::optional<Tensor>& residual, double epsilon,
                                                     double slope, bool over_channels, std::vector<int64_t> pads) {
  return normalise(tensor, weight, bias, residual, epsilon, slope, over_channels, pads, nullptr);
}

void instance_norm_act_out(const Tensor& tensor, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                           const std::optional<Tensor>& residual, double epsilon, double slope, bool over_channels,
                           std::vector<int64_t> pads, const Tensor& output) {
  normalise(tensor, weight, bias, residual, epsilon, slope, over_channels, pads, &output);
}

}  // namespace

#if defined(STREAMGAN_EMULATE)
STABLE_TORCH_LIBRARY(streamgan_emulated, library) {
  library.def(kFramesToTensorSchema);
  library.def(kTensorToFramesSchema);
  library.def(kInstanceNormActSchema);
  library.def(kInstanceNormActOutSchema);
  library.def(kYuvToBgrSchema);
  library.def(kBgrToYuvSchema);
}
STABLE_TORCH_LIBRARY_IMPL(streamgan_emulated, CPU, library) {
#else
STABLE_TORCH_LIBRARY_IMPL(streamgan, CUDA, library) {
#endif
  library.impl(kFramesToTensor, TORCH_BOX(&frames_to_tensor));
  library.impl(kTensorToFrames, TORCH_BOX(&tensor_to_frames));
  library.impl(kInstanceNormAct, TORCH_BOX(&instance_norm_act));
  library.impl(kInstanceNormActOut, TORCH_BOX(&instance_norm_act_out));
  library.impl(kYuvToBgr, TORCH_BOX(&yuv_to_bgr));
  library.impl(kBgrToYuv, TORCH_BOX(&bgr_to_yuv));
}

}  // namespace streamgan
