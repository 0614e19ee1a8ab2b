// What the launches of kernels depend on of a device. No CUDA header is needed here.
#pragma once

#include <stddef.h>

namespace streamgan {

using Stream = void*;  // cudaStream_t

struct DeviceLimits {
  int multiprocessors;
  size_t shared_bytes;  // that one block can have
  size_t l2_bytes;
  int max_cluster;  // blocks; 1: the device has no clusters
};

// Of the device with this number; asked for once. Throws nothing: a device that does not answer has the limits of the
// smallest.
const DeviceLimits& device_limits(int device);

}  // namespace streamgan
