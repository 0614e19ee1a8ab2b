// What the operators yuv_to_bgr and bgr_to_yuv have on every device: their schemas, checks, and the results that are to
// be filled. The formulas are in csrc/cuda/yuv.h. On the CPU they are plain PyTorch (engine/ops.py).
#pragma once

#include "csrc/ops/common.h"

namespace streamgan {

constexpr char kYuvToBgr[] = "yuv_to_bgr";
constexpr char kYuvToBgrSchema[] =
    "yuv_to_bgr(Tensor luma, Tensor chroma, float kr, float kb, bool full_range, bool left_sited, int bits) -> Tensor";

struct YuvToBgrTask {
  Tensor luma;    // uint8 or uint16 [height, width]; rows may lie apart, pixels may not
  Tensor chroma;  // of the same type, [(height + 1) / 2, (width + 1) / 2, 2]; likewise
  Tensor output;  // uint8 [height, width, 3]
  int64_t height, width;
};

YuvToBgrTask yuv_to_bgr_task(const Tensor& luma, const Tensor& chroma, double kr, double kb, int64_t bits);

constexpr char kBgrToYuv[] = "bgr_to_yuv";
constexpr char kBgrToYuvSchema[] = "bgr_to_yuv(Tensor frame, float kr, float kb, bool full_range) -> Tensor";

struct BgrToYuvTask {
  Tensor frame;   // uint8 [height, width, 3]; rows may lie apart, pixels may not
  Tensor output;  // uint8 [height * 3 / 2, width], in rows of a multiple of 256 bytes
  int64_t height, width;
};

BgrToYuvTask bgr_to_yuv_task(const Tensor& frame, double kr, double kb);

}  // namespace streamgan
