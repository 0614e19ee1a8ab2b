// Runs kernels and whole generators of libstreamgan_cpu on files, for processors that the tests can only emulate: no
// torch, no Python. tests/native/arm.py builds it and writes what it reads.
//
// Each line of the standard input is a command and its arguments; each gets one line of answer, "ok ..." or
// "error MESSAGE". Files hold nothing but values.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <string>

#include "csrc/caches.h"
#include "csrc/check.h"
#include "csrc/cpu/frames_to_tensor.h"
#include "csrc/cpu/instance_norm_act.h"
#include "csrc/cpu/tensor_to_frames.h"
#include "csrc/generator/frames.h"
#include "csrc/generator/plan.h"
#include "csrc/kernels.h"
#include "csrc/thread_pool.h"

namespace streamgan {
namespace {

using Arguments = std::istringstream;

template <typename Value>
Value next(Arguments& arguments) {
  Value value;
  check(static_cast<bool>(arguments >> value), "an argument is missing or wrong");
  return value;
}

// Bytes that end where a page begins that nobody may touch; so a multiple of 64 bytes begins at one.
class Guarded {
 public:
  explicit Guarded(size_t bytes) : bytes_(bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), room = (bytes + page - 1) / page * page;
    mapped_bytes_ = room + 2 * page;
    void* mapped = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(mapped != MAP_FAILED, "can't map ", mapped_bytes_, " bytes");
    mapped_ = static_cast<uint8_t*>(mapped);
    data_ = mapped_ + page + room - bytes;
    std::memset(mapped_, kUntouched, mapped_bytes_ - page);
    check(mprotect(mapped_ + page + room, page, PROT_NONE) == 0, "can't protect a page");
  }
  explicit Guarded(const std::string& path) : Guarded(size_of(path)) {
    std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(data_), static_cast<std::streamsize>(bytes_));
  }
  ~Guarded() { munmap(mapped_, mapped_bytes_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  uint8_t* data() { return data_; }
  template <typename Value>
  Value* at(size_t byte) {
    check(byte <= bytes_, "a file is too short");
    return reinterpret_cast<Value*>(data_ + byte);
  }
  size_t bytes() const { return bytes_; }

  void write(const std::string& path) const {
    for (const uint8_t* byte = mapped_; byte < data_; ++byte) {
      check(*byte == kUntouched, "a kernel wrote before its output");
    }
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(data_), static_cast<std::streamsize>(bytes_));
  }

 private:
  static constexpr uint8_t kUntouched = 0xa5;

  static size_t size_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    check(file.good(), "can't read ", path);
    return static_cast<size_t>(file.tellg());
  }

  size_t bytes_, mapped_bytes_;
  uint8_t *mapped_, *data_;
};

Dtype dtype_of(const std::string& name) {
  const std::map<std::string, Dtype> dtypes = {{"float32", kFloat32}, {"bfloat16", kBFloat16}, {"float16", kFloat16}};
  const auto found = dtypes.find(name);
  check(found != dtypes.end(), "dtype ", name);
  return found->second;
}

int64_t bytes_of(Dtype dtype) { return dtype == kFloat32 ? 4 : 2; }

// --- commands

// isa NAME
std::string force_isa(Arguments& arguments) {
  set_isa(next<std::string>(arguments));
  return "";
}

// caches LEVEL2_BYTES LEVEL3_BYTES
std::string force_caches(Arguments& arguments) {
  const auto level2 = next<int64_t>(arguments), level3 = next<int64_t>(arguments);
  set_caches(Caches{level2, level3});
  return "";
}

// isas: the one in use, then all that can run
std::string list_isas(Arguments&) {
  std::string names = active_tier().name;
  for (const Tier* tier : supported_tiers()) names += std::string(" ") + tier->name;
  return names;
}

// tiers: OPERATOR:TIER,TIER,... of each
std::string list_tiers(Arguments&) {
  std::string answer;
  for (const auto& [op, tiers] : kernel_tiers()) {
    answer += " " + op + ":";
    for (const std::string& tier : tiers) answer += tier + ",";
  }
  return answer;
}

// peak KIND ROUNDS: the loop's result, or nothing if this processor has none
std::string run_peak(Arguments& arguments) {
  const PeakLoop loop = peak_loop(static_cast<PeakKind>(next<int>(arguments)), detected_tier());
  return loop.run ? std::to_string(loop.run(next<int64_t>(arguments))) : "";
}

