// engine._native: what this build is and which instruction set its kernels use. The operators themselves need no
// Python; they are in libstreamgan and reached through torch.ops.streamgan.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "csrc/isa.h"

namespace {

std::vector<std::string> names(const std::vector<streamgan::Isa>& isas) {
  std::vector<std::string> result;
  for (const streamgan::Isa isa : isas) result.emplace_back(streamgan::isa_name(isa));
  return result;
}

std::map<std::string, std::string> build_info() {
  return {{"version", STREAMGAN_VERSION},
          {"compiler", STREAMGAN_COMPILER},
          {"flags", STREAMGAN_FLAGS},
          {"torch", STREAMGAN_TORCH_VERSION}};
}

std::map<std::string, std::vector<std::string>> kernels() {
  std::map<std::string, std::vector<std::string>> result;
  for (const auto& [op, isas] : streamgan::kernel_tiers()) result[op] = names(isas);
  return result;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Introspection of the compiled part: build information and instruction sets.";
  module.def("build_info", &build_info, "Version, compiler, flags and the torch version built against.");
  module.def(
      "detected_isa", [] { return streamgan::isa_name(streamgan::detected_isa()); },
      "The highest instruction set this processor and operating system support.");
  module.def(
      "supported_isas", [] { return names(streamgan::supported_isas()); },
      "All instruction sets that can run here, lowest first.");
  module.def(
      "active_isa", [] { return streamgan::isa_name(streamgan::active_isa()); },
      "The instruction set in use; ValueError if STREAMGAN_ISA names one that can't run here.");
  module.def("set_isa", &streamgan::set_isa, pybind11::arg("name"),
             "Forces an instruction set for the whole process; None goes back to STREAMGAN_ISA or detection.");
  module.def("kernels", &kernels, "The instruction sets that each operator has a kernel of its own for, lowest first.");
}
