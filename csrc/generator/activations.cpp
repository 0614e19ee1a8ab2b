#include "csrc/generator/activations.h"

#include <algorithm>

namespace streamgan {

constexpr int64_t kMaxSide = 1 << 22;

void Activations::check_slot(int64_t slot) const {
  require(slot >= 0 && slot < static_cast<int64_t>(current_.size()), "the program has no slot ", slot);
}

int64_t Activations::read(int64_t slot, int64_t step) {
  if (slot == kNone) return kNone;
  check_slot(slot);
  const int64_t number = current_[slot];
  require(number != kNone, "a step reads what nothing has written");
  values_[number].last = step;
  return number;
}

int64_t Activations::write(int64_t slot, int64_t step, Value value) {
  check_slot(slot);
  require(value.height <= kMaxSide && value.width <= kMaxSide, "an activation of ", value.width, "x", value.height,
          " is too large");
  value.first = value.last = step;
  current_[slot] = static_cast<int64_t>(values_.size());
  values_.push_back(value);
  return current_[slot];
}

int64_t Activations::append(int64_t slot, int64_t step, const Value& like, int64_t channels) {
  const int64_t number = read(slot, step);
  require(number != kNone, "a step appends to nothing");
  Value& value = values_[number];
  require(value.height == like.height && value.width == like.width && value.dtype == like.dtype &&
              !value.is_normalised && !like.is_normalised && channels <= value.channels - value.filled,
          "a step appends what has no room");
  value.filled += channels;
  return number;
}

void Activations::place() {
  std::vector<Value*> order;
  for (Value& value : values_) order.push_back(&value);
  std::stable_sort(order.begin(), order.end(), [](const Value* a, const Value* b) { return a->bytes() > b->bytes(); });
  std::vector<const Value*> placed;  // by their offsets
  for (Value* value : order) {
    for (const Value* other : placed) {
      if (other->last < value->first || value->last < other->first) continue;
      if (other->offset >= value->offset + value->bytes()) break;
      value->offset = std::max(value->offset, other->offset + other->bytes());
    }
    bytes_ = std::max(bytes_, value->offset + value->bytes());
    placed.insert(std::upper_bound(placed.begin(), placed.end(), value,
                                   [](const Value* a, const Value* b) { return a->offset < b->offset; }),
                  value);
  }
}

}  // namespace streamgan
