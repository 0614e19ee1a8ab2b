// What the kernels of instance_norm_act and their plan agree on. Included after csrc/cuda/device.h.
#pragma once

#include <stddef.h>

namespace streamgan {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
// Of a multiprocessor, at least: while one waits, others read or write. The compiler keeps to that many registers.
constexpr int kBlocksAtOnce = 3;
constexpr int kLargeBlocksAtOnce = 2;
constexpr int kAccessBytes = 16;
// Of one chunk, for the bound on the loss of the variance.
constexpr int kMaxChunkPlaces = 8192;
constexpr int kMaxResidentLanes = 4;  // 64 bytes of each place

// Shared memory of a block: scratch for sums; of the resident form also totals of three sums, and then the items.
__host__ __device__ inline int scratch_floats(int channels_per_item, int lanes) {
  return kWarps * 2 * channels_per_item * lanes;
}

__host__ __device__ inline int bytes_before_items(int channels_per_item, int lanes) {
  const int bytes =
      static_cast<int>(sizeof(float)) * (scratch_floats(channels_per_item, lanes) + 3 * channels_per_item * lanes);
  return (bytes + kAccessBytes - 1) / kAccessBytes * kAccessBytes;
}

// Of scratch alone, in bytes.
__host__ __device__ inline size_t scratch_bytes(int channels_per_item, int lanes) {
  return sizeof(float) * static_cast<size_t>(scratch_floats(channels_per_item, lanes));
}

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace streamgan
