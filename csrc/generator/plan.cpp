#include "csrc/generator/plan.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "csrc/caches.h"
#include "csrc/check.h"
#include "csrc/kernels.h"

namespace streamgan {
namespace {

constexpr char kOp[] = "fused_generator";
constexpr int64_t kAlignment = 64;
constexpr int64_t kUnitChannels = kMaxTileBlocks * kChannelBlock;
constexpr int64_t kMaxSlots = 64, kMaxChannels = 1 << 16, kMaxSide = 1 << 22;
// A direct convolution of at most so many pixels shares out its channels; one of more takes together so many pixels, in
// whole rows, that its weights come out of the caches often enough.
constexpr int64_t kFewPixels = 256, kUnitPixels = 256;
// So does one of the matrix unit whose weights are so many times its input.
constexpr int64_t kManyWeights = 4;
// What has more values, and more than this share of the level 3 cache has bytes, is written past the caches: it would
// be gone from them before it is read.
constexpr int64_t kStreamValues = 3 << 18, kStreamShare = 32;
constexpr int64_t kSegmentTiles = 8;  // a segment is a multiple of
// Phases share their transformed input where that adds at most one tile to so many.
constexpr int64_t kSharedTiles = 7;
// A chunk of Winograd tiles has a transformed input of so many bytes, that stays in the caches while it is multiplied;
// more, up to the most, if that is fewer tiles than make transforming the kernels a twentieth of multiplying them; and
// then as many rows more as give all threads equally many.
constexpr int64_t kChunkBytes = 2 << 20, kMaxChunkBytes = 8 << 20, kChunkTiles = 256;
// The transformed input that is kept for the next step has at most so many bytes.
constexpr int64_t kMaxKeptBytes = 128 << 20;
// With so many tiles for each thread, in as many rows as the others or in so many, it multiplies those whose input it
// has transformed, for all output channels: cores without a cache in common take longer to hand over tiles than to
// transform the kernels once each.
constexpr int64_t kOwnTiles = 32, kOwnRows = 4;

float float_of_bits(int64_t bits) {
  const auto low = static_cast<uint32_t>(bits);
  float value;
  std::memcpy(&value, &low, sizeof value);
  return value;
}

int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

bool is_winograd(const Convolution& c) { return tile_shape(c.method).rows.in > 0; }

bool makes_picture(const Convolution& c) {
  return c.method == Method::kColumns || c.method == Method::kVerticalPicture || c.method == Method::kShuffle ||
         c.method == Method::kMatrixPicture;
}

bool uses_matrix_unit(const Convolution& c) {
  return c.method == Method::kMatrix || c.method == Method::kMatrixPicture || c.method == Method::kMatrixSmall;
}

int64_t tiles_beside(int64_t outputs, const TileSide& side) { return divided_up(outputs, side.out); }

// What `method` multiplies for an input and an output channel of a phase; transforming a kernel is as much as five
// tiles.
int64_t products(const Convolution& c, Method method) {
  const auto [rows, columns] = tile_shape(method);
  const int64_t tiles =
      tiles_beside(c.up * c.base_height / c.spread, rows) * tiles_beside(c.up * c.base_width / c.spread, columns);
  return (tiles + 5) * rows.frequencies * columns.frequencies;
}

// Of the transformed input of so many tiles, of all phases.
int64_t transformed_bytes(const Convolution& c, int64_t tiles, int64_t element_bytes) {
  const auto [rows, columns] = tile_shape(c.method);
  return c.input_phases * tiles * c.transformed_blocks *
         (rows.frequencies * columns.frequencies * kChannelBlock * element_bytes + kLineBytes);
}

// How many tiles a thread works on at a time, where all transformed kernels are a small part of a core's cache and
// the tiles, their products and the kernels together the larger one.
void set_segment(Convolution& c, int64_t kernel_bytes, int64_t tile_bytes) {
  const int64_t cache = caches().level2_bytes,
                most = (cache * 5 / 8 - kernel_bytes) / tile_bytes / kSegmentTiles * kSegmentTiles;
  if (kernel_bytes > cache * 3 / 8 || most < kSegmentTiles || c.tile_columns < kSegmentTiles) return;
  const int64_t segments = divided_up(c.tile_columns, most);
  c.segment = divided_up(divided_up(c.tile_columns, segments), kSegmentTiles) * kSegmentTiles;
}

// Padding at the right has to repeat pixels of the last strip, even if that is a single column.
bool has_picture_strips(const Convolution& c) {
  return c.picture_channels <= kMaxVerticalPictures && -2 * c.phases[0].dx >= c.kernel_width - 1;
}

}  // namespace

Plan::Plan(const Program& program, int64_t height, int64_t width, const Threads& threads)
    : weights_(program.weights),
      weight_bytes_(program.weight_bytes),
      height_(height),
      width_(width),
      threads_(threads),
      thread_count_(threads.count()),
      kernels_(fused_convolution_kernels()) {
  Header header;
  check(program.count * 8 >= static_cast<int64_t>(sizeof header), kOp, ": the program is empty");
  std::memcpy(&header, program.numbers, sizeof header);
  check(header.version == kProgramVersion, kOp, ": program of version ", header.version, ", this build runs ",
        kProgramVersion);
  check(header.dtype == 0 || header.dtype == 1, kOp, ": program of dtype ", header.dtype);
  constexpr int64_t kStepNumbers = sizeof(Step) / 8, kHeaderNumbers = sizeof(Header) / 8;
  check(header.slots >= 0 && header.slots <= kMaxSlots && header.steps >= 1 &&
            header.steps <= program.count / kStepNumbers &&
            program.count == kHeaderNumbers + header.steps * kStepNumbers,
        kOp, ": a program of ", header.steps, " steps and ", header.slots, " slots does not have ", program.count,
        " numbers");
  dtype_ = static_cast<int>(header.dtype);
  current_.assign(header.slots, kNone);
  for (int64_t i = 0; i < header.steps; ++i) {
    Step step;
    std::memcpy(&step, program.numbers + kHeaderNumbers + i * kStepNumbers, sizeof step);
    add(step);
  }
  check(makes_picture(steps_.back().convolution), kOp, ": the last step has to make the picture");
  place_values();
}

// Checks a step, and notes its geometry and what it needs.
void Plan::add(const Step& step) {
  check(steps_.empty() || !makes_picture(steps_.back().convolution), kOp,
        ": a step after the one that makes the picture");
  PlannedStep planned = {step,
                         {},
                         read(step.source),
                         read(step.second_source),
                         read(step.residual),
                         read(step.second_residual),
                         read(step.out_residual),
                         read(step.out_second_residual),
                         kNone,
                         kNone};
  Convolution& c = planned.convolution;
  check(step.method >= 0 && step.method <= static_cast<int64_t>(Method::kMatrixPicture) && step.activation >= 0 &&
            step.activation <= 3 && step.padding >= 0 && step.padding <= 2 && step.base >= 0 && step.base <= 2,
        kOp, ": a step of an unknown kind");
  c.method = static_cast<Method>(step.method);
  c.activation = static_cast<Activation>(step.activation);
  c.padding = static_cast<Padding>(step.padding);
  c.slope = float_of_bits(step.slope_bits), c.residual_scale = float_of_bits(step.residual_scale_bits);
  c.in_height = height_, c.in_width = width_, c.in_channels = kImageChannels;
  if (step.source != kNone) {
    const Value& source = values_[planned.source];
    c.in_height = source.height, c.in_width = source.width, c.in_channels = source.filled;
    for (const int64_t other : {planned.second_source, planned.residual, planned.second_residual}) {
      if (other == kNone) continue;
      check(values_[other].height == source.height && values_[other].width == source.width, kOp,
            ": two inputs of different sizes");
    }
    c.sources[0] = layout_of(source, source.filled);
    if (step.second_source != kNone) c.sources[1].channels = values_[planned.second_source].filled;
    c.in_channels = c.sources[0].channels + c.sources[1].channels;
    check_residuals(planned);
  }
  check(c.in_channels == step.in_channels, kOp, ": a step reads other channels than there are");
  if (c.activation == Activation::kPRelu) {
    check(step.source != kNone, kOp, ": slopes of the image");
    c.slopes = static_cast<const float*>(weight(step.slopes, c.in_channels * 4));
  }
  c.shuffles = step.shuffles != 0;
  const bool is_block = c.method == Method::kShuffle || c.method == Method::kMatrixPicture;
  const int64_t most_up = is_block ? kMaxKernel : c.shuffles ? 3 : 2;
  check((step.stride == 1 || step.stride == 2 || step.stride == 4) && step.up >= 1 && step.up <= most_up &&
            (!c.shuffles || step.stride == 1) && step.out_channels > 0 && step.out_channels <= kMaxChannels &&
            step.out_channels % kChannelBlock == 0 && step.kernel >= 1 && step.kernel <= kMaxKernel &&
            step.pad_before >= 0 && step.pad_before <= kMaxKernel && step.pad_after >= 0 &&
            step.pad_after <= kMaxKernel,
        kOp, ": a step of an unknown shape");
  c.stride = step.stride, c.up = step.up, c.out_channels = step.out_channels;
  c.base_height = (c.in_height + step.pad_before + step.pad_after - step.kernel) / c.stride + 1;
  c.base_width = (c.in_width + step.pad_before + step.pad_after - step.kernel) / c.stride + 1;
  check(c.in_height + step.pad_before + step.pad_after >= step.kernel &&
            c.in_width + step.pad_before + step.pad_after >= step.kernel &&
            (c.padding != Padding::kReflect ||
             std::max(step.pad_before, step.pad_after) < std::min(c.in_height, c.in_width)),
        kOp, ": the image, ", height_, "x", width_, ", is too small for this generator");
  c.bias = static_cast<const float*>(weight(step.bias, (c.shuffles ? c.up * c.up : 1) * c.out_channels * 4));
  c.bias_step = c.shuffles ? c.out_channels : 0;
  c.picture_channels = step.picture_channels, c.kernel_width = step.kernel_width, c.tanh = step.tanh != 0;
  c.aligns_corners = step.aligns_corners != 0;
  check(step.norm_channels >= 0 && step.norm_channels <= c.out_channels, kOp,
        ": a norm of more channels than there are");
  c.picture_height = c.up * c.base_height, c.picture_width = c.up * c.base_width;
  if (step.base != 0) set_base(step, c);
  set_geometry(step, c);
  set_finish(planned, c);

  const bool appends = step.appends != 0;
  for (const int64_t read : {planned.source, planned.second_source, planned.residual, planned.second_residual}) {
    check(read == kNone || values_[read].border == 0 || uses_matrix_unit(c), kOp, ": a step reads what has a border");
  }
  for (const int64_t read : {step.source, step.second_source, step.residual, step.second_residual, step.out_residual,
                             step.out_second_residual}) {
    check(read == kNone || (read != step.save && (read != step.output || appends)), kOp,
          ": a step writes what it reads");
  }
  check(step.save == kNone || step.save != step.output || appends, kOp, ": a step writes two things to one place");
  check(step.save == kNone || step.source != kNone, kOp, ": a step keeps the image");
  if (step.save != kNone) {
    const Dtype saved = step.saves_bfloat16 ? kBFloat16 : kFloat32;
    const int64_t room = step.save_channels == 0 ? c.in_channels : step.save_channels;
    check(room >= c.in_channels && room <= kMaxChannels && room % kChannelBlock == 0, kOp,
          ": no room for what a step keeps");
    check(saved == kFloat32 || uses_matrix_unit(c), kOp, ": a step keeps its input in bfloat16");
    planned.save = write(step.save, c.in_height, c.in_width, room, saved, false, step.border);
    values_[planned.save].filled = c.in_channels;
    c.save_step = room, c.save_row = values_[planned.save].row_step(), c.save_border = step.border;
    c.saving = writing_of(c.in_height * c.in_width, c.in_channels, room, saved);
  }
  if (makes_picture(c)) {
    check(step.output == kNone, kOp, ": the picture goes elsewhere");
    check(c.picture_height % height_ == 0 && c.picture_height / height_ * width_ == c.picture_width, kOp,
          ": the picture of ", c.picture_width, "x", c.picture_height, " isn't a multiple of the image, ", width_, "x",
          height_);
  } else {
    const int64_t height = c.up * c.base_height, width = c.up * c.base_width;
    const Dtype dtype = step.writes_bfloat16 ? kBFloat16 : kFloat32;
    check(dtype == kFloat32 || (c.method != Method::kDepthwise && c.method != Method::kBilinear), kOp,
          ": a step on single channels writes float32 only");
    if (appends) {
      planned.output = append(step, height, width, dtype);
      planned.output_channel = values_[planned.output].filled - c.out_channels;
    } else {
      const int64_t room = step.out_room == 0 ? c.out_channels : step.out_room;
      check(room >= c.out_channels && room <= kMaxChannels && room % kChannelBlock == 0 &&
                (room == c.out_channels || step.has_norm == 0),
            kOp, ": no room for what a step makes");
      planned.output = write(step.output, height, width, room, dtype, step.has_norm != 0, step.border);
      values_[planned.output].filled = c.out_channels;
    }
    const Value& output = values_[planned.output];
    check(output.border == 0 || uses_matrix_unit(c), kOp, ": a step writes what has a border");
    c.output_step = output.channels, c.output_row = output.row_step(), c.output_border = output.border;
    c.writing = writing_of(height * width, c.out_channels, c.output_step, dtype);
    if (step.has_norm) statistics_bytes_ = std::max(statistics_bytes_, statistic_slots(c) * 2 * c.out_channels * 4);
  }
  steps_.push_back(planned);
}

// What is added to a step's input.
void Plan::check_residuals(const PlannedStep& planned) const {
  const Step& step = planned.step;
  check(step.residual != kNone || step.second_residual == kNone, kOp, ": a second residual alone");
  for (const int64_t residual : {planned.residual, planned.second_residual}) {
    if (residual == kNone) continue;
    const Value& value = values_[residual];
    check(value.filled >= planned.convolution.in_channels && step.second_source == kNone, kOp,
          ": a residual of other channels");
    check(value.dtype == kFloat32 || uses_matrix_unit(planned.convolution), kOp, ": a residual in bfloat16");
  }
  if (planned.second_residual == kNone) return;
  const Value &first = values_[planned.residual], &second = values_[planned.second_residual];
  check(!second.is_normalised, kOp, ": a second residual with a norm");
  check(second.dtype == first.dtype, kOp, ": two residuals of different types");
}

// What becomes of a step's output before it is written.
void Plan::set_finish(const PlannedStep& planned, Convolution& c) const {
  const Step& step = planned.step;
  check(step.out_activation >= 0 && step.out_activation <= 3 && step.border >= 0 && step.border <= kMaxKernel, kOp,
        ": a step of an unknown kind");
  Finish& finish = c.finish;
  finish.activation = static_cast<Activation>(step.out_activation), finish.slope = float_of_bits(step.out_slope_bits);
  finish.residual_scale = float_of_bits(step.out_residual_scale_bits);
  const bool is_plain = finish.activation == Activation::kNone && step.out_residual == kNone &&
                        step.out_second_residual == kNone && step.border == 0;
  if (is_plain) return;
  check(uses_matrix_unit(c) && !makes_picture(c) && step.has_norm == 0 &&
            (step.border == 0 || (step.writes_bfloat16 && (step.save == kNone || step.saves_bfloat16))),
        kOp, ": a step can't finish what it writes");
  if (finish.activation == Activation::kPRelu) {
    finish.slopes = static_cast<const float*>(weight(step.out_slopes, c.out_channels * 4));
  }
  check(step.out_residual != kNone || step.out_second_residual == kNone, kOp, ": a second residual alone");
  for (const int64_t residual : {planned.out_residual, planned.out_second_residual}) {
    if (residual == kNone) continue;
    const Value& value = values_[residual];
    check(value.dtype == kBFloat16 && !value.is_normalised && value.filled >= c.out_channels &&
              value.height == c.base_height && value.width == c.base_width && c.up == 1,
          kOp, ": a residual of another shape or type");
  }
}

// The output of the step that is being added, after the channels that its place holds.
int64_t Plan::append(const Step& step, int64_t height, int64_t width, Dtype dtype) {
  const int64_t number = read(step.output);
  check(number != kNone, kOp, ": a step appends to nothing");
  Value& value = values_[number];
  check(value.height == height && value.width == width && value.dtype == dtype && !value.is_normalised &&
            step.has_norm == 0 && step.out_channels <= value.channels - value.filled,
        kOp, ": a step appends what has no room");
  value.filled += step.out_channels;
  return number;
}

// The value that a slot holds, needed in the step that is being added.
int64_t Plan::read(int64_t slot) {
  if (slot == kNone) return kNone;
  check(slot >= 0 && slot < static_cast<int64_t>(current_.size()), kOp, ": the program has no slot ", slot);
  const int64_t value = current_[slot];
  check(value != kNone, kOp, ": a step reads what nothing has written");
  values_[value].last = steps_.size();
  return value;
}

// A new value in a slot, written in the step that is being added.
int64_t Plan::write(int64_t slot, int64_t height, int64_t width, int64_t channels, Dtype dtype, bool is_normalised,
                    int64_t border) {
  check(slot >= 0 && slot < static_cast<int64_t>(current_.size()), kOp, ": the program has no slot ", slot);
  check(height <= kMaxSide && width <= kMaxSide, kOp, ": an activation of ", width, "x", height, " is too large");
  Value value = {height, width, channels, border, channels, dtype, is_normalised, steps_.size(), steps_.size(), 0, 0};
  value.bytes = value.data_bytes() + (is_normalised ? 2 * aligned(channels * 4) : 0);
  current_[slot] = static_cast<int64_t>(values_.size());
  values_.push_back(value);
  return current_[slot];
}

// Each value, the largest first, lies as far down as those leave room that are needed at the same time.
void Plan::place_values() {
  std::vector<Value*> order;
  for (Value& value : values_) order.push_back(&value);
  std::stable_sort(order.begin(), order.end(), [](const Value* a, const Value* b) { return a->bytes > b->bytes; });
  std::vector<const Value*> placed;  // by their offsets
  for (Value* value : order) {
    for (const Value* other : placed) {
      if (other->last < value->first || value->last < other->first) continue;
      if (other->offset >= value->offset + value->bytes) break;
      value->offset = std::max(value->offset, other->offset + other->bytes);
    }
    value_bytes_ = std::max(value_bytes_, value->offset + value->bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), value,
                                   [](const Value* a, const Value* b) { return a->offset < b->offset; }),
                  value);
  }
}

