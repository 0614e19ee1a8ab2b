// What every kernel file may include: plain declarations only, no inline functions (see csrc/isa.h).
#pragma once

#include <stdint.h>

#if defined(STREAMGAN_X86_TIERS)
#define STREAMGAN_IF_X86(...) __VA_ARGS__
#else
#define STREAMGAN_IF_X86(...)
#endif

#if defined(STREAMGAN_ARM_TIERS)
#define STREAMGAN_IF_ARM(...) __VA_ARGS__
#else
#define STREAMGAN_IF_ARM(...)
#endif

namespace streamgan {

// The tiers of all platforms. Those of one platform are the scalar one and a run of others, lowest first: a processor
// that has one of them has all before it.
enum class Isa : int { kScalar, kAvx2, kAvx512, kAvx512Bf16, kAvx512Amx, kNeon, kNeonBf16 };

// Element types of image tensors; kernel structs hold one function for each, in this order.
enum Dtype : int { kFloat32, kBFloat16, kFloat16, kDtypeCount };

}  // namespace streamgan
