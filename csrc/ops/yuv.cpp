// Schemas of streamgan::yuv_to_bgr and streamgan::bgr_to_yuv. On the CPU swscale converts videos.
#include "csrc/ops/yuv.h"

namespace streamgan {

STABLE_TORCH_LIBRARY_FRAGMENT(streamgan, library) {
  library.def(kYuvToBgrSchema);
  library.def(kBgrToYuvSchema);
}

}  // namespace streamgan
