// For ctypes: the limits of the emulated device, the order in which its threads run, and its conversions.
#include "tests/cuda/emulation/current_device.h"

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
