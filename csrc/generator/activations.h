// The activations of a generator: what each slot of the program holds in the course of the steps, and where it lies in
// memory.
#pragma once

#include <cstdint>
#include <vector>

#include "csrc/cpu/fused_convolution.h"
#include "csrc/generator/program.h"

namespace streamgan {

// An activation: one step writes it and later ones read it, normalised or as it is.
struct Value {
  int64_t height, width, channels;
  int64_t border;  // pixels of zeros around it
  Dtype dtype;
  bool is_normalised;
  int64_t filled = 0;           // channels that the steps so far have written, from the first on
  int64_t first = 0, last = 0;  // steps that it is needed in
  int64_t offset = 0;           // from the beginning of all values

  int64_t element_bytes() const { return dtype == kFloat32 ? 4 : 2; }
  int64_t row_step() const { return (width + 2 * border) * channels; }  // elements from a row to the next

  // Products of whole tiles read beyond the last pixel, for outputs that nobody keeps.
  int64_t data_bytes() const {
    const int64_t beyond = border == 0 ? 0 : (2 * kMatrixSide + kMaxTaps) * channels;
    return aligned(((height + 2 * border) * row_step() + beyond) * element_bytes());
  }
  int64_t bytes() const { return data_bytes() + (is_normalised ? 2 * aligned(channels * 4) : 0); }

  // In memory, where all values begin at `values`: the first pixel inside the border, and [channels] of each.
  char* data(char* values) const { return values + offset + border * (row_step() + channels) * element_bytes(); }
  float* scale(char* values) const { return reinterpret_cast<float*>(values + offset + data_bytes()); }
  float* shift(char* values) const { return scale(values) + aligned(channels * 4) / 4; }

  // The first `count` channels; without memory if `values` is null.
  Source source(int64_t count, char* values) const {
    Source source = {nullptr, dtype, count, channels, row_step(), border, nullptr, nullptr};
    if (values) source.data = data(values);
    if (values && is_normalised) source.scale = scale(values), source.shift = shift(values);
    return source;
  }
};

// Values are known by their number, or kNone.
class Activations {
 public:
  explicit Activations(int64_t slots) : current_(slots, kNone) {}

  const Value& operator[](int64_t number) const { return values_[number]; }
  int64_t bytes() const { return bytes_; }

  // The value that a slot holds, needed in this step; kNone for kNone.
  int64_t read(int64_t slot, int64_t step);

  // A new value in a slot, written in this step.
  int64_t write(int64_t slot, int64_t step, Value value);

  // More channels of the value in a slot, after those that it holds.
  int64_t append(int64_t slot, int64_t step, const Value& like, int64_t channels);

  // Gives each value its place, as low as those allow that are needed at the same time; the largest first.
  void place();

 private:
  std::vector<int64_t> current_;  // value of each slot
  std::vector<Value> values_;
  int64_t bytes_ = 0;

  void check_slot(int64_t slot) const;
};

}  // namespace streamgan
