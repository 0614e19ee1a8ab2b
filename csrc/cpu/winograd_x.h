// Winograd convolution, in chunks or by segments. Included after winograd_transforms_x.h.
//
// Filters are kept as their taps and transformed each time: 9 numbers where tiles of 8x8 outputs multiply 100.
//
//   by segments  where all transformed filters fit in a core's own cache. Each thread transforms them for itself, then
//                takes one segment after the other: input, products and outputs stay near it.
//   in chunks    otherwise. winograd_input transforms the input of all tiles of the chunk; then winograd_output takes a
//                part of them, as far as possible those that the thread has transformed, and kUnitChannels output
//                channels, transforms their filters, multiplies, and transforms what comes out.

template <int64_t kWidth>
void stream_pixels(const uint16_t* from, int64_t count, uint16_t* to, int64_t to_step) {
  for (int64_t i = 0; i < count; ++i, from += kWidth, to += to_step) {
    for (int64_t k = 0; k < kWidth; k += kLanes) {
      Halves halves;
      __builtin_memcpy(&halves, from + k, sizeof halves);
      stream(to + k, halves);
    }
  }
}

// A chunk's tiles in the order of their rows.
inline int64_t chunk_tiles(const Convolution& c) { return c.winograd.chunk_rows * c.winograd.tile_columns; }

inline int64_t winograd_depth(const Convolution& c) { return c.winograd.planes * c.winograd.planes * c.in_channels; }

template <typename E>
typename E::Storage* transformed_input(const Convolution& c, int64_t phase, int64_t frequencies) {
  const int64_t groups = c.winograd.tile_room / kTilePixels;
  return static_cast<typename E::Storage*>(c.winograd.transformed) +
         phase * groups * c.winograd.transformed_blocks * block_elements<E>(frequencies);
}

// Transforms tiles [begin, end) of tile row `row`, of a phase; the first one is tile `number` of `transformed`. With
// planes the input is four pictures of every other pixel, side by side along the channels.
template <typename E, typename Rows, typename Columns>
void transform_tiles(const Convolution& c, const RowRing<Float32>& ring, int64_t row, const Phase& phase, int64_t begin,
                     int64_t end, int64_t number, typename E::Storage* transformed) {
  const WinogradParameters& w = c.winograd;
  constexpr int64_t kBlock = block_elements<E>(Rows::kFrequencies * Columns::kFrequencies);
  const int64_t planes = w.planes, blocks = winograd_depth(c) / kChannelBlock, last = number + end - begin;
  for (int64_t tile = number; tile < last;) {
    const int64_t group = tile / kTilePixels, end_of_group = min_of((group + 1) * kTilePixels, last);
    auto* to = transformed + group * w.transformed_blocks * kBlock;
    for (int64_t block = 0; block < blocks; ++block, to += kBlock) {
      const int64_t plane = block * kChannelBlock / c.in_channels, channel = block * kChannelBlock % c.in_channels;
      const int64_t y = row * Rows::kStep * planes + phase.dy + plane / planes;
      for (int64_t t = tile; t < end_of_group; ++t) {
        const int64_t x = (begin + t - number) * Columns::kStep * planes + phase.dx + plane % planes;
        const float* from[Rows::kIn];
        for (int r = 0; r < Rows::kIn; ++r) from[r] = ring.at(y + r * planes, x) + channel;
        transform_input<E, Rows, Columns>(from, planes * c.in_channels, to + t % kTilePixels * kChannelBlock);
      }
    }
    tile = end_of_group;
  }
}

// Input rows that tile rows [first, last) are the first to read.
template <typename Rows>
OwnedRows owned_tile_rows(const Convolution& c, int64_t first, int64_t last) {
  const int64_t step = Rows::kStep * c.winograd.planes;
  return {first * step, last == c.winograd.tile_rows ? c.in_height : last * step};
}

// The channels of a convolution's one source that are not transformed yet, as an input of their own.
inline Convolution unseen_channels(const Convolution& c) {
  Convolution unseen = c;
  Source& source = unseen.sources[0];
  source.data = static_cast<const char*>(source.data) + c.winograd.seen_channels * (source.dtype == kFloat32 ? 4 : 2);
  source.channels -= c.winograd.seen_channels;
  unseen.in_channels -= c.winograd.seen_channels;
  if (c.slopes) unseen.slopes += c.winograd.seen_channels;
  unseen.winograd.seen_channels = 0;
  return unseen;
}

