// Direct convolutions, those of single channels, the last layer without a matrix unit, and Winograd down the columns.
#include <algorithm>

#include "csrc/generator/algorithms.h"

namespace streamgan {
namespace {

// A unit takes so many pixels, in whole rows, that its weights come out of the caches often enough.
constexpr int64_t kUnitPixels = 256;

// The side of a filter of so many rows that is multiplied down the columns; one of no taps where there is none.
TileSide vertical_side(int64_t rows) {
  return rows == kSideVertical7.taps ? kSideVertical7 : rows == kSideVertical9.taps ? kSideVertical9 : TileSide{};
}

// Padding at the right has to repeat pixels of the last strip, even if that is a single column.
bool has_picture_strips(const Convolution& c) {
  return c.picture.channels <= kMaxVerticalLastChannels && -2 * c.phases[0].dx >= c.picture.filter_width - 1;
}

}  // namespace

void set_direct(const StepSetting& setting, Convolution& c) {
  const Step& step = setting.step;
  const Packing packing = step.packing;
  const bool is_depthwise = packing == Packing::kDepthwise, is_bilinear = packing == Packing::kBilinear;
  const bool is_columns = packing == Packing::kColumns, is_shuffle = packing == Packing::kShuffle;
  c.algorithm = is_depthwise  ? Algorithm::kDepthwise
                : is_bilinear ? Algorithm::kBilinear
                : is_columns  ? Algorithm::kColumns
                : is_shuffle  ? Algorithm::kShuffle
                              : Algorithm::kDirect;
  require(!(is_depthwise || is_bilinear) || (c.multiplied == kFloat32 && c.in_channels == c.out_channels),
          "a step on single channels that are not the same before and after it");
  int64_t right = 0;
  for (int64_t i = 0; i < (is_bilinear || is_shuffle ? 0 : is_columns ? c.up : c.up * c.up); ++i) {
    set_phase(setting, c, i, [&](const Phase& phase) {
      const int64_t run = phase.columns * (is_depthwise ? 1 : c.in_channels), group = 4 / element_bytes(c);
      return phase.rows * divided_up(run, group) * group * c.out_channels * element_bytes(c);
    });
    right = std::max(right, c.phases[i].dx + c.phases[i].columns - 1);
  }
  if (is_columns) {
    require(c.stride == 1 && !c.shuffles && c.picture.filter_width >= 1 && c.picture.filter_width <= kMaxTaps &&
                c.picture.channels >= 1 && c.picture.filter_width * c.picture.channels <= c.out_channels,
            "a last layer of an unknown shape");
    right = c.up == 1 ? c.phases[0].dx + c.picture.filter_width - 1 : 0;
  }
  if (is_shuffle) {
    const int64_t channels = c.picture.channels;
    require(c.stride == 1 && step.taps == 1 && c.multiplied == kFloat32 && channels >= 1 && channels <= kMaxChannels &&
                c.up * c.up * channels <= c.in_channels && c.in_channels == c.out_channels &&
                c.in_channels % kChannelBlock == 0 && step.source != kNone,
            "a pixel shuffle of an unknown shape");
  }
  if (is_bilinear) {
    require(c.stride == 1 && c.up == 2 && step.taps == 1 && !step.has_norm, "linear interpolation of an unknown shape");
    c.first = -1, c.last = 1, c.before = 1, right = 1;
  }
  c.after = std::max<int64_t>((c.base_width - 1) * c.stride + right - (c.in_width - 1), 0);
  const TileSide vertical = vertical_side(c.phases[0].rows);
  if (c.algorithm == Algorithm::kDirect && c.base_height * c.base_width <= kFewPixels) {
    c.algorithm = Algorithm::kFewPixels;
    c.direct.unit_rows = c.base_height;
  } else if (vertical.taps > 0 && c.multiplied == kFloat32 && c.stride == 1 && c.up == 1 &&
             (c.algorithm == Algorithm::kDirect ||
              (is_columns && step.save == kNone && step.base == Base::kNone && has_picture_strips(c)))) {
    const bool is_seven = vertical.taps == kSideVertical7.taps;
    c.algorithm = is_columns ? (is_seven ? Algorithm::kVerticalLast7 : Algorithm::kVerticalLast9)
                             : (is_seven ? Algorithm::kVertical7 : Algorithm::kVertical9);
    c.direct.unit_rows = vertical.out;
  } else {
    const int64_t share = std::max<int64_t>(c.base_height / setting.threads, 1);
    c.direct.unit_rows = is_columns ? 1 : std::clamp<int64_t>(kUnitPixels / c.base_width, 1, share);
  }
  c.last += (c.direct.unit_rows - 1) * c.stride;
  if (c.algorithm == Algorithm::kFewPixels && step.save != kNone) c.last = std::max(c.last, c.in_height - 1);
}

int64_t vertical_filter_bytes(const Convolution& c) {
  if (c.algorithm < Algorithm::kVertical7 || c.algorithm > Algorithm::kVerticalLast9) return 0;
  const int64_t values = c.algorithm >= Algorithm::kVerticalLast7 ? c.picture.filter_width * c.picture.channels
                                                                  : c.phases[0].columns * c.out_channels;
  return vertical_side(c.phases[0].rows).frequencies * c.in_channels * values * 4;
}

}  // namespace streamgan
