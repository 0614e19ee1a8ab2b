// Instruction-set tiers: which exist, which one runs, and the kernel table of each operator.
//
// A tier is one translation unit per operator, csrc/cpu/NAME_<tier>.cpp, compiled with that tier's flags and nothing
// shared with other tiers: everything in it sits in an anonymous namespace, and it calls no inline function of a
// header, because the linker would keep one copy of such a function and might keep the one this processor can't run.
//
// The tier that runs is the highest the processor and the operating system support, or the one that the environment
// variable STREAMGAN_ISA names, or the one set_isa() names. An operator without a kernel for it takes its next lower
// one.
#pragma once

#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "csrc/cpu/tier.h"

namespace streamgan {

// The highest tier this processor and operating system support.
Isa detected_isa();

// Why a tier that the processor has can't be used, in one line; "" where there is none.
const std::string& refused_isa();

// All tiers that can run here, lowest first; never one of another platform.
std::vector<Isa> supported_isas();

// The tier in use. Throws std::invalid_argument if STREAMGAN_ISA names no tier or one that can't run here.
Isa active_isa();

// Makes `name` the tier in use for the whole process; nullopt goes back to STREAMGAN_ISA or detection. For tests and
// measurements. Throws as active_isa() does.
void set_isa(const std::optional<std::string>& name);

// The name that STREAMGAN_ISA takes: scalar; avx2, avx512, avx512_bf16, avx512_amx; neon, neon_bf16.
const char* isa_name(Isa isa);

// The tiers each operator has a kernel for, lowest first.
const std::map<std::string, std::vector<Isa>>& kernel_tiers();

void register_kernel_tier(const char* op, Isa isa);

// The kernels of one operator, listed once: dispatch reads them here, tests and benchmarks through kernel_tiers().
// `Kernels` is a struct of function pointers with a member `Isa isa`.
template <typename Kernels>
class KernelTable {
 public:
  KernelTable(const char* op, std::initializer_list<const Kernels*> lowest_first) : kernels_(lowest_first) {
    for (const Kernels* kernels : kernels_) register_kernel_tier(op, kernels->isa);
  }

  const Kernels& active() const {
    const Isa isa = active_isa();
    const Kernels* best = kernels_.front();
    for (const Kernels* kernels : kernels_) {
      if (kernels->isa <= isa) best = kernels;
    }
    return *best;
  }

 private:
  std::vector<const Kernels*> kernels_;
};

}  // namespace streamgan
