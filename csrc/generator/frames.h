// Frames of a video for a generator, and back, row by row.
#pragma once

#include <cstdint>

#include "csrc/cpu/frames_to_tensor.h"
#include "csrc/cpu/fused_convolution.h"

namespace streamgan {

// 0 and 255 of a byte stand for these values.
struct ValueRange {
  double low, high;

  // For frames_to_tensor and tensor_to_frames.
  float divisor() const { return static_cast<float>(255.0 / (high - low)); }
  float scale() const { return divisor(); }
};

// A frame in BGR order; rows may lie apart.
struct Frame {
  const uint8_t* data;
  int64_t row_bytes, height, width;
};

// Writes `width` pixels of row y, from `first` on, of the frame in RGB order, with a kernel of frames_to_tensor for
// `dtype`, padded by reflection on the right and, where y is not below its height, on the bottom; the padding may be
// wider than the picture.
void write_image_row(FramesToTensorRow kernel, Dtype dtype, const Frame& frame, const ValueRange& range, int64_t y,
                     int64_t first, int64_t width, char* pixels);

// A frame that a plan reads row by row, as the image that `write_image_row` makes.
struct FrameImage {
  FramesToTensorRow kernel;  // of float32
  Frame frame;
  ValueRange range;

  // For as long as this is there.
  InputView image() const;
};

}  // namespace streamgan
