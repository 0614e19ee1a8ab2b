#include "csrc/kernels.h"

namespace streamgan {
namespace {

template <typename Kernels>
const Kernels& active_kernels(const Kernels* TierKernels::* of_operator) {
  for (const Tier* tier = &active_tier();; --tier) {  // ends at the scalar tier, which has all
    if (tier->kernels && tier->kernels->*of_operator) return *(tier->kernels->*of_operator);
  }
}

template <typename Kernels>
std::vector<std::string> tiers_with(const Kernels* TierKernels::* of_operator) {
  std::vector<std::string> names;
  for (const Tier& tier : kTiers) {
    if (tier.kernels && tier.kernels->*of_operator) names.emplace_back(tier.name);
  }
  return names;
}

}  // namespace

const FramesToTensorKernels& frames_to_tensor_kernels() { return active_kernels(&TierKernels::frames_to_tensor); }
const FusedConvolutionKernels& fused_convolution_kernels() { return active_kernels(&TierKernels::fused_generator); }
const InstanceNormActKernels& instance_norm_act_kernels() { return active_kernels(&TierKernels::instance_norm_act); }
const SteadyKernels& steady_kernels() { return active_kernels(&TierKernels::steady); }
const TensorToFramesKernels& tensor_to_frames_kernels() { return active_kernels(&TierKernels::tensor_to_frames); }

std::map<std::string, std::vector<std::string>> kernel_tiers() {
  return {{"frames_to_tensor", tiers_with(&TierKernels::frames_to_tensor)},
          {"fused_generator", tiers_with(&TierKernels::fused_generator)},
          {"instance_norm_act", tiers_with(&TierKernels::instance_norm_act)},
          {"steady", tiers_with(&TierKernels::steady)},
          {"tensor_to_frames", tiers_with(&TierKernels::tensor_to_frames)}};
}

PeakLoop peak_loop(PeakKind kind, const Tier& highest) {
  for (const Tier* tier = &highest + 1; tier-- != kTiers;) {
    if (!tier->kernels || !tier->kernels->peak) continue;
    const PeakLoop& loop = tier->kernels->peak->loop[kind];
    if (loop.run && has_instruction(loop.needs)) return loop;
  }
  return {};
}

}  // namespace streamgan
