// A generator on images of one size: what each step works on, and where everything lies in memory.
#pragma once

#include <cstdint>
#include <vector>

#include "csrc/cpu/fused_convolution.h"
#include "csrc/generator/activations.h"
#include "csrc/generator/program.h"
#include "csrc/threads.h"

namespace streamgan {

class Plan {
 public:
  // Throws if the program is not valid, or can't take images of this size. `threads` outlives the plan.
  Plan(const Program& program, int64_t height, int64_t width, const Threads& threads);

  // Size of the memory that a call of `run` works in, which begins at a multiple of 64 bytes.
  int64_t workspace_bytes() const;

  // Translates one image. Adds the seconds of each step to `seconds`, unless that is null.
  void run(const InputView& image, const OutputView& picture, char* workspace, double* seconds) const;

  int64_t step_count() const { return static_cast<int64_t>(steps_.size()); }
  int64_t picture_channels() const { return steps_.back().convolution.picture.channels; }

  // How many times as high and wide as the image the picture is.
  int64_t scale() const { return steps_.back().convolution.picture.width / width_; }

 private:
  // Values by their number, or kNone.
  struct PlannedStep {
    Step step;
    Convolution convolution;
    int64_t source, second_source, residual, second_residual, out_residual, out_second_residual;
    int64_t save = kNone, output = kNone;
    int64_t output_channel = 0;  // of the output, the first that is written

    bool makes_picture() const { return output == kNone; }
  };

  // The workspace of a call, in this order.
  struct Memory {
    float* statistics;
    char *transformed, *filters, *scratch, *values;
  };

  PackedWeights weights_;
  Dtype dtype_ = kFloat32;
  int64_t height_, width_;
  const Threads& threads_;
  const FusedConvolutionKernels& kernels_;  // others may want more room
  Activations activations_{0};
  std::vector<PlannedStep> steps_;
  int64_t statistics_bytes_ = 0, transformed_bytes_ = 0, filter_bytes_ = 0, scratch_bytes_ = 0;

  // Parts of adding a step:
  void add(const Step& step);
  void set_input(const PlannedStep& planned, Convolution& c) const;
  void set_shape(const Step& step, Convolution& c) const;
  void set_algorithm(const PlannedStep& planned, Convolution& c) const;
  void set_finish(const PlannedStep& planned, Convolution& c) const;
  void check_slots(const PlannedStep& planned) const;
  void add_values(PlannedStep& planned);
  Target target(int64_t value, int64_t channels) const;

  Memory laid_out(char* workspace) const;
  Convolution with_memory(const PlannedStep& planned, const InputView& image, const OutputView& picture,
                          const Memory& memory) const;
  void run_step(const PlannedStep& planned, const InputView& image, const OutputView& picture,
                const Memory& memory) const;
  void run_chunks(const AlgorithmKernels& kernels, Convolution& c, const Memory& memory) const;
  void in_parallel(ConvolutionUnits work, const Convolution& c, int64_t count, const Memory& memory) const;
  void finish_norm(const PlannedStep& planned, const Memory& memory) const;
};

}  // namespace streamgan
