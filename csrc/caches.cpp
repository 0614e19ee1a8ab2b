#include "csrc/caches.h"

#include <unistd.h>

#include <fstream>
#include <mutex>

namespace streamgan {
namespace {

constexpr int64_t kLeastBytes = 128 * 1024, kUsualLevel2Bytes = 512 * 1024;

Caches detect() {
  Caches detected = {kUsualLevel2Bytes, 0};
#if defined(_SC_LEVEL2_CACHE_SIZE)
  if (const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE); size >= kLeastBytes) detected.level2_bytes = size;
#endif
  // Of one cache: sysconf adds up those of all dies on some processors.
  if (std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size"); file) {
    int64_t kibibytes = 0;
    if (file >> kibibytes && kibibytes > 0) detected.level3_bytes = kibibytes * 1024;
  }
  return detected;
}

std::mutex mutex;
std::optional<Caches> chosen;

}  // namespace

Caches caches() {
  static const Caches detected = detect();
  const std::lock_guard<std::mutex> lock(mutex);
  return chosen.value_or(detected);
}

void set_caches(const std::optional<Caches>& sizes) {
  const std::lock_guard<std::mutex> lock(mutex);
  chosen = sizes;
}

}  // namespace streamgan
