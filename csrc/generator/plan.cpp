// Reads a program: checks every number of a step, and notes its geometry and what it needs.
#include "csrc/generator/plan.h"

#include <algorithm>
#include <cstring>

#include "csrc/caches.h"
#include "csrc/generator/algorithms.h"
#include "csrc/kernels.h"

namespace streamgan {
namespace {

constexpr int64_t kMaxSlots = 64;
// An activation of more values, and of more than this share of the level 3 cache, is written past the caches: they
// would evict it before it is read.
constexpr int64_t kStreamValues = 3 << 18, kStreamShare = 32;

// A number of a program stands for one of `count` kinds.
template <typename Enum>
Enum checked(Enum kind, int64_t count) {
  require(static_cast<int64_t>(kind) >= 0 && static_cast<int64_t>(kind) < count, "a step of an unknown kind");
  return kind;
}

Dtype written(int64_t is_bfloat16) { return is_bfloat16 ? kBFloat16 : kFloat32; }

// Room of a pixel for `channels`: `asked`, or just these if that is 0.
int64_t checked_room(int64_t asked, int64_t channels, const char* message) {
  const int64_t room = asked == 0 ? channels : asked;
  require(room >= channels && room <= kMaxChannels && room % kChannelBlock == 0, message);
  return room;
}

}  // namespace

Plan::Plan(const Program& program, int64_t height, int64_t width, const Threads& threads)
    : weights_(program.weights),
      height_(height),
      width_(width),
      threads_(threads),
      kernels_(fused_convolution_kernels()) {
  Header header;
  require(program.count * 8 >= static_cast<int64_t>(sizeof header), "the program is empty");
  std::memcpy(&header, program.numbers, sizeof header);
  require(header.version == kProgramVersion, "program of version ", header.version, ", this build runs ",
          kProgramVersion);
  require(header.dtype == 0 || header.dtype == 1, "program of dtype ", header.dtype);
  constexpr int64_t kStepNumbers = sizeof(Step) / 8, kHeaderNumbers = sizeof(Header) / 8;
  require(
      header.slots >= 0 && header.slots <= kMaxSlots && header.steps >= 1 &&
          header.steps <= program.count / kStepNumbers && program.count == kHeaderNumbers + header.steps * kStepNumbers,
      "a program of ", header.steps, " steps and ", header.slots, " slots does not have ", program.count, " numbers");
  dtype_ = written(header.dtype);
  activations_ = Activations(header.slots);
  for (int64_t i = 0; i < header.steps; ++i) {
    Step step;
    std::memcpy(&step, program.numbers + kHeaderNumbers + i * kStepNumbers, sizeof step);
    add(step);
  }
  require(steps_.back().makes_picture(), "the last step has to make the picture");
  activations_.place();
}

void Plan::add(const Step& step) {
  require(steps_.empty() || !steps_.back().makes_picture(), "a step after the one that makes the picture");
  const auto read = [&](int64_t slot) { return activations_.read(slot, step_count()); };
  PlannedStep planned = {step,
                         {},
                         read(step.source),
                         read(step.second_source),
                         read(step.residual),
                         read(step.second_residual),
                         read(step.out_residual),
                         read(step.out_second_residual)};
  Convolution& c = planned.convolution;
  checked(step.packing, kPackings);
  c.multiplied = step.multiplies_float32 ? kFloat32 : dtype_;
  set_input(planned, c);
  set_shape(step, c);
  set_algorithm(planned, c);
  set_finish(planned, c);
  check_slots(planned);
  add_values(planned);
  const AlgorithmKernels& kernels = kernels_.algorithms[static_cast<int>(c.algorithm)];
  scratch_bytes_ = std::max(scratch_bytes_, kernels.scratch_bytes[c.multiplied](c));
  filter_bytes_ = std::max(filter_bytes_, vertical_filter_bytes(c));
  if (is_winograd(c.algorithm) && c.winograd.segment == 0) {
    transformed_bytes_ = std::max(transformed_bytes_, transformed_bytes(c, c.winograd.tile_room));
  }
  steps_.push_back(planned);
}

void Plan::set_input(const PlannedStep& planned, Convolution& c) const {
  const Step& step = planned.step;
  c.activation = checked(step.activation, 4);
  c.padding = checked(step.padding, 3);
  c.slope = float_of_bits(step.slope_bits), c.residual_scale = float_of_bits(step.residual_scale_bits);
  c.in_height = height_, c.in_width = width_, c.in_channels = kImageChannels;
  if (step.source != kNone) {
    const Value& source = activations_[planned.source];
    c.in_height = source.height, c.in_width = source.width;
    for (const int64_t other : {planned.second_source, planned.residual, planned.second_residual}) {
      require(
          other == kNone || (activations_[other].height == source.height && activations_[other].width == source.width),
          "two inputs of different sizes");
    }
    c.sources[0] = source.source(source.filled, nullptr);
    if (step.second_source != kNone) c.sources[1].channels = activations_[planned.second_source].filled;
    c.in_channels = c.sources[0].channels + c.sources[1].channels;
    require(step.residual != kNone || step.second_residual == kNone, "a second residual alone");
    for (const int64_t residual : {planned.residual, planned.second_residual}) {
      if (residual == kNone) continue;
      const Value& value = activations_[residual];
      require(value.filled >= c.in_channels && step.second_source == kNone, "a residual of other channels");
      require(value.dtype == kFloat32 || uses_matrix_unit(step.packing), "a residual in bfloat16");
    }
    if (planned.second_residual != kNone) {
      const Value& second = activations_[planned.second_residual];
      require(!second.is_normalised, "a second residual with a norm");
      require(second.dtype == activations_[planned.residual].dtype, "two residuals of different types");
    }
  }
  require(c.in_channels == step.in_channels, "a step reads other channels than there are");
  if (c.activation == Activation::kPRelu) {
    require(step.source != kNone, "slopes of the image");
    c.slopes = weights_.floats(step.slopes, c.in_channels);
  }
}

void Plan::set_shape(const Step& step, Convolution& c) const {
  c.shuffles = step.shuffles != 0;
  const bool is_block = step.packing == Packing::kShuffle || step.packing == Packing::kMatrixLast;
  const int64_t most_up = is_block ? kMaxTaps : c.shuffles ? 3 : 2;
  require((step.stride == 1 || step.stride == 2 || step.stride == 4) && step.up >= 1 && step.up <= most_up &&
              (!c.shuffles || step.stride == 1) && step.out_channels > 0 && step.out_channels <= kMaxChannels &&
              step.out_channels % kChannelBlock == 0 && step.taps >= 1 && step.taps <= kMaxTaps &&
              step.pad_before >= 0 && step.pad_before <= kMaxTaps && step.pad_after >= 0 && step.pad_after <= kMaxTaps,
          "a step of an unknown shape");
  c.stride = step.stride, c.up = step.up, c.out_channels = step.out_channels;
  const int64_t height = c.in_height + step.pad_before + step.pad_after,
                width = c.in_width + step.pad_before + step.pad_after;
  c.base_height = (height - step.taps) / c.stride + 1, c.base_width = (width - step.taps) / c.stride + 1;
  require(height >= step.taps && width >= step.taps &&
              (c.padding != Padding::kReflect ||
               std::max(step.pad_before, step.pad_after) < std::min(c.in_height, c.in_width)),
          "the image, ", height_, "x", width_, ", is too small for this generator");
  c.bias = weights_.floats(step.bias, (c.shuffles ? c.up * c.up : 1) * c.out_channels);
  c.bias_step = c.shuffles ? c.out_channels : 0;
  c.direct.aligns_corners = step.aligns_corners != 0;
  require(step.norm_channels >= 0 && step.norm_channels <= c.out_channels, "a norm of more channels than there are");
  PictureParameters& picture = c.picture;
  picture.channels = step.picture_channels, picture.filter_width = step.filter_width, picture.tanh = step.tanh != 0;
  picture.height = c.up * c.base_height, picture.width = c.up * c.base_width;
  picture.base = checked(step.base, 3);
  if (picture.base == Base::kNone) return;
  picture.image_height = height_, picture.image_width = width_;
  picture.base_scale = picture.height / height_;
  require(makes_picture(step.packing) && picture.channels <= kImageChannels && picture.base_scale >= 1 &&
              picture.base_scale * height_ == picture.height && picture.base_scale * width_ == picture.width,
          "the image is added to something else than a picture of a multiple of its size");
}

void Plan::set_algorithm(const PlannedStep& planned, Convolution& c) const {
  const Step& step = planned.step;
  const bool reads_one_value = step.source != kNone && step.second_source == kNone && step.residual == kNone &&
                               step.save == kNone && !activations_[planned.source].is_normalised;
  const StepSetting setting = {step,
                               weights_,
                               kernels_,
                               threads_.count(),
                               reads_one_value,
                               steps_.empty() ? nullptr : &steps_.back().convolution};
  const auto set = uses_matrix_unit(step.packing) ? set_matrix : is_winograd(step.packing) ? set_winograd : set_direct;
  set(setting, c);
}

void Plan::set_finish(const PlannedStep& planned, Convolution& c) const {
  const Step& step = planned.step;
  Finish& finish = c.finish;
  finish.activation = checked(step.out_activation, 4);
  require(step.border >= 0 && step.border <= kMaxTaps, "a step of an unknown kind");
  finish.slope = float_of_bits(step.out_slope_bits);
  finish.residual_scale = float_of_bits(step.out_residual_scale_bits);
  const bool is_plain = finish.activation == Activation::kNone && step.out_residual == kNone &&
                        step.out_second_residual == kNone && step.border == 0;
  if (is_plain) return;
  require(step.packing == Packing::kMatrix && step.has_norm == 0 &&
              (step.border == 0 || (step.writes_bfloat16 && (step.save == kNone || step.saves_bfloat16))),
          "a step can't finish what it writes");
  if (finish.activation == Activation::kPRelu) finish.slopes = weights_.floats(step.out_slopes, c.out_channels);
  require(step.out_residual != kNone || step.out_second_residual == kNone, "a second residual alone");
  for (const int64_t residual : {planned.out_residual, planned.out_second_residual}) {
    if (residual == kNone) continue;
    const Value& value = activations_[residual];
    require(value.dtype == kBFloat16 && !value.is_normalised && value.filled >= c.out_channels &&
                value.height == c.base_height && value.width == c.base_width && c.up == 1,
            "a residual of another shape or type");
  }
}

void Plan::check_slots(const PlannedStep& planned) const {
  const Step& step = planned.step;
  const bool appends = step.appends != 0, is_on_matrix_unit = uses_matrix_unit(step.packing);
  for (const int64_t read : {planned.source, planned.second_source, planned.residual, planned.second_residual}) {
    require(read == kNone || activations_[read].border == 0 || is_on_matrix_unit, "a step reads what has a border");
  }
  for (const int64_t read : {step.source, step.second_source, step.residual, step.second_residual, step.out_residual,
                             step.out_second_residual}) {
    require(read == kNone || (read != step.save && (read != step.output || appends)), "a step writes what it reads");
  }
  require(step.save == kNone || step.save != step.output || appends, "a step writes two things to one place");
  require(step.save == kNone || step.source != kNone, "a step keeps the image");
}

void Plan::add_values(PlannedStep& planned) {
  const Step& step = planned.step;
  Convolution& c = planned.convolution;
  if (step.save != kNone) {
    const Dtype dtype = written(step.saves_bfloat16);
    const int64_t room = checked_room(step.save_channels, c.in_channels, "no room for what a step keeps");
    require(dtype == kFloat32 || uses_matrix_unit(step.packing), "a step keeps its input in bfloat16");
    planned.save = activations_.write(step.save, step_count(),
                                      {c.in_height, c.in_width, room, step.border, dtype, false, c.in_channels});
    c.save = target(planned.save, c.in_channels);
  }
  if (makes_picture(step.packing)) {
    const PictureParameters& picture = c.picture;
    require(step.output == kNone, "the picture goes elsewhere");
    require(picture.height % height_ == 0 && picture.height / height_ * width_ == picture.width, "the picture of ",
            picture.width, "x", picture.height, " isn't a multiple of the image, ", width_, "x", height_);
    return;
  }
  const Dtype dtype = written(step.writes_bfloat16);
  require(dtype == kFloat32 || (step.packing != Packing::kDepthwise && step.packing != Packing::kBilinear),
          "a step on single channels writes float32 only");
  Value value = {c.up * c.base_height, c.up * c.base_width, 0, step.border, dtype, step.has_norm != 0, c.out_channels};
  if (step.appends) {
    planned.output = activations_.append(step.output, step_count(), value, c.out_channels);
    planned.output_channel = activations_[planned.output].filled - c.out_channels;
  } else {
    value.channels = checked_room(step.out_room, c.out_channels, "no room for what a step makes");
    require(value.channels == c.out_channels || step.has_norm == 0, "no room for what a step makes");
    planned.output = activations_.write(step.output, step_count(), value);
  }
  require(activations_[planned.output].border == 0 || uses_matrix_unit(step.packing),
          "a step writes what has a border");
  c.output = target(planned.output, c.out_channels);
  if (step.has_norm) statistics_bytes_ = std::max(statistics_bytes_, statistic_slots(c) * 2 * c.out_channels * 4);
}

// `channels` of a value, without memory.
Target Plan::target(int64_t number, int64_t channels) const {
  const Value& value = activations_[number];
  const bool is_large =
      value.height * value.width * channels > std::max(kStreamValues, caches().level3_bytes / kStreamShare);
  const bool has_lines =
      channels % kUnitChannels == 0 && value.channels == channels && kernels_.tile_blocks == kMaxTileBlocks;
  const Writing writing = value.dtype == kFloat32 ? is_large ? Writing::kFloatsPastCaches : Writing::kFloats
                          : is_large && has_lines ? Writing::kHalvesPastCaches
                                                  : Writing::kHalves;
  return {nullptr, value.channels, value.row_step(), value.border, writing};
}

}  // namespace streamgan
