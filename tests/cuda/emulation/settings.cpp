// For ctypes: the limits of the emulated device, the order in which its threads run, its conversions, and what is
// planned.
#include "tests/cuda/emulation/current_device.h"
// Needs the above.
#include "csrc/cuda/instance_norm_act.h"

extern "C" __attribute__((visibility("default"))) void streamgan_emulate_device(int multiprocessors, long shared_bytes,
                                                                                long l2_bytes, int max_cluster) {
  streamgan::emulated_limits() = {multiprocessors, static_cast<size_t>(shared_bytes), static_cast<size_t>(l2_bytes),
                                  max_cluster};
}

extern "C" __attribute__((visibility("default"))) void streamgan_emulate_order(int order) {
  emulation::set_order(static_cast<emulation::Order>(order));
}

// Rounds each value to half precision and back.
extern "C" __attribute__((visibility("default"))) void streamgan_emulate_rounding(float* values, long count,
                                                                                  int is_bfloat16) {
  for (long i = 0; i < count; ++i) {
    values[i] =
        is_bfloat16 != 0 ? __bfloat162float(__float2bfloat16_rn(values[i])) : __half2float(__float2half_rn(values[i]));
  }
}

// The plan for a tensor that allows 16-byte accesses: resident, vector, lanes, blocks, parts, bytes of shared memory.
extern "C" __attribute__((visibility("default"))) void streamgan_emulate_plan(const int* shape, int dtype,
                                                                              int interleaved, long* plan) {
  streamgan::NormParameters norm = {};
  norm.images = shape[0], norm.channels = shape[1], norm.height = shape[2], norm.width = shape[3];
  const streamgan::NormPlan made = streamgan::plan_instance_norm(norm, static_cast<streamgan::Dtype>(dtype),
                                                                 interleaved != 0, true, streamgan::emulated_limits());
  const long values[] = {made.resident, made.vector,
                         made.lanes,    static_cast<long>(norm.images) * made.groups * made.parts,
                         made.parts,    static_cast<long>(made.shared_bytes)};
  for (int i = 0; i < 6; ++i) plan[i] = values[i];
}
