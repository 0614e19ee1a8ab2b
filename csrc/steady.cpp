#include "csrc/steady.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "csrc/cpu/steady.h"
#include "csrc/kernels.h"

namespace streamgan {
namespace {

constexpr int64_t kChannels = 3;
constexpr double kMostLimits = 16;  // a mean square of more limits than these is another style, not flicker
constexpr int64_t kDetailStep = 3;  // one row of so many tells the detail

// Where the centre of a pixel lies in a map of `map_size` for `size` pixels.
struct MapPlace {
  int32_t first, fraction;  // between `first` and the next; 0 to 256
};

MapPlace map_place(int64_t pixel, int64_t size, int64_t map_size) {
  const int64_t position = std::clamp<int64_t>((2 * pixel + 1) * map_size * 128 / size - 128, 0, (map_size - 1) * 256);
  const int64_t first = std::min(position >> 8, map_size - 2);
  return {static_cast<int32_t>(first), static_cast<int32_t>(position - first * 256)};
}

// The factor, in 256ths, that brings a mean square below the limit.
int32_t factor_within(double limit, double mean_square) {
  if (mean_square <= limit) return 256;
  return static_cast<int32_t>(256 * std::sqrt(limit / mean_square));
}

}  // namespace

SteadyDetail steady(const SteadyTask& task, const Threads& threads, SteadyWorkspace& workspace) {
  const SteadyKernels& kernels = steady_kernels();
  const int64_t height = task.height, width = task.width, map_width = task.map_width;
  const int64_t row_values = width * kChannels, values = height * row_values;
  workspace.correction.resize(values);
  workspace.weight.resize(values);
  workspace.blended.resize(threads.count() * 3 * row_values);
  workspace.left.resize(width);
  workspace.fraction.resize(width);
  workspace.map_rows.resize(threads.count() * 3 * map_width);
  for (int64_t x = 0; x < width; ++x) {
    const MapPlace place = map_place(x, width, map_width);
    workspace.left[x] = place.first;
    workspace.fraction[x] = place.fraction;
  }
  const MapColumns columns = {workspace.left.data(), workspace.fraction.data()};
  int16_t* correction = workspace.correction.data();
  int16_t* weight = workspace.weight.data();

  std::atomic<int64_t> squares{0};
  threads.run(height, [&](int64_t begin, int64_t end, int64_t worker) {
    int32_t* rows = workspace.map_rows.data() + worker * 3 * map_width;
    int64_t sum = 0;
    for (int64_t y = begin; y < end; ++y) {
      const MapPlace place = map_place(y, height, task.map_height);
      const int32_t* maps[] = {task.flow_x, task.flow_y, task.weight};
      for (int64_t i = 0; i < 3; ++i) {
        const int32_t* upper = maps[i] + place.first * map_width;
        kernels.mix(upper, upper + map_width, place.fraction, rows + i * map_width, map_width);
      }
      sum += kernels.correct(task.history, task.fresh + y * row_values, rows, rows + map_width, rows + 2 * map_width,
                             columns, y, width, height, correction + y * row_values, weight + y * row_values);
    }
    squares += sum;
  });
  const double mean_square = static_cast<double>(squares) / static_cast<double>(values);
  if (mean_square > kMostLimits * task.squared_limit) {
    std::copy_n(task.fresh, values, task.out);
    return {0, 0};
  }
  const int32_t share = factor_within(task.squared_limit, mean_square);

  std::atomic<int64_t> distance{0};
  threads.run(height, [&](int64_t begin, int64_t end, int64_t worker) {
    int16_t* rows = workspace.blended.data() + worker * 3 * row_values;
    const auto blended = [&](int64_t y) { return rows + (y % 3) * row_values; };
    const auto blend = [&](int64_t y) {
      kernels.blend(task.fresh + y * row_values, correction + y * row_values, share, blended(y), row_values);
    };
    if (begin > 0) blend(begin - 1);
    blend(begin);
    int64_t sum = 0;
    for (int64_t y = begin; y < end; ++y) {
      if (y + 1 < height) blend(y + 1);
      sum += kernels.sharpen(blended(std::max<int64_t>(y - 1, 0)), blended(y), blended(std::min(y + 1, height - 1)),
                             weight + y * row_values, task.fresh + y * row_values, task.gain, width,
                             task.out + y * row_values);
    }
    distance += sum;
  });
  const int32_t rest = factor_within(task.squared_limit, static_cast<double>(distance) / static_cast<double>(values));

  std::atomic<int64_t> fresh_detail{0}, steady_detail{0};
  if (rest < 256) {
    threads.run(height, [&](int64_t begin, int64_t end, int64_t) {
      kernels.limit(task.fresh + begin * row_values, rest, task.out + begin * row_values, (end - begin) * row_values);
    });
  }
  threads.run((height - 2 + kDetailStep - 1) / kDetailStep, [&](int64_t begin, int64_t end, int64_t) {
    int64_t before = 0, after = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = (1 + i * kDetailStep) * row_values;
      const uint8_t *fresh = task.fresh + at, *out = task.out + at;
      before += kernels.detail(fresh - row_values, fresh, fresh + row_values, width);
      after += kernels.detail(out - row_values, out, out + row_values, width);
    }
    fresh_detail += before;
    steady_detail += after;
  });
  return {fresh_detail, steady_detail};
}

}  // namespace streamgan