const void* Plan::weight(int64_t offset, int64_t bytes) const {
  check(offset >= 0 && bytes >= 0 && offset <= weight_bytes_ - bytes && offset % kAlignment == 0, kOp, ": weights at ",
        offset, " are outside of the ", weight_bytes_, " bytes");
  return weights_ + offset;
}

// Of what a step multiplies: 0 is float32, 1 bfloat16.
int Plan::element_type(const Step& step) const { return step.multiplies_float32 ? 0 : dtype_; }

// Of so many channels of pixels that lie `step` values apart.
Writing Plan::writing_of(int64_t pixels, int64_t channels, int64_t step, Dtype dtype) const {
  const bool is_large = pixels * channels > std::max(kStreamValues, caches().level3_bytes / kStreamShare);
  if (dtype == kFloat32) return is_large ? Writing::kFloatsPastCaches : Writing::kFloats;
  const bool has_lines = channels % kUnitChannels == 0 && step == channels && kernels_.tile_blocks == kMaxTileBlocks;
  return is_large && has_lines ? Writing::kHalvesPastCaches : Writing::kHalves;
}

void Plan::set_geometry(const Step& step, Convolution& c) {
  const int64_t element_bytes = element_type(step) == 0 ? 4 : 2;
  if (uses_matrix_unit(c)) {
    scratch_bytes_ = std::max(scratch_bytes_, set_matrix_geometry(step, c, element_bytes));
    return;
  }
  const int64_t scratch =
      is_winograd(c) ? set_winograd_geometry(step, c, element_bytes) : set_direct_geometry(step, c, element_bytes);
  const int64_t ring = c.method == Method::kVerticalPicture
                           ? 0
                           : aligned((c.last - c.first + 1) * row_elements(c) * (is_winograd(c) ? 4 : element_bytes));
  // A chunk's input and output are two calls.
  const bool is_chunked = is_winograd(c) && c.segment == 0;
  scratch_bytes_ = std::max(scratch_bytes_, is_chunked ? std::max(ring, scratch) : ring + scratch);
}

