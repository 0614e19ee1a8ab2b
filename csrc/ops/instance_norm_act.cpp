// streamgan::instance_norm_act: normalise, affine, activation, residual and reflect padding in one operator, and its
// gradients.
#include "csrc/ops/instance_norm_act.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "csrc/cpu/instance_norm_act.h"
#include "csrc/kernels.h"

namespace streamgan {
namespace {

constexpr int64_t kChunkElements = 4096;  // of statistics: stay in the first-level cache between two passes

NormShape cpu_norm_shape(const Tensor& input) {
  const NormShape shape = norm_shape(input);
  check(shape.dtype != kFloat16, kInstanceNormAct, ": on the CPU input must be Float or BFloat16");
  return shape;
}

// Position in the kernels' lists.
int element_of(const NormShape& shape) { return shape.dtype == kBFloat16 ? 1 : 0; }

const NormLayoutKernels& kernels_for(const NormShape& shape) {
  const InstanceNormActKernels& kernels = instance_norm_act_kernels();
  return shape.interleaved ? kernels.interleaved : kernels.planar;
}

const char* unit_of(const Tensor& tensor, const NormShape& shape, int64_t unit) {
  return static_cast<const char*>(tensor.const_data_ptr()) + unit * shape.unit_bytes();
}

// Means and variances of all channels of all images, from those of chunks of places (Chan et al.'s pairwise formula).
void find_statistics(const Tensor& input, const NormShape& shape, float* mean, float* variance) {
  const NormLayoutKernels& kernels = kernels_for(shape);
  const int64_t channels = shape.unit_channels(), places = shape.places();
  const int64_t chunk = std::max<int64_t>(kChunkElements / channels, 1), chunks = (places + chunk - 1) / chunk;
  std::vector<float> partial(shape.units() * chunks * 2 * channels);
  torch::stable::parallel_for(0, shape.units() * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % chunks * chunk;
      const char* from = unit_of(input, shape, i / chunks) + first * channels * shape.element_bytes;
      float* to = &partial[i * 2 * channels];
      kernels.statistics[element_of(shape)](from, std::min(chunk, places - first), channels, to, to + channels);
    }
  });
  for (int64_t unit = 0; unit < shape.units(); ++unit) {
    for (int64_t c = 0; c < channels; ++c) {
      double count = 0, middle = 0, m2 = 0;
      for (int64_t i = 0; i < chunks; ++i) {
        const float* of_chunk = &partial[(unit * chunks + i) * 2 * channels];
        const double more = static_cast<double>(std::min(chunk, places - i * chunk)), distance = of_chunk[c] - middle;
        m2 += of_chunk[channels + c] + distance * distance * count * more / (count + more);
        middle += distance * more / (count + more);
        count += more;
      }
      mean[shape.coefficients(unit) + c] = static_cast<float>(middle);
      variance[shape.coefficients(unit) + c] = static_cast<float>(m2 / count);
    }
  }
}

// One mean and variance for all channels of an image, from those of its channels.
void join_channels(const NormShape& shape, float* mean, float* variance) {
  for (int64_t n = 0; n < shape.images; ++n) {
    float *means = mean + n * shape.channels, *variances = variance + n * shape.channels;
    double middle = 0, total = 0;
    for (int64_t c = 0; c < shape.channels; ++c) middle += means[c];
    middle /= static_cast<double>(shape.channels);
    for (int64_t c = 0; c < shape.channels; ++c) total += variances[c] + (means[c] - middle) * (means[c] - middle);
    std::fill_n(means, shape.channels, static_cast<float>(middle));
    std::fill_n(variances, shape.channels, static_cast<float>(total / static_cast<double>(shape.channels)));
  }
}

int64_t reflected(int64_t index, int64_t size) {
  const int64_t up = index < 0 ? -index : index;
  return up < size ? up : 2 * (size - 1) - up;
}

