// tensor_to_frames, one row of pixels.
//
// Formula:  bgr[3 * p + 2 - c] = clamp(round((x - low) * scale), 0, 255)      scale = 255 / (high - low)
//           float32 subtraction, then float32 multiplication (two roundings); halves go to the even neighbour;
//           NaN gives 0.
// Layout:   interleaved  R G B | R G B | ...    pixels * 3 elements of float32, bfloat16 or float16
//           planar       R R R ..., G G G ..., B B B ...    three runs of `pixels` elements
//           bgr          B G R | B G R | ...    pixels * 3 bytes
// Contract: no alignment is needed; exactly these elements are read and these bytes written; bgr overlaps no input.
//           All tiers give the same bytes.
#pragma once

#include "csrc/cpu/tier.h"

namespace streamgan {

using TensorToFramesInterleavedRow = void (*)(const void* rgb, uint8_t* bgr, int64_t pixels, float low, float scale);
using TensorToFramesPlanarRow = void (*)(const void* red, const void* green, const void* blue, uint8_t* bgr,
                                         int64_t pixels, float low, float scale);

struct TensorToFramesKernels {
  TensorToFramesInterleavedRow interleaved[kDtypeCount];
  TensorToFramesPlanarRow planar[kDtypeCount];
};

}  // namespace streamgan