// What is added to the picture.
void Plan::set_base(const Step& step, Convolution& c) const {
  c.base = static_cast<Base>(step.base);
  c.image_height = height_, c.image_width = width_;
  c.base_scale = c.up * c.base_height / height_;
  check(makes_picture(c) && c.picture_channels <= kImageChannels && c.base_scale >= 1 &&
            c.base_scale * height_ == c.up * c.base_height && c.base_scale * width_ == c.up * c.base_width,
        kOp, ": the image is added to something else than a picture of a multiple of its size");
}

// Returns the bytes that a thread needs beside its ring.
int64_t Plan::set_winograd_geometry(const Step& step, Convolution& c, int64_t element_bytes) {
  const bool is_pairs = c.method == Method::kWinogradPairs, is_strided = c.method == Method::kWinogradStrided;
  const bool is_transposed = c.method == Method::kWinogradTransposed;
  check(c.in_channels % kChannelBlock == 0 && (c.method != Method::kWinograd8 || element_bytes == 4), kOp,
        ": a Winograd step of an unknown shape");
  c.planes = is_pairs ? c.stride : 1;
  c.spread = is_pairs || c.shuffles ? c.up : 1;
  const Method other = other_tiles(c.method);
  if (products(c, other) < products(c, c.method)) c.method = other;
  const auto [rows, columns] = tile_shape(c.method);
  const int64_t phases = c.spread * c.spread, height = c.up * c.base_height / c.spread,
                width = c.up * c.base_width / c.spread;
  c.tile_rows = tiles_beside(height, rows), c.tile_columns = tiles_beside(width, columns);
  c.input_phases = c.shuffles ? 1 : phases;
  const int64_t more_rows = tiles_beside(height + 1, rows), more_columns = tiles_beside(width + 1, columns);
  if (!c.shuffles && more_rows * more_columns * kSharedTiles <= c.tile_rows * c.tile_columns * (kSharedTiles + 1)) {
    c.input_phases = 1;
    if (phases > 1) c.tile_rows = more_rows, c.tile_columns = more_columns;
  }
  const int64_t frequencies = rows.frequencies * columns.frequencies, depth = c.planes * c.planes * c.in_channels;
  const int64_t stride = is_strided || (is_pairs && c.up == 1) ? 2 : 1;
  const int64_t up = is_transposed || (is_pairs && c.stride == 1) ? 2 : 1;
  const int64_t kernel = up == 2 ? 1 : is_pairs ? 4 : 3;
  const bool can_shuffle = !is_pairs && !is_strided && !is_transposed;
  check(c.stride == stride && (c.shuffles ? can_shuffle : c.up == up) && step.kernel == kernel, kOp,
        ": a Winograd step of an unknown shape");
  int64_t bottom = step.phases[0].dy, right = step.phases[0].dx;
  for (int64_t i = 0; i < phases; ++i) {
    const StepPhase& phase = step.phases[i];
    check(std::abs(phase.dy) <= kMaxKernel && std::abs(phase.dx) <= kMaxKernel, kOp, ": a kernel far away");
    c.phases[i] = {phase.dy, 0, phase.dx, 0,
                   weight(phase.weights, rows.taps * columns.taps * depth * c.out_channels * 4)};
    c.first = std::min(c.first, phase.dy), c.before = std::max(c.before, -phase.dx);
    const int64_t down = phase.dy - step.phases[0].dy, aside = phase.dx - step.phases[0].dx;
    const bool is_shifted = phases > 1 && !c.shuffles;
    check(down == (is_shifted ? i / 2 : 0) && aside == (is_shifted ? i % 2 : 0), kOp,
          ": a Winograd step of an unknown shape");
    if (i < c.input_phases) bottom = std::max(bottom, phase.dy), right = std::max(right, phase.dx);
  }
  // The last pixel that so many tiles read, of the last picture of a stride.
  const auto reach = [&](int64_t count, const TileSide& side) {
    return c.planes * ((count - 1) * side.step + side.in) - 1;
  };
  c.last = bottom + reach(1, rows);
  c.after = std::max<int64_t>(right + reach(c.tile_columns, columns) - (c.in_width - 1), 0);
  const auto product_bytes = [&](int64_t tiles) {
    return aligned(frequencies * (tiles + 2 * kMaxTilePixels) * kUnitChannels * 4);
  };
  const int64_t kernel_bytes = phases * frequencies * depth * c.out_channels * element_bytes;
  keep_transformed(step, c, element_bytes);
  if (!c.keeps_transformed) {
    set_segment(c, kernel_bytes, frequencies * (depth * element_bytes + kUnitChannels * 4));
  }
  if (c.segment > 0) {
    const int64_t input_bytes = transformed_bytes(c, c.segment + kMaxTilePixels, element_bytes) / c.input_phases;
    return aligned(kernel_bytes) + aligned(input_bytes) + product_bytes(c.segment);
  }
  set_chunks(c, frequencies, depth * element_bytes);
  transformed_bytes_ = std::max(transformed_bytes_, transformed_bytes(c, c.tile_room, element_bytes));
  return aligned(columns.frequencies * depth * kUnitChannels * element_bytes) +
         product_bytes(c.chunk_rows * c.tile_columns / c.parts);
}

