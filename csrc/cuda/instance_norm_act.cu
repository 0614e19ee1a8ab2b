#include "csrc/cuda/instance_norm_act.h"

#include "csrc/cuda/device.h"
#include "csrc/cuda/instance_norm_act_layout.h"

namespace streamgan {
namespace {

// What a thread of a block works on. An item is what one access moves: kVector channels of a place where they are
// interleaved, else kVector places of a channel.
template <int kVector, bool kInterleaved>
struct Share {
  int image, channel;  // the first of the item
  int lane;
  bool active;                  // false: beyond the last channel
  int begin, first, step, end;  // items: of the part, of this thread

  __device__ Share(const NormParameters& p, int unit, int part) {
    lane = static_cast<int>(threadIdx.x) & (p.lanes - 1);
    image = unit / p.groups;
    const int group = unit - image * p.groups;
    channel = kInterleaved ? (group * p.lanes + lane) * kVector : group;
    begin = part * p.items_per_part;
    end = min(begin + p.items_per_part, p.items);
    active = channel < p.channels;
    if (!active) end = begin;
    first = begin + static_cast<int>(threadIdx.x) / p.lanes;
    step = kThreads / p.lanes;
  }

  // Of an item in the input, in elements.
  __device__ int64_t offset(const NormParameters& p, int item) const {
    const int64_t places = static_cast<int64_t>(p.height) * p.width;
    if (kInterleaved) return (image * places + item) * p.channels + channel;
    return (static_cast<int64_t>(image) * p.channels + channel) * places + static_cast<int64_t>(item) * kVector;
  }
};

// Row and column of the items of a thread, one after another, without a division for each.
struct Cursor {
  int row, column, row_step, column_step, width;

  __device__ Cursor(int item, int step, int places_per_row) : width(places_per_row) {
    row = item / width, column = item - row * width;
    row_step = step / width, column_step = step - row_step * width;
  }

  __device__ void advance() {
    row += row_step, column += column_step;
    if (column >= width) column -= width, ++row;
  }
};

// Calls use(item, what was loaded) for all items of a thread, with kAhead loads under way: one at a time, in a loop,
// each would wait for the one before it.
template <int kAhead, int kVector, bool kInterleaved, typename Load, typename Use>
__device__ void for_items(const Share<kVector, kInterleaved>& share, const Load& load, const Use& use) {
  for (int item = share.first; item < share.end; item += kAhead * share.step) {
    decltype(load(item)) loaded[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (item + k * share.step < share.end) loaded[k] = load(item + k * share.step);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (item + k * share.step < share.end) use(item + k * share.step, loaded[k]);
    }
  }
}

// Sums of `values` over all threads of the block with the same lane, which all of them get.
template <int kCount>
__device__ void block_sum(float (&values)[kCount], int lanes, float* scratch) {
  for (int offset = kWarpSize / 2; offset >= lanes; offset /= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] += __shfl_xor_sync(kWholeWarp, values[i], offset);
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, in_warp = static_cast<int>(threadIdx.x) % kWarpSize;
  if (in_warp < lanes) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) scratch[(warp * kCount + i) * lanes + in_warp] = values[i];
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    float sum = 0.0f;
#pragma unroll
    for (int from = 0; from < kWarps; ++from) sum += scratch[(from * kCount + i) * lanes + lane];
    values[i] = sum;
  }
  __syncthreads();  // before `scratch` is written again
}

// The same over all blocks of the cluster. `totals` is not written again before the next cluster_sync().
template <int kCount>
__device__ void cluster_sum(float (&values)[kCount], int lanes, float* scratch, float* totals) {
  block_sum(values, lanes, scratch);
  const int blocks = cluster_size();
  if (blocks == 1) return;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < lanes) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) totals[i * lanes + thread] = values[i];
  }
  cluster_sync();
  for (int index = thread; index < kCount * lanes; index += kThreads) {
    float sum = 0.0f;
    for (int rank = 0; rank < blocks; ++rank) sum += shared_of_block(totals, rank)[index];
    scratch[index] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = scratch[i * lanes + (thread & (lanes - 1))];
  __syncthreads();
}

// Where the place `index` of an axis goes in the padded one, its mirror images included: -1 for none.
__device__ inline int mirrored(int index, int size, int before, int after, int copy) {
  if (copy == 0) return before + index;
  if (copy == 1) return index >= 1 && index <= before ? before - index : -1;
  return index <= size - 2 && index >= size - 1 - after ? before + 2 * (size - 1) - index : -1;
}

