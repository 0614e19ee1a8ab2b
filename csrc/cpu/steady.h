// Rows of the pass that steadies a translated frame (csrc/steady.h), in whole numbers.
//
// Units:    pictures are uint8, B G R | B G R | ...; a *fine* value is 16 times a byte; positions, weights and factors
//           are 256ths.
// Contract: no alignment is needed; exactly the named elements are read and written; outputs overlap no inputs.
//           All tiers give the same bytes.
#pragma once

#include "csrc/cpu/tier.h"

namespace streamgan {

// Where the columns of a picture lie in a map of fewer columns: between `left` and `left + 1`, `fraction` 256ths on.
struct MapColumns {
  const int32_t* left;
  const int32_t* fraction;  // 0 to 256
};

// a * (256 - fraction) + b * fraction, rounded to 256ths, for each of `count` values.
using SteadyMixRow = void (*)(const int32_t* a, const int32_t* b, int32_t fraction, int32_t* mixed, int64_t count);

// A row of the correction: where the last frame, moved along the flow, differs from the fresh one, times the weight.
// `flow_x`, `flow_y` and `weight` are rows of the map, for `row` of the picture. Writes `correction`,
// fine, and `weight_out`, both [width, 3]. Returns the sum of squared corrections of bytes, each rounded down.
using SteadyCorrectRow = int64_t (*)(const uint8_t* history, const uint8_t* fresh, const int32_t* flow_x,
                                     const int32_t* flow_y, const int32_t* weight, const MapColumns& columns,
                                     int64_t row, int64_t width, int64_t height, int16_t* correction,
                                     int16_t* weight_out);

// fresh + factor * correction, fine, for `count` bytes.
using SteadyBlendRow = void (*)(const uint8_t* fresh, const int16_t* correction, int32_t factor, int16_t* blended,
                                int64_t count);

// Sharpens the middle one of three fine rows, [width, 3]: adds gain * weight * (the value less the mean of its four
// neighbours), a neighbour outside of the picture being the pixel itself. Returns the sum of squared differences to
// `fresh`.
using SteadySharpenRow = int64_t (*)(const int16_t* above, const int16_t* middle, const int16_t* below,
                                     const int16_t* weight, const uint8_t* fresh, int32_t gain, int64_t width,
                                     uint8_t* out);

// fresh + factor * (out - fresh), rounded towards `fresh`, for `count` bytes of `out`.
using SteadyLimitRow = void (*)(const uint8_t* fresh, int32_t factor, uint8_t* out, int64_t count);

// The sum of squares of the Laplacian (four times a pixel, less its neighbours) of the light, in eighths, of a row but
// for its first and last pixel.
using SteadyDetailRow = int64_t (*)(const uint8_t* above, const uint8_t* middle, const uint8_t* below, int64_t width);

struct SteadyKernels {
  SteadyMixRow mix;
  SteadyCorrectRow correct;
  SteadyBlendRow blend;
  SteadySharpenRow sharpen;
  SteadyLimitRow limit;
  SteadyDetailRow detail;
};

}  // namespace streamgan