// Has the whole transformed input stay for the next step, where it is small enough; and finds what the step before has
// left.
void Plan::keep_transformed(const Step& step, Convolution& c, int64_t element_bytes) const {
  c.transformed_blocks = c.planes * c.planes * c.in_channels / kChannelBlock;
  if (step.kept_channels < c.in_channels || step.kept_channels > kMaxChannels ||
      step.kept_channels % kChannelBlock != 0 || c.planes > 1 || c.input_phases > 1) {
    return;
  }
  Convolution kept = c;
  kept.transformed_blocks = step.kept_channels / kChannelBlock;
  if (transformed_bytes(kept, c.tile_rows * c.tile_columns, element_bytes) > kMaxKeptBytes) return;
  c.transformed_blocks = kept.transformed_blocks;
  c.keeps_transformed = true;
  if (steps_.empty()) return;
  const Convolution& last = steps_.back().convolution;
  const bool is_one_source = step.second_source == kNone && step.residual == kNone && step.save == kNone &&
                             !values_[current_[step.source]].is_normalised;
  const bool is_alike = last.keeps_transformed && last.method == c.method && last.padding == c.padding &&
                        element_type(steps_.back().step) == element_type(step) && last.in_height == c.in_height &&
                        last.in_width == c.in_width && last.transformed_blocks == c.transformed_blocks &&
                        last.phases[0].dy == c.phases[0].dy && last.phases[0].dx == c.phases[0].dx &&
                        last.base_height == c.base_height && last.base_width == c.base_width;
  const bool is_part = step.same_channels > 0 && step.same_channels <= last.in_channels &&
                       step.same_channels < c.in_channels && step.same_channels % kChannelBlock == 0;
  if (is_one_source && is_alike && is_part) c.seen_channels = step.same_channels;
}

