// Runs a plan on an image.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>

#include "csrc/generator/algorithms.h"
#include "csrc/generator/plan.h"

namespace streamgan {
namespace {

bool shares_out_channels(const Convolution& c) {
  return c.algorithm == Algorithm::kFewPixels || c.algorithm == Algorithm::kMatrixFewPixels;
}

}  // namespace

int64_t unit_count(const Convolution& c) {
  const int64_t channel_units = divided_up(c.out_channels, kUnitChannels);
  if (shares_out_channels(c)) return channel_units;
  if (c.matrix.bands > 0) return c.matrix.bands;
  if (is_winograd(c.algorithm)) return channel_units * c.winograd.spread * c.winograd.spread * c.winograd.parts;
  return divided_up(c.base_height, c.direct.unit_rows);
}

int64_t statistic_slots(const Convolution& c) {
  if (shares_out_channels(c)) return c.up * c.up;
  if (!is_winograd(c.algorithm)) return unit_count(c) * c.up * c.up;
  const WinogradParameters& w = c.winograd;
  const int64_t of_a_phase =
      w.segment > 0 ? w.tile_rows * segments_of_row(c) : divided_up(w.tile_rows, w.chunk_rows) * w.parts;
  return of_a_phase * w.spread * w.spread;
}

int64_t Plan::workspace_bytes() const {
  return aligned(statistics_bytes_) + aligned(transformed_bytes_) + aligned(filter_bytes_) +
         threads_.count() * aligned(scratch_bytes_) + activations_.bytes();
}

Plan::Memory Plan::laid_out(char* workspace) const {
  Memory memory;
  memory.statistics = reinterpret_cast<float*>(workspace);
  memory.transformed = workspace + aligned(statistics_bytes_);
  memory.filters = memory.transformed + aligned(transformed_bytes_);
  memory.scratch = memory.filters + aligned(filter_bytes_);
  memory.values = memory.scratch + threads_.count() * aligned(scratch_bytes_);
  return memory;
}

void Plan::run(const InputView& image, const OutputView& picture, char* workspace, double* seconds) const {
  using Clock = std::chrono::steady_clock;
  const Memory memory = laid_out(workspace);
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Clock::time_point begin = Clock::now();
    run_step(steps_[i], image, picture, memory);
    if (seconds) seconds[i] += std::chrono::duration<double>(Clock::now() - begin).count();
  }
}

Convolution Plan::with_memory(const PlannedStep& planned, const InputView& image, const OutputView& picture,
                              const Memory& memory) const {
  const Step& step = planned.step;
  Convolution c = planned.convolution;
  const auto source_of = [&](int64_t value, int64_t channels) {
    return value == kNone ? Source{} : activations_[value].source(channels, memory.values);
  };
  if (step.source == kNone) {
    c.image = image;
    c.image.scale = float_of_bits(step.image_scale_bits), c.image.offset = float_of_bits(step.image_offset_bits);
  } else {
    c.sources[0] = source_of(planned.source, c.sources[0].channels);
    c.sources[1] = source_of(planned.second_source, c.sources[1].channels);
    c.residual = source_of(planned.residual, c.in_channels);
    c.second_residual = source_of(planned.second_residual, c.in_channels);
  }
  if (planned.save != kNone) c.save.data = activations_[planned.save].data(memory.values);
  if (planned.makes_picture()) {
    c.picture.view = picture;
    c.picture.base_image = image;
    c.picture.base_image.scale = 1.0f, c.picture.base_image.offset = 0.0f;
  } else {
    const Value& output = activations_[planned.output];
    c.finish.residual = source_of(planned.out_residual, c.out_channels);
    c.finish.second_residual = source_of(planned.out_second_residual, c.out_channels);
    c.output.data = output.data(memory.values) + planned.output_channel * output.element_bytes();
    if (step.has_norm) c.statistics = memory.statistics;
  }
  c.vertical.filters = reinterpret_cast<float*>(memory.filters);
  return c;
}

