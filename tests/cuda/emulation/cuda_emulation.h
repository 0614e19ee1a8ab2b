// What the kernels of csrc/cuda take from CUDA, on the host: threads, blocks and clusters of blocks, shared memory,
// barriers, warp shuffles, and the arithmetic of half precision.
//
// Every emulated thread has a stack of its own and runs until it reaches a barrier or a shuffle; then the next one goes
// on. So a block's threads are as far apart as they can be, and what a missing barrier would leave to chance on a GPU
// shows every time, in one of the orders that set_order() has. What is found to be wrong ends the launch with a
// message: a barrier that not all threads reach, threads of a warp in different shuffles, shared memory written
// beyond its end. Shared memory begins as NaN.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct float2 {
  float x, y;
};

namespace emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// Threads that wait for each other: those of a block, or of a cluster. Whoever has ended is not waited for.
struct Barrier {
  int members = 0, arrived = 0;
  unsigned generation = 0;
};

// A shuffle in progress. Two rounds have room, so that a thread may be in the next one before all have read.
struct Warp {
  static constexpr int kLanes = 32;
  uint32_t values[2][kLanes] = {};
  int members = 0;
  unsigned arrived[2] = {0, 0};  // lanes, a bit each
  unsigned long rounds = 0;      // finished
};

struct Block {
  Index index;
  int rank = 0;
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<uint32_t> shared;  // with a margin that nobody may write
};

struct Thread {
  Index index;
  Block* block = nullptr;
  unsigned long shuffles = 0;
  bool started = false, ended = false;
  ucontext_t context;
  jmp_buf place;
};

// kBlockwise: each block as far as it gets before the next one goes on.
enum class Order { kForward, kBackward, kShuffled, kBlockwise };

constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kMarginWords = 64;
constexpr uint32_t kPoison = 0xffffffffu;  // a NaN in each of the element types

struct State {
  Order order = Order::kForward;
  Thread* current = nullptr;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Block> blocks;
  Barrier cluster;
  int blocks_per_cluster = 1;
  Index block_size, grid_size;
  const std::function<void()>* body = nullptr;
  unsigned long progress = 0;  // arrivals and ends
  std::string wrong;
  jmp_buf scheduler;
  std::vector<std::unique_ptr<char[]>> stacks;
};

inline State& state() {
  static thread_local State one;
  return one;
}

inline void set_order(Order order) { state().order = order; }

// The next thread's turn. _setjmp and _longjmp keep no signal masks: a switch costs nanoseconds.
inline void yield() {
  State& s = state();
  if (_setjmp(s.current->place) == 0) _longjmp(s.scheduler, 1);
}

[[noreturn]] inline void fail(const std::string& what) {
  state().wrong = what;
  _longjmp(state().scheduler, 1);
}

inline void wait(Barrier& barrier) {
  const unsigned generation = barrier.generation;
  ++barrier.arrived, ++state().progress;
  if (barrier.arrived == barrier.members) {
    barrier.arrived = 0, ++barrier.generation;
    return yield();
  }
  while (barrier.generation == generation) yield();
}

inline void leave(Barrier& barrier) {
  --barrier.members;
  if (barrier.members > 0 && barrier.arrived == barrier.members) barrier.arrived = 0, ++barrier.generation;
}

template <typename Value>
Value shuffle_xor(unsigned mask, Value value, int offset) {
  static_assert(sizeof(Value) == sizeof(uint32_t), "one register");
  State& s = state();
  Thread& thread = *s.current;
  const unsigned lane = thread.index.x % Warp::kLanes;
  Warp& warp = thread.block->warps[thread.index.x / Warp::kLanes];
  const unsigned long round = thread.shuffles++;
  if (mask != 0xffffffffu || warp.members != Warp::kLanes) fail("a shuffle that not all lanes of a warp take part in");
  std::memcpy(&warp.values[round % 2][lane], &value, sizeof value);
  warp.arrived[round % 2] |= 1u << lane, ++s.progress;
  if (warp.arrived[round % 2] == 0xffffffffu) {
    warp.arrived[round % 2] = 0;
    warp.rounds = round + 1;
  }
  while (warp.rounds <= round) yield();
  Value other;
  std::memcpy(&other, &warp.values[round % 2][lane ^ static_cast<unsigned>(offset)], sizeof other);
  return other;
}

