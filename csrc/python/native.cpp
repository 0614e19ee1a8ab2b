// engine._native: what this build is, which instruction set its kernels use, what the processor's arithmetic can do,
// and generators without torch. The operators need no Python; they are in libstreamgan and reached through
// torch.ops.streamgan.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "csrc/caches.h"
#include "csrc/cpu/fused_convolution.h"
#include "csrc/kernels.h"
#include "csrc/python/frames.h"
#include "csrc/python/generator.h"
#include "csrc/python/steady.h"

namespace {

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const streamgan::Tier* tier : streamgan::supported_tiers()) names.emplace_back(tier->name);
  return names;
}

std::map<std::string, std::string> build_info() {
  return {{"version", STREAMGAN_VERSION},
          {"compiler", STREAMGAN_COMPILER},
          {"flags", STREAMGAN_FLAGS},
          {"torch", STREAMGAN_TORCH_VERSION}};
}

using Sizes = std::pair<int64_t, int64_t>;

Sizes caches() {
  const streamgan::Caches sizes = streamgan::caches();
  return {sizes.level2_bytes, sizes.level3_bytes};
}

void set_caches(const std::optional<Sizes>& sizes) {
  if (!sizes) return streamgan::set_caches(std::nullopt);
  if (sizes->first < 1 || sizes->second < 0) throw std::invalid_argument("set_caches: sizes must be positive");
  streamgan::set_caches(streamgan::Caches{sizes->first, sizes->second});
}

using Halves = pybind11::array_t<uint16_t, pybind11::array::c_style>;
using Floats = pybind11::array_t<float, pybind11::array::c_style>;

Floats multiply_tiles(const Halves& a, const Halves& b, const Floats& sums) {
  if (a.size() != 512 || b.size() != 512 || sums.size() != 256) {
    throw std::invalid_argument("multiply_tiles: a is [16, 32], b is [16, 16, 2] and sums are [16, 16]");
  }
  Floats result({16, 16});
  std::copy(sums.data(), sums.data() + sums.size(), result.mutable_data());
  streamgan::fused_convolution_kernels().multiply_tiles(a.data(), b.data(), result.mutable_data());
  return result;
}

using Clock = std::chrono::steady_clock;

// What one thread of a peak measurement did.
struct PeakRun {
  Clock::time_point begin, end;
  int64_t rounds;
};

// `missing` counts the threads that the others wait for.
PeakRun run_peak(streamgan::PeakLoop loop, std::atomic<int>& missing, Clock::duration duration) {
  constexpr int64_t kRoundsPerLook = 2000;  // some microseconds: the clock costs nothing beside them
  loop.run(kRoundsPerLook);
  --missing;
  while (missing > 0) std::this_thread::yield();
  PeakRun run = {Clock::now(), {}, 0};
  do {
    loop.run(kRoundsPerLook);
    run.rounds += kRoundsPerLook;
    run.end = Clock::now();
  } while (run.end - run.begin < duration);
  return run;
}

streamgan::PeakKind peak_kind(const std::string& name) {
  if (name == "float32") return streamgan::kPeakFloat32;
  if (name == "bf16") return streamgan::kPeakBFloat16;
  if (name == "int8") return streamgan::kPeakInt8;
  if (name == "float16") return streamgan::kPeakFloat16;
  throw std::invalid_argument("peak: kind '" + name + "' is unknown; accepted are float32, float16, bf16, int8");
}

const streamgan::Tier& supported_tier(const std::optional<std::string>& name) {
  if (!name) return streamgan::detected_tier();
  for (const streamgan::Tier* tier : streamgan::supported_tiers()) {
    if (*name == tier->name) return *tier;
  }
  throw std::invalid_argument("peak: isa '" + *name + "' can't run here; supported_isas() lists those that can");
}

std::optional<double> peak(const std::string& kind, int threads, double seconds,
                           const std::optional<std::string>& isa) {
  const streamgan::PeakLoop loop = streamgan::peak_loop(peak_kind(kind), supported_tier(isa));
  if (threads < 1) throw std::invalid_argument("peak: threads is " + std::to_string(threads) + "; at least 1");
  if (!(seconds > 0) || seconds > 60) {
    throw std::invalid_argument("peak: seconds is " + std::to_string(seconds) + "; above 0, at most 60");
  }
  if (loop.run == nullptr) return std::nullopt;

  const auto duration = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  std::atomic<int> missing{threads};
  std::vector<std::future<PeakRun>> workers;
  try {
    for (int i = 0; i < threads; ++i) {
      workers.push_back(std::async(std::launch::async, run_peak, loop, std::ref(missing), duration));
    }
  } catch (...) {  // the system gave fewer threads: let go those that wait
    missing = 0;
    throw;
  }
  Clock::time_point begin = Clock::time_point::max(), end = Clock::time_point::min();
  int64_t rounds = 0;
  for (auto& worker : workers) {
    const PeakRun run = worker.get();
    begin = std::min(begin, run.begin);
    end = std::max(end, run.end);
    rounds += run.rounds;
  }
  return static_cast<double>(rounds) * static_cast<double>(loop.operations_per_round) /
         std::chrono::duration<double>(end - begin).count();
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "The compiled part without torch: build information, instruction sets, fused generators.";
  define_generator(module);
  define_frames(module);
  define_steady(module);
  module.def("build_info", &build_info, "Version, compiler, flags and the torch version built against.");
  module.def(
      "detected_isa", [] { return streamgan::detected_tier().name; },
      "The highest instruction set this processor and operating system support.");
  module.def("supported_isas", &supported_isas, "All instruction sets that can run here, lowest first.");
  module.def(
      "active_isa", [] { return streamgan::active_tier().name; },
      "The instruction set in use; ValueError if STREAMGAN_ISA names one that can't run here.");
  module.def("set_isa", &streamgan::set_isa, pybind11::arg("name"),
             "Forces an instruction set for the whole process; None goes back to STREAMGAN_ISA or detection.");
  module.def("refused_isa", &streamgan::refused_isa,
             "Why an instruction set that the processor has can't be used, in one line; '' where there is none.");
  module.def("caches", &caches, "Level 2 cache of one core and level 3 cache of all, in bytes, as plans use them.");
  module.def("set_caches", &set_caches, pybind11::arg("sizes"),
             "Sets both sizes for the whole process; None goes back to what the operating system says. For tests.");
  module.def(
      "multiply_tiles", &multiply_tiles, pybind11::arg("a").noconvert(), pybind11::arg("b").noconvert(),
      pybind11::arg("sums").noconvert(),
      "A product of tiles by the matrix unit, or its emulation where the instruction set in use has none: sums, "
      "float32 [16, 16], plus a, bits of bfloat16 as uint16 [16, 32], times b, [16, 16, 2], which holds rows 2 k "
      "and 2 k + 1 side by side.");
  module.def("kernels", &streamgan::kernel_tiers,
             "The instruction sets that each operator has a kernel of its own for, lowest first.");
  module.def(
      "peak", &peak, pybind11::arg("kind"), pybind11::arg("threads"), pybind11::arg("seconds"),
      pybind11::arg("isa") = pybind11::none(), pybind11::call_guard<pybind11::gil_scoped_release>(),
      "Operations per second of all threads together in a loop on registers, a multiplication and its addition "
      "being two. Kinds are float32, float16, bf16 (products summed in float32) and int8 (summed in int32). None if "
      "this "
      "processor, or the instruction set `isa`, has no instruction for it; by default the detected one, whatever "
      "is in use.");
}
