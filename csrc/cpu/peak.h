// What the processor's arithmetic can do: loops on registers only, to measure other code against.
//
// Formula:  float32   accumulator = accumulator * factor + addend        one fused instruction where there is one
//           bfloat16  accumulator += the sum of two a * b (of four on Arm, bfmmla), products and sums in float32
//           float16   accumulator = accumulator * factor + addend, all of it in float16
//           int8      accumulator += the sum of four a * b, uint8 by int8, in int32
// Counting: a multiplication and its addition are two operations.
// Contract: a round is one instruction for every accumulator. They are independent and enough of them (latency times
//           instructions per cycle, or more) to keep all units busy; they start with different values, because the
//           compiler would merge equal ones. Values stay zero or of normal size. The result depends on all of them, so
//           none can be left out.
#pragma once

#include "csrc/cpu/tier.h"

namespace streamgan {

enum PeakKind : int { kPeakFloat32, kPeakBFloat16, kPeakInt8, kPeakFloat16, kPeakKindCount };

struct PeakLoop {
  float (*run)(int64_t rounds);
  int64_t operations_per_round;
};

// A loop's `run` is null where the tier adds nothing to the next lower one. Instructions that a tier does not guarantee
// (AVX512-VNNI, AVX512-FP16, AMX-INT8) are asked for in peak_loop.cpp.
struct PeakKernels {
  Isa isa;
  PeakLoop loop[kPeakKindCount];
};

extern const PeakKernels kPeakScalar;
extern const PeakKernels kPeakAvx2;
extern const PeakKernels kPeakAvx512;  // its int8 loop needs AVX512-VNNI, which the tier doesn't guarantee
extern const PeakKernels kPeakAvx512Bf16;
extern const PeakKernels kPeakAvx512Amx;
extern const PeakKernels kPeakNeon;
extern const PeakKernels kPeakNeonBf16;

}  // namespace streamgan
