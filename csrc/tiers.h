// Instruction-set tiers: which exist, and which one runs.
//
// A tier is one translation unit, csrc/cpu/tiers/NAME.cpp, compiled with flags of its own. All but its table of kernels
// is in an anonymous namespace, and it calls no inline function from outside of it: the linker would keep one copy of
// such a function for all tiers, perhaps one that this processor can't run.
//
// The tier that runs is the highest that the processor and the operating system support, or the one that the
// environment variable STREAMGAN_ISA names, or the one that set_isa() names. Where it lacks an operator's kernel, the
// next lower tier's runs (csrc/kernels.h).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "csrc/cpu/peak.h"
#include "csrc/cpu/tier.h"

namespace streamgan {

struct Tier {
  const char* name;            // the name that STREAMGAN_ISA takes
  bool (*is_supported)();      // by a processor and a system that support the tiers before it
  const TierKernels* kernels;  // null: a tier of another platform
};

// The tiers of all platforms, lowest first. Those of one platform are the scalar one and a run of others.
extern const Tier kTiers[7];

// The highest tier this processor and operating system support.
const Tier& detected_tier();

// Why a tier that the processor has can't be used, in one line; "" where there is none.
const std::string& refused_isa();

// All tiers that can run here, lowest first; never one of another platform.
std::vector<const Tier*> supported_tiers();

// The tier in use. Throws std::invalid_argument if STREAMGAN_ISA names no tier or one that can't run here.
const Tier& active_tier();

// Makes `name` the tier in use for the whole process; nullopt goes back to STREAMGAN_ISA or detection. For tests and
// measurements. Throws as active_tier() does.
void set_isa(const std::optional<std::string>& name);

// Whether this processor has what a peak loop needs beyond its tier.
bool has_instruction(PeakNeeds needs);

}  // namespace streamgan
