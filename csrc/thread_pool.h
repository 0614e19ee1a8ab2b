// Threads of our own, for where there is no torch.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "csrc/threads.h"

namespace streamgan {

// `count` threads, one of them the caller's. Calls of `run` from several threads take turns.
class ThreadPool : public Threads {
 public:
  explicit ThreadPool(int64_t count);
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int64_t count() const override { return count_; }
  void run(int64_t items, const Work& work) const override;

 private:
  void serve(int64_t worker);
  void stop();
  void work_on_part(int64_t worker) const;
  // The number of calls, when there was one after `seen`.
  int64_t next_call(int64_t seen);

  const int64_t count_;
  mutable std::mutex turn_;  // of calls of `run`
  mutable std::mutex mutex_;
  mutable std::condition_variable wake_;
  mutable std::atomic<int64_t> calls_{0}, missing_{0};
  mutable const Work* work_ = nullptr;  // of the call under way; null: the end
  mutable int64_t items_ = 0;
  std::vector<std::thread> workers_;
};

}  // namespace streamgan