inline unsigned char* shared_memory() {
  return reinterpret_cast<unsigned char*>(state().current->block->shared.data());
}

inline void run_thread() {
  State& s = state();
  (*s.body)();
  Thread& thread = *s.current;
  thread.ended = true, ++s.progress;
  --thread.block->warps[thread.index.x / Warp::kLanes].members;
  leave(thread.block->barrier);
  leave(s.cluster);
  _longjmp(s.scheduler, 1);
}

// Lets one thread run until its next wait or its end.
inline void resume(Thread& thread, char* stack) {
  State& s = state();
  s.current = &thread;
  if (_setjmp(s.scheduler) != 0) return;
  if (thread.started) _longjmp(thread.place, 1);
  thread.started = true;
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = stack;
  thread.context.uc_stack.ss_size = kStackBytes;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, run_thread, 0);
  setcontext(&thread.context);
}

// Runs the blocks of one cluster to their end. The first of them has the number `first`.
inline void run_cluster(int64_t first, int threads, size_t shared_bytes) {
  State& s = state();
  const int blocks = s.blocks_per_cluster, total = blocks * threads;
  const size_t words = (shared_bytes + 3) / 4;
  s.blocks.assign(static_cast<size_t>(blocks), Block());
  s.cluster = Barrier{total, 0, 0};
  while (s.threads.size() < static_cast<size_t>(total)) s.threads.push_back(std::make_unique<Thread>());
  for (int b = 0; b < blocks; ++b) {
    Block& block = s.blocks[static_cast<size_t>(b)];
    block.index.x = static_cast<unsigned>(first + b), block.rank = b;
    block.barrier.members = threads;
    block.warps.resize(static_cast<size_t>((threads + Warp::kLanes - 1) / Warp::kLanes));
    block.shared.assign(words + kMarginWords, kPoison);
    for (int t = 0; t < threads; ++t) {
      ++block.warps[static_cast<size_t>(t / Warp::kLanes)].members;
      Thread& thread = *s.threads[static_cast<size_t>(b * threads + t)];
      thread.index.x = static_cast<unsigned>(t);
      thread.block = &block, thread.shuffles = 0;
      thread.started = thread.ended = false;
    }
  }
  while (s.stacks.size() < static_cast<size_t>(total)) s.stacks.emplace_back(new char[kStackBytes]);
  std::vector<int> order(static_cast<size_t>(total));
  std::iota(order.begin(), order.end(), 0);
  if (s.order == Order::kBackward) std::reverse(order.begin(), order.end());
  std::mt19937 random(static_cast<unsigned>(first + 1));
  for (bool running = true; running;) {
    if (s.order == Order::kShuffled) std::shuffle(order.begin(), order.end(), random);
    const unsigned long before = s.progress;
    running = false;
    // Threads of all blocks once, or of one block until none of them can go on.
    const int step = s.order == Order::kBlockwise ? threads : total;
    for (int begin = 0; begin < total; begin += step) {
      for (unsigned long last = s.progress - 1; last != s.progress && s.wrong.empty();) {
        last = s.progress;
        for (int place = begin; place < begin + step && s.wrong.empty(); ++place) {
          const auto index = static_cast<size_t>(order[static_cast<size_t>(place)]);
          if (s.threads[index]->ended) continue;
          running = true;
          resume(*s.threads[index], s.stacks[index].get());
        }
        if (s.order != Order::kBlockwise) break;
      }
    }
    // A thread that can go on reaches something or ends.
    if (running && s.progress == before && s.wrong.empty()) {
      s.wrong = "a barrier or a shuffle that not all threads reach";
    }
    if (!s.wrong.empty()) return;
  }
  for (const Block& block : s.blocks) {
    for (size_t word = words; word < words + kMarginWords; ++word) {
      if (block.shared[word] != kPoison) s.wrong = "shared memory is written beyond its end";
    }
  }
}

