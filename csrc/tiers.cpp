#include "csrc/tiers.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace streamgan {
namespace {

bool always() { return true; }

#if defined(__x86_64__)
#define STREAMGAN_X86(...) __VA_ARGS__

// Bits of CPUID that not every compiler has a name for in __builtin_cpu_supports.
enum Leaf1Ecx : unsigned { kF16c = 29 };
enum Leaf7Edx : unsigned { kAmxBf16 = 22, kAvx512Fp16 = 23, kAmxTile = 24, kAmxInt8 = 25 };

bool has(Leaf1Ecx bit) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> bit & 1) != 0;
}

bool has(Leaf7Edx bit) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx >> bit & 1) != 0;
}

bool has_amx() { return has(kAmxTile) && has(kAmxBf16); }

__attribute__((target("xsave"))) bool saves_tiles() { return (_xgetbv(0) & (3u << 17)) == (3u << 17); }

// Linux saves the tiles of a process only after it has asked (Documentation/arch/x86/xstate.rst).
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

std::string amx_refusal() {
  if (!has_amx()) return "";
  if (!saves_tiles()) return "the processor has AMX, but the operating system does not enable it";
  if (!may_use_tiles()) return "the processor has AMX, but the operating system does not permit it to this process";
  return "";
}

// __builtin_cpu_supports asks the operating system too (xgetbv): registers that it doesn't save count as missing.
bool supports_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has(kF16c); }
bool supports_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool supports_avx512_bf16() { return __builtin_cpu_supports("avx512bf16"); }
bool supports_avx512_amx() { return has_amx() && refused_isa().empty(); }
#else
#define STREAMGAN_X86(...) nullptr, nullptr

std::string amx_refusal() { return ""; }
#endif

#if defined(__aarch64__)
#define STREAMGAN_ARM(...) __VA_ARGS__

bool supports_neon_bf16() {
#if defined(__linux__)
  constexpr unsigned long kHasBf16 = 1ul << 14;  // HWCAP2_BF16, which older headers lack
  return (getauxval(AT_HWCAP2) & kHasBf16) != 0;
#else
  return false;
#endif
}
#else
#define STREAMGAN_ARM(...) nullptr, nullptr
#endif

// The one in use; null until it is decided.
std::atomic<const Tier*> active{nullptr};

// `origin` says in the message where the name came from.
const Tier& tier_named(const std::string& name, const std::string& origin) {
  std::string names;
  for (const Tier* tier : supported_tiers()) {
    if (name == tier->name) return *tier;
    names += (names.empty() ? "" : ", ") + std::string(tier->name);
  }
  for (const Tier& tier : kTiers) {
    if (name != tier.name) continue;
    throw std::invalid_argument(origin + " asks for '" + name +
                                "', which this processor or build lacks; it has: " + names);
  }
  throw std::invalid_argument(origin + " is '" + name + "', which is no instruction set; this processor has: " + names);
}

const Tier& tier_of_environment() {
  const char* name = std::getenv("STREAMGAN_ISA");
  return name == nullptr || *name == '\0' ? detected_tier() : tier_named(name, "STREAMGAN_ISA");
}

}  // namespace

const Tier kTiers[] = {
    {"scalar", always, &kScalarKernels},
    {"avx2", STREAMGAN_X86(supports_avx2, &kAvx2Kernels)},
    {"avx512", STREAMGAN_X86(supports_avx512, &kAvx512Kernels)},
    {"avx512_bf16", STREAMGAN_X86(supports_avx512_bf16, &kAvx512Bf16Kernels)},
    {"avx512_amx", STREAMGAN_X86(supports_avx512_amx, &kAvx512AmxKernels)},
    {"neon", STREAMGAN_ARM(always, &kNeonKernels)},
    {"neon_bf16", STREAMGAN_ARM(supports_neon_bf16, &kNeonBf16Kernels)},
};

const Tier& detected_tier() {
  static const Tier& detected = []() -> const Tier& {
    const Tier* highest = kTiers;
    for (const Tier& tier : kTiers) {
      if (!tier.kernels) continue;
      if (!tier.is_supported()) break;
      highest = &tier;
    }
    return *highest;
  }();
  return detected;
}

const std::string& refused_isa() {
  static const std::string refusal = amx_refusal();
  return refusal;
}

std::vector<const Tier*> supported_tiers() {
  std::vector<const Tier*> supported;
  for (const Tier* tier = kTiers; tier <= &detected_tier(); ++tier) {
    if (tier->kernels) supported.push_back(tier);
  }
  return supported;
}

const Tier& active_tier() {
  const Tier* tier = active.load(std::memory_order_relaxed);
  if (!tier) {
    tier = &tier_of_environment();
    active.store(tier, std::memory_order_relaxed);
  }
  return *tier;
}

void set_isa(const std::optional<std::string>& name) {
  active.store(name ? &tier_named(*name, "set_isa") : &tier_of_environment(), std::memory_order_relaxed);
}

bool has_instruction([[maybe_unused]] PeakNeeds needs) {
#if defined(__x86_64__)
  switch (needs) {
    case PeakNeeds::kAvx512Vnni:
      return __builtin_cpu_supports("avx512vnni");
    case PeakNeeds::kAvx512Fp16:
      return has(kAvx512Fp16);
    case PeakNeeds::kAmxInt8:
      return has(kAmxInt8);
    case PeakNeeds::kNothing:
      break;
  }
#endif
  return true;
}

}  // namespace streamgan
