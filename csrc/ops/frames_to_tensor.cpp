// streamgan::frames_to_tensor: uint8 frames -> normalised, reflection-padded channels_last tensor.
#include "csrc/cpu/frames_to_tensor.h"

#include <algorithm>
#include <cstring>

#include "csrc/isa.h"
#include "csrc/ops/common.h"

namespace streamgan {
namespace {

constexpr char kOp[] = "frames_to_tensor";

const KernelTable<FramesToTensorKernels> kKernels(kOp, {&kFramesToTensorScalar,
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

// Rows and images may lie apart (a crop, say); pixels may not.
bool has_packed_rows(const Tensor& frames) {
  return frames.stride(3) == 1 && (frames.stride(2) == 3 || frames.size(2) == 1);
}

Tensor frames_to_tensor(const Tensor& input, double low, double high, int64_t height, int64_t width,
                        ScalarType scalar_type) {
  check(input.scalar_type() == ScalarType::Byte, kOp, ": frames must be uint8, not ",
        torch::headeronly::toString(input.scalar_type()));
  check(input.dim() == 4 && input.size(3) == 3, kOp, ": frames must be [N, H, W, 3], not ", shape_of(input));
  const int64_t images = input.size(0), input_height = input.size(1), input_width = input.size(2);
  check(input_height > 0 && input_width > 0, kOp, ": frames ", shape_of(input), " have no pixels");
  check(height >= input_height && width >= input_width, kOp, ": height=", height, ", width=", width,
        " are smaller than the frames, ", shape_of(input), "; it pads, it doesn't crop");
  check_range(kOp, low, high);
  const Dtype dtype = image_dtype(kOp, scalar_type);

  const Tensor frames = has_packed_rows(input) ? input : torch::stable::contiguous(input);
  Tensor output = torch::stable::empty({images, 3, height, width}, scalar_type, std::nullopt, input.device(),
                                       std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);

  const FramesToTensorRow kernel = kKernels.active().row[dtype];
  const auto divisor = static_cast<float>(255.0 / (high - low));
  const int64_t image_stride = frames.stride(0), row_stride = frames.stride(1);
  const int64_t pixel_bytes = 3 * image_element_bytes(dtype);
  const auto* from = static_cast<const uint8_t*>(frames.const_data_ptr());
  auto* to = static_cast<char*>(output.mutable_data_ptr());
  parallel_rows(images * height, width, [&](int64_t row) {
    const int64_t image = row / height, y = reflected(row % height, input_height);
    char* pixels = to + row * width * pixel_bytes;
    kernel(from + image * image_stride + y * row_stride, pixels, input_width, divisor, static_cast<float>(low));
    for (int64_t x = input_width; x < width; ++x) {
      std::memcpy(pixels + x * pixel_bytes, pixels + reflected(x, input_width) * pixel_bytes,
                  static_cast<size_t>(pixel_bytes));
    }
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(streamgan, library) {
  library.def(
      "frames_to_tensor(Tensor frames, float low, float high, SymInt height, SymInt width, ScalarType dtype) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(streamgan, CPU, library) { library.impl(kOp, TORCH_BOX(&frames_to_tensor)); }

}  // namespace streamgan
