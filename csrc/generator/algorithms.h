// Picks the algorithm of a step among those that read its weights, and how its work is divided.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "csrc/cpu/fused_convolution.h"
#include "csrc/generator/program.h"

namespace streamgan {

// A direct convolution, or one on the matrix unit, of at most so many pixels shares out its output channels.
constexpr int64_t kFewPixels = 256;
constexpr int64_t kMaxChannels = 1 << 16;

struct StepSetting {
  const Step& step;
  const PackedWeights& weights;
  const FusedConvolutionKernels& kernels;
  int64_t threads;
  bool reads_one_value;       // one source, as it lies in memory: no norm, no residual, nothing kept
  const Convolution* before;  // of the step before; null: none
};

// Each sets the algorithm, its parameters, the phases, and what a unit reads around its pixels. `c` has all that the
// program says. Throws if a step does not fit its packing.
void set_direct(const StepSetting& setting, Convolution& c);
void set_winograd(const StepSetting& setting, Convolution& c);
void set_matrix(const StepSetting& setting, Convolution& c);

// A direct phase: its place and size, and what a unit reads for it, but for the columns after the picture. `bytes` is
// of its weights, of a phase.
template <typename Bytes>
void set_phase(const StepSetting& setting, Convolution& c, int64_t number, const Bytes& bytes) {
  const StepPhase& from = setting.step.phases[number];
  require(from.rows >= 1 && from.rows <= kMaxTaps && from.columns >= 1 && from.columns <= kMaxTaps &&
              std::abs(from.dy) <= kMaxTaps && std::abs(from.dx) <= kMaxTaps,
          "a filter of an unknown shape");
  Phase& phase = c.phases[number];
  phase = {from.dy, from.rows, from.dx, from.columns, nullptr};
  phase.weights = setting.weights.at(from.weights, bytes(phase));
  c.first = std::min(c.first, phase.dy), c.last = std::max(c.last, phase.dy + phase.rows - 1);
  c.before = std::max(c.before, -phase.dx);
}

inline bool is_winograd(Packing packing) {
  return packing >= Packing::kWinograd2 && packing <= Packing::kWinogradTransposed;
}
inline bool is_winograd(Algorithm algorithm) {
  return algorithm >= Algorithm::kWinograd2 && algorithm <= Algorithm::kWinogradTransposed4;
}
inline bool makes_picture(Packing packing) {
  return packing == Packing::kColumns || packing == Packing::kShuffle || packing == Packing::kMatrixLast;
}
inline bool uses_matrix_unit(Packing packing) { return packing == Packing::kMatrix || packing == Packing::kMatrixLast; }

int64_t unit_count(const Convolution& c);
int64_t statistic_slots(const Convolution& c);

// Memory that the threads share: transformed input of `tiles` tiles, and transformed filters of kVertical7 ...
int64_t transformed_bytes(const Convolution& c, int64_t tiles);
int64_t vertical_filter_bytes(const Convolution& c);

inline int64_t element_bytes(const Convolution& c) { return c.multiplied == kFloat32 ? 4 : 2; }

}  // namespace streamgan