// Returns the bytes that a thread needs beside its ring.
int64_t Plan::set_direct_geometry(const Step& step, Convolution& c, int64_t element_bytes) {
  int64_t scratch = 0;
  const bool is_columns = c.method == Method::kColumns, is_depthwise = c.method == Method::kDepthwise;
  const bool is_bilinear = c.method == Method::kBilinear, is_shuffle = c.method == Method::kShuffle;
  check(!(is_depthwise || is_bilinear) || (element_bytes == 4 && c.in_channels == c.out_channels), kOp,
        ": a step on single channels that are not the same before and after it");
  int64_t right = 0;
  for (int64_t i = 0; i < (is_bilinear || is_shuffle ? 0 : is_columns ? c.up : c.up * c.up); ++i) {
    const StepPhase& phase = step.phases[i];
    check(phase.rows >= 1 && phase.rows <= kMaxKernel && phase.columns >= 1 && phase.columns <= kMaxKernel &&
              std::abs(phase.dy) <= kMaxKernel && std::abs(phase.dx) <= kMaxKernel,
          kOp, ": a kernel of an unknown shape");
    const int64_t in_a_row = phase.columns * (is_depthwise ? 1 : c.in_channels), group = 4 / element_bytes;
    const int64_t bytes = phase.rows * ((in_a_row + group - 1) / group * group) * c.out_channels * element_bytes;
    c.phases[i] = {phase.dy, phase.rows, phase.dx, phase.columns, weight(phase.weights, bytes)};
    c.first = std::min(c.first, phase.dy), c.last = std::max(c.last, phase.dy + phase.rows - 1);
    c.before = std::max(c.before, -phase.dx), right = std::max(right, phase.dx + phase.columns - 1);
  }
  if (is_columns) {
    check(c.stride == 1 && !c.shuffles && c.kernel_width >= 1 && c.kernel_width <= kMaxKernel &&
              c.picture_channels >= 1 && c.kernel_width * c.picture_channels <= c.out_channels,
          kOp, ": a last layer of an unknown shape");
    right = c.up == 1 ? c.phases[0].dx + c.kernel_width - 1 : 0;
    scratch = aligned((c.base_width + c.kernel_width - 1) * c.out_channels * 4) + aligned(picture_row_elements(c) * 4) +
              aligned(base_elements(c) * 4);
  }
  if (is_shuffle) {
    check(c.stride == 1 && step.kernel == 1 && element_bytes == 4 && c.picture_channels >= 1 &&
              c.picture_channels <= kMaxChannels && c.up * c.up * c.picture_channels <= c.in_channels &&
              c.in_channels == c.out_channels && c.in_channels % kChannelBlock == 0 && step.source != kNone,
          kOp, ": a pixel shuffle of an unknown shape");
    scratch = aligned(picture_row_elements(c) * 4) + aligned(base_elements(c) * 4);
  }
  if (is_bilinear) {
    check(c.stride == 1 && c.up == 2 && step.kernel == 1 && !step.has_norm, kOp,
          ": linear interpolation of an unknown shape");
    c.first = -1, c.last = 1, c.before = 1, right = 1;
    scratch = aligned((c.in_width + 2) * c.in_channels * 4);
  }
  c.after = std::max<int64_t>((c.base_width - 1) * c.stride + right - (c.in_width - 1), 0);
  const TileSide vertical = vertical_side(c.phases[0].rows);
  if (c.method == Method::kDirect && c.base_height * c.base_width <= kFewPixels) {
    c.method = Method::kSmall;
    c.unit_rows = c.base_height;
  } else if (vertical.taps > 0 && element_bytes == 4 && c.stride == 1 && c.up == 1 &&
             (c.method == Method::kDirect ||
              (is_columns && step.save == kNone && step.base == 0 && has_picture_strips(c)))) {
    c.method = is_columns ? Method::kVerticalPicture : Method::kVertical;
    c.unit_rows = vertical.out;
    const int64_t run = is_columns ? c.kernel_width * c.picture_channels : c.phases[0].columns * c.out_channels;
    kernel_bytes_ = std::max(kernel_bytes_, vertical.frequencies * c.in_channels * run * 4);
    if (is_columns) {
      scratch = aligned((vertical.in + 1) * c.in_channels * picture_strip_step(c) * 4) +
                aligned(vertical.frequencies * kChannelBlock * picture_strip_step(c) * 4) +
                aligned((vertical.frequencies + vertical.out) * c.picture_channels * kPictureStrip * 4);
    } else {
      scratch = aligned(vertical.frequencies * vertical_input_step(c) * 4) +
                aligned(kVerticalStrip * vertical.frequencies * kUnitChannels * 4);
    }
  } else {
    const int64_t share = std::max<int64_t>(c.base_height / thread_count_, 1);
    c.unit_rows = is_columns ? 1 : std::clamp<int64_t>(kUnitPixels / c.base_width, 1, share);
  }
  c.last += (c.unit_rows - 1) * c.stride;
  if (c.method == Method::kSmall && step.save != kNone) c.last = std::max(c.last, c.in_height - 1);
  return scratch;
}

