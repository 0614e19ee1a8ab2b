#include "csrc/generator/frames.h"

#include <cstring>

namespace streamgan {
namespace {

// Index below `size` that `index` shows when the axis is mirrored at its first and last element without repeating
// them: 0 1 2 3 2 1 0 1 2 ..., of period 2 * (size - 1). A single element repeats.
int64_t reflected(int64_t index, int64_t size) {
  if (size == 1) return 0;
  const int64_t period = 2 * (size - 1);
  const int64_t phase = index % period;
  return phase < size ? phase : period - phase;
}

}  // namespace

void write_image_row(FramesToTensorRow kernel, Dtype dtype, const Frame& frame, const ValueRange& range, int64_t y,
                     int64_t width, char* pixels) {
  const int64_t pixel_bytes = dtype == kFloat32 ? 12 : 6;
  kernel(frame.data + reflected(y, frame.height) * frame.row_bytes, pixels, frame.width, range.divisor(),
         static_cast<float>(range.low));
  for (int64_t x = frame.width; x < width; ++x) {
    std::memcpy(pixels + x * pixel_bytes, pixels + reflected(x, frame.width) * pixel_bytes,
                static_cast<size_t>(pixel_bytes));
  }
}

}  // namespace streamgan