// Transforms the input of tile rows [begin, end) of the chunk.
template <typename E, typename Rows, typename Columns = Rows>
void winograd_input(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const WinogradParameters& w = c.winograd;
  constexpr int64_t kFrequencies = Rows::kFrequencies * Columns::kFrequencies;
  if (w.seen_channels > 0) {
    Convolution unseen = unseen_channels(c);
    unseen.winograd.transformed = static_cast<typename E::Storage*>(c.winograd.transformed) +
                                  w.seen_channels / kChannelBlock * block_elements<E>(kFrequencies);
    return winograd_input<E, Rows, Columns>(unseen, begin, end, memory);
  }
  const DirectScratch<Float32> work(c, memory);
  RowRing<Float32> ring(c, work.ring, owned_tile_rows<Rows>(c, w.chunk_row + begin, w.chunk_row + end));
  for (int64_t row = begin; row < end; ++row) {
    const int64_t tile_row = c.winograd.chunk_row + row;
    ring.advance_to(tile_row * Rows::kStep * w.planes + c.last);
    for (int64_t i = 0; i < w.input_phases; ++i) {
      transform_tiles<E, Rows, Columns>(c, ring, tile_row, c.phases[i], 0, w.tile_columns, row * w.tile_columns,
                                        transformed_input<E>(c, i, kFrequencies));
    }
  }
  ring.finish();
}

// Row `f` of the frequencies of the filters of 16 kBlocks output channels: from [depth][taps][16] a block to
// [depth / group][frequency of a column][16 kBlocks][group]. Frequencies beside each other are written twice as fast as
// with a plane for each.
template <typename E, typename Rows, typename Columns, int kBlocks>
void transform_filters(const float* from, int64_t block_step, int64_t depth, int64_t f, typename E::Storage* to) {
  constexpr int64_t kTaps = Rows::kTaps * Columns::kTaps, kWidth = kBlocks * kChannelBlock;
  V factors[Rows::kTaps];
  for (int r = 0; r < Rows::kTaps; ++r) factors[r] = splat(Rows::kFilter[static_cast<int>(f)][r]);
  for (int block = 0; block < kBlocks; ++block, from += block_step) {
    for (int64_t k = 0; k < depth; k += E::kGroup) {
      for (int lane = 0; lane < kChannelBlock; lane += kLanes) {
        V values[E::kGroup][Columns::kFrequencies];
        UNROLLED (i, E::kGroup) {
          const float* taps = from + (k + i) * kTaps * kChannelBlock + lane;
          V row[Columns::kTaps];
          UNROLLED (x, Columns::kTaps) {
            row[x] = Float32::load(taps + x * kChannelBlock) * factors[0];
#pragma GCC unroll 16
            for (int y = 1; y < Rows::kTaps; ++y) {
              row[x] = multiply_add(Float32::load(taps + (y * Columns::kTaps + x) * kChannelBlock), factors[y], row[x]);
            }
          }
          apply_matrix<Columns::kFrequencies, Columns::kTaps, Columns::kFilter>(row, 1, values[i], 1);
        }
        UNROLLED (g, Columns::kFrequencies) {
          const V* group[E::kGroup];
          for (int i = 0; i < E::kGroup; ++i) group[i] = values[i] + g;
          E::store_group(
              to + (k * Columns::kFrequencies + g * E::kGroup) * kWidth + (block * kChannelBlock + lane) * E::kGroup,
              group);
        }
      }
    }
  }
}

