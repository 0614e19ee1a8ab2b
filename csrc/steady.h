// Steadies a video's translated frames: blends each with the last steadied one, moved along the flow of the source.
//
//   correction = weight * (history moved along the flow - fresh)
//   blended    = fresh + k * correction              k <= 1: as much as the limit allows
//   steady     = blended + gain * weight * (blended - mean of its four neighbours)
//   steady     = fresh + k' * (steady - fresh)       k' <= 1: as much as the limit allows
//
// A correction far beyond the limit is left out: the frame before was translated by another style.
//
// All in whole numbers, so that every processor gives the same bytes. The flow and the weight are maps of fewer pixels
// than the picture; they are interpolated on the way.
#pragma once

#include <cstdint>
#include <vector>

#include "csrc/threads.h"

namespace streamgan {

struct SteadyTask {
  const uint8_t* fresh;    // [height, width, 3]
  const uint8_t* history;  // likewise
  uint8_t* out;            // likewise
  int64_t height, width;   // at least 2

  const int32_t* flow_x;          // [map_height, map_width]: where a pixel was in the history, less where it is; 256ths
  const int32_t* flow_y;          // likewise
  const int32_t* weight;          // likewise: 0 to 256
  int64_t map_height, map_width;  // at least 2

  int32_t gain;          // 256ths
  double squared_limit;  // of the mean squared difference between `out` and `fresh`
};

// What the details of a frame amount to, before and after: sums of squared Laplacians over a third of the rows; 0
// where the correction was left out.
struct SteadyDetail {
  int64_t fresh, steady;
};

// Reusable memory of `steady`.
struct SteadyWorkspace {
  std::vector<int16_t> correction, weight, blended;
  std::vector<int32_t> left, fraction, map_rows;
};

SteadyDetail steady(const SteadyTask& task, const Threads& threads, SteadyWorkspace& workspace);

}  // namespace streamgan
