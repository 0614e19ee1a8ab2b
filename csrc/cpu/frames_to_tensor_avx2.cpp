#include <immintrin.h>

#include "csrc/cpu/frames_to_tensor.h"

namespace streamgan {
namespace {

#include "csrc/cpu/pixel_shuffles_x86.h"
#include "csrc/cpu/vec16_avx2.h"
// Needs both of the above.
#include "csrc/cpu/frames_to_tensor_x86.h"

}  // namespace

const FramesToTensorKernels kFramesToTensorAvx2 = {Isa::kAvx2, {row<Float32>, row<BFloat16>, row<Float16>}};

}  // namespace streamgan
