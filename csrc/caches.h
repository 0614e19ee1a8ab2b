// Sizes of the processor's caches, which decide how work is divided.
#pragma once

#include <cstdint>
#include <optional>

namespace streamgan {

struct Caches {
  int64_t level2_bytes;  // of one core
  int64_t level3_bytes;  // shared by all cores; 0 if there is none
};

// The sizes in use: those that were set, or what the operating system says.
Caches caches();

// Makes these the sizes in use for the whole process; nullopt goes back to what the operating system says. For tests.
void set_caches(const std::optional<Caches>& sizes);

}  // namespace streamgan
