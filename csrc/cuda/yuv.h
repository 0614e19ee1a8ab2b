// yuv_to_bgr and bgr_to_yuv on a GPU: pictures in 4:2:0 with interleaved chroma, as video hardware has them (NV12,
// P010).
//
// With the weights kr and kb of a matrix (ITU-T H.273, table 4) and kg = 1 - kr - kb; all values in levels of 255:
//
//   Y' = (Y - 16) 255/219, C' = (C - 128) 255/224   in limited range; Y' = Y, C' = C - 128 in full range
//   B = Y' + 2 (1 - kb) Cb'      R = Y' + 2 (1 - kr) Cr'
//   G = Y' - 2 kb (1 - kb) / kg Cb' - 2 kr (1 - kr) / kg Cr'
//
// and the inverse of that. Samples of more than 8 bits are in the upper bits of 16 (P010: value * 64).
//
// Chroma is as FFmpeg's swscale has it with the flags of engine/video/color.py. On the way to BGR both pixels 2i, 2i +
// 1 of a row take sample i, or 3/4 of i and 1/4 of i + 1 where samples are sited at the left (H.273, figure 1: type 0);
// odd rows 2i + 1 take row i, even rows 2i the mean of i - 1 and i. On the way to YUV a sample is the mean of 3x3
// pixels around column 2i and row 2i + 1, weighted 1 2 1 both ways. Pictures go on beyond their edges with the
// outermost sample.
#pragma once

#include <stdint.h>

#include "csrc/cuda/limits.h"

namespace streamgan {

struct YuvColor {
  double kr, kb;
  bool full_range;
};

struct YuvToBgrParameters {
  const void* luma;                            // [height][width]
  const void* chroma;                          // [(height + 1) / 2][(width + 1) / 2][2]
  int64_t luma_row_stride, chroma_row_stride;  // samples
  uint8_t* bgr;                                // [height][width][3]
  int height, width, bits;                     // 8: samples are uint8_t; 9 to 16: uint16_t
  bool left_sited;
  YuvColor color;
};

struct BgrToYuvParameters {
  const uint8_t* bgr;                      // [height][width][3], sides even
  int64_t bgr_row_stride, yuv_row_stride;  // bytes
  uint8_t* yuv;                            // [height * 3 / 2][width]: luma, then chroma
  int height, width;
  YuvColor color;
};

// Both return null, or what is wrong, and are asynchronous on `stream`.
const char* launch_yuv_to_bgr(const YuvToBgrParameters& parameters, Stream stream);
const char* launch_bgr_to_yuv(const BgrToYuvParameters& parameters, Stream stream);

}  // namespace streamgan
