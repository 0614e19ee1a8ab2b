// engine._native.image_of_frame and frame_of_image: what streamgan::frames_to_tensor and tensor_to_frames do, for numpy
// arrays, where there is no torch. In one thread: a frame of 1280x720 takes a fraction of a millisecond.
#include "csrc/python/frames.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <utility>

#include "csrc/check.h"
#include "csrc/cpu/tensor_to_frames.h"
#include "csrc/generator/frames.h"
#include "csrc/kernels.h"

namespace py = pybind11;

namespace streamgan {
namespace {

constexpr int64_t kChannels = 3;

using Range = std::pair<double, double>;

Dtype dtype_of(const char* name, const std::string& dtype) {
  check(dtype == "float32" || dtype == "bfloat16" || dtype == "float16", name, ": dtype ", dtype,
        " is none of float32, bfloat16, float16");
  return dtype == "float32" ? kFloat32 : dtype == "bfloat16" ? kBFloat16 : kFloat16;
}

py::dtype array_dtype(Dtype dtype) { return dtype == kFloat32 ? py::dtype::of<float>() : py::dtype::of<uint16_t>(); }

py::array image_of_frame(const py::array_t<uint8_t, py::array::c_style>& frame, const std::pair<int64_t, int64_t>& size,
                         const Range& range, const std::string& dtype_name) {
  constexpr char kName[] = "image_of_frame";
  check(frame.ndim() == 3 && frame.shape(2) == kChannels, kName, ": frame must be [H, W, 3]");
  const int64_t height = frame.shape(0), width = frame.shape(1);
  check(height >= 1 && width >= 1 && size.first >= height && size.second >= width, kName, ": a frame of ", width, "x",
        height, " is not to be padded to ", size.second, "x", size.first);
  const ValueRange values = checked_range(kName, range);
  const Dtype dtype = dtype_of(kName, dtype_name);
  py::array image(array_dtype(dtype), {size.first, size.second, static_cast<int64_t>(kChannels)});
  const FramesToTensorRow kernel = frames_to_tensor_kernels().row[dtype];
  const Frame from = {frame.data(), width * kChannels, height, width};
  auto* to = static_cast<char*>(image.mutable_data());
  const int64_t row_bytes = size.second * kChannels * image.itemsize();
  const py::gil_scoped_release release;
  for (int64_t y = 0; y < size.first; ++y) {
    write_image_row(kernel, dtype, from, values, y, 0, size.second, to + y * row_bytes);
  }
  return image;
}

py::array frame_of_image(const py::array& image, const std::pair<int64_t, int64_t>& size, const Range& range,
                         const std::string& dtype_name) {
  constexpr char kName[] = "frame_of_image";
  const Dtype dtype = dtype_of(kName, dtype_name);
  check(image.dtype().num() == array_dtype(dtype).num(), kName, ": image is not what ", dtype_name, " is kept as");
  check(image.ndim() == 3 && image.shape(0) == kChannels, kName, ": image must be [3, H, W]");
  const auto [height, width] = size;
  check(height >= 1 && width >= 1 && height <= image.shape(1) && width <= image.shape(2), kName, ": an image of ",
        image.shape(2), "x", image.shape(1), " is not to be cropped to ", width, "x", height);
  const ValueRange values = checked_range(kName, range);
  const bool interleaved = image.strides(0) == image.itemsize() && image.strides(2) == kChannels * image.itemsize();
  check(interleaved || image.strides(2) == image.itemsize(), kName, ": pixels must lie beside each other");
  py::array_t<uint8_t> frame({height, width, static_cast<int64_t>(kChannels)});
  const TensorToFramesKernels& kernels = tensor_to_frames_kernels();
  const auto* from = static_cast<const char*>(image.data());
  const int64_t plane_bytes = image.strides(0), row_bytes = image.strides(1);
  uint8_t* to = frame.mutable_data();
  const auto low = static_cast<float>(values.low);
  const py::gil_scoped_release release;
  for (int64_t y = 0; y < height; ++y) {
    const char* red = from + y * row_bytes;
    uint8_t* bgr = to + y * width * kChannels;
    if (interleaved) {
      kernels.interleaved[dtype](red, bgr, width, low, values.scale());
    } else {
      kernels.planar[dtype](red, red + plane_bytes, red + 2 * plane_bytes, bgr, width, low, values.scale());
    }
  }
  return std::move(frame);
}

}  // namespace

ValueRange checked_range(const char* function, const std::pair<double, double>& range) {
  const auto [low, high] = range;
  check(low >= -1e6 && high <= 1e6 && high - low >= 1e-6, function, ": ", low, " to ", high, " is no range of values");
  return {low, high};
}

}  // namespace streamgan

void define_frames(py::module_& module) {
  module.def("image_of_frame", &streamgan::image_of_frame, py::arg("frame").noconvert(), py::arg("size"),
             py::arg("value_range"), py::arg("dtype"),
             "uint8 [h, w, 3], BGR -> [H, W, 3], RGB, for `size` (H, W), padded by reflection; float32, or uint16 that "
             "holds the bits of bfloat16 or float16. 0 and 255 become the ends of `value_range`.");
  module.def("frame_of_image", &streamgan::frame_of_image, py::arg("image"), py::arg("size"), py::arg("value_range"),
             py::arg("dtype"),
             "[3, H, W], RGB, of any layout whose pixels lie beside each other -> uint8 [h, w, 3], BGR, cropped to "
             "`size` (h, w), rounded and clamped.");
}