// Whether a place goes to one place only, as most do.
__device__ inline bool has_no_mirror(int index, int size, int before, int after) {
  return (index == 0 || index > before) && (index == size - 1 || index < size - 1 - after);
}

template <typename Element, int kCount>
__device__ void store_mirrored(const NormParameters& p, Element* output, int64_t pixel_stride, int y, int x,
                               const Pack<Element, kCount>& pack) {
  const int64_t row_stride = (p.left + p.width + p.right) * pixel_stride;
  if (has_no_mirror(y, p.height, p.top, p.bottom) && has_no_mirror(x, p.width, p.left, p.right)) {
    *reinterpret_cast<Pack<Element, kCount>*>(output + (p.top + y) * row_stride + (p.left + x) * pixel_stride) = pack;
    return;
  }
#pragma unroll 1
  for (int of_y = 0; of_y < 3; ++of_y) {
    const int to_y = mirrored(y, p.height, p.top, p.bottom, of_y);
    if (to_y < 0) continue;
#pragma unroll 1
    for (int of_x = 0; of_x < 3; ++of_x) {
      const int to_x = mirrored(x, p.width, p.left, p.right, of_x);
      if (to_x < 0) continue;
      *reinterpret_cast<Pack<Element, kCount>*>(output + to_y * row_stride + to_x * pixel_stride) = pack;
    }
  }
}

template <typename Element, int kVector, bool kInterleaved>
__device__ Pack<Element, kVector> load_input(const NormParameters& p, const Share<kVector, kInterleaved>& share,
                                             int item) {
  return *reinterpret_cast<const Pack<Element, kVector>*>(static_cast<const Element*>(p.input) + share.offset(p, item));
}

template <typename Element, int kVector, bool kInterleaved>
__device__ Pack<Element, kVector> load_residual(const NormParameters& p, const Share<kVector, kInterleaved>& share,
                                                int item, Cursor& place) {
  if (p.residual == nullptr) return {};
  int64_t from = 0;
  if (kInterleaved) {
    from = share.image * p.residual_image_stride + place.row * p.residual_row_stride +
           static_cast<int64_t>(place.column) * p.channels + share.channel;
    place.advance();
  } else {
    from = share.offset(p, item);
  }
  return *reinterpret_cast<const Pack<Element, kVector>*>(static_cast<const Element*>(p.residual) + from);
}

// Normalises one item and writes it to all its places.
template <typename Element, int kVector, bool kInterleaved, int kChannels>
__device__ void finish_item(const NormParameters& p, const Share<kVector, kInterleaved>& share, int item, Cursor& place,
                            const Pack<Element, kVector>& x, const Pack<Element, kVector>& around,
                            const float (&scale)[kChannels], const float (&shift)[kChannels]) {
  Pack<Element, kVector> y;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const int c = kChannels == 1 ? 0 : i;
    const float normalised = to_float(x.at[i]) * scale[c] + shift[c];
    float value = normalised > 0.0f ? normalised : normalised * p.slope;
    if (p.residual != nullptr) value += to_float(around.at[i]);
    y.at[i] = from_float<Element>(value);
  }
  auto* output = static_cast<Element*>(p.output);
  if ((p.left | p.right | p.top | p.bottom) == 0) {
    *reinterpret_cast<Pack<Element, kVector>*>(output + share.offset(p, item)) = y;
    return;
  }
  const int64_t plane = static_cast<int64_t>(p.top + p.height + p.bottom) * (p.left + p.width + p.right);
  if constexpr (kInterleaved) {
    store_mirrored(p, output + share.image * plane * p.channels + share.channel, p.channels, place.row, place.column,
                   y);
    place.advance();
  } else {
    output += (static_cast<int64_t>(share.image) * p.channels + share.channel) * plane;
    for (int i = 0; i < kVector; ++i) {
      const int row = (item * kVector + i) / p.width, column = (item * kVector + i) % p.width;
      store_mirrored(p, output, 1, row, column, Pack<Element, 1>{{y.at[i]}});
    }
  }
}

