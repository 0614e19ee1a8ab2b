#include "csrc/cuda/limits.h"

#include <map>
#include <mutex>

#include "csrc/cuda/device.h"
#include "csrc/cuda/instance_norm_act.h"

namespace streamgan {
namespace {

DeviceLimits asked(int device) {
  const auto attribute = [device](cudaDeviceAttr name, int otherwise) {
    int value = 0;
    return cudaDeviceGetAttribute(&value, name, device) == cudaSuccess && value > 0 ? value : otherwise;
  };
  DeviceLimits limits = {};
  limits.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, 1);
  limits.shared_bytes = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, 48 * 1024));
  limits.l2_bytes = static_cast<size_t>(attribute(cudaDevAttrL2CacheSize, 1));
  limits.max_cluster = attribute(cudaDevAttrClusterLaunch, 0) != 0 ? largest_norm_cluster(limits.shared_bytes) : 1;
  return limits;
}

}  // namespace

const DeviceLimits& device_limits(int device) {
  static std::mutex mutex;
  static std::map<int, DeviceLimits> known;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(device);
  if (found == known.end()) found = known.emplace(device, asked(device)).first;
  return found->second;
}

}  // namespace streamgan
