// streamgan::fused_generator: a whole generator as a list of convolutions over packed weights (engine/fuse.py).
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "csrc/cpu/fused_convolution.h"
#include "csrc/isa.h"
#include "csrc/ops/common.h"

namespace streamgan {
namespace {

constexpr char kOp[] = "fused_generator";
constexpr int64_t kVersion = 4, kNone = -1, kAlignment = 64;
constexpr int64_t kUnitChannels = kMaxTileBlocks * kChannelBlock;
constexpr int64_t kMaxSlots = 64, kMaxChannels = 1 << 16, kMaxSide = 1 << 20;
// A direct convolution of at most so many pixels shares out its channels; one of more takes together so many pixels, in
// whole rows, that its weights come out of the caches often enough.
constexpr int64_t kFewPixels = 256, kUnitPixels = 256;
// A chunk of Winograd tiles has a transformed input of so many bytes, that stays in the caches while it is multiplied;
// more, up to the most, if that is fewer tiles than make transforming the kernels a twentieth of multiplying them.
// An output of more bytes is written past the caches: it would be gone from a core's own before it is read.
constexpr int64_t kStreamBytes = 3 << 20;
constexpr int64_t kSegmentTiles = 8;  // a segment is a multiple of
constexpr int64_t kChunkBytes = 2 << 20, kMaxChunkBytes = 8 << 20, kChunkTiles = 256;

const KernelTable<FusedConvolutionKernels> kKernels(kOp,
                                                    {&kFusedConvolutionScalar,
                                                     STREAMGAN_IF_X86(&kFusedConvolutionAvx2, &kFusedConvolutionAvx512,
                                                                      &kFusedConvolutionAvx512Bf16)});

// The program: these numbers, then one Step after the other. engine/fuse_program.py writes it; change both together.
struct Header {
  int64_t version, dtype, slots, steps;
};

struct StepPhase {
  int64_t dy, rows, dx, columns, weights;
};

// Slots hold activations; kNone stands for the image as a source, for nothing elsewhere. Offsets are bytes in
// `weights`.
struct Step {
  int64_t method, multiplies_float32, source, second_source, residual, save, output;
  int64_t activation, slope_bits;                  // of the input
  int64_t padding, pad_before, pad_after, kernel;  // what the base grid's size follows from
  int64_t stride, up;
  int64_t in_channels, out_channels;
  int64_t bias;                                            // float32 [out_channels]
  int64_t has_norm, norm_weight, norm_bias, epsilon_bits;  // of the output; weight and bias float32 or kNone
  int64_t norm_channels;                                   // that are normalised together; 0: each by itself
  int64_t image_scale_bits, image_offset_bits;             // of the first step: float32, image * scale + offset
  int64_t picture_channels, kernel_width, tanh;            // of the last step
  int64_t aligns_corners;                                  // of linear interpolation
  StepPhase phases[4];
};

struct Slot {
  int64_t height = 0, width = 0, channels = 0;
  int64_t bytes = 0;  // at most, over all steps
  float* data = nullptr;
  bool is_normalised = false;
  float *scale = nullptr, *shift = nullptr;
};

float float_of_bits(int64_t bits) {
  const auto low = static_cast<uint32_t>(bits);
  float value;
  std::memcpy(&value, &low, sizeof value);
  return value;
}

int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Of a core's second-level cache.
int64_t cache_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size >= 128 * 1024) return size;
#endif
  return 512 * 1024;
}