void Plan::run_step(const PlannedStep& planned, const InputView& image, const OutputView& picture,
                    const Memory& memory) const {
  Convolution c = with_memory(planned, image, picture, memory);
  const AlgorithmKernels& kernels = kernels_.algorithms[static_cast<int>(c.algorithm)];
  if (const ConvolutionUnits filters = kernels.filters[c.multiplied]) {
    in_parallel(filters, c, divided_up(c.out_channels, kUnitChannels), memory);
  }
  if (!is_winograd(c.algorithm)) {
    in_parallel(kernels.units[c.multiplied], c, unit_count(c), memory);
  } else if (c.winograd.segment > 0) {
    in_parallel(kernels.segments[c.multiplied], c, c.winograd.tile_rows * segments_of_row(c), memory);
  } else {
    run_chunks(kernels, c, memory);
  }
  if (c.statistics) finish_norm(planned, memory);
}

void Plan::run_chunks(const AlgorithmKernels& kernels, Convolution& c, const Memory& memory) const {
  WinogradParameters& w = c.winograd;
  // Around the middle of its place, so that the first half of the threads wrote there last what they write now.
  const int64_t spare = transformed_bytes_ - transformed_bytes(c, w.tile_room);
  w.transformed = memory.transformed + spare / 2 / kAlignment * kAlignment;
  const int64_t rows = w.chunk_rows;
  for (w.chunk_row = 0; w.chunk_row < w.tile_rows; w.chunk_row += rows) {
    w.chunk_rows = std::min(rows, w.tile_rows - w.chunk_row);
    in_parallel(kernels.inputs[c.multiplied], c, w.chunk_rows, memory);
    in_parallel(kernels.units[c.multiplied], c, unit_count(c), memory);
    if (c.statistics) c.statistics += w.parts * w.spread * w.spread * 2 * c.out_channels;
  }
}

void Plan::in_parallel(ConvolutionUnits work, const Convolution& c, int64_t count, const Memory& memory) const {
  threads_.run(count, [&](int64_t begin, int64_t end, int64_t worker) {
    work(c, begin, end, memory.scratch + worker * aligned(scratch_bytes_));
    std::atomic_thread_fence(std::memory_order_seq_cst);  // orders what went past the caches
  });
}

// Scale and shift of InstanceNorm, or of GroupNorm of one group, from the sums over all places:
// (x - mean) / sqrt(var + eps) * weight + bias.
void Plan::finish_norm(const PlannedStep& planned, const Memory& memory) const {
  const Step& step = planned.step;
  const Convolution& c = planned.convolution;
  const int64_t channels = c.out_channels, slots = statistic_slots(c);
  const float* const weight = step.norm_weight == kNone ? nullptr : weights_.floats(step.norm_weight, channels);
  const float* const bias = step.norm_bias == kNone ? nullptr : weights_.floats(step.norm_bias, channels);
  const double epsilon = float_of_bits(step.epsilon_bits);
  std::vector<double> sums(2 * channels, 0.0);
  for (int64_t i = 0; i < slots; ++i) {
    for (int64_t k = 0; k < 2 * channels; ++k) sums[k] += memory.statistics[i * 2 * channels + k];
  }
  auto count = static_cast<double>(c.up * c.up * c.base_height * c.base_width);
  if (step.norm_channels > 0) {
    // Channels that are only stored hold zeros.
    double total = 0.0, squares = 0.0;
    for (int64_t k = 0; k < channels; ++k) total += sums[k], squares += sums[channels + k];
    std::fill(sums.begin(), sums.begin() + channels, total);
    std::fill(sums.begin() + channels, sums.end(), squares);
    count *= static_cast<double>(step.norm_channels);
  }
  const Value& output = activations_[planned.output];
  float *const scales = output.scale(memory.values), *const shifts = output.shift(memory.values);
  for (int64_t k = 0; k < channels; ++k) {
    const double mean = sums[k] / count;
    const double variance = std::max(sums[channels + k] / count - mean * mean, 0.0);
    const double scale = (weight ? weight[k] : 1.0) / std::sqrt(variance + epsilon);
    scales[k] = static_cast<float>(scale);
    shifts[k] = static_cast<float>((bias ? bias[k] : 0.0) - mean * scale);
  }
}

}  // namespace streamgan
