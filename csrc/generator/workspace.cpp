#include "csrc/generator/workspace.h"

#include <sys/mman.h>

#include <cstddef>
#include <mutex>
#include <new>
#include <vector>

#include "csrc/check.h"

namespace streamgan {
namespace {

using Block = Workspace::Block;

constexpr int64_t kHugePage = 2 << 20;
#if defined(__SANITIZE_ADDRESS__)
// The sanitizer sees overflows only if blocks have the size that was asked for and are not used again.
constexpr int64_t kWholeBytes = 1;
constexpr size_t kKept = 0;
#else
constexpr int64_t kWholeBytes = kHugePage;  // blocks are multiples of
constexpr size_t kKept = 4;                 // blocks that no call is using
#endif

// Never destroyed: a thread may end its call while the process ends.
std::mutex& mutex() {
  static auto* const made = new std::mutex;
  return *made;
}
std::vector<Block>& free_blocks() {
  static auto* const made = new std::vector<Block>;
  return *made;
}

#if defined(MADV_HUGEPAGE) && !defined(__SANITIZE_ADDRESS__)
char* allocate(int64_t bytes) {
  void* mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  // Only whole huge pages are kept.
  auto* const begin = static_cast<char*>(mapped);
  const int64_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, kHugePage - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
}
void release(const Block& block) { munmap(block.data, block.bytes); }
#else
char* allocate(int64_t bytes) {
  return static_cast<char*>(::operator new(bytes, std::align_val_t(kHugePage), std::nothrow));
}
void release(const Block& block) { ::operator delete(block.data, std::align_val_t(kHugePage)); }
#endif

// A kept block that is large enough and not wastefully so, or a new one.
Block take(int64_t bytes) {
  {
    const std::lock_guard<std::mutex> lock(mutex());
    std::vector<Block>& blocks = free_blocks();
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (blocks[i].bytes >= bytes && blocks[i].bytes <= 4 * bytes) {
        const Block block = blocks[i];
        blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(i));
        return block;
      }
    }
  }
  const int64_t whole = (bytes + kWholeBytes - 1) / kWholeBytes * kWholeBytes;
  char* const data = allocate(whole);
  check(data != nullptr, "fused_generator: can't allocate memory of ", whole, " bytes");
  return {data, whole};
}

// Frees the oldest block if there are too many.
void give(const Block& block) {
  const std::lock_guard<std::mutex> lock(mutex());
  std::vector<Block>& blocks = free_blocks();
  blocks.push_back(block);
  if (blocks.size() > kKept) {
    release(blocks.front());
    blocks.erase(blocks.begin());
  }
}

}  // namespace

Workspace::Workspace(int64_t bytes) : block_(take(bytes)) {}

Workspace::~Workspace() { give(block_); }

}  // namespace streamgan
