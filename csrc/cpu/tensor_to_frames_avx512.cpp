#include <immintrin.h>

#include "csrc/cpu/tensor_to_frames.h"

namespace streamgan {
namespace {

#include "csrc/cpu/pixel_shuffles_x86.h"
#include "csrc/cpu/vec16_avx512.h"
// Needs both of the above.
#include "csrc/cpu/tensor_to_frames_x86.h"

}  // namespace

const TensorToFramesKernels kTensorToFramesAvx512 = {
    Isa::kAvx512,
    {interleaved_row<Float32>, interleaved_row<BFloat16>, interleaved_row<Float16>},
    {planar_row<Float32>, planar_row<BFloat16>, planar_row<Float16>}};

}  // namespace streamgan