// Memory that calls work in, kept between them: fresh pages for every frame would cost as much as a layer. It comes
// from the system, for what malloc gives may have been touched before in small pages, and stays in these.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : block_(take(bytes)) {}
  ~Workspace() { give(block_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  char* data() const { return block_.data; }

 private:
  struct Block {
    char* data;
    int64_t bytes;
  };
  static constexpr int64_t kHugePage = 2 << 20;
  static constexpr size_t kKept = 4;  // blocks that no call is using

  // Never destroyed: a thread may end its call while the process ends.
  static std::mutex& mutex() {
    static auto* const made = new std::mutex;
    return *made;
  }
  static std::vector<Block>& free_blocks() {
    static auto* const made = new std::vector<Block>;
    return *made;
  }

#if defined(MADV_HUGEPAGE)
  static char* allocate(int64_t bytes) {
    void* mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    // What is before and after the whole huge pages goes back.
    auto* const begin = static_cast<char*>(mapped);
    const int64_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
    if (before > 0) munmap(begin, before);
    munmap(begin + before + bytes, kHugePage - before);
    madvise(begin + before, bytes, MADV_HUGEPAGE);
    return begin + before;
  }
  static void release(const Block& block) { munmap(block.data, block.bytes); }
#else
  static char* allocate(int64_t bytes) {
    return static_cast<char*>(::operator new(bytes, std::align_val_t(kHugePage), std::nothrow));
  }
  static void release(const Block& block) { ::operator delete(block.data, std::align_val_t(kHugePage)); }
#endif

  // A kept block that is large enough and not wastefully so, or a new one.
  static Block take(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex());
      std::vector<Block>& blocks = free_blocks();
      for (size_t i = 0; i < blocks.size(); ++i) {
        if (blocks[i].bytes >= bytes && blocks[i].bytes <= 4 * bytes) {
          const Block block = blocks[i];
          blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(i));
          return block;
        }
      }
    }
    const int64_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    char* const data = allocate(whole);
    check(data != nullptr, kOp, ": can't allocate memory of ", whole, " bytes");
    return {data, whole};
  }

  // The oldest of too many goes.
  static void give(const Block& block) {
    const std::lock_guard<std::mutex> lock(mutex());
    std::vector<Block>& blocks = free_blocks();
    blocks.push_back(block);
    if (blocks.size() > kKept) {
      release(blocks.front());
      blocks.erase(blocks.begin());
    }
  }

  const Block block_;
};

// One generator on images of one size: what each step works on, and how much memory it needs.
class Plan {
 public:
  Plan(const Tensor& image, const Tensor& weights, const Tensor& program, int64_t picture_channels)
      : weights_(static_cast<const char*>(weights.const_data_ptr())), weight_bytes_(weights.numel()) {
    const int64_t count = program.numel();
    const auto* numbers = static_cast<const int64_t*>(program.const_data_ptr());
    Header header;
    check(count * 8 >= static_cast<int64_t>(sizeof header), kOp, ": the program is empty");
    std::memcpy(&header, numbers, sizeof header);
    check(header.version == kVersion, kOp, ": program of version ", header.version, ", this build runs ", kVersion);
    check(header.dtype == 0 || header.dtype == 1, kOp, ": program of dtype ", header.dtype);
    check(header.slots >= 0 && header.slots <= kMaxSlots && header.steps >= 1 &&
              count == static_cast<int64_t>((sizeof(Header) + header.steps * sizeof(Step)) / 8),
          kOp, ": a program of ", header.steps, " steps and ", header.slots, " slots does not have ", count,
          " numbers");
    dtype_ = static_cast<int>(header.dtype);
    height_ = image.size(2), width_ = image.size(3);
    slots_.resize(header.slots);
    steps_.resize(header.steps);
    std::memcpy(steps_.data(), numbers + sizeof(Header) / 8, header.steps * sizeof(Step));
    for (const Step& step : steps_) add(step);
    check(steps_.back().output == kNone && steps_.back().picture_channels == picture_channels, kOp,
          ": the last step has to make the picture");
  }

  int64_t workspace_bytes() const {
    int64_t bytes = aligned(statistics_bytes_) + aligned(transformed_bytes_) + aligned(kernel_bytes_) +
                    threads_ * aligned(scratch_bytes_) + kAlignment;
    for (const Slot& slot : slots_) bytes += aligned(slot.bytes) + 2 * aligned(max_channels_ * 4);
    return bytes;
  }

