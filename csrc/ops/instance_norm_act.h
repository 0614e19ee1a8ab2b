// What the CPU's and the GPU's form of instance_norm_act share: checks, layouts, and the shape of results.
#pragma once

#include <optional>
#include <vector>

#include "csrc/ops/common.h"

namespace streamgan {

constexpr char kInstanceNormAct[] = "instance_norm_act";
constexpr char kInstanceNormActSchema[] =
    "instance_norm_act(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, float epsilon, float slope, "
    "bool over_channels, int[] pad) -> (Tensor, Tensor, Tensor)";

// The same into memory that is there, on a GPU alone: for runtimes that bring their own, such as TensorRT.
constexpr char kInstanceNormActOut[] = "instance_norm_act_out";
constexpr char kInstanceNormActOutSchema[] =
    "instance_norm_act_out(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, float epsilon, float slope, "
    "bool over_channels, int[] pad, Tensor(a!) output) -> ()";

// Of an input [N, C, H, W]. A unit is an image where channels are interleaved, else a plane.
struct NormShape {
  int64_t images, channels, height, width;
  bool interleaved;
  Dtype dtype;
  int64_t element_bytes;

  int64_t units() const { return interleaved ? images : images * channels; }
  int64_t unit_channels() const { return interleaved ? channels : 1; }
  int64_t places() const { return height * width; }
  int64_t unit_bytes() const { return places() * unit_channels() * element_bytes; }
  // Coefficients are [images][channels]: where those of a unit begin.
  int64_t coefficients(int64_t unit) const { return unit * unit_channels(); }
};

struct Padding {
  int64_t left, right, top, bottom;
};

NormShape norm_shape(const Tensor& input);
Padding norm_padding(const std::vector<int64_t>& pad, const NormShape& shape);

// `tensor`, or a copy of it in the layout of the input; throws unless it has its shape and dtype.
Tensor in_norm_layout(const Tensor& tensor, const NormShape& shape, const char* name);

// [N, C, height, width] in the dtype and layout of the input.
Tensor empty_in_norm_layout(const Tensor& input, const NormShape& shape, int64_t height, int64_t width);

// Throws unless `output` is what `empty_in_norm_layout` would give.
void check_norm_output(const Tensor& output, const NormShape& shape, int64_t height, int64_t width);

// The data of a Float [C], null if there is none.
const float* channel_values(const std::optional<Tensor>& tensor, const NormShape& shape, const Tensor& input,
                            const char* name);

// Throws unless `tensor` is on the device of the input.
void check_norm_device(const Tensor& tensor, const Tensor& input, const char* name);

}  // namespace streamgan