template <int kChannels>
__device__ void coefficients(const NormParameters& p, int channel, const float (&mean)[kChannels],
                             const float (&rstd)[kChannels], float (&scale)[kChannels], float (&shift)[kChannels]) {
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    scale[i] = rstd[i] * (p.weight != nullptr ? p.weight[channel + i] : 1.0f);
    shift[i] = (p.bias != nullptr ? p.bias[channel + i] : 0.0f) - mean[i] * scale[i];
  }
}

__device__ inline float reciprocal_deviation(float variance, float epsilon) {
  return 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + epsilon);  // NaN stays NaN
}

// Adds to the sums of deviations from `around`, and to those of their squares.
template <typename Element, int kVector, int kChannels>
__device__ void add_deviations(const Pack<Element, kVector>& x, const float (&around)[kChannels],
                               float (&sums)[2 * kChannels]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const int c = kChannels == 1 ? 0 : i;
    const float deviation = to_float(x.at[i]) - around[c];
    sums[c] += deviation;
    sums[kChannels + c] += deviation * deviation;
  }
}

// Each thread reads back from shared memory only what it has put there itself: that needs no barrier.
template <typename Element, int kVector, bool kInterleaved>
__global__ void __launch_bounds__(kThreads, kLargeBlocksAtOnce) norm_resident(const NormParameters p) {
  constexpr int kChannels = kInterleaved ? kVector : 1;
  using Item = Pack<Element, kVector>;
  const int part = cluster_rank();
  const Share<kVector, kInterleaved> share(p, static_cast<int>(blockIdx.x) / p.parts, part);
  auto* scratch = reinterpret_cast<float*>(shared_memory());
  float* mean_totals = scratch + scratch_floats(kChannels, p.lanes);
  float* deviation_totals = mean_totals + kChannels * p.lanes;
  auto* held = reinterpret_cast<Item*>(shared_memory() + bytes_before_items(kChannels, p.lanes)) + share.lane;
  const float share_of_place = 1.0f / (static_cast<float>(p.height) * static_cast<float>(p.width));

  const auto from_memory = [&](int item) { return load_input<Element>(p, share, item); };
  const auto from_held = [&](int item) { return held[(item - share.begin) * p.lanes]; };

  float mean[kChannels] = {};
  for_items<8>(share, from_memory, [&](int item, const Item& x) {
    held[(item - share.begin) * p.lanes] = x;
#pragma unroll
    for (int i = 0; i < kVector; ++i) mean[kChannels == 1 ? 0 : i] += to_float(x.at[i]);
  });
  cluster_sum(mean, p.lanes, scratch, mean_totals);
#pragma unroll
  for (int c = 0; c < kChannels; ++c) mean[c] *= share_of_place;

  float deviations[2 * kChannels] = {};  // sums, then sums of squares
  for_items<4>(share, from_held, [&](int, const Item& x) { add_deviations(x, mean, deviations); });
  cluster_sum(deviations, p.lanes, scratch, deviation_totals);
  if (p.parts > 1) cluster_sync();  // a block must not end while others read its totals

  float rstd[kChannels];
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const float correction = deviations[c] * share_of_place;
    rstd[c] = reciprocal_deviation(deviations[kChannels + c] * share_of_place - correction * correction, p.epsilon);
    mean[c] += correction;
  }
  if (part == 0 && share.active && static_cast<int>(threadIdx.x) < p.lanes) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      p.mean[static_cast<int64_t>(share.image) * p.channels + share.channel + c] = mean[c];
      p.rstd[static_cast<int64_t>(share.image) * p.channels + share.channel + c] = rstd[c];
    }
  }
  if (!share.active) return;
  float scale[kChannels], shift[kChannels];
  coefficients(p, share.channel, mean, rstd, scale, shift);
  Cursor read(share.first, share.step, p.width), written = read;
  for_items<2>(
      share, [&](int item) { return load_residual<Element>(p, share, item, read); },
      [&](int item, const Item& residual) {
        const Item x = from_held(item);
        finish_item(p, share, item, written, x, residual, scale, shift);
      });
}

