#include "csrc/ops/yuv.h"

namespace streamgan {
namespace {

constexpr int64_t kRowBytes = 256;  // what hardware encoders' rows are multiples of

// Both within (0, 1), and something is left for green.
void check_weights(const char* op, double kr, double kb) {
  check(kr > 0 && kb > 0 && kr + kb < 1, op, ": kr=", kr, ", kb=", kb,
        " are no weights of red and blue: above 0, and below 1 together");
}

// The stride of an axis of size 1 means nothing.
bool has_packed_pixels(const Tensor& picture) {
  const bool is_dense = picture.stride(2) == 1 || picture.size(2) == 1;
  return is_dense && (picture.stride(1) == picture.size(2) || picture.size(1) == 1);
}

}  // namespace

YuvToBgrTask yuv_to_bgr_task(const Tensor& luma, const Tensor& chroma, double kr, double kb, int64_t bits) {
  const bool is_bytes = luma.scalar_type() == ScalarType::Byte;
  check(is_bytes || luma.scalar_type() == ScalarType::UInt16, kYuvToBgr, ": luma must be uint8 or uint16, not ",
        torch::headeronly::toString(luma.scalar_type()));
  check(chroma.scalar_type() == luma.scalar_type() && chroma.device() == luma.device(), kYuvToBgr,
        ": chroma must be of the type and on the device of luma");
  check(luma.dim() == 2 && luma.size(0) > 0 && luma.size(1) > 0, kYuvToBgr, ": luma must be [H, W], not ",
        shape_of(luma));
  const int64_t height = luma.size(0), width = luma.size(1);
  check(chroma.dim() == 3 && chroma.size(0) == (height + 1) / 2 && chroma.size(1) == (width + 1) / 2 &&
            chroma.size(2) == 2,
        kYuvToBgr, ": chroma of luma ", shape_of(luma), " must be [", (height + 1) / 2, ", ", (width + 1) / 2,
        ", 2], not ", shape_of(chroma));
  check(is_bytes ? bits == 8 : bits > 8 && bits <= 16, kYuvToBgr, ": bits=", bits,
        " must be 8 in uint8, and 9 to 16 in uint16");
  check_weights(kYuvToBgr, kr, kb);
  const bool is_row_dense = luma.stride(1) == 1 || width == 1;
  return {is_row_dense ? luma : torch::stable::contiguous(luma),
          has_packed_pixels(chroma) ? chroma : torch::stable::contiguous(chroma),
          torch::stable::empty({height, width, 3}, ScalarType::Byte, std::nullopt, luma.device()), height, width};
}

BgrToYuvTask bgr_to_yuv_task(const Tensor& frame, double kr, double kb) {
  check(frame.scalar_type() == ScalarType::Byte, kBgrToYuv, ": the frame must be uint8, not ",
        torch::headeronly::toString(frame.scalar_type()));
  check(frame.dim() == 3 && frame.size(2) == 3, kBgrToYuv, ": the frame must be [H, W, 3], not ", shape_of(frame));
  const int64_t height = frame.size(0), width = frame.size(1);
  check(height > 0 && width > 0 && height % 2 == 0 && width % 2 == 0, kBgrToYuv, ": the frame, ", shape_of(frame),
        ", must have even sides; pad it");
  check_weights(kBgrToYuv, kr, kb);
  const int64_t row_bytes = (width + kRowBytes - 1) / kRowBytes * kRowBytes;
  Tensor rows = torch::stable::empty({height * 3 / 2, row_bytes}, ScalarType::Byte, std::nullopt, frame.device());
  return {has_packed_pixels(frame) ? frame : torch::stable::contiguous(frame), torch::stable::narrow(rows, 1, 0, width),
          height, width};
}

}  // namespace streamgan