  // Translates one image. `picture` is float32 [height][width][channels]. Adds the seconds of each step to `seconds`,
  // unless that is null.
  void run(const Image& image, float* picture, char* workspace, double* seconds) {
    using Clock = std::chrono::steady_clock;
    lay_out(workspace);
    for (Slot& slot : slots_) slot.is_normalised = false;
    for (size_t i = 0; i < steps_.size(); ++i) {
      const Clock::time_point begin = Clock::now();
      run_step(steps_[i], convolutions_[i], image, picture);
      if (seconds) seconds[i] += std::chrono::duration<double>(Clock::now() - begin).count();
    }
  }

  int64_t step_count() const { return static_cast<int64_t>(steps_.size()); }

 private:
  const char* weights_;
  int64_t weight_bytes_;
  int dtype_;
  int64_t height_, width_;
  std::vector<Slot> slots_;
  std::vector<Step> steps_;
  std::vector<Convolution> convolutions_;
  int64_t threads_ = torch::stable::get_num_threads();
  int64_t statistics_bytes_ = 0, transformed_bytes_ = 0, kernel_bytes_ = 0, scratch_bytes_ = 0, max_channels_ = 0;
  float* statistics_ = nullptr;
  char *transformed_ = nullptr, *kernels_ = nullptr, *scratch_ = nullptr;

  Slot& slot(int64_t index) {
    check(index >= 0 && index < static_cast<int64_t>(slots_.size()), kOp, ": the program has no slot ", index);
    return slots_[index];
  }

  const void* weight(int64_t offset, int64_t bytes) const {
    check(offset >= 0 && bytes >= 0 && offset <= weight_bytes_ - bytes && offset % kAlignment == 0, kOp,
          ": weights at ", offset, " are outside of the ", weight_bytes_, " bytes");
    return weights_ + offset;
  }

  void set_slot(int64_t index, int64_t height, int64_t width, int64_t channels) {
    Slot& changed = slot(index);
    changed.height = height, changed.width = width, changed.channels = channels;
    changed.bytes = std::max(changed.bytes, height * width * channels * static_cast<int64_t>(sizeof(float)));
    max_channels_ = std::max(max_channels_, channels);
  }

  // Checks a step, and notes its geometry and what it needs.
  void add(const Step& step) {
    Convolution c = {};
    check(step.method >= 0 && step.method <= static_cast<int64_t>(Method::kColumns) && step.activation >= 0 &&
              step.activation <= 2 && step.padding >= 0 && step.padding <= 2,
          kOp, ": a step of an unknown kind");
    c.method = static_cast<Method>(step.method);
    c.activation = static_cast<Activation>(step.activation);
    c.padding = static_cast<Padding>(step.padding);
    c.slope = float_of_bits(step.slope_bits);
    c.in_height = height_, c.in_width = width_, c.in_channels = kImageChannels;
    if (step.source != kNone) {
      const Slot& source = slot(step.source);
      c.in_height = source.height, c.in_width = source.width, c.in_channels = source.channels;
      for (const int64_t other : {step.second_source, step.residual}) {
        if (other == kNone) continue;
        check(slot(other).height == source.height && slot(other).width == source.width, kOp,
              ": two inputs of different sizes");
      }
      c.sources[0].channels = source.channels;
      if (step.second_source != kNone) c.sources[1].channels = slot(step.second_source).channels;
      c.in_channels = c.sources[0].channels + c.sources[1].channels;
      check(step.residual == kNone || (slot(step.residual).channels == c.in_channels && step.second_source == kNone),
            kOp, ": a residual of other channels");
    }
    check(c.in_height > 0 && c.in_channels == step.in_channels, kOp, ": a step reads what nothing has written");
    check((step.stride == 1 || step.stride == 2) && (step.up == 1 || step.up == 2) && step.out_channels > 0 &&
              step.out_channels <= kMaxChannels && step.out_channels % kChannelBlock == 0 && step.kernel >= 1 &&
              step.kernel <= kMaxKernel && step.pad_before >= 0 && step.pad_before <= kMaxKernel &&
              step.pad_after >= 0 && step.pad_after <= kMaxKernel,
          kOp, ": a step of an unknown shape");
    c.stride = step.stride, c.up = step.up, c.out_channels = step.out_channels;
    c.base_height = (c.in_height + step.pad_before + step.pad_after - step.kernel) / c.stride + 1;
    c.base_width = (c.in_width + step.pad_before + step.pad_after - step.kernel) / c.stride + 1;
    check(c.in_height + step.pad_before + step.pad_after >= step.kernel &&
              c.in_width + step.pad_before + step.pad_after >= step.kernel &&
              (c.padding != Padding::kReflect ||
               std::max(step.pad_before, step.pad_after) < std::min(c.in_height, c.in_width)),
          kOp, ": the image, ", height_, "x", width_, ", is too small for this generator");
    c.bias = static_cast<const float*>(weight(step.bias, c.out_channels * 4));
    c.picture_channels = step.picture_channels, c.kernel_width = step.kernel_width, c.tanh = step.tanh != 0;
    c.aligns_corners = step.aligns_corners != 0;
    check(step.norm_channels >= 0 && step.norm_channels <= c.out_channels, kOp,
          ": a norm of more channels than there are");
    set_geometry(step, c);
    convolutions_.push_back(c);

    for (const int64_t read : {step.source, step.second_source, step.residual}) {
      check(read == kNone || (read != step.save && read != step.output), kOp, ": a step writes what it reads");
    }
    check(step.save == kNone || step.save != step.output, kOp, ": a step writes two things to one place");
    if (step.save != kNone) set_slot(step.save, c.in_height, c.in_width, c.in_channels);
    if (makes_picture(c)) {
      check(step.output == kNone && c.up * c.base_height == height_ && c.up * c.base_width == width_, kOp,
            ": the picture has another size than the image");
    } else {
      set_slot(step.output, c.up * c.base_height, c.up * c.base_width, c.out_channels);
      convolutions_.back().streams = c.up * c.up * c.base_height * c.base_width * c.out_channels * 4 > kStreamBytes;
      if (step.has_norm) statistics_bytes_ = std::max(statistics_bytes_, statistic_slots(c) * 2 * c.out_channels * 4);
    }
  }