// frames_to_tensor DTYPE DIVISOR LOW INPUT OUTPUT
std::string convert_to_tensor(Arguments& arguments) {
  const Dtype dtype = dtype_of(next<std::string>(arguments));
  const auto divisor = next<float>(arguments), low = next<float>(arguments);
  Guarded bgr(next<std::string>(arguments)), rgb(bgr.bytes() * bytes_of(dtype));
  frames_to_tensor_kernels().row[dtype](bgr.data(), rgb.data(), static_cast<int64_t>(bgr.bytes()) / 3, divisor, low);
  rgb.write(next<std::string>(arguments));
  return "";
}

// tensor_to_frames LAYOUT DTYPE LOW SCALE INPUT OUTPUT
std::string convert_to_frames(Arguments& arguments) {
  const bool is_planar = next<std::string>(arguments) == "planar";
  const Dtype dtype = dtype_of(next<std::string>(arguments));
  const auto low = next<float>(arguments), scale = next<float>(arguments);
  Guarded rgb(next<std::string>(arguments)), bgr(rgb.bytes() / bytes_of(dtype));
  const size_t plane = rgb.bytes() / 3;
  const int64_t pixels = static_cast<int64_t>(bgr.bytes()) / 3;
  const TensorToFramesKernels& kernels = tensor_to_frames_kernels();
  if (is_planar) {
    kernels.planar[dtype](rgb.data(), rgb.data() + plane, rgb.data() + 2 * plane, bgr.data(), pixels, low, scale);
  } else {
    kernels.interleaved[dtype](rgb.data(), bgr.data(), pixels, low, scale);
  }
  bgr.write(next<std::string>(arguments));
  return "";
}

// instance_norm_act LAYOUT DTYPE PIXELS CHANNELS SLOPE INPUT OUTPUT
//
// INPUT holds x, residual and grad, then scale, shift, rstd, offset, a and b in float32; OUTPUT mean, m2, the sums of g
// and of g * x normalised in float32, then the results of forward with the residual and without it, and of backward.
std::string normalise(Arguments& arguments) {
  const bool is_planar = next<std::string>(arguments) == "planar";
  const Dtype dtype = dtype_of(next<std::string>(arguments));
  const auto pixels = next<int64_t>(arguments), channels = next<int64_t>(arguments);
  const auto slope = next<float>(arguments);
  check(dtype != kFloat16 && (!is_planar || channels == 1), "an unknown form of instance_norm_act");
  const size_t values = static_cast<size_t>(pixels * channels * bytes_of(dtype)),
               coefficients = static_cast<size_t>(channels) * sizeof(float);
  Guarded in(next<std::string>(arguments)), out(4 * coefficients + 3 * values);
  check(in.bytes() == 3 * values + 6 * coefficients, "an input of ", in.bytes(), " bytes");
  std::memset(out.data(), 0, out.bytes());
  const auto coefficient = [&](size_t i) { return in.at<float>(3 * values + i * coefficients); };
  const InstanceNormActKernels& all = instance_norm_act_kernels();
  const NormLayoutKernels& kernels = is_planar ? all.planar : all.interleaved;
  const int element = dtype == kFloat32 ? 0 : 1;
  kernels.statistics[element](in.data(), pixels, channels, out.at<float>(0), out.at<float>(coefficients));
  NormRow row = {};
  row.x = in.data(), row.residual = in.at<char>(values), row.grad = in.at<char>(2 * values);
  row.pixels = pixels, row.channels = channels, row.slope = slope;
  row.scale = coefficient(0), row.shift = coefficient(1), row.rstd = coefficient(2), row.offset = coefficient(3);
  row.a = coefficient(4), row.b = coefficient(5);
  kernels.grad_sums[element](row, out.at<float>(2 * coefficients), out.at<float>(3 * coefficients));
  row.to = out.at<char>(4 * coefficients);
  kernels.forward[element](row);
  row.residual = nullptr, row.to = out.at<char>(4 * coefficients + values);
  kernels.forward[element](row);
  row.to = out.at<char>(4 * coefficients + 2 * values);
  kernels.backward[element](row);
  out.write(next<std::string>(arguments));
  return "";
}

