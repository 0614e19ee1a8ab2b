// instance_norm_act on a GPU.
//
// Formulas:  y = act(x * scale + shift) + residual      scale = weight * rstd, shift = bias - mean * scale
//            rstd = 1 / sqrt(var + epsilon); act(v) = v above 0, slope * v below (NaN stays NaN)
//            and where the output is padded, each y goes to every place that mirrors it.
// Layouts:   interleaved  [images][height][width][channels]
//            planar       [images][channels][height][width]
// Forms:     resident     a block, or a cluster of blocks, holds a group of channels of an image in shared memory:
//                         one read and one write of the activation; mean, then deviations from it (corrected two-pass
//                         algorithm, Chan, Golub and LeVeque 1983)
//            two passes   statistics of chunks around a value of their own, joined (Chan et al. 1979), then a second
//                         read; float32 throughout. A shift s out of the chunk's n values has
//                         (s - mean)^2 <= n * var, so the variance loses at most n * 2^-24 of itself.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "csrc/cpu/tier.h"
#include "csrc/cuda/limits.h"

namespace streamgan {

struct NormParameters {
  const void *input, *residual;  // residual may be null; both of the element type
  void* output;                  // padded
  const float *weight, *bias;    // [channels] or null
  float *mean, *rstd;            // [images][channels]
  float* partial;                // workspace of two passes: [images][channels][chunks][2]
  int images, channels, height, width;
  int left, right, top, bottom;  // of the padding
  // Between rows and images of an interleaved residual, in elements; a planar one is dense.
  int64_t residual_row_stride, residual_image_stride;
  float epsilon, slope;
  bool over_channels;
  // Set by the plan:
  int lanes;           // neighbouring packs that a block takes of each place: a power of two up to 32
  int groups;          // per image: interleaved, of lanes * vector channels; planar, the channels
  int items;           // packs per lane: interleaved, the places; planar, places / vector
  int parts;           // that items are split into: blocks of a cluster, or chunks
  int items_per_part;  // the last part may have fewer
};

struct NormPlan {
  bool resident;
  int vector;  // elements per access
  int lanes, groups, items, parts, items_per_part;
  size_t shared_bytes;
};

// How a device does it. `vectors`: pointers and strides allow 16-byte accesses.
NormPlan plan_instance_norm(const NormParameters& norm, Dtype dtype, bool interleaved, bool vectors,
                            const DeviceLimits& limits);

// Floats of workspace that a plan wants.
int64_t norm_workspace(const NormParameters& norm, const NormPlan& plan);

// Returns null, or what is wrong. Asynchronous on `stream`.
const char* launch_instance_norm_act(NormParameters norm, const NormPlan& plan, Dtype dtype, bool interleaved,
                                     Stream stream);

// Blocks of the largest cluster that can run the resident form with `shared_bytes` each; 1 without clusters.
int largest_norm_cluster(size_t shared_bytes);

}  // namespace streamgan