  bool is_winograd(const Convolution& c) const { return tile_shape(c.method).rows.in > 0; }

  static bool makes_picture(const Convolution& c) {
    return c.method == Method::kColumns || c.method == Method::kVerticalPicture;
  }

  static int64_t tiles_beside(int64_t outputs, const TileSide& side) { return divided_up(outputs, side.out); }

  // What `method` multiplies for an input and an output channel of a phase; transforming a kernel is as much as five
  // tiles.
  static int64_t products(const Convolution& c, Method method) {
    const auto [rows, columns] = tile_shape(method);
    const int64_t tiles =
        tiles_beside(c.up * c.base_height / c.spread, rows) * tiles_beside(c.up * c.base_width / c.spread, columns);
    return (tiles + 5) * rows.frequencies * columns.frequencies;
  }

  // Of what a step multiplies: 0 is float32, 1 bfloat16.
  int element_type(const Step& step) const { return step.multiplies_float32 ? 0 : dtype_; }

  void set_geometry(const Step& step, Convolution& c) {
    int64_t scratch = 0;
    const int64_t element_bytes = element_type(step) == 0 ? 4 : 2;
    if (is_winograd(c)) {
      const bool is_pairs = c.method == Method::kWinogradPairs, is_strided = c.method == Method::kWinogradStrided;
      const bool is_transposed = c.method == Method::kWinogradTransposed;
      check(c.in_channels % kChannelBlock == 0 && (c.method != Method::kWinograd8 || element_bytes == 4), kOp,
            ": a Winograd step of an unknown shape");
      c.planes = is_pairs ? c.stride : 1;
      c.spread = is_pairs ? c.up : 1;
      const Method other = other_tiles(c.method);
      if (products(c, other) < products(c, c.method)) c.method = other;
      const auto [rows, columns] = tile_shape(c.method);
      c.tile_rows = tiles_beside(c.up * c.base_height / c.spread, rows);
      c.tile_columns = tiles_beside(c.up * c.base_width / c.spread, columns);
      const int64_t frequencies = rows.frequencies * columns.frequencies, depth = c.planes * c.planes * c.in_channels;
      const int64_t stride = is_strided || (is_pairs && c.up == 1) ? 2 : 1;
      const int64_t up = is_transposed || (is_pairs && c.stride == 1) ? 2 : 1;
      const int64_t kernel = up == 2 ? 1 : is_pairs ? 4 : 3;
      check(c.stride == stride && c.up == up && step.kernel == kernel, kOp, ": a Winograd step of an unknown shape");
      const int64_t phases = c.spread * c.spread;
      int64_t bottom = 0, right = 0;
      for (int64_t i = 0; i < phases; ++i) {
        const StepPhase& phase = step.phases[i];
        check(std::abs(phase.dy) <= kMaxKernel && std::abs(phase.dx) <= kMaxKernel, kOp, ": a kernel far away");
        c.phases[i] = {phase.dy, 0, phase.dx, 0,
                       weight(phase.weights, rows.taps * columns.taps * depth * c.out_channels * 4)};
        c.first = std::min(c.first, phase.dy), bottom = std::max(bottom, phase.dy);
        c.before = std::max(c.before, -phase.dx), right = std::max(right, phase.dx);
      }
      // The last pixel that so many tiles read, of the last picture of a stride.
      const auto reach = [&](int64_t count, const TileSide& side) {
        return c.planes * ((count - 1) * side.step + side.in) - 1;
      };
      c.last = bottom + reach(1, rows);
      c.after = std::max<int64_t>(right + reach(c.tile_columns, columns) - (c.in_width - 1), 0);
      const auto input_bytes = [&](int64_t tiles) {
        return tiles * depth / kChannelBlock * (frequencies * kChannelBlock * element_bytes + kLineBytes);
      };
      const auto product_bytes = [&](int64_t tiles) {
        return aligned(frequencies * (tiles + 2 * kMaxTilePixels) * kUnitChannels * 4);
      };
      set_segment(c, phases * frequencies * depth * c.out_channels * element_bytes,
                  frequencies * (depth * element_bytes + kUnitChannels * 4));
      if (c.segment > 0) {
        scratch = aligned(input_bytes(c.segment + kMaxTilePixels)) + product_bytes(c.segment);
        kernel_bytes_ = std::max(kernel_bytes_, phases * frequencies * depth * c.out_channels * element_bytes);
      } else {
        set_chunks(c, phases, frequencies, depth * element_bytes);
        scratch = aligned(columns.frequencies * depth * kUnitChannels * element_bytes) +
                  product_bytes(c.chunk_rows * c.tile_columns / c.parts);
        transformed_bytes_ = std::max(transformed_bytes_, phases * input_bytes(c.tile_room));
      }
    } else {
      const bool is_columns = c.method == Method::kColumns, is_depthwise = c.method == Method::kDepthwise;
      const bool is_bilinear = c.method == Method::kBilinear;
      check(!(is_depthwise || is_bilinear) || (element_bytes == 4 && c.in_channels == c.out_channels), kOp,
            ": a step on single channels that are not the same before and after it");
      int64_t right = 0;
      for (int64_t i = 0; i < (is_bilinear ? 0 : is_columns ? c.up : c.up * c.up); ++i) {
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
        check(c.stride == 1 && c.kernel_width >= 1 && c.kernel_width <= kMaxKernel && c.picture_channels >= 1 &&
                  c.kernel_width * c.picture_channels <= c.out_channels,
              kOp, ": a last layer of an unknown shape");
        right = c.up == 1 ? c.phases[0].dx + c.kernel_width - 1 : 0;
        scratch = aligned((c.base_width + c.kernel_width - 1) * c.out_channels * 4) +
                  aligned((c.up * c.base_width * c.picture_channels + kChannelBlock) * 4);
      }
      if (is_bilinear) {
        check(c.stride == 1 && c.up == 2 && step.kernel == 1 && !step.has_norm, kOp,
              ": linear interpolation of an unknown shape");
        c.first = -1, c.last = 1, c.before = 1, right = 1;
        scratch = aligned((c.in_width + 2) * c.in_channels * 4);
      }
      c.after = std::max<int64_t>((c.base_width - 1) * c.stride + right - (c.in_width - 1), 0);
      const TileSide vertical = vertical_side(c.phases[0].rows);
      if (!is_columns && !is_depthwise && !is_bilinear && c.base_height * c.base_width <= kFewPixels) {
        c.method = Method::kSmall;
        c.unit_rows = c.base_height;
      } else if (vertical.taps > 0 && element_bytes == 4 && c.stride == 1 && c.up == 1 &&
                 (c.method == Method::kDirect || (is_columns && step.save == kNone && has_picture_strips(c)))) {
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
        const int64_t share = std::max<int64_t>(c.base_height / threads_, 1);
        c.unit_rows = is_columns ? 1 : std::clamp<int64_t>(kUnitPixels / c.base_width, 1, share);
      }
      c.last += (c.unit_rows - 1) * c.stride;
      if (c.method == Method::kSmall && step.save != kNone) c.last = std::max(c.last, c.in_height - 1);
    }
    const int64_t ring = c.method == Method::kVerticalPicture
                             ? 0
                             : aligned((c.last - c.first + 1) * row_elements(c) * (is_winograd(c) ? 4 : element_bytes));
    // A chunk's input and output are two calls.
    const bool is_chunked = is_winograd(c) && c.segment == 0;
    scratch_bytes_ = std::max(scratch_bytes_, is_chunked ? std::max(ring, scratch) : ring + scratch);
  }

