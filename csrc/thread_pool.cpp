#include "csrc/thread_pool.h"

#include <algorithm>
#include <chrono>

namespace streamgan {
namespace {

// How long a worker looks for the next call before it sleeps: longer than what lies between the parts of a frame, so
// that it sleeps between frames only.
constexpr std::chrono::microseconds kAwake{200};

}  // namespace

ThreadPool::ThreadPool(int64_t count) : count_(std::max<int64_t>(count, 1)) {
  try {
    for (int64_t worker = 1; worker < count_; ++worker) workers_.emplace_back([this, worker] { serve(worker); });
  } catch (...) {  // the system gave fewer threads
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_ = nullptr;
    ++calls_;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t items, const Work& work) const {
  if (items <= 0) return;
  if (items == 1 || count_ == 1) return work(0, items, 0);
  const std::lock_guard<std::mutex> turn(turn_);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_ = &work, items_ = items;
    missing_ = static_cast<int64_t>(workers_.size());
    ++calls_;
  }
  wake_.notify_all();
  work_on_part(0);
  while (missing_ > 0) std::this_thread::yield();
}

void ThreadPool::work_on_part(int64_t worker) const {
  const int64_t part = (items_ + count_ - 1) / count_, begin = worker * part, end = std::min(begin + part, items_);
  if (begin < end) (*work_)(begin, end, worker);
}

void ThreadPool::serve(int64_t worker) {
  for (int64_t seen = 0;;) {
    seen = next_call(seen);
    if (work_ == nullptr) return;
    work_on_part(worker);
    --missing_;
  }
}

int64_t ThreadPool::next_call(int64_t seen) {
  using Clock = std::chrono::steady_clock;
  for (const auto begin = Clock::now(); Clock::now() - begin < kAwake; std::this_thread::yield()) {
    if (calls_ != seen) return calls_;
  }
  std::unique_lock<std::mutex> lock(mutex_);
  wake_.wait(lock, [&] { return calls_ != seen; });
  return calls_;
}

}  // namespace streamgan
