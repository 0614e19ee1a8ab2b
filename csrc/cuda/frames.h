// frames_to_tensor and tensor_to_frames on a GPU. Formulas as in csrc/cpu/frames_to_tensor.h and tensor_to_frames.h,
// with the same bits where no tanh is asked for.
#pragma once

#include <stdint.h>

#include "csrc/cpu/tier.h"
#include "csrc/cuda/limits.h"

namespace streamgan {

struct FramesToTensorParameters {
  const uint8_t* frames;             // [images][input_height][input_width][3], BGR
  int64_t image_stride, row_stride;  // bytes
  void* tensor;                      // [images][height][width][3], RGB
  int images, input_height, input_width, height, width;
  float divisor, low;
};

struct TensorToFramesParameters {
  const void* tensor;  // RGB, strides in elements
  int64_t image_stride, channel_stride, row_stride, pixel_stride;
  uint8_t* frames;  // [images][height][width][3], BGR
  int images, height, width;
  float low, scale;
  bool tanh;  // of the tensor, first
};

// Both return null, or what is wrong, and are asynchronous on `stream`.
const char* launch_frames_to_tensor(const FramesToTensorParameters& parameters, Dtype dtype, Stream stream);
const char* launch_tensor_to_frames(const TensorToFramesParameters& parameters, Dtype dtype, Stream stream);

}  // namespace streamgan
