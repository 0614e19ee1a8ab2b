// AVX2 with FMA and F16C.
#include <immintrin.h>
#include <string.h>

#include "csrc/cpu/frames_to_tensor.h"
#include "csrc/cpu/fused_convolution.h"
#include "csrc/cpu/instance_norm_act.h"
#include "csrc/cpu/peak.h"
#include "csrc/cpu/steady.h"
#include "csrc/cpu/tensor_to_frames.h"

namespace streamgan {
namespace {

namespace vectors {

#include "csrc/cpu/vector.h"

constexpr int kTilePixels = 6, kTileBlocks = 1;
#include "csrc/cpu/fused_kernels_x.h"
#include "csrc/cpu/instance_norm_act_x.h"

constexpr FusedConvolutionKernels kFusedConvolution = all_kernels();

}  // namespace vectors

namespace frames {

#include "csrc/cpu/pixel_shuffles_x86.h"
#include "csrc/cpu/vec16_avx2.h"

#include "csrc/cpu/frames_to_tensor_x86.h"
#include "csrc/cpu/tensor_to_frames_x86.h"

}  // namespace frames

namespace steady {

#include "csrc/cpu/steady_x.h"

}  // namespace steady

namespace peak {

constexpr int kAccumulators = 12;

float multiply_add(int64_t rounds) {
  __m256 sums[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.5f), addend = _mm256_set1_ps(1.0f);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm256_fmadd_ps(sums[i], factor, addend);
  }
  __m256 total = sums[0];
  for (int i = 1; i < kAccumulators; ++i) total = _mm256_add_ps(total, sums[i]);
  return _mm256_cvtss_f32(total);
}

constexpr PeakLoops kLoops = {{{multiply_add, kAccumulators * 8 * 2}}};

}  // namespace peak

}  // namespace

const TierKernels kAvx2Kernels = {&frames::kFramesToTensor,
                                  &vectors::kFusedConvolution,
                                  &vectors::kInstanceNormAct,
                                  &frames::kTensorToFrames,
                                  &peak::kLoops,
                                  &steady::kSteady};

}  // namespace streamgan
