"""Every tolerance the tests use, with its reason."""

# Parity contract: PSNR in dB of the uint8 output against eager float32 on the same real frame.
PARITY_PSNR_DB = {"fp32": 60.0, "bf16": 45.0, "fp16": 45.0, "fast": 40.0}

# A generator loaded from a file against the independent definition that wrote the file: the same float32 arithmetic,
# possibly in another order (channels_last against contiguous).
CHECKPOINT_ATOL = 1e-5

# Flat colour bars after YUV -> BGR or BGR -> YUV -> BGR, in levels of 255: chroma is rounded to 8 bits (up to 1.9
# levels in blue for BT.2020, limited range), swscale's fixed point adds 1 or 2, the encoder at crf 1 one more.
COLOR_BARS_LEVELS = 5

# Frames from the hardware decoder against those of the software decoder, PSNR in dB: H.264 defines every bit of the
# picture, so what may differ is the conversion from NV12, which rounds as the one from planes does.
HARDWARE_DECODER_DB = 60.0
# The hardware encoder's picture against the one encoded. Libx264 at its default keeps 44 dB of the same test picture.
HARDWARE_ENCODER_DB = 38.0

# yuv_to_bgr against swscale, whose tables and sums are cut off where ours are rounded: largest difference in levels of
# 255, and PSNR in dB. Measured are 3 levels, 46 dB on real frames and 45 on noise; and up to 30 levels in the last two
# rows, in which swscale mixes chroma otherwise: they are left out of the largest.
SWSCALE_BGR_LEVELS = 4
SWSCALE_BGR_DB = 44.0
# bgr_to_yuv against swscale: both round.
SWSCALE_YUV_LEVELS = 1
# A device's frames against the software way's, each decoded and converted from the same file: as SWSCALE_BGR_DB.
DEVICE_FRAMES_DB = 44.0
# The same after a small generator, which magnifies what differs: 34 are measured, and 19 of two frames that follow each
# other.
DEVICE_FRAMES_TRANSLATED_DB = 30.0

# The fused generator against the modules in float64: signal over noise in dB. Float32 sums of up to 8192 products, and
# Winograd's transforms, leave 95 dB and more on the small generators of the tests.
FUSED_FP32_DB = 90.0
# Winograd's tiles of 8x8 outputs, in two blocks of a small generator, leave 89.
FUSED_TILES8_DB = 85.0
# In bfloat16 eight bits of each factor are left, through up to a dozen layers.
FUSED_BF16_DB = 25.0
# Winograd's larger tiles magnify that.
FUSED_FAST_DB = 20.0
# With bfloat16 between the layers and float32 within, rounding each output leaves 39 dB and more on the same.
FUSED_HALVES_DB = 38.0
# On a matrix unit float32 is the sum of three products of bfloat16, which leaves out what is 2^-16 of a product: 85.7
# dB and more on the small generators of the tests, 90 on all but the smallest pictures.
MATRIX_FP32_DB = 84.0
# In bfloat16, by which it may be further from float64 than PyTorch in bfloat16. It is up to 4 dB nearer on most small
# generators, but keeps dense blocks in bfloat16, where PyTorch has the same: 1.1 dB less are measured.
MATRIX_BF16_BELOW_EAGER_DB = 2.0
# And by itself, on a few layers: 35.7 dB and more.
MATRIX_BF16_DB = 34.0
# Where there is no fused multiplication and addition, norms and statistics round otherwise, and bfloat16 is another
# neighbour here and there.
MATRIX_OTHER_ROUNDING_DB = {"fp32": 84.0, "bf16": 34.0}
# Its results may depend on the number of threads by the rounding of sums that are split elsewhere, relative to the
# largest value.
FUSED_THREADS_RTOL = 1e-4

# instance_norm_act against float64, relative to the largest value: rounding of the result, and of sums over a plane.
INSTANCE_NORM_RTOL = {"float32": 2e-5, "bfloat16": 2e-2, "float16": 2e-3}
# A million pixels around 1000 with a deviation of 1: float32 values there are 6e-5 apart.
INSTANCE_NORM_LARGE_MEAN_RTOL = 2e-3

# A tanh may differ in its last place from PyTorch's, and a value just at a half then goes to the other neighbour.
TANH_LEVELS = 1

# A generator with fused norms in float32 against the modules in float64, relative to the largest value: the modules in
# float32 differ as much, 5e-6 at most on the small generators of the tests.
NORM_FUSED_RTOL = 2e-5
# The same in bfloat16: signal over noise in dB, with every activation rounded, through up to two dozen layers.
NORM_FUSED_BF16_DB = 25.0

# A flash and the beep that begins with it, milliseconds apart: a frame at 25 a second, which nobody notices.
SYNC_MS = 40.0

# What an encoder's default quality keeps of a smooth picture with one bright square. The limit is chroma at half the
# resolution, and the 256 colours of a GIF.
ENCODER_DEFAULT_DB = 30.0

# Colour bars through a matrix that is converted in floating point, in levels of 255: 10-bit samples and formulas with
# four digits leave 2, and constant luminance magnifies that in dark blue.
MATRIX_LEVELS = 4
