// streamgan::fused_generator: a whole generator as a list of convolutions over packed weights
// (engine/fused/lowering.py).
#include <algorithm>
#include <vector>

#include "csrc/generator/plan.h"
#include "csrc/generator/workspace.h"
#include "csrc/ops/common.h"

namespace streamgan {
namespace {

constexpr char kOp[] = "fused_generator";
constexpr int64_t kMaxSide = 1 << 20;

class TorchThreads : public Threads {
 public:
  int64_t count() const override { return torch::stable::get_num_threads(); }

  void run(int64_t items, const Work& work) const override {
    // A thread gets as many items as any other, or all; by number, not in the order in which they come, so that each
    // finds in its own cache what it worked with before.
    const int64_t threads = count(), share = (items + threads - 1) / threads;
    torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) { work(begin, end, begin / share); });
  }
};

Tensor run_all(const Tensor& image, const Tensor& weights, const Tensor& program, int64_t channels, int64_t scale,
               std::vector<double>* seconds) {
  check(image.dim() == 4 && image.size(0) >= 1 && image.size(1) >= 1 && image.size(1) <= kImageChannels &&
            image.size(2) >= 1 && image.size(3) >= 1 && image.size(2) <= kMaxSide && image.size(3) <= kMaxSide,
        kOp, ": image must be [N, 1 to ", kImageChannels, ", H, W], not ", shape_of(image));
  const Dtype dtype = image_dtype(kOp, image.scalar_type());
  check(dtype == kFloat32 || dtype == kBFloat16, kOp, ": image must be Float or BFloat16");
  check(weights.scalar_type() == ScalarType::Byte && weights.dim() == 1 && weights.is_contiguous() &&
            program.scalar_type() == ScalarType::Long && program.dim() == 1 && program.is_contiguous(),
        kOp, ": weights must be one row of bytes, program one of 64-bit integers");
  const TorchThreads threads;
  const Program packed = {{static_cast<const char*>(weights.const_data_ptr()), weights.numel()},
                          static_cast<const int64_t*>(program.const_data_ptr()),
                          program.numel()};
  const Plan plan(packed, image.size(2), image.size(3), threads);
  check(plan.picture_channels() == channels, kOp, ": the generator makes ", plan.picture_channels(), " channels, not ",
        channels);
  check(plan.scale() == scale, kOp, ": the picture is ", plan.scale(), " times as large as the image, not ", scale);
  const int64_t count = image.size(0), height = scale * image.size(2), width = scale * image.size(3);
  Tensor picture =
      torch::stable::empty({count, height, width, channels}, ScalarType::Float, std::nullopt, image.device());
  const Workspace workspace(plan.workspace_bytes());
  if (seconds) seconds->assign(plan.step_count(), 0.0);
  const int64_t bytes = image_element_bytes(dtype);
  for (int64_t n = 0; n < count; ++n) {
    const InputView view = {static_cast<const char*>(image.const_data_ptr()) + n * image.stride(0) * bytes,
                            image.stride(1) * bytes,
                            image.stride(2) * bytes,
                            image.stride(3) * bytes,
                            image.size(1),
                            dtype,
                            1.0f,
                            0.0f};
    float* const to = static_cast<float*>(picture.mutable_data_ptr()) + n * height * width * channels;
    plan.run(view, {to}, workspace.data(), seconds ? seconds->data() : nullptr);
  }
  return picture;
}

Tensor fused_generator(const Tensor& image, const Tensor& weights, const Tensor& program, int64_t channels,
                       int64_t scale) {
  return run_all(image, weights, program, channels, scale, nullptr);
}

// Seconds of each step, float64 [steps].
Tensor fused_generator_seconds(const Tensor& image, const Tensor& weights, const Tensor& program, int64_t channels,
                               int64_t scale) {
  std::vector<double> seconds;
  run_all(image, weights, program, channels, scale, &seconds);
  Tensor result =
      torch::stable::empty({static_cast<int64_t>(seconds.size())}, ScalarType::Double, std::nullopt, image.device());
  std::copy(seconds.begin(), seconds.end(), static_cast<double*>(result.mutable_data_ptr()));
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(streamgan, library) {
  library.def("fused_generator(Tensor image, Tensor weights, Tensor program, int channels, int scale=1) -> Tensor");
  library.def(
      "fused_generator_seconds(Tensor image, Tensor weights, Tensor program, int channels, int scale=1) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(streamgan, CPU, library) {
  library.impl(kOp, TORCH_BOX(&fused_generator));
  library.impl("fused_generator_seconds", TORCH_BOX(&fused_generator_seconds));
}

}  // namespace streamgan