// Sums of a group of tiles, kTilePixels times [16 kBlocks], of its input, depth / 16 times [kTilePixels][16], and
// transformed filters. `next` is the input that is multiplied after it: it comes from afar, and what the processor
// fetches by itself leaves a quarter of the time unused.
template <typename E, int kBlocks>
__attribute__((noinline)) void multiply_tiles(const typename E::Storage* input, int64_t block_step, int64_t depth,
                                              const typename E::Storage* filters, int64_t filter_step, float* to,
                                              int64_t to_step, const typename E::Storage* next) {
  constexpr int kVectors = kBlocks * kBlockVectors;
  V sums[kTilePixels][kVectors];
  clear_sums(sums);
  constexpr int kStepBytes = kTilePixels * E::kGroup * static_cast<int>(sizeof(typename E::Storage));
  constexpr int kPrefetchSteps = kStepBytes < kLineBytes ? static_cast<int>(kLineBytes) / kStepBytes : 1;
  for (int64_t block = 0; block < depth; block += kChannelBlock) {
    UNROLLED (step, kChannelBlock / E::kGroup) {
      if (step % kPrefetchSteps == 0) __builtin_prefetch(next + step * kTilePixels * E::kGroup, 0, 0);
      typename E::Weights w[kVectors];
      UNROLLED (v, kVectors) w[v] = E::load_weights(filters + v * kLanes * E::kGroup);
      filters += filter_step;
      UNROLLED (p, kTilePixels) {
        const typename E::Broadcast value = E::broadcast(input + p * kChannelBlock + step * E::kGroup);
        UNROLLED (v, kVectors) sums[p][v] = E::dot(value, w[v], sums[p][v]);
      }
    }
    input += block_step;
    next += block_step;
  }
  store_sums(sums, to, to_step);
}

// The taps of output channels from `channel` on.
template <typename Rows, typename Columns>
const float* taps_of(const Convolution& c, int64_t phase, int64_t channel) {
  return static_cast<const float*>(c.phases[phase].weights) +
         channel * winograd_depth(c) * Rows::kTaps * Columns::kTaps;
}

// Output channels [channel, channel + 16 kBlocks) of `count` tiles of a phase, of which `first` is the first of the
// whole layer; `input` is theirs. `filters` are transformed ones, [row of frequencies], or null: then a row of them at
// a time is made in `own_filters`. Adds to `statistics`.
template <typename E, typename Rows, typename Columns, int kBlocks>
void winograd_channels(const Convolution& c, int64_t phase, int64_t channel, int64_t first, int64_t count,
                       const typename E::Storage* input, const typename E::Storage* filters,
                       typename E::Storage* own_filters, float* products, float* statistics) {
  const WinogradParameters& w = c.winograd;
  using Storage = typename E::Storage;
  constexpr int64_t kFrequencies = Rows::kFrequencies * Columns::kFrequencies, kWidth = kBlocks * kChannelBlock;
  constexpr int64_t kTileStep = kFrequencies * kWidth;
  const int64_t depth = winograd_depth(c), block_step = block_elements<E>(kFrequencies);
  const int64_t group_step = w.transformed_blocks * block_step,
                raw_step = depth * Rows::kTaps * Columns::kTaps * kChannelBlock;
  const int64_t filter_row = Columns::kFrequencies * depth * kWidth;
  for (int64_t f = 0; f < kFrequencies; ++f) {
    const int64_t row = f / Columns::kFrequencies, column = f % Columns::kFrequencies;
    if (!filters && column == 0) {
      transform_filters<E, Rows, Columns, kBlocks>(taps_of<Rows, Columns>(c, phase, channel), raw_step, depth, row,
                                                   own_filters);
    }
    const Storage* const filter = (filters ? filters + row * filter_row : own_filters) + column * E::kGroup * kWidth;
    const Storage* from = input + f * kGroupPixel;
    // Tiles beyond the last ones are multiplied too; nobody reads them.
    for (int64_t t = 0; t < count; t += kTilePixels) {
      const Storage* next = t + kTilePixels < count ? from + group_step : input + (f + 1) * kGroupPixel;
      multiply_tiles<E, kBlocks>(from, block_step, depth, filter, Columns::kFrequencies * kWidth * E::kGroup,
                                 products + t * kTileStep + f * kWidth, kTileStep, next);
      from = next;
    }
  }
  const int64_t spread = w.spread, height = c.up * c.base_height / spread, width = c.up * c.base_width / spread;
  const int64_t bytes = bytes_of(c.output.writing), pixel_step = spread * c.output.pixel_step * bytes,
                row_step = c.up * c.base_width * pixel_step;
  const bool is_shifted = w.input_phases == 1;
  const int64_t up = is_shifted ? c.phases[phase].dy - c.phases[0].dy : 0;
  const int64_t left = is_shifted ? c.phases[phase].dx - c.phases[0].dx : 0;
  Sums sums[kBlocks * kBlockVectors];
  for (int64_t t = 0; t < count; ++t) {
    const int64_t y = (first + t) / w.tile_columns * Rows::kOut - up;
    const int64_t x = (first + t) % w.tile_columns * Columns::kOut - left;
    char* to = output_at(c, spread * y + phase / spread, spread * x + phase % spread, channel);
    const TileInside inside = {max_of(-y, 0), min_of(Rows::kOut, height - y), max_of(-x, 0),
                               min_of(Columns::kOut, width - x)};
    const bool is_whole =
        inside.last_row - inside.first_row == Rows::kOut && inside.last_column - inside.first_column == Columns::kOut;
    const auto transform = is_whole ? transform_output<Rows, Columns, true> : transform_output<Rows, Columns, false>;
    // Halves of lines of the caches, which vectors are then, can't be written past these.
    alignas(64) uint16_t lines[Rows::kOut * Columns::kOut * kWidth];
    const bool in_lines = c.output.writing == Writing::kHalvesPastCaches;
    const int64_t step = in_lines ? kWidth * bytes : pixel_step;
    for (int v = 0; v < kBlocks * kBlockVectors; ++v) {
      transform(products + t * kTileStep + v * kLanes, kWidth, Float32::load(bias_of(c, phase, channel) + v * kLanes),
                (in_lines ? reinterpret_cast<char*>(lines) : to) + v * kLanes * bytes,
                in_lines ? Columns::kOut * step : row_step, step, inside,
                in_lines ? Writing::kHalves : c.output.writing, sums[v]);
    }
    for (int64_t r = inside.first_row; in_lines && r < inside.last_row; ++r) {
      stream_pixels<kWidth>(
          lines + (r * Columns::kOut + inside.first_column) * kWidth, inside.last_column - inside.first_column,
          reinterpret_cast<uint16_t*>(to + r * row_step + inside.first_column * pixel_step), pixel_step / bytes);
    }
  }
  add_statistics(sums, statistics, c.out_channels, channel);
}

