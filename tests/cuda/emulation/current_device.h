// The emulated device: its limits can be set, so that one test asks for what a small and a large device would do.
#pragma once

#include "tests/cuda/emulation/cuda_emulation.h"
// Needs the above.
#include "csrc/cuda/device.h"
#include "csrc/ops/common.h"

namespace streamgan {

inline DeviceLimits& emulated_limits() {
  static DeviceLimits limits = {132, 227 * 1024, 50 * 1024 * 1024, 16};
  return limits;
}

class CurrentDevice {
 public:
  explicit CurrentDevice(const Tensor&) {}
  Stream stream() const { return nullptr; }
  const DeviceLimits& limits() const { return emulated_limits(); }
};

}  // namespace streamgan
