// AVX-512 with its instructions for bfloat16.
#include <immintrin.h>

#include "csrc/cpu/frames_to_tensor.h"
#include "csrc/cpu/fused_convolution.h"
#include "csrc/cpu/instance_norm_act.h"
#include "csrc/cpu/peak.h"
#include "csrc/cpu/tensor_to_frames.h"

namespace streamgan {
namespace {

namespace vectors {

#include "csrc/cpu/vector.h"

constexpr int kTilePixels = 8, kTileBlocks = 2;
#include "csrc/cpu/fused_kernels_x.h"
#include "csrc/cpu/instance_norm_act_x.h"

constexpr FusedConvolutionKernels kFusedConvolution = all_kernels();

}  // namespace vectors

namespace frames {

#include "csrc/cpu/pixel_shuffles_x86.h"
#include "csrc/cpu/vec16_avx512.h"

#include "csrc/cpu/frames_to_tensor_x86.h"

}  // namespace frames

namespace peak {

constexpr int kAccumulators = 16;

// Sums end at 2^25, where adding 2 no longer changes them.
float dot_bfloat16(int64_t rounds) {
  __m512 sums[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 ones = _mm512_set1_ps(1.0f);
  const __m512bh a = _mm512_cvtne2ps_pbh(ones, ones), b = a;
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
  }
  __m512 total = sums[0];
  for (int i = 1; i < kAccumulators; ++i) total = _mm512_add_ps(total, sums[i]);
  return _mm512_cvtss_f32(total);
}

constexpr PeakLoops kLoops = {{{}, {dot_bfloat16, kAccumulators * 32 * 2}}};

}  // namespace peak

}  // namespace

const TierKernels kAvx512Bf16Kernels = {&frames::kFramesToTensor, &vectors::kFusedConvolution,
                                        &vectors::kInstanceNormAct, nullptr, &peak::kLoops};

}  // namespace streamgan
