// A generator on images of one size: what each step works on, and where everything lies in memory.
#pragma once

#include <cstdint>
#include <vector>

#include "csrc/cpu/fused_convolution.h"
#include "csrc/generator/program.h"
#include "csrc/threads.h"

namespace streamgan {

// Packed weights (engine/fuse_kernels.py), and the steps over them (program.h). Both stay their owner's.
struct Program {
  const char* weights;
  int64_t weight_bytes;
  const int64_t* numbers;
  int64_t count;
};

class Plan {
 public:
  // Throws if the program is no valid one, or can't take images of this size. `threads` outlives the plan.
  Plan(const Program& program, int64_t height, int64_t width, const Threads& threads);

  // What a call of `run` works in, at a multiple of 64 bytes.
  int64_t workspace_bytes() const;

  // Translates one image. Adds the seconds of each step to `seconds`, unless that is null.
  void run(const Image& image, const Picture& picture, char* workspace, double* seconds) const;

  int64_t step_count() const { return static_cast<int64_t>(steps_.size()); }
  int64_t picture_channels() const { return steps_.back().convolution.picture_channels; }

  // How many times as high and wide as the image the picture is.
  int64_t scale() const { return steps_.back().convolution.picture_width / width_; }

 private:
  // What a step writes and later ones read: an activation, and how it is normalised.
  struct Value {
    int64_t height, width, channels;
    int64_t border;  // pixels of zeros around it
    int64_t filled;  // channels that the steps so far have written, from the first on
    Dtype dtype;
    bool is_normalised;
    size_t first, last;     // steps that it is needed in
    int64_t bytes, offset;  // from the beginning of all values

    int64_t element_bytes() const;
    int64_t row_step() const;    // elements from a row to the next
    int64_t data_bytes() const;  // of the activation and its border alone, a multiple of 64
  };

  // Values by their number, or kNone.
  struct PlannedStep {
    Step step;
    Convolution convolution;
    int64_t source, second_source, residual, second_residual, out_residual, out_second_residual, save, output;
    int64_t output_channel = 0;  // of the output, the first that is written
  };

  // A call's parts of the workspace.
  struct Memory {
    float* statistics;
    char *transformed, *kernels, *scratch, *values;
  };

  const char* weights_;
  int64_t weight_bytes_;
  int dtype_;
  int64_t height_, width_;
  const Threads& threads_;
  int64_t thread_count_;
  const FusedConvolutionKernels& kernels_;  // what the plan is for; others may want more room
  std::vector<int64_t> current_;            // value of each slot, after the steps so far
  std::vector<Value> values_;
  std::vector<PlannedStep> steps_;
  int64_t statistics_bytes_ = 0, transformed_bytes_ = 0, kernel_bytes_ = 0, scratch_bytes_ = 0, value_bytes_ = 0;

  void add(const Step& step);
  int64_t read(int64_t slot);
  int64_t write(int64_t slot, int64_t height, int64_t width, int64_t channels, Dtype dtype, bool is_normalised,
                int64_t border);
  void set_finish(const PlannedStep& planned, Convolution& c) const;
  void check_residuals(const PlannedStep& planned) const;
  int64_t append(const Step& step, int64_t height, int64_t width, Dtype dtype);
  void place_values();
  const void* weight(int64_t offset, int64_t bytes) const;
  int element_type(const Step& step) const;
  Writing writing_of(int64_t pixels, int64_t channels, int64_t step, Dtype dtype) const;
  void set_geometry(const Step& step, Convolution& c);
  void set_base(const Step& step, Convolution& c) const;
  int64_t set_winograd_geometry(const Step& step, Convolution& c, int64_t element_bytes);
  void keep_transformed(const Step& step, Convolution& c, int64_t element_bytes) const;
  int64_t set_direct_geometry(const Step& step, Convolution& c, int64_t element_bytes);
  int64_t set_matrix_geometry(const Step& step, Convolution& c, int64_t element_bytes);
  void set_chunks(Convolution& c, int64_t frequencies, int64_t pixel_bytes) const;
  int64_t units(const Convolution& c) const;
  int64_t statistic_slots(const Convolution& c) const;

  Memory laid_out(char* workspace) const;
  char* data_of(int64_t value, const Memory& memory) const;
  float* scale_of(int64_t value, const Memory& memory) const;
  static Source layout_of(const Value& value, int64_t channels);
  Source source_of(int64_t value, int64_t channels, const Memory& memory) const;
  void run_step(const PlannedStep& planned, const Image& image, const Picture& picture, const Memory& memory) const;
  void in_parallel(ConvolutionUnits work, const Convolution& c, int64_t count, const Memory& memory) const;
  void finish_norm(const PlannedStep& planned, const Memory& memory) const;
};

}  // namespace streamgan
