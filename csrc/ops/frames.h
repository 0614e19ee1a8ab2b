// What the CPU's and the GPU's forms of frames_to_tensor and tensor_to_frames share: checks, layouts, and the results
// that are to be filled.
#pragma once

#include "csrc/ops/common.h"

namespace streamgan {

constexpr char kFramesToTensor[] = "frames_to_tensor";
constexpr char kFramesToTensorSchema[] =
    "frames_to_tensor(Tensor frames, float low, float high, SymInt height, SymInt width, ScalarType dtype) -> Tensor";

struct FramesToTensorTask {
  Tensor frames;  // uint8 [images, input_height, input_width, 3]; rows and images may lie apart, pixels may not
  Tensor output;  // [images, 3, height, width], channels_last
  Dtype dtype;    // of output
  int64_t images, input_height, input_width, height, width;
  float divisor, low;
};

FramesToTensorTask frames_to_tensor_task(const Tensor& frames, double low, double high, int64_t height, int64_t width,
                                         ScalarType dtype);

constexpr char kTensorToFrames[] = "tensor_to_frames";
constexpr char kTensorToFramesSchema[] =
    "tensor_to_frames(Tensor tensor, float low, float high, SymInt height, SymInt width, bool tanh=False) -> Tensor";

struct TensorToFramesTask {
  Tensor tensor;     // [images, 3, at least height, at least width]
  bool interleaved;  // else each row of a plane is dense; of both, rows and images may lie apart
  Tensor output;     // uint8 [images, height, width, 3]
  Dtype dtype;       // of tensor
  int64_t images, height, width;
  float low, scale;
};

TensorToFramesTask tensor_to_frames_task(const Tensor& tensor, double low, double high, int64_t height, int64_t width);

}  // namespace streamgan
