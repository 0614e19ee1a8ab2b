// AVX-512 F, BW, DQ and VL.
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

constexpr int kTilePixels = 8, kTileBlocks = 2;
#include "csrc/cpu/fused_kernels_x.h"
#include "csrc/cpu/instance_norm_act_x.h"

constexpr FusedConvolutionKernels kFusedConvolution = all_kernels();

}  // namespace vectors

namespace frames {

#include "csrc/cpu/pixel_shuffles_x86.h"
#include "csrc/cpu/vec16_avx512.h"

#include "csrc/cpu/frames_to_tensor_x86.h"
#include "csrc/cpu/tensor_to_frames_x86.h"

}  // namespace frames

namespace steady {

#include "csrc/cpu/steady_x.h"

}  // namespace steady

namespace peak {

constexpr int kAccumulators = 16;

float multiply_add(int64_t rounds) {
  __m512 sums[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.5f), addend = _mm512_set1_ps(1.0f);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_fmadd_ps(sums[i], factor, addend);
  }
  __m512 total = sums[0];
  for (int i = 1; i < kAccumulators; ++i) total = _mm512_add_ps(total, sums[i]);
  return _mm512_cvtss_f32(total);
}

// As a type of int32 elements: with __m512i, whose elements are int64, GCC copies every accumulator in every round.
using Int32x16 = int __attribute__((vector_size(64)));

// The attribute is for this function only: the tier's flags don't have the instruction.
__attribute__((target("avx512vnni"))) float dot_int8(int64_t rounds) {
  Int32x16 sums[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) sums[i] = reinterpret_cast<Int32x16>(_mm512_set1_epi32(i));
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
  for (int64_t round = 0; round < rounds; ++round) {
    for (Int32x16& sum : sums) {
      sum = reinterpret_cast<Int32x16>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), a, b));
    }
  }
  Int32x16 total = sums[0];
  for (int i = 1; i < kAccumulators; ++i) total += sums[i];
  return static_cast<float>(total[0]);
}

// Sums of zeros: what is added makes no difference to the time.
__attribute__((target("avx512fp16"))) float multiply_add_float16(int64_t rounds) {
  __m512h sums[kAccumulators];
  const __m512h zero = _mm512_setzero_ph();
  for (__m512h& sum : sums) sum = zero;
  for (int64_t round = 0; round < rounds; ++round) {
    for (__m512h& sum : sums) __asm__ volatile("vfmadd231ph %1, %1, %0" : "+v"(sum) : "v"(zero));
  }
  __m512h total = sums[0];
  for (int i = 1; i < kAccumulators; ++i) total = _mm512_add_ph(total, sums[i]);
  return static_cast<float>(_mm512_reduce_add_ph(total));
}

constexpr PeakLoops kLoops = {{{multiply_add, kAccumulators * 16 * 2},
                               {},
                               {dot_int8, kAccumulators * 64 * 2, PeakNeeds::kAvx512Vnni},
                               {multiply_add_float16, kAccumulators * 32 * 2, PeakNeeds::kAvx512Fp16}}};

}  // namespace peak

}  // namespace

const TierKernels kAvx512Kernels = {&frames::kFramesToTensor,
                                    &vectors::kFusedConvolution,
                                    &vectors::kInstanceNormAct,
                                    &frames::kTensorToFrames,
                                    &peak::kLoops,
                                    &steady::kSteady};

}  // namespace streamgan
