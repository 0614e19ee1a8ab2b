#include <immintrin.h>

#include "csrc/cpu/instance_norm_act.h"

namespace streamgan {
namespace {

#include "csrc/cpu/vector.h"
// Needs the above.
#include "csrc/cpu/instance_norm_act_x.h"

}  // namespace

const InstanceNormActKernels kInstanceNormActAvx512Bf16 = {Isa::kAvx512Bf16, kInterleaved, kPlanar};

}  // namespace streamgan
