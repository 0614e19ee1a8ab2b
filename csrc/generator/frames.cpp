#include "csrc/generator/frames.h"

#include <algorithm>

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
                     int64_t first, int64_t width, char* pixels) {
  const int64_t pixel_bytes = dtype == kFloat32 ? 12 : 6;
  const uint8_t* const row = frame.data + reflected(y, frame.height) * frame.row_bytes;
  const auto write = [&](int64_t x, int64_t count, char* to) {
    kernel(row + 3 * x, to, count, range.divisor(), static_cast<float>(range.low));
  };
  const int64_t inside = std::clamp<int64_t>(frame.width - first, 0, width);
  if (inside > 0) write(first, inside, pixels);
  for (int64_t i = inside; i < width; ++i) write(reflected(first + i, frame.width), 1, pixels + i * pixel_bytes);
}

InputView FrameImage::image() const {
  const auto read = [](const char* data, int64_t row, int64_t first, int64_t width, float* to) {
    const auto& [kernel, frame, range] = *reinterpret_cast<const FrameImage*>(data);
    write_image_row(kernel, kFloat32, frame, range, row, first, width, reinterpret_cast<char*>(to));
  };
  return {reinterpret_cast<const char*>(this), 0, 0, 0, kImageChannels, kFloat32, 1.0f, 0.0f, read};
}

}  // namespace streamgan