// Groups of a chunk's tiles that are multiplied together.
inline int64_t chunk_groups(const Convolution& c) { return round_up(chunk_tiles(c), kTilePixels) / kTilePixels; }

template <typename E, typename Rows, typename Columns>
struct ChunkScratch : Scratch {
  using Scratch::Scratch;
  // A row of frequencies, [depth / group][frequency of a column][kUnitChannels][group].
  typename E::Storage* filters = take<typename E::Storage>(Columns::kFrequencies * winograd_depth(c) * kUnitChannels);
  int64_t groups = (chunk_groups(c) + c.winograd.parts - 1) / c.winograd.parts;
  float* products = take<float>(groups * kTilePixels * Rows::kFrequencies * Columns::kFrequencies * kUnitChannels);
};

// Multiplies a chunk: units [begin, end) of kUnitChannels output channels, times the phases, times the parts.
template <typename E, typename Rows, typename Columns = Rows>
void winograd_output(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const WinogradParameters& w = c.winograd;
  constexpr int64_t kFrequencies = Rows::kFrequencies * Columns::kFrequencies;
  const ChunkScratch<E, Rows, Columns> work(c, memory);
  const int64_t channel_units = (c.out_channels + kUnitChannels - 1) / kUnitChannels;
  const int64_t phases = w.spread * w.spread, groups = chunk_groups(c);
  const int64_t group_step = w.transformed_blocks * block_elements<E>(kFrequencies);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t slot = unit / channel_units, phase = slot % phases, part = slot / phases;
    const int64_t group = part * groups / w.parts, tile = group * kTilePixels;
    const int64_t last_tile = min_of((part + 1) * groups / w.parts * kTilePixels, chunk_tiles(c));
    const auto* const input = transformed_input<E>(c, phase % w.input_phases, kFrequencies) + group * group_step;
    const int64_t first = unit % channel_units * kUnitChannels, last = min_of(first + kUnitChannels, c.out_channels);
    float* const statistics = cleared_statistics(c, slot, first, last);
    each_block(first, last, [&](int64_t channel, auto blocks) {
      winograd_channels<E, Rows, Columns, decltype(blocks)::kValue>(
          c, phase, channel, w.chunk_row * w.tile_columns + tile, last_tile - tile, input, nullptr, work.filters,
          work.products, statistics);
    });
  }
}