// Returns the bytes that a thread needs.
int64_t Plan::set_matrix_geometry(const Step& step, Convolution& c, int64_t element_bytes) {
  const bool makes_blocks = c.method == Method::kMatrixPicture, is_split = element_bytes == 4;
  c.weight_parts = step.weight_parts;
  check((c.in_channels == kImageChannels || c.in_channels % kChannelBlock == 0) &&
            (c.weight_parts == 2 || (c.weight_parts == 1 && !is_split)),
        kOp, ": a step of the matrix unit of an unknown shape");
  if (makes_blocks) {
    c.block = step.block;
    check(c.stride == 1 && !c.shuffles && c.picture_channels >= 1 && c.block >= c.up && c.block <= kMaxKernel &&
              c.block % c.up == 0 && c.picture_channels <= c.out_channels / (c.block * c.block),
          kOp, ": a last layer of an unknown shape");
    c.stride = c.block / c.up;
    c.base_height = divided_up(c.base_height, c.stride), c.base_width = divided_up(c.base_width, c.stride);
  }
  int64_t right = 0, bottom = 0, weight_bytes = 0;
  for (int64_t i = 0; i < (makes_blocks ? 1 : c.up * c.up); ++i) {
    const StepPhase& phase = step.phases[i];
    check(phase.rows >= 1 && phase.rows <= kMaxKernel && phase.columns >= 1 && phase.columns <= kMaxKernel &&
              std::abs(phase.dy) <= kMaxKernel && std::abs(phase.dx) <= kMaxKernel,
          kOp, ": a kernel of an unknown shape");
    const int64_t steps = matrix_steps(c, phase.rows, phase.columns);
    const int64_t bytes = steps * c.weight_parts * kMatrixTileBytes * (c.out_channels / kChannelBlock);
    c.phases[i] = {phase.dy, phase.rows, phase.dx, phase.columns, weight(phase.weights, bytes)};
    weight_bytes += bytes;
    c.matrix_products = std::max(c.matrix_products, steps * (c.weight_parts + (is_split ? 1 : 0)));
    c.first = std::min(c.first, phase.dy), c.last = std::max(c.last, phase.dy + phase.rows - 1);
    c.before = std::max(c.before, -phase.dx), right = std::max(right, phase.dx + phase.columns - 1);
  }
  c.after = std::max<int64_t>((c.base_width - 1) * c.stride + right - (c.in_width - 1), 0);
  bottom = std::max<int64_t>((c.base_height - 1) * c.stride + c.last - (c.in_height - 1), 0);
  const Source& source = c.sources[0];
  c.reads_directly =
      step.source != kNone && step.second_source == kNone && step.residual == kNone && step.save == kNone &&
      !is_split && c.activation == Activation::kNone && c.padding == Padding::kZeros && source.dtype == kBFloat16 &&
      !values_[current_[step.source]].is_normalised && c.in_channels % kMatrixDepth == 0 &&
      source.pixel_step % kMatrixDepth == 0 && source.border >= std::max({-c.first, bottom, c.before, c.after});
  // Whole tiles are read, and all taps of a step.
  const int64_t most_pixels =
      (aligned(c.base_width) - 1) * c.stride + std::max<int64_t>(right, 0) + kMatrixDepth / kMatrixImageChannels;
  c.row_pixels = c.before + std::max(c.in_width + c.after, most_pixels) + 1;
  const int64_t ring_row_bytes = matrix_part_bytes(c) * (is_split ? 2 : 1), rows = c.last - c.first + 1;
  const int64_t row_bytes = c.reads_directly ? source.row_step * 2 : ring_row_bytes;
  check(row_bytes < (int64_t{1} << 30) && c.matrix_products * 2 * kMatrixTileBytes < (int64_t{1} << 30), kOp,
        ": a step is too large for the matrix unit");
  int64_t work = aligned(c.matrix_products * (makes_blocks ? 2 : 1) * kMatrixStepBytes) + 7 * kMatrixTileBytes +
                 aligned((c.in_channels / kChannelBlock + 1) * kMatrixStepBytes);
  const int64_t pixels = c.base_height * c.base_width, all_rows = (c.base_height - 1) * c.stride + rows;
  if (makes_blocks) {
    c.bands = c.base_height, c.unit_rows = 1, c.ring_rows = rows;
    const int64_t values = c.block * c.picture_channels;
    work += 2 * aligned((aligned(c.base_width) * c.out_channels + kChannelBlock) * 4) +
            aligned((c.base_width * values + 2 * kChannelBlock) * 4) +
            aligned((c.block * values + 2 * kChannelBlock) * 4) + aligned(base_elements(c) * 4);
  } else if (pixels <= kFewPixels || weight_bytes > kManyWeights * all_rows * row_bytes) {
    c.method = Method::kMatrixSmall;
    c.reads_directly = false;
    c.ring_rows = all_rows;
    c.gathers = c.base_width < kMatrixSide;
    const int64_t gathered = c.matrix_products * divided_up(pixels, kMatrixSide) * kMatrixTileBytes;
    check(!c.gathers || gathered < (int64_t{1} << 31), kOp, ": a step is too large for the matrix unit");
    if (c.gathers) work += gathered;
  } else {
    // A band's input stays in a core's cache while all output channels are made of it.
    const int64_t pairs = divided_up(c.base_height, 2), share = divided_up(pairs, thread_count_);
    const int64_t room = caches().level2_bytes * 3 / 8 / row_bytes - (rows - 1);
    const int64_t most = std::clamp<int64_t>(room / (2 * c.stride), 1, share);
    c.bands = std::min(divided_up(share, most) * thread_count_, pairs);
    c.unit_rows = 2 * divided_up(pairs, c.bands);
    c.ring_rows = (c.unit_rows - 1) * c.stride + rows;
  }
  if (step.save != kNone) {
    // Rows that are kept, and that no product reads.
    const int64_t unread = std::max(c.in_height - 1 - ((c.base_height - 1) * c.stride + c.last), c.stride - 1 - c.last);
    c.ring_rows += std::max<int64_t>(unread, 0);
  }
  return (c.reads_directly ? 0 : aligned(c.ring_rows * ring_row_bytes)) +
         aligned(c.ring_rows * static_cast<int64_t>(sizeof(char*))) + work;
}

