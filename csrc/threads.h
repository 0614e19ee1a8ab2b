// Who works in parallel: torch's threads inside of torch, a ThreadPool elsewhere.
#pragma once

#include <cstdint>
#include <functional>

namespace streamgan {

class Threads {
 public:
  // Works on [begin, end). No two calls at the same time have the same `worker`, 0 <= worker < count().
  using Work = std::function<void(int64_t begin, int64_t end, int64_t worker)>;

  virtual ~Threads() = default;

  // How many work at the same time, at most.
  virtual int64_t count() const = 0;

  // Shares out [0, items), to each thread as much, and returns when all is done.
  virtual void run(int64_t items, const Work& work) const = 0;
};

}  // namespace streamgan