template <typename E, typename Rows, typename Columns>
struct SegmentScratch : Scratch {
  using Scratch::Scratch;
  static constexpr int64_t kFrequencies = Rows::kFrequencies * Columns::kFrequencies;
  int64_t tiles = round_up(c.winograd.segment, kTilePixels), phases = c.winograd.spread * c.winograd.spread;
  // All, [phase][channel block][row of frequencies] of what transform_filters makes.
  typename E::Storage* filters = take<typename E::Storage>(filter_elements(phases, 0));
  float* ring = RowRing<Float32>::take(*this);
  // Transformed, of a segment.
  typename E::Storage* input =
      take<typename E::Storage>(tiles / kTilePixels * c.winograd.transformed_blocks * block_elements<E>(kFrequencies));
  float* products = take<float>(tiles * kFrequencies * kUnitChannels);

  int64_t filter_elements(int64_t phase, int64_t channel) const {
    return (phase * c.out_channels + channel) * kFrequencies * winograd_depth(c);
  }
};

template <typename E, typename Rows, typename Columns>
void transform_all_filters(const Convolution& c, const SegmentScratch<E, Rows, Columns>& work) {
  const int64_t depth = winograd_depth(c);
  for (int64_t phase = 0; phase < c.winograd.spread * c.winograd.spread; ++phase) {
    each_block(0, c.out_channels, [&](int64_t channel, auto blocks) {
      constexpr int kBlocks = decltype(blocks)::kValue;
      auto* const to = work.filters + work.filter_elements(phase, channel);
      for (int64_t f = 0; f < Rows::kFrequencies; ++f) {
        transform_filters<E, Rows, Columns, kBlocks>(taps_of<Rows, Columns>(c, phase, channel),
                                                     depth * Rows::kTaps * Columns::kTaps * kChannelBlock, depth, f,
                                                     to + f * Columns::kFrequencies * depth * kBlocks * kChannelBlock);
      }
    });
  }
}

// Units [begin, end), each a segment of a tile row. Each thread transforms all filters for itself, which takes less
// time than fetching what another one has written.
template <typename E, typename Rows, typename Columns = Rows>
void winograd_segments(const Convolution& c, int64_t begin, int64_t end, char* memory) {
  const WinogradParameters& w = c.winograd;
  const SegmentScratch<E, Rows, Columns> work(c, memory);
  transform_all_filters(c, work);
  const int64_t in_row = segments_of_row(c), phases = work.phases;
  const int64_t row_step = Rows::kStep * w.planes;
  // A row's first segment owns its input.
  RowRing<Float32> ring(c, work.ring, begin / in_row * row_step + c.first,
                        owned_tile_rows<Rows>(c, (begin + in_row - 1) / in_row, (end + in_row - 1) / in_row));
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t row = unit / in_row, tile = unit % in_row * w.segment;
    const int64_t last = min_of(tile + w.segment, w.tile_columns);
    ring.advance_to(row * row_step + c.last);
    for (int64_t phase = 0; phase < phases; ++phase) {
      float* const statistics = cleared_statistics(c, unit * phases + phase, 0, c.out_channels);
      if (phase < w.input_phases) {
        transform_tiles<E, Rows, Columns>(c, ring, row, c.phases[phase], tile, last, 0, work.input);
      }
      each_block(0, c.out_channels, [&](int64_t channel, auto blocks) {
        winograd_channels<E, Rows, Columns, decltype(blocks)::kValue>(
            c, phase, channel, row * w.tile_columns + tile, last - tile, work.input,
            work.filters + work.filter_elements(phase, channel), nullptr, work.products, statistics);
      });
    }
  }
  ring.finish();
}

// A chunk's input and output are two calls.
template <typename E, typename Rows, typename Columns = Rows>
int64_t winograd_scratch_bytes(const Convolution& c) {
  if (c.winograd.segment > 0) return scratch_bytes<SegmentScratch<E, Rows, Columns>>(c);
  return max_of(scratch_bytes<DirectScratch<Float32>>(c), scratch_bytes<ChunkScratch<E, Rows, Columns>>(c));
}
