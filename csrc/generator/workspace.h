// Memory for calls to work in.
#pragma once

#include <cstdint>

namespace streamgan {

// Memory that calls work in, kept between them: fresh pages for every frame would cost as much as a layer. It comes
// from the system, because memory from malloc may already be in small pages.
class Workspace {
 public:
  explicit Workspace(int64_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // At a multiple of 64 bytes.
  char* data() const { return block_.data; }

  struct Block {
    char* data;
    int64_t bytes;
  };

 private:
  const Block block_;
};

}  // namespace streamgan
