// The micro-kernel: sums of products of a tile, kTilePixels neighbouring output pixels by kTileBlocks blocks of 16
// channels. The tier sets both. Included after input_x.h.
//
// A row of a filter's taps reads one run: neighbouring elements of a row of the ring, [column][input channel].
//
//   ring row    ... | x: 16 channels | x + 1 | x + 2 | ...        3 columns of taps: a run of 48 elements
//                   '--- run of pixel x -------------'
//                                    '--- run of pixel x + 1 ---
//
// Registers, with a vector of 16 lanes (AVX-512, 32 registers): sums of 8 pixels x 2 blocks = 16, weights of 2 blocks =
// 2, one input value in all lanes = 1. With 8 lanes (AVX2, 16 registers) kTilePixels and kTileBlocks are smaller. Each
// step loads 2 vectors of weights and 8 values for 16 products, so that loads do not bound it.

// The factors of a tile: runs, one for each row of taps, and their weights.
template <typename E>
struct Product {
  const typename E::Storage* runs[kMaxTaps];  // of the first pixel
  int count;
  int64_t length, pixel_step;
  int64_t row_pixels, row_step;  // where a tile may go on in the next row: pixels of a row, and the step to the next
  const typename E::Storage* weights;  // of the first channel block
  int64_t run_step, block_step;        // to the next run, and to the next block
};

template <typename E, int kPixels>
inline __attribute__((always_inline)) void pixel_offsets(const Product<E>& product, int64_t first,
                                                         int64_t (&offsets)[kPixels]) {
  UNROLLED (p, kPixels) {
    const int64_t pixel = first + p;
    offsets[p] = product.row_pixels == 0
                     ? pixel * product.pixel_step
                     : pixel / product.row_pixels * product.row_step + pixel % product.row_pixels * product.pixel_step;
  }
}

template <int kPixels, int kVectors>
inline __attribute__((always_inline)) void clear_sums(V (&sums)[kPixels][kVectors]) {
  UNROLLED (p, kPixels) {
    UNROLLED (v, kVectors) sums[p][v] = V{};
  }
}

template <int kPixels, int kVectors>
inline __attribute__((always_inline)) void store_sums(const V (&sums)[kPixels][kVectors], float* to, int64_t to_step) {
  UNROLLED (p, kPixels) {
    UNROLLED (v, kVectors) Float32::store(to + p * to_step + v * kLanes, sums[p][v]);
  }
}

// Writes the sums of a tile, [kPixels][to_step] with 16 kBlocks channels each. A function of its own, so that what is
// around it leaves its registers alone.
template <typename E, int kPixels, int kBlocks>
__attribute__((noinline)) void multiply_tile(const Product<E>& product, int64_t first_pixel, float* to,
                                             int64_t to_step) {
  constexpr int kVectors = kBlocks * kBlockVectors;
  using Storage = typename E::Storage;
  V sums[kPixels][kVectors];
  clear_sums(sums);
  const int64_t block_step = product.block_step, length = product.length;
  int64_t offsets[kPixels];
  pixel_offsets(product, first_pixel, offsets);
  for (int run = 0; run < product.count; ++run) {
    const Storage* from = product.runs[run];
    const Storage* weights = product.weights + run * product.run_step;
    for (int64_t k = 0; k < length; k += E::kGroup) {
      typename E::Weights w[kVectors];
      UNROLLED (v, kVectors) {
        w[v] = E::load_weights(weights + (v / kBlockVectors) * block_step + (v % kBlockVectors) * kLanes * E::kGroup);
      }
      UNROLLED (p, kPixels) {
        const typename E::Broadcast value = E::broadcast(from + offsets[p] + k);
        UNROLLED (v, kVectors) sums[p][v] = E::dot(value, w[v], sums[p][v]);
      }
      weights += kChannelBlock * E::kGroup;
    }
  }
  store_sums(sums, to, to_step);
}

// The sums of all `pixels`, [pixels][to_step].
template <typename E, int kBlocks, int kPixels = kTilePixels>
void multiply_pixels(const Product<E>& product, int64_t pixels, float* to, int64_t to_step, int64_t pixel = 0) {
  for (; pixel + kPixels <= pixels; pixel += kPixels) {
    multiply_tile<E, kPixels, kBlocks>(product, pixel, to + pixel * to_step, to_step);
  }
  if constexpr (kPixels > 1) {
    if (pixel < pixels) multiply_pixels<E, kBlocks, kPixels / 2>(product, pixels, to, to_step, pixel);
  }
}

// The same, with the sums of each tile in the same place, and use(first pixel, number) after each.
template <typename E, int kBlocks, int kPixels = kTilePixels, typename Use>
void multiply_and_use(const Product<E>& product, int64_t pixels, float* tile, const Use& use, int64_t pixel = 0) {
  for (; pixel + kPixels <= pixels; pixel += kPixels) {
    multiply_tile<E, kPixels, kBlocks>(product, pixel, tile, kBlocks * kChannelBlock);
    use(pixel, kPixels);
  }
  if constexpr (kPixels > 1) {
    if (pixel < pixels) multiply_and_use<E, kBlocks, kPixels / 2>(product, pixels, tile, use, pixel);
  }
}

// Calls use(channel, Constant<blocks>) for output channels [first, last), as many at once as the micro-kernel takes.
template <typename Use>
void each_block(int64_t first, int64_t last, const Use& use) {
  int64_t channel = first;
  for (; channel + kTileBlocks * kChannelBlock <= last; channel += kTileBlocks * kChannelBlock) {
    use(channel, Constant<kTileBlocks>{});
  }
  for (; channel < last; channel += kChannelBlock) use(channel, Constant<1>{});
}