  // How many tiles a thread works on at a time, where all transformed kernels are a small part of a core's cache and
  // the tiles, their products and the kernels together the larger one.
  static void set_segment(Convolution& c, int64_t kernel_bytes, int64_t tile_bytes) {
    const int64_t cache = cache_bytes(),
                  most = (cache * 5 / 8 - kernel_bytes) / tile_bytes / kSegmentTiles * kSegmentTiles;
    if (kernel_bytes > cache * 3 / 8 || most < kSegmentTiles || c.tile_columns < kSegmentTiles) return;
    const int64_t segments = divided_up(c.tile_columns, most);
    c.segment = divided_up(divided_up(c.tile_columns, segments), kSegmentTiles) * kSegmentTiles;
  }

  // Padding at the right has to repeat pixels of the last strip, even if that is a single column.
  static bool has_picture_strips(const Convolution& c) {
    return c.picture_channels <= kMaxVerticalPictures && -2 * c.phases[0].dx >= c.kernel_width - 1;
  }

  // How large a chunk is, and in how many parts it is multiplied: so that products take half of a core's cache, and all
  // threads have as much to do.
  void set_chunks(Convolution& c, int64_t phases, int64_t frequencies, int64_t pixel_bytes) const {
    const int64_t row_bytes = phases * frequencies * c.tile_columns * pixel_bytes;
    const int64_t enough = std::max(kChunkBytes / row_bytes, divided_up(kChunkTiles, c.tile_columns));
    const int64_t rows = std::max(std::min(enough, kMaxChunkBytes / row_bytes), threads_);
    const int64_t chunks = divided_up(c.tile_rows, rows);
    c.chunk_rows = divided_up(c.tile_rows, chunks);
    const int64_t tiles = c.chunk_rows * c.tile_columns, units = divided_up(c.out_channels, kUnitChannels) * phases;
    c.tile_room = tiles + kMaxTilePixels;
    c.parts = std::max<int64_t>(tiles * frequencies * kUnitChannels * 4 / (cache_bytes() / 2), 1);
    while (units * c.parts < 8 * threads_ && units * c.parts % threads_ != 0) ++c.parts;
  }