// How large a chunk is, and in how many parts it is multiplied: so that products take half of a core's cache, and all
// threads have as much to do, with tiles of their own where there are enough.
void Plan::set_chunks(Convolution& c, int64_t frequencies, int64_t pixel_bytes) const {
  const int64_t row_bytes = c.input_phases * frequencies * c.tile_columns * pixel_bytes;
  const int64_t enough = std::max(kChunkBytes / row_bytes, divided_up(kChunkTiles, c.tile_columns));
  const int64_t in_caches = std::max(std::min(enough, kMaxChunkBytes / row_bytes), thread_count_);
  const int64_t rows = c.keeps_transformed ? c.tile_rows : in_caches;
  const int64_t chunks = divided_up(c.tile_rows, rows);
  c.chunk_rows = divided_up(c.tile_rows, chunks);
  const int64_t even_rows = std::min(divided_up(c.chunk_rows, thread_count_) * thread_count_, c.tile_rows);
  const bool owns_tiles = c.chunk_rows * c.tile_columns >= kOwnTiles * thread_count_ &&
                          (even_rows % thread_count_ == 0 || even_rows >= kOwnRows * thread_count_);
  if (owns_tiles) c.chunk_rows = even_rows;
  const int64_t tiles = c.chunk_rows * c.tile_columns,
                units = divided_up(c.out_channels, kUnitChannels) * c.spread * c.spread;
  c.tile_room = divided_up(tiles, kernels_.tile_pixels) * kernels_.tile_pixels;
  c.parts = std::max<int64_t>(tiles * frequencies * kUnitChannels * 4 / (caches().level2_bytes / 2), 1);
  if (owns_tiles) c.parts = divided_up(c.parts, thread_count_) * thread_count_;
  while (units * c.parts < 8 * thread_count_ && units * c.parts % thread_count_ != 0) ++c.parts;
}

int64_t Plan::units(const Convolution& c) const {
  if (c.method == Method::kSmall || c.method == Method::kMatrixSmall) return divided_up(c.out_channels, kUnitChannels);
  if (uses_matrix_unit(c)) return c.bands;
  if (is_winograd(c)) return divided_up(c.out_channels, kUnitChannels) * c.spread * c.spread * c.parts;
  return divided_up(c.base_height, c.unit_rows);
}

int64_t Plan::statistic_slots(const Convolution& c) const {
  if (c.method == Method::kSmall || c.method == Method::kMatrixSmall) return c.up * c.up;
  if (c.segment > 0) return c.tile_rows * segments_of_row(c) * c.spread * c.spread;
  if (is_winograd(c)) return divided_up(c.tile_rows, c.chunk_rows) * c.parts * c.spread * c.spread;
  return units(c) * c.up * c.up;
}

int64_t Plan::workspace_bytes() const {
  return aligned(statistics_bytes_) + aligned(transformed_bytes_) + aligned(kernel_bytes_) +
         thread_count_ * aligned(scratch_bytes_) + value_bytes_;
}

Plan::Memory Plan::laid_out(char* workspace) const {
  Memory memory;
  memory.statistics = reinterpret_cast<float*>(workspace);
  memory.transformed = workspace + aligned(statistics_bytes_);
  memory.kernels = memory.transformed + aligned(transformed_bytes_);
  memory.scratch = memory.kernels + aligned(kernel_bytes_);
  memory.values = memory.scratch + thread_count_ * aligned(scratch_bytes_);
  return memory;
}

void Plan::run(const Image& image, const Picture& picture, char* workspace, double* seconds) const {
  using Clock = std::chrono::steady_clock;
  const Memory memory = laid_out(workspace);
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Clock::time_point begin = Clock::now();
    run_step(steps_[i], image, picture, memory);
    if (seconds) seconds[i] += std::chrono::duration<double>(Clock::now() - begin).count();
  }
}

int64_t Plan::Value::element_bytes() const { return dtype == kFloat32 ? 4 : 2; }

int64_t Plan::Value::row_step() const { return (width + 2 * border) * channels; }

// Products of whole tiles read beyond the last pixel, for outputs that nobody keeps.
int64_t Plan::Value::data_bytes() const {
  const int64_t beyond = border == 0 ? 0 : (2 * kMatrixSide + kMaxKernel) * channels;
  return aligned(((height + 2 * border) * row_step() + beyond) * element_bytes());
}

// The first pixel inside the border.
char* Plan::data_of(int64_t number, const Memory& memory) const {
  const Value& value = values_[number];
  return memory.values + value.offset + value.border * (value.row_step() + value.channels) * value.element_bytes();
}

