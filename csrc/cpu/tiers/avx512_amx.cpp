// AVX-512 with the matrix unit (AMX), which is the fused generator's alone.
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
#define STREAMGAN_HAS_MATRIX_UNIT
#include "csrc/cpu/matrix_unit_amx.h"

#include "csrc/cpu/fused_kernels_x.h"

constexpr FusedConvolutionKernels kFusedConvolution = all_kernels();

}  // namespace vectors

namespace peak {

constexpr int kAccumulators = 4, kOperationsOfProduct = 16 * 16 * 32 * 2;

// Tiles are zero: what they hold makes no difference to the time.
float multiply_tiles(int64_t rounds) {
  vectors::MatrixUnit unit;
  unit.zero<0>(), unit.zero<1>(), unit.zero<2>(), unit.zero<3>();
  unit.zero<4>(), unit.zero<5>();
  for (int64_t round = 0; round < rounds; ++round) {
    unit.multiply<0, 4, 5>();
    unit.multiply<1, 4, 5>();
    unit.multiply<2, 4, 5>();
    unit.multiply<3, 4, 5>();
  }
  float sums[16 * 16];
  unit.store<0>(sums, 64);
  return sums[0];
}

float multiply_tiles_int8(int64_t rounds) {
  vectors::MatrixUnit unit;
  unit.zero<0>(), unit.zero<1>(), unit.zero<2>(), unit.zero<3>();
  unit.zero<4>(), unit.zero<5>();
  for (int64_t round = 0; round < rounds; ++round) {
    __asm__ volatile(
        "tdpbssd %%tmm5, %%tmm4, %%tmm0\n\ttdpbssd %%tmm5, %%tmm4, %%tmm1\n\t"
        "tdpbssd %%tmm5, %%tmm4, %%tmm2\n\ttdpbssd %%tmm5, %%tmm4, %%tmm3" ::);
  }
  int32_t sums[16 * 16];
  unit.store<0>(sums, 64);
  return static_cast<float>(sums[0]);
}

constexpr PeakLoops kLoops = {{{},
                               {multiply_tiles, kAccumulators * kOperationsOfProduct},
                               {multiply_tiles_int8, 2 * kAccumulators * kOperationsOfProduct, PeakNeeds::kAmxInt8}}};

}  // namespace peak

}  // namespace

const TierKernels kAvx512AmxKernels = {nullptr, &vectors::kFusedConvolution, nullptr, nullptr, &peak::kLoops};

}  // namespace streamgan
