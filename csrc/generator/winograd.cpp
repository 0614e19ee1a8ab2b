// Winograd convolutions: tiles, and how they are cut into chunks or segments.
#include <algorithm>
#include <cstdlib>

#include "csrc/caches.h"
#include "csrc/generator/algorithms.h"

namespace streamgan {
namespace {

constexpr int64_t kSegmentTiles = 8;  // a segment is a multiple of
// Phases share their transformed input where that adds at most one tile to so many.
constexpr int64_t kSharedTiles = 7;
// A chunk's transformed input has so many bytes, which stay in the caches while it is multiplied; or more, up to the
// most, if that is fewer tiles than make transforming the filters a twentieth of multiplying them.
constexpr int64_t kChunkBytes = 2 << 20, kMaxChunkBytes = 8 << 20, kChunkTiles = 256;
// The transformed input that is kept for the next step has at most so many bytes.
constexpr int64_t kMaxKeptBytes = 128 << 20;
// With so many tiles for each thread, in as many rows as the others or in so many, it multiplies those whose input it
// has transformed, for all output channels: cores without a cache in common take longer to hand over tiles than to
// transform the filters once each.
constexpr int64_t kOwnTiles = 32, kOwnRows = 4;

// The algorithms that read each packing. The one that multiplies least is taken, of equal ones the first.
struct WinogradAlgorithm {
  Packing packing;
  Algorithm algorithm;
  TileSide rows, columns;