// Weights and program of a generator.
struct Packed {
  Guarded weights, numbers;

  Program program() {
    return {weights.at<char>(0), static_cast<int64_t>(weights.bytes()), numbers.at<int64_t>(0),
            static_cast<int64_t>(numbers.bytes() / sizeof(int64_t))};
  }
};

// generator WEIGHTS PROGRAM THREADS HEIGHT WIDTH IMAGE OUTPUT: float32 [H, W, 3] to [H * scale, W * scale,
// channels]
std::string run_generator(Arguments& arguments) {
  Packed packed = {Guarded(next<std::string>(arguments)), Guarded(next<std::string>(arguments))};
  const ThreadPool threads(next<int64_t>(arguments));
  const auto height = next<int64_t>(arguments), width = next<int64_t>(arguments);
  const Plan plan(packed.program(), height, width, threads);
  Guarded image(next<std::string>(arguments)),
      picture(static_cast<size_t>(height * width * plan.scale() * plan.scale() * plan.picture_channels()) *
              sizeof(float));
  check(image.bytes() == static_cast<size_t>(height * width) * 12, "an image of ", image.bytes(), " bytes");
  Guarded workspace(static_cast<size_t>(plan.workspace_bytes()));
  const InputView view = {image.at<char>(0), 4, width * 12, 12, 3, kFloat32, 1.0f, 0.0f};
  plan.run(view, {picture.at<float>(0)}, workspace.at<char>(0), nullptr);
  picture.write(next<std::string>(arguments));
  return "";
}

// translate WEIGHTS PROGRAM THREADS HEIGHT WIDTH PADDED_HEIGHT PADDED_WIDTH LOW HIGH LOW HIGH FRAME OUTPUT, with the
// ranges of the input and of the output: bytes [H, W, 3], BGR, to the same
std::string translate(Arguments& arguments) {
  Packed packed = {Guarded(next<std::string>(arguments)), Guarded(next<std::string>(arguments))};
  const ThreadPool threads(next<int64_t>(arguments));
  const auto height = next<int64_t>(arguments), width = next<int64_t>(arguments);
  const auto padded_height = next<int64_t>(arguments), padded_width = next<int64_t>(arguments);
  ValueRange in, out;
  in.low = next<double>(arguments), in.high = next<double>(arguments);
  out.low = next<double>(arguments), out.high = next<double>(arguments);
  Guarded frame(next<std::string>(arguments)), translated(static_cast<size_t>(height * width * 3));
  check(frame.bytes() == translated.bytes(), "a frame of ", frame.bytes(), " bytes");
  const Plan plan(packed.program(), padded_height, padded_width, threads);
  const FrameImage from = {frames_to_tensor_kernels().row[kFloat32], {frame.data(), width * 3, height, width}, in};
  const TensorToFramesKernels& to_bytes = tensor_to_frames_kernels();
  OutputView to = {nullptr, translated.data(), height, width};
  to.interleaved = to_bytes.interleaved[kFloat32], to.planar = to_bytes.planar[kFloat32];
  to.low = static_cast<float>(out.low), to.scale = out.scale();
  Guarded workspace(static_cast<size_t>(plan.workspace_bytes()));
  plan.run(from.image(), to, workspace.at<char>(0), nullptr);
  translated.write(next<std::string>(arguments));
  return "";
}

const std::map<std::string, std::function<std::string(Arguments&)>> kCommands = {
    {"isa", force_isa},
    {"caches", force_caches},
    {"isas", list_isas},
    {"tiers", list_tiers},
    {"peak", run_peak},
    {"frames_to_tensor", convert_to_tensor},
    {"tensor_to_frames", convert_to_frames},
    {"instance_norm_act", normalise},
    {"generator", run_generator},
    {"translate", translate},
};

std::string answer(const std::string& line) {
  try {
    Arguments arguments(line);
    const auto command = kCommands.find(next<std::string>(arguments));
    check(command != kCommands.end(), "unknown command");
    return "ok " + command->second(arguments);
  } catch (const std::exception& error) {
    return std::string("error ") + error.what();
  }
}

}  // namespace
}  // namespace streamgan

int main() {
  for (std::string line; std::getline(std::cin, line);) std::cout << streamgan::answer(line) << std::endl;
}
