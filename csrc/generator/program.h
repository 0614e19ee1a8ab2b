// The program of a generator, which engine/fused/program.py writes; change both together.
#pragma once

#include <cstdint>
#include <cstring>

#include "csrc/check.h"
#include "csrc/cpu/fused_convolution.h"

namespace streamgan {

constexpr int64_t kProgramVersion = 7, kNone = -1;

// The program: these numbers, then one Step after the other.
struct Header {
  int64_t version, dtype, slots, steps;
};

// How a step's weights are packed, and so what it can be. The plan picks one of the algorithms that read them. The four
// for 3x3 filters of stride 1 hold the same: they say how large the tiles may be for the precision.
enum class Packing : int64_t {
  kDirect,
  kWinograd2,
  kWinograd42,
  kWinograd4,
  kWinograd8,
  kWinogradPairs,
  kWinogradStrided,
  kWinogradTransposed,
  kDepthwise,
  kBilinear,
  kColumns,
  kShuffle,
  kMatrix,
  kMatrixLast
};
constexpr int64_t kPackings = 14;

struct StepPhase {
  int64_t dy, rows, dx, columns, weights;
};

// Slots hold activations; kNone stands for the image as a source, for nothing elsewhere. Offsets are bytes in
// `weights`.
struct Step {
  Packing packing;
  int64_t multiplies_float32, source, second_source, residual, second_residual, save, output;
  int64_t residual_scale_bits;  // float32, what `residual` is multiplied by
  int64_t save_channels;        // room of a pixel of `save`; 0: of those that it gets
  int64_t appends;              // whether the output comes after what `output` holds, as more channels
  Activation activation;        // of the input
  int64_t slope_bits, slopes;   // slopes float32 [in_channels] or kNone
  // Winograd steps that read ever more channels of one activation keep its transformed input: room for so many channels
  // (0: it is not kept), and how many of the first channels the step before has transformed.
  int64_t kept_channels, same_channels;
  Padding padding;
  int64_t pad_before, pad_after, taps;  // what the base grid's size follows from; taps a side
  int64_t stride, up;
  int64_t in_channels, out_channels;
  int64_t shuffles;  // whether the phases are a pixel shuffle's, of one input and each with a bias of its own
  int64_t bias;      // float32 [out_channels], or [up^2][out_channels] where it shuffles
  int64_t writes_bfloat16, saves_bfloat16;                 // float32 otherwise
  int64_t has_norm, norm_weight, norm_bias, epsilon_bits;  // of the output; weight and bias float32 or kNone
  int64_t norm_channels;                                   // that are normalised together; 0: each by itself
  int64_t image_scale_bits, image_offset_bits;             // of the first step: float32, image * scale + offset
  int64_t picture_channels, filter_width, tanh;            // of the last step
  Base base;                                               // of the last step
  int64_t aligns_corners;                                  // of linear interpolation
  int64_t weight_terms;                                    // of a step on the matrix unit: 1 or 2
  int64_t block;                                           // of the last one
  // A step on the matrix unit can finish its output, in place of the step that reads it: an activation (slopes float32
  // [out_channels] or kNone), then residuals.
  Activation out_activation;
  int64_t out_slope_bits, out_slopes, out_residual, out_second_residual, out_residual_scale_bits;
  int64_t out_room;  // channels of a pixel of `output`; 0: of those that it gets
  int64_t border;    // pixels of zeros around what it writes
  StepPhase phases[kMaxPhases];
};

// --- helpers of all that reads a program

constexpr char kGeneratorOp[] = "fused_generator";
constexpr int64_t kAlignment = 64;

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t aligned(int64_t bytes) { return divided_up(bytes, kAlignment) * kAlignment; }

inline float float_of_bits(int64_t bits) {
  const auto low = static_cast<uint32_t>(bits);
  float value;
  std::memcpy(&value, &low, sizeof value);
  return value;
}

// Checks a condition on a program.
template <typename... Parts>
void require(bool condition, const Parts&... message) {
  check(condition, kGeneratorOp, ": ", message...);
}

// engine/fused/packing.py makes them.
struct PackedWeights {
  const char* data;
  int64_t bytes;

  const void* at(int64_t offset, int64_t size) const {
    require(offset >= 0 && size >= 0 && offset <= bytes - size && offset % kAlignment == 0, "weights at ", offset,
            " are outside of the ", bytes, " bytes");
    return data + offset;
  }
  const float* floats(int64_t offset, int64_t count) const { return static_cast<const float*>(at(offset, count * 4)); }
};

// Both parts stay their owner's.
struct Program {
  PackedWeights weights;
  const int64_t* numbers;
  int64_t count;
};

}  // namespace streamgan
