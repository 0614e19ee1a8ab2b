#include <arm_neon.h>

#include "csrc/cpu/frames_to_tensor.h"

namespace streamgan {
namespace {

#include "csrc/cpu/pixel_blocks.h"
#include "csrc/cpu/vec16_neon.h"
// Needs both of the above.
#include "csrc/cpu/frames_to_tensor_neon.h"

}  // namespace

const FramesToTensorKernels kFramesToTensorNeonBf16 = {Isa::kNeonBf16, {row<Float32>, row<BFloat16>, row<Float16>}};

}  // namespace streamgan
