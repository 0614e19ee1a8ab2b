// instance_norm_act, rows of elements: statistics, normalisation with activation and residual, and their gradients.
//
// Formulas:  y = act(x * scale + shift) + residual      scale = weight / sqrt(var + eps), shift = bias - mean * scale
//            act(v) = v above 0, slope * v below        slope 1: none, 0: ReLU
//            g = dy * act'(x * scale + shift)           of = x * rstd + offset, offset = -mean * rstd: x normalised
//            sums of g and of g * of, from which the caller makes a and b, and dx = g * scale + of * a + b
// Layout:    interleaved  `pixels` groups of `channels` elements, coefficients [channels]
//            planar       one run of `pixels` elements of a channel, coefficients of one element, channels 1
// Contract:  float32 or bfloat16 elements, computed in float32; no alignment; outputs overlap no input.
#pragma once

#include <stddef.h>

#include "csrc/cpu/tier.h"

namespace streamgan {

struct NormRow {
  const void* x;
  const void* residual;  // null: none
  const void* grad;      // of backward
  void* to;
  int64_t pixels, channels;
  const float *scale, *shift;
  float slope;
  const float *rstd, *offset, *a, *b;  // of backward
};

// mean[c] and m2[c], the sum of squared deviations from it.
using NormStatistics = void (*)(const void* x, int64_t pixels, int64_t channels, float* mean, float* m2);
using NormApply = void (*)(const NormRow& row);
// Adds the sums over the row to of_grad[c] and of_product[c].
using NormGradSums = void (*)(const NormRow& row, float* of_grad, float* of_product);

struct NormLayoutKernels {
  // By element type: float32, bfloat16.
  NormStatistics statistics[2];
  NormApply forward[2];
  NormGradSums grad_sums[2];
  NormApply backward[2];
};

struct InstanceNormActKernels {
  NormLayoutKernels interleaved, planar;
};

}  // namespace streamgan
