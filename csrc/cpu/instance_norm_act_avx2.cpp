#include <immintrin.h>

#include "csrc/cpu/instance_norm_act.h"

namespace streamgan {
namespace {

#include "csrc/cpu/vector.h"
// Needs the above.
#include "csrc/cpu/instance_norm_act_x.h"

}  // namespace

const InstanceNormActKernels kInstanceNormActAvx2 = {Isa::kAvx2, kInterleaved, kPlanar};

}  // namespace streamgan