// Mean and sum of squared deviations of one chunk of each channel of a group.
template <typename Element, int kVector, bool kInterleaved>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) norm_statistics(const NormParameters p) {
  constexpr int kChannels = kInterleaved ? kVector : 1;
  using Item = Pack<Element, kVector>;
  const int unit = static_cast<int>(blockIdx.x) / p.parts, part = static_cast<int>(blockIdx.x) - unit * p.parts;
  const Share<kVector, kInterleaved> share(p, unit, part);
  auto* scratch = reinterpret_cast<float*>(shared_memory());
  const int begin = part * p.items_per_part, count = min(p.items_per_part, p.items - begin);

  float around[kChannels] = {};
  if (share.active) {
    const Item x = load_input<Element>(p, share, begin);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) around[c] = to_float(x.at[c]);
  }
  float deviations[2 * kChannels] = {};
  for_items<4>(
      share, [&](int item) { return load_input<Element>(p, share, item); },
      [&](int, const Item& x) { add_deviations(x, around, deviations); });
  block_sum(deviations, p.lanes, scratch);
  if (!share.active || static_cast<int>(threadIdx.x) >= p.lanes) return;
  const float places = static_cast<float>(count) * (kInterleaved ? 1 : kVector);
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const float distance = deviations[c] / places;
    float* to = p.partial + ((static_cast<int64_t>(share.image) * p.channels + share.channel + c) * p.parts + part) * 2;
    to[0] = around[c] + distance;
    to[1] = deviations[kChannels + c] - deviations[c] * distance;
  }
}

__device__ inline float warp_sum(float value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kWholeWarp, value, offset);
  return value;
}

// Joins the chunks of one channel; one warp does it.
__device__ inline void join_chunks(const NormParameters& p, int64_t channel, int places_per_item, float& mean,
                                   float& squares) {
  const float* from = p.partial + channel * p.parts * 2;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const float places = static_cast<float>(p.items) * static_cast<float>(places_per_item);
  const float around = from[0];
  float sum = 0.0f;
  for (int part = lane; part < p.parts; part += kWarpSize) {
    const int count = min(p.items_per_part, p.items - part * p.items_per_part) * places_per_item;
    sum += (from[2 * part] - around) * static_cast<float>(count);
  }
  mean = around + warp_sum(sum) / places;
  squares = 0.0f;
  for (int part = lane; part < p.parts; part += kWarpSize) {
    const int count = min(p.items_per_part, p.items - part * p.items_per_part) * places_per_item;
    const float distance = from[2 * part] - mean;
    squares += from[2 * part + 1] + distance * distance * static_cast<float>(count);
  }
  squares = warp_sum(squares);
}

// One warp per channel.
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) norm_join(const NormParameters p, int places_per_item) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (channel >= static_cast<int64_t>(p.images) * p.channels) return;
  float mean, squares;
  join_chunks(p, channel, places_per_item, mean, squares);
  if (threadIdx.x % kWarpSize != 0) return;
  const float places = static_cast<float>(p.height) * static_cast<float>(p.width);
  p.mean[channel] = mean;
  p.rstd[channel] = reciprocal_deviation(squares / places, p.epsilon);
}

// One block per image: one mean and deviation for all its channels. Each channel has as many places as any other.
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    norm_join_over_channels(const NormParameters p, int places_per_item) {
  auto* scratch = reinterpret_cast<float*>(shared_memory());
  const int64_t first = static_cast<int64_t>(blockIdx.x) * p.channels;
  const int thread = static_cast<int>(threadIdx.x);
  const float places = static_cast<float>(p.height) * static_cast<float>(p.width);
  for (int c = thread / kWarpSize; c < p.channels; c += kWarps) {
    float mean, squares;
    join_chunks(p, first + c, places_per_item, mean, squares);
    if (thread % kWarpSize == 0) p.mean[first + c] = mean, p.rstd[first + c] = squares;
  }
  __syncthreads();
  const float around = p.mean[first];
  float sums[1] = {0.0f};
  for (int c = thread; c < p.channels; c += kThreads) sums[0] += p.mean[first + c] - around;
  block_sum(sums, 1, scratch);
  const float mean = around + sums[0] / static_cast<float>(p.channels);
  float squares[1] = {0.0f};
  for (int c = thread; c < p.channels; c += kThreads) {
    const float distance = p.mean[first + c] - mean;
    squares[0] += p.rstd[first + c] + distance * distance * places;
  }
  block_sum(squares, 1, scratch);
  const float variance = squares[0] / (places * static_cast<float>(p.channels));
  for (int c = thread; c < p.channels; c += kThreads) {
    p.mean[first + c] = mean;
    p.rstd[first + c] = reciprocal_deviation(variance, p.epsilon);
  }
}

