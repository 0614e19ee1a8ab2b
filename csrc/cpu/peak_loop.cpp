#include "csrc/cpu/peak_loop.h"

namespace streamgan {
namespace {

constexpr const PeakKernels* kLowestFirst[] = {
    &kPeakScalar, STREAMGAN_IF_X86(&kPeakAvx2, &kPeakAvx512, &kPeakAvx512Bf16, &kPeakAvx512Amx)
                      STREAMGAN_IF_ARM(&kPeakNeon, &kPeakNeonBf16)};

// Tiers guarantee the instructions of the other kinds.
bool has_instruction(PeakKind kind) {
#if defined(STREAMGAN_X86_TIERS)
  if (kind == kPeakInt8) return __builtin_cpu_supports("avx512vnni") != 0;
#endif
  return kind != kPeakInt8;
}

}  // namespace

PeakLoop peak_loop(PeakKind kind, Isa isa) {
  PeakLoop best = {nullptr, 0};
  for (const PeakKernels* kernels : kLowestFirst) {
    if (kernels->isa <= isa && kernels->loop[kind].run != nullptr) best = kernels->loop[kind];
  }
  return has_instruction(kind) ? best : PeakLoop{nullptr, 0};
}

}  // namespace streamgan
