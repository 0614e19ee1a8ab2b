"""Every tolerance the tests use, with its reason."""

# Parity contract: PSNR in dB of the uint8 output against eager float32 on the same real frame.
PARITY_PSNR_DB = {"fp32": 60.0, "bf16": 45.0, "fp16": 45.0, "fast": 40.0}

# A generator loaded from a file against the independent definition that wrote the file: the same float32 arithmetic,
# possibly in another order (channels_last against contiguous).
CHECKPOINT_ATOL = 1e-5

# Flat colour bars after YUV -> BGR or BGR -> YUV -> BGR, in levels of 255: chroma is rounded to 8 bits (up to 1.9
# levels in blue for BT.2020, limited range), swscale's fixed point adds 1 or 2, the encoder at crf 1 one more.
COLOR_BARS_LEVELS = 5
