#include "csrc/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(STREAMGAN_X86_TIERS)
#include <cpuid.h>
#include <immintrin.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif
#if defined(STREAMGAN_ARM_TIERS) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace streamgan {
namespace {

constexpr Isa kAllIsas[] = {Isa::kScalar,    Isa::kAvx2, Isa::kAvx512,  Isa::kAvx512Bf16,
                            Isa::kAvx512Amx, Isa::kNeon, Isa::kNeonBf16};
// Those of this platform, lowest first.
constexpr Isa kPlatformIsas[] = {Isa::kScalar,
                                 STREAMGAN_IF_X86(Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAvx512Amx)
                                     STREAMGAN_IF_ARM(Isa::kNeon, Isa::kNeonBf16)};
constexpr int kUndecided = -1;

std::atomic<int> active{kUndecided};

#if defined(STREAMGAN_X86_TIERS)
// Not every compiler knows the name "f16c" in __builtin_cpu_supports.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
}

bool has_amx_instructions() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & (1u << 22)) != 0 && (edx & (1u << 24)) != 0;
}

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

// "" if AMX can be used, or if the processor has none.
const std::string& amx_refusal() {
  static const std::string refusal = [] {
    if (!has_amx_instructions()) return "";
    if (!saves_tiles()) return "the processor has AMX, but the operating system does not enable it";
    if (!may_use_tiles()) return "the processor has AMX, but the operating system does not permit it to this process";
    return "";
  }();
  return refusal;
}

// __builtin_cpu_supports asks the operating system too (xgetbv): registers that it doesn't save count as missing.
Isa detect() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return Isa::kScalar;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx2;
  }
  if (!__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512;
  return has_amx_instructions() && amx_refusal().empty() ? Isa::kAvx512Amx : Isa::kAvx512Bf16;
}
#else
const std::string& amx_refusal() {
  static const std::string none;
  return none;
}
#if defined(STREAMGAN_ARM_TIERS)
// Every AArch64 processor has NEON.
Isa detect() {
#if defined(__linux__)
  constexpr unsigned long kHasBf16 = 1ul << 14;  // HWCAP2_BF16, which older headers lack
  if (getauxval(AT_HWCAP2) & kHasBf16) return Isa::kNeonBf16;
#endif
  return Isa::kNeon;
}
#else
Isa detect() { return Isa::kScalar; }
#endif
#endif

std::string supported_names() {
  std::string names;
  for (const Isa isa : supported_isas()) names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  return names;
}

// `origin` says in the message where the name came from.
Isa parse_isa(const std::string& name, const std::string& origin) {
  for (const Isa isa : supported_isas()) {
    if (name == isa_name(isa)) return isa;
  }
  for (const Isa isa : kAllIsas) {
    if (name != isa_name(isa)) continue;
    throw std::invalid_argument(origin + " asks for '" + name +
                                "', which this processor or build lacks; it has: " + supported_names());
  }
  throw std::invalid_argument(origin + " is '" + name +
                              "', which is no instruction set; this processor has: " + supported_names());
}

Isa isa_from_environment() {
  const char* name = std::getenv("STREAMGAN_ISA");
  return name == nullptr || *name == '\0' ? detected_isa() : parse_isa(name, "STREAMGAN_ISA");
}

std::map<std::string, std::vector<Isa>>& registry() {
  static std::map<std::string, std::vector<Isa>> tiers;
  return tiers;
}

}  // namespace

Isa detected_isa() {
  static const Isa detected = detect();
  return detected;
}

const std::string& refused_isa() { return amx_refusal(); }

std::vector<Isa> supported_isas() {
  std::vector<Isa> supported;
  for (const Isa isa : kPlatformIsas) {
    if (isa <= detected_isa()) supported.push_back(isa);
  }
  return supported;
}

Isa active_isa() {
  int isa = active.load(std::memory_order_relaxed);
  if (isa == kUndecided) {
    isa = static_cast<int>(isa_from_environment());
    active.store(isa, std::memory_order_relaxed);
  }
  return static_cast<Isa>(isa);
}

void set_isa(const std::optional<std::string>& name) {
  const Isa isa = name ? parse_isa(*name, "set_isa") : isa_from_environment();
  active.store(static_cast<int>(isa), std::memory_order_relaxed);
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAvx512Amx:
      return "avx512_amx";
    case Isa::kNeon:
      return "neon";
    case Isa::kNeonBf16:
      return "neon_bf16";
  }
  return "unknown";
}

const std::map<std::string, std::vector<Isa>>& kernel_tiers() { return registry(); }

void register_kernel_tier(const char* op, Isa isa) { registry()[op].push_back(isa); }

}  // namespace streamgan