// All blocks, cluster after cluster. Null, or what was wrong.
inline const char* run_grid(int64_t blocks, int threads, size_t shared_bytes, int cluster,
                            const std::function<void()>& body) {
  State& s = state();
  s.wrong.clear();
  s.body = &body;
  s.blocks_per_cluster = cluster;
  s.block_size.x = static_cast<unsigned>(threads), s.grid_size.x = static_cast<unsigned>(blocks);
  if (blocks % cluster != 0) s.wrong = "the grid is no multiple of the cluster";
  for (int64_t first = 0; first < blocks && s.wrong.empty(); first += cluster) {
    run_cluster(first, threads, shared_bytes);
  }
  return s.wrong.empty() ? nullptr : s.wrong.c_str();
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace emulation

#define threadIdx (emulation::state().current->index)
#define blockIdx (emulation::state().current->block->index)

inline void __syncthreads() { emulation::wait(emulation::state().current->block->barrier); }

template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int offset) {
  return emulation::shuffle_xor(mask, value, offset);
}

namespace cooperative_groups {

struct cluster_group {
  unsigned num_blocks() const { return static_cast<unsigned>(emulation::state().blocks_per_cluster); }
  unsigned block_rank() const { return static_cast<unsigned>(emulation::state().current->block->rank); }
  void sync() const { emulation::wait(emulation::state().cluster); }
  template <typename Value>
  Value* map_shared_rank(Value* pointer, unsigned rank) const {
    const auto offset = reinterpret_cast<char*>(pointer) - reinterpret_cast<char*>(emulation::shared_memory());
    emulation::Block& other = emulation::state().blocks[rank];
    // A block that has ended has given its memory back.
    const bool is_gone = other.barrier.members < static_cast<int>(emulation::state().block_size.x);
    if (is_gone) emulation::fail("shared memory of a block that has ended is read");
    return reinterpret_cast<Value*>(reinterpret_cast<char*>(other.shared.data()) + offset);
  }
};

inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups

// --- half precision: stored in 16 bits, rounded to nearest even, infinity beyond the largest, NaN kept

struct __half {
  uint16_t bits;
};

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __half2float(__half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t exponent = (value.bits >> 10) & 31, fraction = value.bits & 1023;
  const float magnitude = exponent == 31 ? (fraction != 0 ? NAN : INFINITY)
                          : exponent == 0
                              ? std::ldexp(static_cast<float>(fraction), -24)
                              : std::ldexp(static_cast<float>(1024 + fraction), static_cast<int>(exponent) - 25);
  return emulation::float_of(emulation::bits_of(magnitude) | sign);
}

inline __half __float2half_rn(float value) {
  const auto sign = static_cast<uint16_t>((emulation::bits_of(value) >> 16) & 0x8000);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return {static_cast<uint16_t>(sign | 0x7e00)};
  if (magnitude == 0.0f) return {sign};
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent = 0;
  std::frexp(magnitude, &exponent);               // magnitude = fraction * 2^exponent, fraction in [1/2, 1)
  const int unit = std::max(exponent - 11, -24);  // the last place
  const auto steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, -unit)));
  if (unit == -24) return {static_cast<uint16_t>(sign | steps)};  // a carry ends in the smallest normal number
  const uint32_t biased = static_cast<uint32_t>(unit + 25);
  return {static_cast<uint16_t>(sign | ((biased << 10) + (steps - 1024)))};
}

inline float __bfloat162float(__nv_bfloat16 value) {
  return emulation::float_of(static_cast<uint32_t>(value.bits) << 16);
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const uint32_t bits = emulation::bits_of(value);
  if (std::isnan(value)) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }

using std::max;
using std::min;
