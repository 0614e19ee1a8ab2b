// engine._native.Generator: a fused generator that runs on numpy arrays, with threads of its own, where there is no
// torch.
#include "csrc/python/generator.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "csrc/check.h"
#include "csrc/cpu/tensor_to_frames.h"
#include "csrc/generator/frames.h"
#include "csrc/generator/plan.h"
#include "csrc/generator/workspace.h"
#include "csrc/kernels.h"
#include "csrc/python/frames.h"
#include "csrc/thread_pool.h"

namespace py = pybind11;

namespace streamgan {
namespace {

constexpr char kName[] = "Generator";
constexpr int64_t kMaxSide = 1 << 20;
constexpr int64_t kChannels = 3;

template <typename Value>
using Array = py::array_t<Value, py::array::c_style>;

using Size = std::pair<int64_t, int64_t>;  // height, width
using Range = std::pair<double, double>;

class Generator {
 public:
  Generator(Array<uint8_t> weights, Array<int64_t> program, int64_t threads)
      : weights_(std::move(weights)), program_(std::move(program)), threads_(threads) {
    check(weights_.ndim() == 1 && program_.ndim() == 1, kName, ": weights and program must have one axis");
    check(reinterpret_cast<uintptr_t>(weights_.data()) % 64 == 0, kName, ": weights must begin at a multiple of 64");
  }

  // float32 [H, W, 3] -> float32 [H * scale, W * scale, channels].
  Array<float> run(const Array<float>& image) {
    check(image.ndim() == 3 && image.shape(2) == kChannels, kName, ": image must be [H, W, 3]");
    const std::lock_guard<std::mutex> turn(released(turn_), std::adopt_lock);
    make_ready({image.shape(0), image.shape(1)});
    const int64_t scale = plan_->scale();
    Array<float> picture({scale * image.shape(0), scale * image.shape(1), plan_->picture_channels()});
    const float* from = image.data();
    float* to = picture.mutable_data();
    {
      const py::gil_scoped_release release;
      plan_->run(image_of(from), {to}, workspace_->data(), nullptr);
    }
    return picture;
  }

  // uint8 [H, W, 3] -> uint8 [H * scale, W * scale, 3], by way of an image of `padded` size.
  Array<uint8_t> translate(const Array<uint8_t>& frame, const Size& padded, const Range& input, const Range& output) {
    check(frame.ndim() == 3 && frame.shape(2) == kChannels, kName, ": frame must be [H, W, 3]");
    const int64_t height = frame.shape(0), width = frame.shape(1);
    check(height >= 1 && width >= 1 && padded.first >= height && padded.second >= width, kName, ": a frame of ", width,
          "x", height, " is not to be padded to ", padded.second, "x", padded.first);
    const ValueRange in = checked_range(kName, input), out = checked_range(kName, output);
    const std::lock_guard<std::mutex> turn(released(turn_), std::adopt_lock);
    make_ready(padded);
    check(plan_->picture_channels() == kChannels, kName, ": makes ", plan_->picture_channels(), " channels, no frame");
    const int64_t scale = plan_->scale();
    Array<uint8_t> translated({scale * height, scale * width, kChannels});
    const FrameImage from = {
        frames_to_tensor_kernels().row[kFloat32], {frame.data(), width * kChannels, height, width}, in};
    const TensorToFramesKernels& to_bytes = tensor_to_frames_kernels();
    const OutputView to = {nullptr,
                           translated.mutable_data(),
                           scale * height,
                           scale * width,
                           to_bytes.interleaved[kFloat32],
                           to_bytes.planar[kFloat32],
                           static_cast<float>(out.low),
                           out.scale()};
    {
      const py::gil_scoped_release release;
      plan_->run(from.image(), to, workspace_->data(), nullptr);
    }
    return translated;
  }

  int64_t workspace_bytes(const Size& size) const {
    return Plan(program(), size.first, size.second, threads_).workspace_bytes();
  }
  int64_t threads() const { return threads_.count(); }

 private:
  // A lock that is waited for without holding Python's.
  static std::mutex& released(std::mutex& mutex) {
    const py::gil_scoped_release release;
    mutex.lock();
    return mutex;
  }

  Program program() const {
    return {{reinterpret_cast<const char*>(weights_.data()), weights_.size()}, program_.data(), program_.size()};
  }

  // Plan and memory for images of this size; those of the last size are kept.
  void make_ready(const Size& size) {
    if (plan_ && size == size_) return;
    const auto [height, width] = size;
    check(height >= 1 && width >= 1 && height <= kMaxSide && width <= kMaxSide, kName, ": an image of ", width, "x",
          height);
    auto plan = std::make_unique<Plan>(program(), height, width, threads_);
    plan_.reset();
    workspace_.reset();
    workspace_ = std::make_unique<Workspace>(plan->workspace_bytes());
    plan_ = std::move(plan);
    size_ = size;
  }

  InputView image_of(const float* data) const {
    return {reinterpret_cast<const char*>(data),
            4,
            size_.second * kChannels * 4,
            kChannels * 4,
            kChannels,
            kFloat32,
            1.0f,
            0.0f};
  }

  const Array<uint8_t> weights_;
  const Array<int64_t> program_;
  const ThreadPool threads_;
  std::mutex turn_;
  Size size_;
  std::unique_ptr<Plan> plan_;
  std::unique_ptr<Workspace> workspace_;
};

}  // namespace
}  // namespace streamgan

void define_generator(py::module_& module) {
  using streamgan::Array;
  using streamgan::Generator;
  py::class_<Generator>(module, "Generator",
                        "A fused generator: packed weights and a program (engine/runners/packed.py).")
      .def(py::init<Array<uint8_t>, Array<int64_t>, int64_t>(), py::arg("weights").noconvert(),
           py::arg("program").noconvert(), py::arg("threads"))
      .def("run", &Generator::run, py::arg("image").noconvert(),
           "float32 [H, W, 3], RGB, in the generator's range -> float32 [H * scale, W * scale, channels].")
      .def(
          "translate", &Generator::translate, py::arg("frame").noconvert(), py::arg("padded"), py::arg("input_range"),
          py::arg("output_range"),
          "uint8 [H, W, 3], BGR -> uint8 [H * scale, W * scale, 3]. `padded` is the (height, width) that the generator "
          "sees.")
      .def("workspace_bytes", &Generator::workspace_bytes, py::arg("size"),
           "What an image of (height, width) needs beside weights, image and picture, in bytes.")
      .def_property_readonly("threads", &Generator::threads);
}
