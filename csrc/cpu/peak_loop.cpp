#include "csrc/cpu/peak_loop.h"

#if defined(STREAMGAN_X86_TIERS)
#include <cpuid.h>
#endif

namespace streamgan {
namespace {

constexpr const PeakKernels* kLowestFirst[] = {
    &kPeakScalar, STREAMGAN_IF_X86(&kPeakAvx2, &kPeakAvx512, &kPeakAvx512Bf16, &kPeakAvx512Amx)
                      STREAMGAN_IF_ARM(&kPeakNeon, &kPeakNeonBf16)};

#if defined(STREAMGAN_X86_TIERS)
// Not every compiler knows these names in __builtin_cpu_supports.
bool has_feature(unsigned bit) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & (1u << bit)) != 0;
}
constexpr unsigned kFloat16Bit = 23, kAmxInt8Bit = 25;
#endif

// Whether the processor has a loop's instruction; tiers guarantee those of float32 and bfloat16.
bool has_instruction(PeakKind kind, Isa isa) {
#if defined(STREAMGAN_X86_TIERS)
  if (kind == kPeakInt8 && isa == Isa::kAvx512Amx) return has_feature(kAmxInt8Bit);
  if (kind == kPeakInt8) return __builtin_cpu_supports("avx512vnni") != 0;
  if (kind == kPeakFloat16) return has_feature(kFloat16Bit);
#endif
  return isa != Isa::kScalar || (kind != kPeakInt8 && kind != kPeakFloat16);
}

}  // namespace

PeakLoop peak_loop(PeakKind kind, Isa isa) {
  PeakLoop best = {nullptr, 0};
  for (const PeakKernels* kernels : kLowestFirst) {
    const PeakLoop& loop = kernels->loop[kind];
    if (kernels->isa <= isa && loop.run != nullptr && has_instruction(kind, kernels->isa)) best = loop;
  }
  return best;
}

}  // namespace streamgan
