"""TensorRT for RTX, strongly typed, in float32 without TF32 or in float16."""

from __future__ import annotations

from bench.peers.tensorrt_engine import peer

PER_PRECISION = True
unavailable, convert, load = peer("tensorrt_rtx")
