// What operators share: checks, element types, and running over rows in parallel.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>

#include "csrc/check.h"
#include "csrc/cpu/tier.h"

namespace streamgan {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// "[2, 3, 480, 640]", for messages.
std::string shape_of(const Tensor& tensor);

// Position of `dtype` in kernel structs; throws if it isn't float32, bfloat16 or float16.
Dtype image_dtype(const char* op, ScalarType dtype);

int64_t image_element_bytes(Dtype dtype);

// Throws unless low and high are values that pixels can stand for: see the message.
void check_range(const char* op, double low, double high);

// Calls row(index) for 0 <= index < rows, in parallel in chunks of at least 16 K pixels, some ten microseconds each.
template <typename Row>
void parallel_rows(int64_t rows, int64_t pixels_per_row, const Row& row) {
  constexpr int64_t kPixelsPerChunk = 16 * 1024;
  const int64_t grain = kPixelsPerChunk / (pixels_per_row < 1 ? 1 : pixels_per_row) + 1;
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) row(index);
  });
}

}  // namespace streamgan
