// What kernels take from CUDA beyond the language, and how they are started.
//
// The same sources are built for the host with STREAMGAN_EMULATE, where an emulation of threads, barriers and shared
// memory, included before them, takes CUDA's place (tests/cuda/emulated.py).
#pragma once

#include <stddef.h>
#include <stdint.h>

#if !defined(STREAMGAN_EMULATE)
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include "csrc/cuda/limits.h"

namespace streamgan {

constexpr int kWarpSize = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// --- elements: computed with in float32, rounded to nearest even when stored

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename Element>
__device__ inline Element from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// What one access moves: up to 16 bytes.
template <typename Element, int kCount>
struct alignas(sizeof(Element) * kCount) Pack {
  Element at[kCount];
};

// --- clusters: blocks that can read each other's shared memory (compute capability 9.0 and later)

#if defined(STREAMGAN_EMULATE) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
__device__ inline int cluster_size() { return static_cast<int>(cooperative_groups::this_cluster().num_blocks()); }
__device__ inline int cluster_rank() { return static_cast<int>(cooperative_groups::this_cluster().block_rank()); }
__device__ inline void cluster_sync() { cooperative_groups::this_cluster().sync(); }
__device__ inline const float* shared_of_block(float* shared, int rank) {
  return cooperative_groups::this_cluster().map_shared_rank(shared, static_cast<unsigned>(rank));
}
#else
__device__ inline int cluster_size() { return 1; }
__device__ inline int cluster_rank() { return 0; }
__device__ inline void cluster_sync() { __syncthreads(); }
__device__ inline const float* shared_of_block(float* shared, int) { return shared; }
#endif

// --- starting a kernel

struct LaunchShape {
  int64_t blocks;
  int threads;
  size_t shared_bytes;  // dynamic
  int cluster;          // blocks per cluster; 1: none
};

#if defined(STREAMGAN_EMULATE)
template <typename... Parameters, typename... Arguments>
const char* launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream, const Arguments&... arguments) {
  return emulation::run_grid(shape.blocks, shape.threads, shape.shared_bytes, shape.cluster,
                             [&] { kernel(arguments...); });
}

inline unsigned char* shared_memory() { return emulation::shared_memory(); }
#else
__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}

// Asynchronous on `stream`; safe while a graph is captured. Returns null, or what is wrong.
template <typename... Parameters, typename... Arguments>
const char* launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream stream,
                   const Arguments&... arguments) {
  constexpr size_t kSharedWithoutAsking = 48 * 1024;
  constexpr int kPortableCluster = 8;
  cudaError_t error = cudaSuccess;
  if (shape.shared_bytes > kSharedWithoutAsking) {
    // Always the most that there is: the limit belongs to the kernel, and a graph may hold a launch that needs more.
    int device = 0, most = 0;
    error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  }
  if (error == cudaSuccess && shape.cluster > kPortableCluster) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  if (error == cudaSuccess) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = shape.cluster > 1 ? 1 : 0;
    error = cudaLaunchKernelEx(&config, kernel, arguments...);
  }
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // or the next call of anybody would report it
  return cudaGetErrorString(error);
}
#endif

}  // namespace streamgan