// A row of the result: computed, then continued at both ends by what was computed.
void write_row(const NormLayoutKernels& kernels, const NormShape& shape, const Padding& pad, NormRow row, char* to) {
  const int64_t step = shape.unit_channels() * shape.element_bytes;
  row.to = to + pad.left * step;
  kernels.forward[element_of(shape)](row);
  for (int64_t x = -pad.left; x < 0; ++x) {
    std::copy_n(static_cast<char*>(row.to) + reflected(x, shape.width) * step, step,
                static_cast<char*>(row.to) + x * step);
  }
  for (int64_t x = shape.width; x < shape.width + pad.right; ++x) {
    std::copy_n(static_cast<char*>(row.to) + reflected(x, shape.width) * step, step,
                static_cast<char*>(row.to) + x * step);
  }
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_act(const Tensor& tensor, const std::optional<Tensor>& weight,
                                                     const std::optional<Tensor>& bias,
                                                     const std::optional<Tensor>& residual, double epsilon,
                                                     double slope, bool over_channels, std::vector<int64_t> pads) {
  const NormShape shape = cpu_norm_shape(tensor);
  const Padding pad = norm_padding(pads, shape);
  const Tensor input = in_norm_layout(tensor, shape, "input");
  const float *weights = channel_values(weight, shape, tensor, "weight"),
              *biases = channel_values(bias, shape, tensor, "bias");
  std::optional<Tensor> around;
  if (residual) around = in_norm_layout(*residual, shape, "residual");

  const std::vector<int64_t> statistics_shape = {shape.images, shape.channels};
  Tensor mean = torch::stable::empty(statistics_shape, ScalarType::Float, std::nullopt, tensor.device());
  Tensor rstd = torch::stable::empty(statistics_shape, ScalarType::Float, std::nullopt, tensor.device());
  auto *means = static_cast<float*>(mean.mutable_data_ptr()), *rstds = static_cast<float*>(rstd.mutable_data_ptr());
  find_statistics(input, shape, means, rstds);
  if (over_channels) join_channels(shape, means, rstds);
  const int64_t count = shape.images * shape.channels;
  std::vector<float> scale(count), shift(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t c = i % shape.channels;
    rstds[i] = static_cast<float>(1.0 / std::sqrt(static_cast<double>(rstds[i]) + epsilon));
    scale[i] = rstds[i] * (weights ? weights[c] : 1.0f);
    shift[i] = (biases ? biases[c] : 0.0f) - means[i] * scale[i];
  }

  const int64_t height = pad.top + shape.height + pad.bottom, width = pad.left + shape.width + pad.right;
  Tensor output = empty_in_norm_layout(input, shape, height, width);
  const NormLayoutKernels& kernels = kernels_for(shape);
  const int64_t row_bytes = shape.width * shape.unit_channels() * shape.element_bytes;
  const int64_t output_row_bytes = width * shape.unit_channels() * shape.element_bytes;
  auto* to = static_cast<char*>(output.mutable_data_ptr());
  parallel_rows(shape.units() * height, width * shape.unit_channels(), [&](int64_t index) {
    const int64_t unit = index / height, y = reflected(index % height - pad.top, shape.height);
    NormRow row = {};
    row.x = unit_of(input, shape, unit) + y * row_bytes;
    row.residual = around ? unit_of(*around, shape, unit) + y * row_bytes : nullptr;
    row.pixels = shape.width, row.channels = shape.unit_channels();
    row.scale = &scale[shape.coefficients(unit)], row.shift = &shift[shape.coefficients(unit)];
    row.slope = static_cast<float>(slope);
    write_row(kernels, shape, pad, row, to + index * output_row_bytes);
  });
  return {output, mean, rstd};
}

// Gradients of input, weight and bias from that of the result before padding.
std::tuple<Tensor, Tensor, Tensor> instance_norm_act_backward(const Tensor& gradient, const Tensor& tensor,
                                                              const std::optional<Tensor>& weight,
                                                              const std::optional<Tensor>& bias, const Tensor& mean,
                                                              const Tensor& rstd, double slope, bool over_channels) {
  const NormShape shape = cpu_norm_shape(tensor);
  const Tensor input = in_norm_layout(tensor, shape, "input"), grad = in_norm_layout(gradient, shape, "grad");
  const float *weights = channel_values(weight, shape, tensor, "weight"),
              *biases = channel_values(bias, shape, tensor, "bias");
  const int64_t count = shape.images * shape.channels;
  check(mean.numel() == count && rstd.numel() == count && mean.scalar_type() == ScalarType::Float &&
            rstd.scalar_type() == ScalarType::Float && mean.is_contiguous() && rstd.is_contiguous(),
        kInstanceNormAct, ": mean and rstd must be Float [N, C]");
  const auto *means = static_cast<const float*>(mean.const_data_ptr()),
             *rstds = static_cast<const float*>(rstd.const_data_ptr());
  std::vector<float> scale(count), shift(count), offset(count), a(count), b(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t c = i % shape.channels;
    scale[i] = rstds[i] * (weights ? weights[c] : 1.0f);
    shift[i] = (biases ? biases[c] : 0.0f) - means[i] * scale[i];
    offset[i] = -means[i] * rstds[i];
  }
  const NormLayoutKernels& kernels = kernels_for(shape);
  const int64_t channels = shape.unit_channels(), height = shape.height;
  const int64_t row_bytes = shape.width * channels * shape.element_bytes;
  const auto row_of = [&](int64_t unit, int64_t y) {
    const int64_t first = shape.coefficients(unit);
    NormRow row = {};
    row.x = unit_of(input, shape, unit) + y * row_bytes;
    row.grad = unit_of(grad, shape, unit) + y * row_bytes;
    row.pixels = shape.width, row.channels = channels;
    row.scale = &scale[first], row.shift = &shift[first], row.slope = static_cast<float>(slope);
    row.rstd = rstds + first, row.offset = &offset[first], row.a = &a[first], row.b = &b[first];
    return row;
  };

  // Sums of each row, so that the number of threads changes nothing, then of all rows in double.
  std::vector<float> partial(shape.units() * height * 2 * channels, 0.0f);
  parallel_rows(shape.units() * height, shape.width * channels, [&](int64_t index) {
    float* to = &partial[index * 2 * channels];
    kernels.grad_sums[element_of(shape)](row_of(index / height, index % height), to, to + channels);
  });
  std::vector<double> sums(count, 0.0), products(count, 0.0);
  for (int64_t index = 0; index < shape.units() * height; ++index) {
    const int64_t first = shape.coefficients(index / height);
    for (int64_t c = 0; c < channels; ++c) {
      sums[first + c] += partial[index * 2 * channels + c];
      products[first + c] += partial[index * 2 * channels + channels + c];
    }
  }
  Tensor weight_grad = torch::stable::empty({shape.channels}, ScalarType::Float, std::nullopt, tensor.device());
  Tensor bias_grad = torch::stable::empty({shape.channels}, ScalarType::Float, std::nullopt, tensor.device());
  auto *of_weight = static_cast<float*>(weight_grad.mutable_data_ptr()),
       *of_bias = static_cast<float*>(bias_grad.mutable_data_ptr());
  for (int64_t c = 0; c < shape.channels; ++c) {
    double sum = 0, product = 0;
    for (int64_t n = 0; n < shape.images; ++n) {
      sum += sums[n * shape.channels + c], product += products[n * shape.channels + c];
    }
    of_weight[c] = static_cast<float>(product), of_bias[c] = static_cast<float>(sum);
  }
  for (int64_t n = 0; n < shape.images; ++n) {
    const int64_t first = n * shape.channels;
    double group_sum = 0, group_product = 0;
    for (int64_t c = 0; c < shape.channels; ++c) {
      const double w = weights ? weights[c] : 1.0;
      group_sum += w * sums[first + c], group_product += w * products[first + c];
    }
    const double places = static_cast<double>(shape.places()) * (over_channels ? shape.channels : 1);
    for (int64_t i = first; i < first + shape.channels; ++i) {
      const double w = weights ? weights[i - first] : 1.0;
      a[i] = static_cast<float>(-rstds[i] * (over_channels ? group_product : w * products[i]) / places);
      b[i] = static_cast<float>(-rstds[i] * (over_channels ? group_sum : w * sums[i]) / places);
    }
  }

  Tensor input_grad = empty_in_norm_layout(input, shape, shape.height, shape.width);
  auto* to = static_cast<char*>(input_grad.mutable_data_ptr());
  parallel_rows(shape.units() * height, shape.width * channels, [&](int64_t index) {
    NormRow row = row_of(index / height, index % height);
    row.to = to + index * row_bytes;
    kernels.backward[element_of(shape)](row);
  });
  return {input_grad, weight_grad, bias_grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(streamgan, library) {
  library.def(kInstanceNormActSchema);
  library.def(kInstanceNormActOutSchema);
  library.def(
      "instance_norm_act_backward(Tensor grad, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, "
      "float slope, bool over_channels) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(streamgan, CPU, library) {
  library.impl(kInstanceNormAct, TORCH_BOX(&instance_norm_act));
  library.impl("instance_norm_act_backward", TORCH_BOX(&instance_norm_act_backward));
}

}  // namespace streamgan
