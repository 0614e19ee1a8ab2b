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

// Instructions that no tier guarantees.
enum class PeakNeeds : int { kNothing, kAvx512Vnni, kAvx512Fp16, kAmxInt8 };

struct PeakLoop {
  float (*run)(int64_t rounds) = nullptr;
  int64_t operations_per_round = 0;
  PeakNeeds needs = PeakNeeds::kNothing;
};

// By kind; `run` is null where the tier adds nothing to the next lower one.
struct PeakLoops {
  PeakLoop loop[kPeakKindCount] = {};
};

}  // namespace streamgan
