#include <immintrin.h>

#include "csrc/cpu/peak.h"

namespace streamgan {
namespace {

#include "csrc/cpu/matrix_unit_amx.h"

constexpr int kAccumulators = 4, kOperationsOfProduct = 16 * 16 * 32 * 2;

// Tiles are zero: what they hold makes no difference to the time.
float multiply_tiles(int64_t rounds) {
  MatrixUnit unit;
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

// Needs AMX-INT8, which the tier doesn't guarantee.
float multiply_tiles_int8(int64_t rounds) {
  MatrixUnit unit;
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

}  // namespace

const PeakKernels kPeakAvx512Amx = {Isa::kAvx512Amx,
                                    {{nullptr, 0},
                                     {multiply_tiles, kAccumulators * kOperationsOfProduct},
                                     {multiply_tiles_int8, 2 * kAccumulators * kOperationsOfProduct}}};

}  // namespace streamgan