template <typename Element, int kVector, bool kInterleaved>
__global__ void __launch_bounds__(kThreads, kLargeBlocksAtOnce) norm_apply(const NormParameters p) {
  constexpr int kChannels = kInterleaved ? kVector : 1;
  using Item = Pack<Element, kVector>;
  const int unit = static_cast<int>(blockIdx.x) / p.parts, part = static_cast<int>(blockIdx.x) - unit * p.parts;
  const Share<kVector, kInterleaved> share(p, unit, part);
  if (!share.active) return;
  float mean[kChannels], rstd[kChannels], scale[kChannels], shift[kChannels];
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    mean[c] = p.mean[static_cast<int64_t>(share.image) * p.channels + share.channel + c];
    rstd[c] = p.rstd[static_cast<int64_t>(share.image) * p.channels + share.channel + c];
  }
  coefficients(p, share.channel, mean, rstd, scale, shift);
  struct Loaded {
    Item x, residual;
  };
  Cursor read(share.first, share.step, p.width), written = read;
  for_items<2>(
      share,
      [&](int item) {
        return Loaded{load_input<Element>(p, share, item), load_residual<Element>(p, share, item, read)};
      },
      [&](int item, const Loaded& loaded) {
        finish_item(p, share, item, written, loaded.x, loaded.residual, scale, shift);
      });
}

// --- the host's side

template <typename Element, int kVector, bool kInterleaved>
const char* launch_forms(const NormParameters& p, const NormPlan& plan, Stream stream) {
  const int64_t blocks = static_cast<int64_t>(p.images) * p.groups * p.parts;
  if (plan.resident) {
    return launch(norm_resident<Element, kVector, kInterleaved>, {blocks, kThreads, plan.shared_bytes, p.parts}, stream,
                  p);
  }
  const char* wrong =
      launch(norm_statistics<Element, kVector, kInterleaved>, {blocks, kThreads, plan.shared_bytes, 1}, stream, p);
  const int places_per_item = kInterleaved ? 1 : kVector;
  if (wrong == nullptr && p.over_channels) {
    wrong = launch(norm_join_over_channels, {p.images, kThreads, scratch_bytes(1, 1), 1}, stream, p, places_per_item);
  } else if (wrong == nullptr) {
    const int64_t warps = static_cast<int64_t>(p.images) * p.channels;
    wrong = launch(norm_join, {divided_up(warps, kWarps), kThreads, 0, 1}, stream, p, places_per_item);
  }
  if (wrong != nullptr) return wrong;
  return launch(norm_apply<Element, kVector, kInterleaved>, {blocks, kThreads, 0, 1}, stream, p);
}

template <typename Element>
const char* launch_layouts(const NormParameters& p, const NormPlan& plan, bool interleaved, Stream stream) {
  constexpr int kVector = kAccessBytes / static_cast<int>(sizeof(Element));
  if (plan.vector == 1) {
    return interleaved ? launch_forms<Element, 1, true>(p, plan, stream)
                       : launch_forms<Element, 1, false>(p, plan, stream);
  }
  return interleaved ? launch_forms<Element, kVector, true>(p, plan, stream)
                     : launch_forms<Element, kVector, false>(p, plan, stream);
}

}  // namespace

const char* launch_instance_norm_act(NormParameters norm, const NormPlan& plan, Dtype dtype, bool interleaved,
                                     Stream stream) {
  norm.lanes = plan.lanes, norm.groups = plan.groups, norm.items = plan.items;
  norm.parts = plan.parts, norm.items_per_part = plan.items_per_part;
  switch (dtype) {
    case kFloat32:
      return launch_layouts<float>(norm, plan, interleaved, stream);
    case kBFloat16:
      return launch_layouts<__nv_bfloat16>(norm, plan, interleaved, stream);
    case kFloat16:
      return launch_layouts<__half>(norm, plan, interleaved, stream);
    default:
      return "unknown element type";
  }
}

#if !defined(STREAMGAN_EMULATE)
int largest_norm_cluster(size_t shared_bytes) {
  const auto kernel = norm_resident<__half, kAccessBytes / 2, true>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  int largest = 1;
  for (int cluster = 2; cluster <= 16; cluster *= 2) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(cluster));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = shared_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess || clusters < 1) break;
    largest = cluster;
  }
  cudaGetLastError();
  return largest;
}
#endif

}  // namespace streamgan
