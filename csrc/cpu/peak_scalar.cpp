#include "csrc/cpu/peak.h"

namespace streamgan {
namespace {

// Twelve vectors of four: with the two operands they fit the sixteen registers of the smallest x86-64.
constexpr int kAccumulators = 48;

float multiply_add(int64_t rounds) {
  float sums[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) sums[i] = static_cast<float>(i);
  const float factor = 0.5f, addend = 1.0f;
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kAccumulators; ++i) {
#if defined(__FP_FAST_FMAF)
      sums[i] = __builtin_fmaf(sums[i], factor, addend);
#else
      sums[i] = sums[i] * factor + addend;
#endif
    }
  }
  float total = 0.0f;
  for (const float sum : sums) total += sum;
  return total;
}

}  // namespace

const PeakKernels kPeakScalar = {Isa::kScalar, {{multiply_add, 2 * kAccumulators}, {nullptr, 0}, {nullptr, 0}}};

}  // namespace streamgan
