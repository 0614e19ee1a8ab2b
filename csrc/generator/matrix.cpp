// Convolutions on the matrix unit: bands of rows, or shares of the output channels.
#include <algorithm>

#include "csrc/caches.h"
#include "csrc/generator/algorithms.h"

namespace streamgan {
namespace {

// One whose weights are so many times its input shares out its output channels, as one of few pixels does.
constexpr int64_t kManyWeights = 4;
constexpr int64_t kMaxRowBytes = 1 << 30, kMaxProductBytes = 1 << 30, kMaxGatheredBytes = int64_t{1} << 31;

void set_block(const StepSetting& setting, Convolution& c) {
  const int64_t block = setting.step.block;
  require(c.stride == 1 && !c.shuffles && c.picture.channels >= 1 && block >= c.up && block <= kMaxTaps &&
              block % c.up == 0 && c.picture.channels <= c.out_channels / (block * block),
          "a last layer of an unknown shape");
  c.matrix.block = block;
  c.stride = block / c.up;
  c.base_height = divided_up(c.base_height, c.stride), c.base_width = divided_up(c.base_width, c.stride);
}

// A band's input stays in a core's cache while all output channels are made of it.
void set_bands(const StepSetting& setting, Convolution& c, int64_t rows, int64_t row_bytes) {
  const int64_t pairs = divided_up(c.base_height, 2), share = divided_up(pairs, setting.threads);
  const int64_t room = caches().level2_bytes * 3 / 8 / row_bytes - (rows - 1);
  const int64_t most = std::clamp<int64_t>(room / (2 * c.stride), 1, share);
  c.matrix.bands = std::min(divided_up(share, most) * setting.threads, pairs);
  c.matrix.ring_rows = (2 * divided_up(pairs, c.matrix.bands) - 1) * c.stride + rows;
}

}  // namespace

void set_matrix(const StepSetting& setting, Convolution& c) {
  const Step& step = setting.step;
  const bool is_last = step.packing == Packing::kMatrixLast, is_split = c.multiplied == kFloat32;
  MatrixParameters& m = c.matrix;
  c.algorithm = is_last ? Algorithm::kMatrixLast : Algorithm::kMatrix;
  m.weight_terms = step.weight_terms;
  require((c.in_channels == kImageChannels || c.in_channels % kChannelBlock == 0) &&
              (m.weight_terms == 2 || (m.weight_terms == 1 && !is_split)),
          "a step of the matrix unit of an unknown shape");
  if (is_last) set_block(setting, c);
  int64_t right = 0, weight_bytes = 0;
  for (int64_t i = 0; i < (is_last ? 1 : c.up * c.up); ++i) {
    set_phase(setting, c, i, [&](const Phase& phase) {
      const int64_t steps = matrix_steps(c, phase.rows, phase.columns);
      const int64_t bytes = steps * m.weight_terms * kMatrixTileBytes * (c.out_channels / kChannelBlock);
      weight_bytes += bytes;
      m.products = std::max(m.products, steps * (m.weight_terms + (is_split ? 1 : 0)));
      return bytes;
    });
    right = std::max(right, c.phases[i].dx + c.phases[i].columns - 1);
  }
  c.after = std::max<int64_t>((c.base_width - 1) * c.stride + right - (c.in_width - 1), 0);
  const int64_t bottom = std::max<int64_t>((c.base_height - 1) * c.stride + c.last - (c.in_height - 1), 0);
  const Source& source = c.sources[0];
  m.reads_directly = setting.reads_one_value && !is_split && c.activation == Activation::kNone &&
                     c.padding == Padding::kZeros && source.dtype == kBFloat16 && c.in_channels % kMatrixDepth == 0 &&
                     source.pixel_step % kMatrixDepth == 0 &&
                     source.border >= std::max({-c.first, bottom, c.before, c.after});
  // Whole tiles are read, and all taps of a step.
  const int64_t most_pixels =
      (aligned(c.base_width) - 1) * c.stride + std::max<int64_t>(right, 0) + kMatrixDepth / kMatrixImageChannels;
  m.row_pixels = c.before + std::max(c.in_width + c.after, most_pixels) + 1;
  const int64_t row_bytes = m.reads_directly ? source.row_step * 2 : matrix_term_bytes(c) * (is_split ? 2 : 1);
  require(row_bytes < kMaxRowBytes && m.products * 2 * kMatrixTileBytes < kMaxProductBytes,
          "a step is too large for the matrix unit");
  const int64_t pixels = c.base_height * c.base_width, rows = c.last - c.first + 1;
  const int64_t all_rows = (c.base_height - 1) * c.stride + rows;
  if (is_last) {
    m.bands = c.base_height, m.ring_rows = rows;
  } else if (pixels <= kFewPixels || weight_bytes > kManyWeights * all_rows * row_bytes) {
    c.algorithm = Algorithm::kMatrixFewPixels;
    m.reads_directly = false;
    m.ring_rows = all_rows;
    m.gathers = c.base_width < kMatrixSide;
    require(!m.gathers || m.products * divided_up(pixels, kMatrixSide) * kMatrixTileBytes < kMaxGatheredBytes,
            "a step is too large for the matrix unit");
  } else {
    set_bands(setting, c, rows, row_bytes);
  }
  if (step.save != kNone) {
    // Rows that are kept, and that no product reads.
    const int64_t unread = std::max(c.in_height - 1 - ((c.base_height - 1) * c.stride + c.last), c.stride - 1 - c.last);
    m.ring_rows += std::max<int64_t>(unread, 0);
  }
}

}  // namespace streamgan
