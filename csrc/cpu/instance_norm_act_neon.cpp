#include <arm_neon.h>

#include "csrc/cpu/instance_norm_act.h"

namespace streamgan {
namespace {

#include "csrc/cpu/vector.h"
// Needs the above.
#include "csrc/cpu/instance_norm_act_x.h"

}  // namespace

const InstanceNormActKernels kInstanceNormActNeon = {Isa::kNeon, kInterleaved, kPlanar};

}  // namespace streamgan