  int64_t units(const Convolution& c) const {
    if (c.method == Method::kSmall) return divided_up(c.out_channels, kUnitChannels);
    if (is_winograd(c)) return divided_up(c.out_channels, kUnitChannels) * c.spread * c.spread * c.parts;
    return divided_up(c.base_height, c.unit_rows);
  }

  int64_t statistic_slots(const Convolution& c) const {
    if (c.method == Method::kSmall) return c.up * c.up;
    if (c.segment > 0) return c.tile_rows * segments_of_row(c) * c.spread * c.spread;
    if (is_winograd(c)) return divided_up(c.tile_rows, c.chunk_rows) * c.parts * c.spread * c.spread;
    return units(c) * c.up * c.up;
  }

  void lay_out(char* workspace) {
    char* next = workspace + (kAlignment - reinterpret_cast<uintptr_t>(workspace) % kAlignment) % kAlignment;
    const auto take = [&](int64_t bytes) {
      char* taken = next;
      next += aligned(bytes);
      return taken;
    };
    statistics_ = reinterpret_cast<float*>(take(statistics_bytes_));
    transformed_ = take(transformed_bytes_);
    kernels_ = take(kernel_bytes_);
    scratch_ = take(threads_ * aligned(scratch_bytes_));
    for (Slot& slot : slots_) {
      slot.data = reinterpret_cast<float*>(take(slot.bytes));
      slot.scale = reinterpret_cast<float*>(take(max_channels_ * 4));
      slot.shift = reinterpret_cast<float*>(take(max_channels_ * 4));
    }
  }

