// Blocks of 16 pixels that cover a row. Included inside an anonymous namespace.

constexpr int64_t kBlock = 16;  // pixels

// Calls block(pixel) for blocks of 16 pixels that cover a row of at least 16; the last overlaps the one before it.
template <typename Block>
inline void for_each_block(int64_t pixels, const Block& block) {
  for (int64_t pixel = 0; pixel < pixels - kBlock; pixel += kBlock) block(pixel);
  block(pixels - kBlock);
}
