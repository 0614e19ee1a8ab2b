// streamgan::tensor_to_frames: normalised tensor -> cropped uint8 frames.
#include "csrc/cpu/tensor_to_frames.h"

#include "csrc/isa.h"
#include "csrc/ops/common.h"

namespace streamgan {
namespace {

constexpr char kOp[] = "tensor_to_frames";

const KernelTable<TensorToFramesKernels> kKernels(kOp,
                                                  {&kTensorToFramesScalar,
                                                   STREAMGAN_IF_X86(&kTensorToFramesAvx2, &kTensorToFramesAvx512)});

// Rows and images may lie apart (a crop, say); pixels may not. The stride of an axis of size 1 means nothing.
bool has_interleaved_rows(const Tensor& tensor) {
  return tensor.stride(1) == 1 && (tensor.stride(3) == 3 || tensor.size(3) == 1);
}

bool has_planar_rows(const Tensor& tensor) { return tensor.stride(3) == 1 || tensor.size(3) == 1; }

Tensor tensor_to_frames(const Tensor& input, double low, double high, int64_t height, int64_t width) {
  check(input.dim() == 4 && input.size(1) == 3, kOp, ": tensor must be [N, 3, H, W], not ", shape_of(input));
  check(height >= 1 && width >= 1 && height <= input.size(2) && width <= input.size(3), kOp, ": height=", height,
        ", width=", width, " must be at least 1 and within the tensor, ", shape_of(input),
        "; it crops, it doesn't pad");
  check_range(kOp, low, high);
  const Dtype dtype = image_dtype(kOp, input.scalar_type());

  const bool interleaved = has_interleaved_rows(input);
  const Tensor tensor = interleaved || has_planar_rows(input) ? input : torch::stable::contiguous(input);
  const int64_t images = tensor.size(0);
  Tensor output = torch::stable::empty({images, height, width, 3}, ScalarType::Byte, std::nullopt, input.device());

  const TensorToFramesKernels& kernels = kKernels.active();
  const auto low32 = static_cast<float>(low), scale = static_cast<float>(255.0 / (high - low));
  const int64_t element_bytes = image_element_bytes(dtype);
  const int64_t image_bytes = tensor.stride(0) * element_bytes, plane_bytes = tensor.stride(1) * element_bytes,
                row_bytes = tensor.stride(2) * element_bytes;
  const auto* from = static_cast<const char*>(tensor.const_data_ptr());
  auto* to = static_cast<uint8_t*>(output.mutable_data_ptr());
  parallel_rows(images * height, width, [&](int64_t row) {
    const char* red = from + row / height * image_bytes + row % height * row_bytes;
    uint8_t* bgr = to + row * width * 3;
    if (interleaved) {
      kernels.interleaved[dtype](red, bgr, width, low32, scale);
    } else {
      kernels.planar[dtype](red, red + plane_bytes, red + 2 * plane_bytes, bgr, width, low32, scale);
    }
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(streamgan, library) {
  library.def("tensor_to_frames(Tensor tensor, float low, float high, SymInt height, SymInt width) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(streamgan, CPU, library) { library.impl(kOp, TORCH_BOX(&tensor_to_frames)); }

}  // namespace streamgan