  Source source_of(int64_t index, int64_t channels) {
    if (index == kNone) return {};
    const Slot& from = slot(index);
    return {from.data, channels, from.is_normalised ? from.scale : nullptr, from.is_normalised ? from.shift : nullptr};
  }

  void run_step(const Step& step, Convolution c, const Image& image, float* picture) {
    if (step.source == kNone) {
      c.image = image;
      c.image.scale = float_of_bits(step.image_scale_bits), c.image.offset = float_of_bits(step.image_offset_bits);
    } else {
      c.sources[0] = source_of(step.source, c.sources[0].channels);
      c.sources[1] = source_of(step.second_source, c.sources[1].channels);
      c.residual = source_of(step.residual, c.in_channels);
    }
    if (step.save != kNone) c.save = slot(step.save).data;
    if (makes_picture(c)) {
      c.picture = picture;
    } else {
      c.output = slot(step.output).data;
    }
    if (step.has_norm) c.statistics = statistics_;

    const MethodKernels& kernels = kKernels.active().methods[static_cast<int>(c.method)];
    const int type = element_type(step);
    c.transformed = transformed_, c.kernels = kernels_;
    if (kernels.kernels[type] && (c.segment > 0 || !is_winograd(c))) {
      in_parallel(kernels.kernels[type], c, divided_up(c.out_channels, kUnitChannels));
    }
    if (c.segment > 0) {
      in_parallel(kernels.segments[type], c, c.tile_rows * segments_of_row(c));
    } else if (is_winograd(c)) {
      const int64_t all = c.tile_rows, rows = c.chunk_rows;
      for (c.chunk_row = 0; c.chunk_row < all; c.chunk_row += rows) {
        c.chunk_rows = std::min(rows, all - c.chunk_row);
        in_parallel(kernels.inputs[type], c, c.chunk_rows);
        in_parallel(kernels.units[type], c, units(c));
        if (c.statistics) c.statistics += c.parts * c.spread * c.spread * 2 * c.out_channels;
      }
      c.chunk_rows = rows;
    } else {
      in_parallel(kernels.units[type], c, units(c));
    }
    if (step.save != kNone) slot(step.save).is_normalised = false;
    if (step.output != kNone) {
      slot(step.output).is_normalised = step.has_norm != 0;
      if (step.has_norm) finish_norm(step, c);
    }
  }

