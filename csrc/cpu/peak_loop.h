// Which peak loop runs. Not an operator, so kernel_tiers() doesn't list it.
#pragma once

#include "csrc/cpu/peak.h"
#include "csrc/isa.h"

namespace streamgan {

// The loop of the highest tier up to `isa` that has one; its `run` is null if this processor has no instruction for it.
PeakLoop peak_loop(PeakKind kind, Isa isa);

}  // namespace streamgan
