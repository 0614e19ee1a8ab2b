// frames_to_tensor, one row of pixels.
//
// Formula:  rgb[3 * p + c] = bgr[3 * p + 2 - c] / divisor + low      divisor = 255 / (high - low)
//           float32 division, then float32 addition (two roundings), then rounded to the output type, nearest even.
// Layout:   bgr  B G R | B G R | ...    pixels * 3 bytes
//           rgb  R G B | R G B | ...    pixels * 3 elements of float32, bfloat16 or float16
// Contract: no alignment is needed; exactly these bytes are read and these elements written; bgr and rgb don't overlap.
//           Results are finite and zero or of normal size in float32 (the operator checks low and high), and all
//           tiers give the same bits.
#pragma once

#include "csrc/cpu/tier.h"

namespace streamgan {

using FramesToTensorRow = void (*)(const uint8_t* bgr, void* rgb, int64_t pixels, float divisor, float low);

struct FramesToTensorKernels {
  FramesToTensorRow row[kDtypeCount];
};

}  // namespace streamgan