  void in_parallel(ConvolutionUnits work, const Convolution& c, int64_t count) const {
    std::atomic<int64_t> workers{0};
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      work(c, begin, end, scratch_ + workers++ % threads_ * aligned(scratch_bytes_));
      std::atomic_thread_fence(std::memory_order_seq_cst);  // what went past the caches is not in order without it
    });
  }

  // Scale and shift of InstanceNorm, or of GroupNorm of one group, from the sums over all places:
  // (x - mean) / sqrt(var + eps) * weight + bias.
  void finish_norm(const Step& step, const Convolution& c) {
    const auto* weight_values =
        step.norm_weight == kNone ? nullptr : static_cast<const float*>(weight(step.norm_weight, c.out_channels * 4));
    const auto* bias_values =
        step.norm_bias == kNone ? nullptr : static_cast<const float*>(weight(step.norm_bias, c.out_channels * 4));
    const int64_t channels = c.out_channels, count = statistic_slots(c);
    const double places = static_cast<double>(c.up * c.up * c.base_height * c.base_width);
    const double epsilon = float_of_bits(step.epsilon_bits);
    std::vector<double> sums(2 * channels, 0.0);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t k = 0; k < 2 * channels; ++k) sums[k] += statistics_[i * 2 * channels + k];
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
    Slot& output = slot(step.output);
    for (int64_t k = 0; k < channels; ++k) {
      const double mean = sums[k] / all;
      const double variance = std::max(sums[channels + k] / all - mean * mean, 0.0);
      const double scale = (weight_values ? weight_values[k] : 1.0) / std::sqrt(variance + epsilon);
      output.scale[k] = static_cast<float>(scale);
      output.shift[k] = static_cast<float>((bias_values ? bias_values[k] : 0.0) - mean * scale);
    }
  }
};

Tensor run_all(const Tensor& image, const Tensor& weights, const Tensor& program, int64_t channels,
               std::vector<double>* seconds) {
  check(image.dim() == 4 && image.size(0) >= 1 && image.size(1) >= 1 && image.size(1) <= kImageChannels &&
            image.size(2) >= 1 && image.size(3) >= 1 && image.size(2) <= kMaxSide && image.size(3) <= kMaxSide,
        kOp, ": image must be [N, 1 to ", kImageChannels, ", H, W], not ", shape_of(image));
  const Dtype dtype = image_dtype(kOp, image.scalar_type());
  check(dtype == kFloat32 || dtype == kBFloat16, kOp, ": image must be Float or BFloat16");
  check(weights.scalar_type() == ScalarType::Byte && weights.dim() == 1 && weights.is_contiguous() &&
            program.scalar_type() == ScalarType::Long && program.dim() == 1 && program.is_contiguous(),
        kOp, ": weights must be one row of bytes, program one of 64-bit integers");
  Plan plan(image, weights, program, channels);
  const int64_t count = image.size(0), height = image.size(2), width = image.size(3);
  Tensor picture =
      torch::stable::empty({count, height, width, channels}, ScalarType::Float, std::nullopt, image.device());
  const Workspace workspace(plan.workspace_bytes());
  if (seconds) seconds->assign(plan.step_count(), 0.0);
  const int64_t bytes = image_element_bytes(dtype);
  for (int64_t n = 0; n < count; ++n) {
    const Image view = {static_cast<const char*>(image.const_data_ptr()) + n * image.stride(0) * bytes,
                        image.stride(1) * bytes,
                        image.stride(2) * bytes,
                        image.stride(3) * bytes,
                        image.size(1),
                        dtype,
                        1.0f,
                        0.0f};
    plan.run(view, static_cast<float*>(picture.mutable_data_ptr()) + n * height * width * channels, workspace.data(),
             seconds ? seconds->data() : nullptr);
  }
  return picture;
}

Tensor fused_generator(const Tensor& image, const Tensor& weights, const Tensor& program, int64_t channels) {
  return run_all(image, weights, program, channels, nullptr);
}

// Seconds of each step, float64 [steps].
Tensor fused_generator_seconds(const Tensor& image, const Tensor& weights, const Tensor& program, int64_t channels) {
  std::vector<double> seconds;
  run_all(image, weights, program, channels, &seconds);
  Tensor result =
      torch::stable::empty({static_cast<int64_t>(seconds.size())}, ScalarType::Double, std::nullopt, image.device());
  std::copy(seconds.begin(), seconds.end(), static_cast<double*>(result.mutable_data_ptr()));
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(streamgan, library) {
  library.def("fused_generator(Tensor image, Tensor weights, Tensor program, int channels) -> Tensor");
  library.def("fused_generator_seconds(Tensor image, Tensor weights, Tensor program, int channels) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(streamgan, CPU, library) {
  library.impl(kOp, TORCH_BOX(&fused_generator));
  library.impl("fused_generator_seconds", TORCH_BOX(&fused_generator_seconds));
}

}  // namespace streamgan
