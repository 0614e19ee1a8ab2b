// What a generator's program consists of. engine/fuse_program.py writes it; change both together.
#pragma once

#include <cstdint>

#include "csrc/cpu/fused_convolution.h"

namespace streamgan {

constexpr int64_t kProgramVersion = 7, kNone = -1;

// The program: these numbers, then one Step after the other.
struct Header {
  int64_t version, dtype, slots, steps;
};

struct StepPhase {
  int64_t dy, rows, dx, columns, weights;
};

// Slots hold activations; kNone stands for the image as a source, for nothing elsewhere. Offsets are bytes in
// `weights`.
struct Step {
  int64_t method, multiplies_float32, source, second_source, residual, second_residual, save, output;
  int64_t residual_scale_bits;             // float32, what `residual` is multiplied by
  int64_t save_channels;                   // room of a pixel of `save`; 0: of those that it gets
  int64_t appends;                         // whether the output comes after what `output` holds, as more channels
  int64_t activation, slope_bits, slopes;  // of the input; slopes float32 [in_channels] or kNone
  // Of Winograd: the transformed input of steps that read ever more channels of one activation is kept, with room for
  // so many channels (0: it isn't), and so many of the first are those that the step before has seen.
  int64_t kept_channels, same_channels;
  int64_t padding, pad_before, pad_after, kernel;  // what the base grid's size follows from
  int64_t stride, up;
  int64_t in_channels, out_channels;
  int64_t shuffles;  // whether the phases are a pixel shuffle's, of one input and each with a bias of its own
  int64_t bias;      // float32 [out_channels], or [up^2][out_channels] where it shuffles
  int64_t writes_bfloat16, saves_bfloat16;                 // float32 otherwise
  int64_t has_norm, norm_weight, norm_bias, epsilon_bits;  // of the output; weight and bias float32 or kNone
  int64_t norm_channels;                                   // that are normalised together; 0: each by itself
  int64_t image_scale_bits, image_offset_bits;             // of the first step: float32, image * scale + offset
  int64_t picture_channels, kernel_width, tanh;            // of the last step
  int64_t base;                                            // Base, of the last step
  int64_t aligns_corners;                                  // of linear interpolation
  int64_t weight_parts;                                    // of a step on the matrix unit: 1 or 2
  int64_t block;                                           // of the last one
  // Of a step on the matrix unit, what becomes of its output before it is written, in place of what the step that reads
  // it would do: an activation (slopes float32 [out_channels] or kNone), and residuals that are added then.
  int64_t out_activation, out_slope_bits, out_slopes, out_residual, out_second_residual, out_residual_scale_bits;
  int64_t out_room;  // channels of a pixel of `output`; 0: of those that it gets
  int64_t border;    // pixels of zeros around what it writes
  StepPhase phases[kMaxPhases];
};

}  // namespace streamgan