  int64_t frequencies() const { return rows.frequencies * columns.frequencies; }
};
constexpr WinogradAlgorithm kWinogradAlgorithms[] = {
    {Packing::kWinograd2, Algorithm::kWinograd2, kSide2, kSide2},
    {Packing::kWinograd42, Algorithm::kWinograd42, kSide4, kSide2},
    {Packing::kWinograd4, Algorithm::kWinograd4, kSide4, kSide4},
    {Packing::kWinograd8, Algorithm::kWinograd8, kSide8, kSide8},
    {Packing::kWinograd8, Algorithm::kWinograd4, kSide4, kSide4},
    {Packing::kWinogradPairs, Algorithm::kWinogradPairs, kSidePairs, kSidePairs},
    {Packing::kWinogradPairs, Algorithm::kWinogradPairs4, kSidePairs4, kSidePairs4},
    {Packing::kWinogradStrided, Algorithm::kWinogradStrided, kSideStrided, kSideStrided},
    {Packing::kWinogradStrided, Algorithm::kWinogradStrided4, kSideStrided4, kSideStrided4},
    {Packing::kWinogradTransposed, Algorithm::kWinogradTransposed, kSideTransposed, kSideTransposed},
    {Packing::kWinogradTransposed, Algorithm::kWinogradTransposed4, kSideTransposed4, kSideTransposed4},
};

const WinogradAlgorithm& winograd_algorithm(Algorithm algorithm) {
  return *std::find_if(std::begin(kWinogradAlgorithms), std::end(kWinogradAlgorithms),
                       [&](const WinogradAlgorithm& known) { return known.algorithm == algorithm; });
}

int64_t tiles_beside(int64_t outputs, const TileSide& side) { return divided_up(outputs, side.out); }

// Products of an algorithm for an input and an output channel of a phase. Transforming a filter counts as five tiles.
int64_t products(const Convolution& c, const WinogradAlgorithm& algorithm) {
  const int64_t height = c.up * c.base_height / c.winograd.spread, width = c.up * c.base_width / c.winograd.spread;
  const int64_t tiles = tiles_beside(height, algorithm.rows) * tiles_beside(width, algorithm.columns);
  return (tiles + 5) * algorithm.frequencies();
}

const WinogradAlgorithm& best_algorithm(const Convolution& c, Packing packing) {
  const WinogradAlgorithm* best = nullptr;
  for (const WinogradAlgorithm& known : kWinogradAlgorithms) {
    if (known.packing == packing && (best == nullptr || products(c, known) < products(c, *best))) best = &known;
  }
  return *best;
}

// How many tiles a thread works on at a time, where all transformed filters are a small part of a core's cache and
// the tiles, their products and the filters together the larger one.
void set_segment(Convolution& c, int64_t filter_bytes, int64_t tile_bytes) {
  const int64_t columns = c.winograd.tile_columns, cache = caches().level2_bytes;
  const int64_t most = (cache * 5 / 8 - filter_bytes) / tile_bytes / kSegmentTiles * kSegmentTiles;
  if (filter_bytes > cache * 3 / 8 || most < kSegmentTiles || columns < kSegmentTiles) return;
  c.winograd.segment = divided_up(divided_up(columns, divided_up(columns, most)), kSegmentTiles) * kSegmentTiles;
}

// How large a chunk is, and in how many parts it is multiplied: so that products take half of a core's cache, and all
// threads have as much to do, with tiles of their own where there are enough.
void set_chunks(const StepSetting& setting, Convolution& c, int64_t pixel_bytes) {
  WinogradParameters& w = c.winograd;
  const int64_t threads = setting.threads, of_a_tile = winograd_algorithm(c.algorithm).frequencies();
  const int64_t row_bytes = w.input_phases * of_a_tile * w.tile_columns * pixel_bytes;
  const int64_t enough = std::max(kChunkBytes / row_bytes, divided_up(kChunkTiles, w.tile_columns));
  const int64_t in_caches = std::max(std::min(enough, kMaxChunkBytes / row_bytes), threads);
  const int64_t rows = w.keeps_transformed ? w.tile_rows : in_caches;
  w.chunk_rows = divided_up(w.tile_rows, divided_up(w.tile_rows, rows));
  const int64_t even_rows = std::min(divided_up(w.chunk_rows, threads) * threads, w.tile_rows);
  const bool owns_tiles = w.chunk_rows * w.tile_columns >= kOwnTiles * threads &&
                          (even_rows % threads == 0 || even_rows >= kOwnRows * threads);
  if (owns_tiles) w.chunk_rows = even_rows;
  const int64_t tiles = w.chunk_rows * w.tile_columns;
  const int64_t units = divided_up(c.out_channels, kUnitChannels) * w.spread * w.spread;
  w.tile_room = divided_up(tiles, setting.kernels.tile_pixels) * setting.kernels.tile_pixels;
  w.parts = std::max<int64_t>(tiles * of_a_tile * kUnitChannels * 4 / (caches().level2_bytes / 2), 1);
  if (owns_tiles) w.parts = divided_up(w.parts, threads) * threads;
  while (units * w.parts < 8 * threads && units * w.parts % threads != 0) ++w.parts;
}

// Has the whole transformed input stay for the next step, where it is small enough; and finds what the step before has
// left.
void keep_transformed(const StepSetting& setting, Convolution& c) {
  const Step& step = setting.step;
  WinogradParameters& w = c.winograd;
  w.transformed_blocks = w.planes * w.planes * c.in_channels / kChannelBlock;
  if (step.kept_channels < c.in_channels || step.kept_channels > kMaxChannels ||
      step.kept_channels % kChannelBlock != 0 || w.planes > 1 || w.input_phases > 1) {
    return;
  }
  Convolution kept = c;
  kept.winograd.transformed_blocks = step.kept_channels / kChannelBlock;
  if (transformed_bytes(kept, w.tile_rows * w.tile_columns) > kMaxKeptBytes) return;
  w.transformed_blocks = kept.winograd.transformed_blocks;
  w.keeps_transformed = true;
  if (setting.before == nullptr) return;
  const Convolution& last = *setting.before;
  const bool is_alike = last.winograd.keeps_transformed && last.algorithm == c.algorithm && last.padding == c.padding &&
                        last.multiplied == c.multiplied && last.in_height == c.in_height &&
                        last.in_width == c.in_width && last.winograd.transformed_blocks == w.transformed_blocks &&
                        last.phases[0].dy == c.phases[0].dy && last.phases[0].dx == c.phases[0].dx &&
                        last.base_height == c.base_height && last.base_width == c.base_width;
  const bool is_share = step.same_channels > 0 && step.same_channels <= last.in_channels &&
                        step.same_channels < c.in_channels && step.same_channels % kChannelBlock == 0;
  if (setting.reads_one_value && is_alike && is_share) w.seen_channels = step.same_channels;
}

void set_phases(const StepSetting& setting, Convolution& c, const WinogradAlgorithm& tile, int64_t depth) {
  const Step& step = setting.step;
  const TileSide &rows = tile.rows, &columns = tile.columns;
  const int64_t phases = c.winograd.spread * c.winograd.spread;
  int64_t bottom = step.phases[0].dy, right = step.phases[0].dx;
  for (int64_t i = 0; i < phases; ++i) {
    const StepPhase& phase = step.phases[i];
    require(std::abs(phase.dy) <= kMaxTaps && std::abs(phase.dx) <= kMaxTaps, "a filter far away");
    const int64_t bytes = rows.taps * columns.taps * depth * c.out_channels * 4;
    c.phases[i] = {phase.dy, 0, phase.dx, 0, setting.weights.at(phase.weights, bytes)};
    c.first = std::min(c.first, phase.dy), c.before = std::max(c.before, -phase.dx);
    const int64_t down = phase.dy - step.phases[0].dy, aside = phase.dx - step.phases[0].dx;
    const bool is_shifted = phases > 1 && !c.shuffles;
    require(down == (is_shifted ? i / 2 : 0) && aside == (is_shifted ? i % 2 : 0),
            "a Winograd step of an unknown shape");
    if (i < c.winograd.input_phases) bottom = std::max(bottom, phase.dy), right = std::max(right, phase.dx);
  }
  // The last pixel that so many tiles read, of the last picture of a stride.
  const auto reach = [&](int64_t count, const TileSide& side) {
    return c.winograd.planes * ((count - 1) * side.step + side.in) - 1;
  };
  c.last = bottom + reach(1, rows);
  c.after = std::max<int64_t>(right + reach(c.winograd.tile_columns, columns) - (c.in_width - 1), 0);
}

}  // namespace

int64_t transformed_bytes(const Convolution& c, int64_t tiles) {
  return c.winograd.input_phases * tiles * c.winograd.transformed_blocks *
         (winograd_algorithm(c.algorithm).frequencies() * kChannelBlock * element_bytes(c) + kLineBytes);
}

void set_winograd(const StepSetting& setting, Convolution& c) {
  const Packing packing = setting.step.packing;
  const bool is_pairs = packing == Packing::kWinogradPairs, is_strided = packing == Packing::kWinogradStrided;
  const bool is_transposed = packing == Packing::kWinogradTransposed;
  require(c.in_channels % kChannelBlock == 0 && (packing != Packing::kWinograd8 || c.multiplied == kFloat32),
          "a Winograd step of an unknown shape");
  WinogradParameters& w = c.winograd;
  w.planes = is_pairs ? c.stride : 1;
  w.spread = is_pairs || c.shuffles ? c.up : 1;
  const WinogradAlgorithm& tile = best_algorithm(c, packing);
  c.algorithm = tile.algorithm;
  const TileSide &rows = tile.rows, &columns = tile.columns;
  const int64_t phases = w.spread * w.spread;
  const int64_t height = c.up * c.base_height / w.spread, width = c.up * c.base_width / w.spread;
  w.tile_rows = tiles_beside(height, rows), w.tile_columns = tiles_beside(width, columns);
  w.input_phases = c.shuffles ? 1 : phases;
  const int64_t more_rows = tiles_beside(height + 1, rows), more_columns = tiles_beside(width + 1, columns);
  if (!c.shuffles && more_rows * more_columns * kSharedTiles <= w.tile_rows * w.tile_columns * (kSharedTiles + 1)) {
    w.input_phases = 1;
    if (phases > 1) w.tile_rows = more_rows, w.tile_columns = more_columns;
  }
  const int64_t stride = is_strided || (is_pairs && c.up == 1) ? 2 : 1;
  const int64_t up = is_transposed || (is_pairs && c.stride == 1) ? 2 : 1;
  const int64_t taps = up == 2 ? 1 : is_pairs ? 4 : 3;
  const bool can_shuffle = !is_pairs && !is_strided && !is_transposed;
  require(c.stride == stride && (c.shuffles ? can_shuffle : c.up == up) && setting.step.taps == taps,
          "a Winograd step of an unknown shape");
  const int64_t depth = w.planes * w.planes * c.in_channels, of_a_tile = tile.frequencies();
  set_phases(setting, c, tile, depth);
  keep_transformed(setting, c);
  if (!w.keeps_transformed) {
    set_segment(c, phases * of_a_tile * depth * c.out_channels * element_bytes(c),
                of_a_tile * (depth * element_bytes(c) + kUnitChannels * 4));
  }
  if (w.segment == 0) set_chunks(setting, c, depth * element_bytes(c));
}

}  // namespace streamgan
