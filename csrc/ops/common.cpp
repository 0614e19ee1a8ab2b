#include "csrc/ops/common.h"

#include <cmath>

namespace streamgan {

std::string shape_of(const Tensor& tensor) {
  std::string shape = "[";
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
    shape += (axis == 0 ? "" : ", ") + std::to_string(tensor.size(axis));
  }
  return shape + "]";
}

Dtype image_dtype(const char* op, ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return kFloat32;
    case ScalarType::BFloat16:
      return kBFloat16;
    case ScalarType::Half:
      return kFloat16;
    default:
      check(false, op, ": dtype ", torch::headeronly::toString(dtype), " is not one of Float, BFloat16, Half");
      return kDtypeCount;
  }
}

int64_t image_element_bytes(Dtype dtype) { return dtype == kFloat32 ? 4 : 2; }

void check_range(const char* op, double low, double high) {
  constexpr double kSmallest = 1e-6, kLargest = 1e6;
  const auto usable = [](double value) {
    return value == 0 || (std::abs(value) >= kSmallest && std::abs(value) <= kLargest);
  };
  check(usable(low) && usable(high) && high - low >= kSmallest, op, ": low=", low, ", high=", high,
        " are no range of values: each must be 0 or from 1e-6 to 1e6 in magnitude, and high - low at least 1e-6");
}

}  // namespace streamgan