// Scale of a normalised value, followed by its shift at a multiple of 64 bytes.
float* Plan::scale_of(int64_t value, const Memory& memory) const {
  const Value& of = values_[value];
  return reinterpret_cast<float*>(memory.values + of.offset + of.data_bytes());
}

// A source without its memory.
Source Plan::layout_of(const Value& value, int64_t channels) {
  Source source = {};
  source.dtype = value.dtype, source.channels = channels;
  source.pixel_step = value.channels, source.row_step = value.row_step(), source.border = value.border;
  return source;
}

Source Plan::source_of(int64_t number, int64_t channels, const Memory& memory) const {
  if (number == kNone) return {};
  const Value& value = values_[number];
  Source source = layout_of(value, channels);
  source.data = data_of(number, memory);
  if (value.is_normalised) {
    source.scale = scale_of(number, memory);
    source.shift = source.scale + aligned(value.channels * 4) / 4;
  }
  return source;
}

void Plan::run_step(const PlannedStep& planned, const Image& image, const Picture& picture,
                    const Memory& memory) const {
  const Step& step = planned.step;
  Convolution c = planned.convolution;
  if (step.source == kNone) {
    c.image = image;
    c.image.scale = float_of_bits(step.image_scale_bits), c.image.offset = float_of_bits(step.image_offset_bits);
  } else {
    c.sources[0] = source_of(planned.source, c.sources[0].channels, memory);
    c.sources[1] = source_of(planned.second_source, c.sources[1].channels, memory);
    c.residual = source_of(planned.residual, c.in_channels, memory);
    c.second_residual = source_of(planned.second_residual, c.in_channels, memory);
  }
  if (planned.save != kNone) c.save = data_of(planned.save, memory);
  if (makes_picture(c)) {
    c.picture = picture;
    c.base_image = image;
    c.base_image.scale = 1.0f, c.base_image.offset = 0.0f;
  } else {
    c.finish.residual = source_of(planned.out_residual, c.out_channels, memory);
    c.finish.second_residual = source_of(planned.out_second_residual, c.out_channels, memory);
    c.output = data_of(planned.output, memory) + planned.output_channel * (step.writes_bfloat16 ? 2 : 4);
  }
  if (step.has_norm && !makes_picture(c)) c.statistics = memory.statistics;

  const MethodKernels& kernels = kernels_.methods[static_cast<int>(c.method)];
  const int type = element_type(step);
  c.kernels = memory.kernels;
  if (kernels.kernels[type]) {
    in_parallel(kernels.kernels[type], c, divided_up(c.out_channels, kUnitChannels), memory);
  }
  if (c.segment > 0) {
    in_parallel(kernels.segments[type], c, c.tile_rows * segments_of_row(c), memory);
  } else if (is_winograd(c)) {
    // Around the middle of its place, so that the first half of the threads wrote there last what they write now.
    const int64_t spare = transformed_bytes_ - transformed_bytes(c, c.tile_room, type == 0 ? 4 : 2);
    c.transformed = memory.transformed + spare / 2 / kAlignment * kAlignment;
    const int64_t all = c.tile_rows, rows = c.chunk_rows;
    for (c.chunk_row = 0; c.chunk_row < all; c.chunk_row += rows) {
      c.chunk_rows = std::min(rows, all - c.chunk_row);
      in_parallel(kernels.inputs[type], c, c.chunk_rows, memory);
      in_parallel(kernels.units[type], c, units(c), memory);
      if (c.statistics) c.statistics += c.parts * c.spread * c.spread * 2 * c.out_channels;
    }
    c.chunk_rows = rows;
  } else {
    in_parallel(kernels.units[type], c, units(c), memory);
  }
  if (c.statistics) finish_norm(planned, memory);
}

void Plan::in_parallel(ConvolutionUnits work, const Convolution& c, int64_t count, const Memory& memory) const {
  threads_.run(count, [&](int64_t begin, int64_t end, int64_t worker) {
    work(c, begin, end, memory.scratch + worker * aligned(scratch_bytes_));
    std::atomic_thread_fence(std::memory_order_seq_cst);  // what went past the caches is not in order without it
  });
}

// Scale and shift of InstanceNorm, or of GroupNorm of one group, from the sums over all places:
// (x - mean) / sqrt(var + eps) * weight + bias.
void Plan::finish_norm(const PlannedStep& planned, const Memory& memory) const {
  const Step& step = planned.step;
  const Convolution& c = planned.convolution;
  const auto* weight_values =
      step.norm_weight == kNone ? nullptr : static_cast<const float*>(weight(step.norm_weight, c.out_channels * 4));
  const auto* bias_values =
      step.norm_bias == kNone ? nullptr : static_cast<const float*>(weight(step.norm_bias, c.out_channels * 4));
  const int64_t channels = c.out_channels, count = statistic_slots(c);
  const double places = static_cast<double>(c.up * c.up * c.base_height * c.base_width);
  const double epsilon = float_of_bits(step.epsilon_bits);
  std::vector<double> sums(2 * channels, 0.0);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < 2 * channels; ++k) sums[k] += memory.statistics[i * 2 * channels + k];
  }
  double all = places;
  if (step.norm_channels > 0) {
    // Channels that are only stored hold zeros.
    double total = 0.0, squares = 0.0;
    for (int64_t k = 0; k < channels; ++k) total += sums[k], squares += sums[channels + k];
    std::fill(sums.begin(), sums.begin() + channels, total);
    std::fill(sums.begin() + channels, sums.end(), squares);
    all *= static_cast<double>(step.norm_channels);
  }
  float* const scales = scale_of(planned.output, memory);
  float* const shifts = scales + aligned(channels * 4) / 4;
  for (int64_t k = 0; k < channels; ++k) {
    const double mean = sums[k] / all;
    const double variance = std::max(sums[channels + k] / all - mean * mean, 0.0);
    const double scale = (weight_values ? weight_values[k] : 1.0) / std::sqrt(variance + epsilon);
    scales[k] = static_cast<float>(scale);
    shifts[k] = static_cast<float>((bias_values ? bias_values[k] : 0.0) - mean * scale);
  }
}

}  // namespace streamgan
