// Which form of instance_norm_act a device takes, and how the work is split over its blocks.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "csrc/cuda/device.h"
#include "csrc/cuda/instance_norm_act.h"
#include "csrc/cuda/instance_norm_act_layout.h"

namespace streamgan {
namespace {

int power_of_two_up_to(int most) {
  int power = 1;
  while (2 * power <= most) power *= 2;
  return power;
}

int element_bytes(Dtype dtype) { return dtype == kFloat32 ? 4 : 2; }

enum class Form { kAny, kResident, kTwoPasses };

// STREAMGAN_NORM_FORM=resident|two_passes, for tests and measurements: that form wherever it can be had.
Form wanted_form() {
  const char* name = std::getenv("STREAMGAN_NORM_FORM");
  if (name == nullptr) return Form::kAny;
  return std::strcmp(name, "resident") == 0     ? Form::kResident
         : std::strcmp(name, "two_passes") == 0 ? Form::kTwoPasses
                                                : Form::kAny;
}

// Whether so many blocks keep three quarters of the multiprocessors busy from their begin to their end.
bool is_well_filled(int64_t blocks, size_t shared_bytes, const DeviceLimits& limits) {
  const auto by_memory = static_cast<int64_t>(limits.shared_bytes / shared_bytes);
  const int64_t at_once =
      limits.multiprocessors * std::min<int64_t>(std::max<int64_t>(by_memory, 1), kLargeBlocksAtOnce);
  if (blocks <= at_once) return 4 * blocks >= 3 * static_cast<int64_t>(limits.multiprocessors);
  return 4 * blocks >= 3 * divided_up(blocks, at_once) * at_once;
}

}  // namespace

NormPlan plan_instance_norm(const NormParameters& norm, Dtype dtype, bool interleaved, bool vectors,
                            const DeviceLimits& limits) {
  const int64_t places = static_cast<int64_t>(norm.height) * norm.width;
  const int wide = kAccessBytes / element_bytes(dtype);
  NormPlan plan = {};
  plan.vector = vectors && (interleaved ? norm.channels : places) % wide == 0 ? wide : 1;
  const int item_bytes = plan.vector * element_bytes(dtype);
  const int channels_per_item = interleaved ? plan.vector : 1;
  const int packs = interleaved ? static_cast<int>(divided_up(norm.channels, plan.vector)) : 1;  // of one place
  plan.items = static_cast<int>(interleaved ? places : places / plan.vector);

  const auto split = [&](int lanes, int64_t parts) {
    plan.lanes = lanes;
    plan.groups = interleaved ? static_cast<int>(divided_up(packs, lanes)) : norm.channels;
    plan.items_per_part = static_cast<int>(divided_up(plan.items, parts));
    plan.parts = static_cast<int>(parts);
  };
  const Form form = wanted_form();
  const int64_t bytes = static_cast<int64_t>(norm.images) * norm.channels * places * element_bytes(dtype);
  // Two reads cost little where the second comes from the cache, and few blocks leave most of the device idle.
  const bool is_cached = bytes <= static_cast<int64_t>(limits.l2_bytes / 2);
  if (form != Form::kTwoPasses && !norm.over_channels) {
    for (int lanes = std::min(kMaxResidentLanes, power_of_two_up_to(packs)); lanes >= 1; lanes /= 2) {
      for (int cluster = 1; cluster <= limits.max_cluster; cluster *= 2) {
        split(lanes, cluster);
        plan.shared_bytes = static_cast<size_t>(bytes_before_items(channels_per_item, lanes)) +
                            static_cast<size_t>(plan.items_per_part) * lanes * item_bytes;
        if (plan.shared_bytes > limits.shared_bytes) continue;
        const int64_t blocks = static_cast<int64_t>(norm.images) * plan.groups * cluster;
        const bool is_last = lanes == 1 && 2 * cluster > limits.max_cluster;
        const bool fills = is_well_filled(blocks, plan.shared_bytes, limits);
        if (fills || ((form == Form::kResident || !is_cached) && is_last)) {
          plan.resident = true;
          return plan;
        }
      }
    }
  }
  // As many blocks as there is room for at once; a block has a few items for each thread.
  constexpr int kItemsPerThread = 4;
  const int lanes = std::min(kWarpSize, power_of_two_up_to(packs));
  split(lanes, 1);
  const int64_t units = static_cast<int64_t>(norm.images) * plan.groups;
  const int64_t threads_per_lane = kThreads / lanes;
  int64_t parts = divided_up(static_cast<int64_t>(kBlocksAtOnce) * limits.multiprocessors, units);
  parts = std::min(parts, divided_up(plan.items, threads_per_lane * kItemsPerThread));
  parts = std::max(parts, divided_up(places, kMaxChunkPlaces));
  split(lanes, parts);
  plan.parts = static_cast<int>(divided_up(plan.items, plan.items_per_part));  // none of them empty
  plan.resident = false;
  plan.shared_bytes = scratch_bytes(channels_per_item, lanes);
  return plan;
}

int64_t norm_workspace(const NormParameters& norm, const NormPlan& plan) {
  return plan.resident ? 0 : static_cast<int64_t>(norm.images) * norm.channels * plan.parts * 2;
}

}  // namespace streamgan
