"""ncnn, converted by pnnx: Winograd convolutions and packed layout (its defaults), float32 or bfloat16 storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import Session, Spec, missing, only_cpu


def unavailable(device: str, spec: Spec) -> str | None:
    """The runtime and its converter."""
    return only_cpu(device) or missing("ncnn", "ncnn") or missing("pnnx", "pnnx")


def convert(generator: Any, example: np.ndarray, folder: Path, spec: Spec) -> None:
    """Traces, and converts with pnnx, which writes beside the traced file."""
    import pnnx
    import torch

    with torch.no_grad():
        pnnx.export(generator, str(folder / "generator.pt"), (torch.from_numpy(example),), fp16=False)
    if not (folder / "generator.ncnn.bin").exists():
        raise RuntimeError("pnnx wrote no ncnn model")


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """A network; each frame is one extractor, as ncnn's examples do it."""
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = spec.threads
    network.opt.use_bf16_storage = spec.precision == "bf16"
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    layers, weights = str(folder / "generator.ncnn.param"), str(folder / "generator.ncnn.bin")
    if network.load_param(layers) or network.load_model(weights):
        raise RuntimeError("ncnn can't load the converted model")
    image = ncnn.Mat(np.ascontiguousarray(example[0])).clone()  # without it, a view of memory that is gone

    def run() -> Any:
        extractor = network.create_extractor()
        extractor.input("in0", image)
        status, output = extractor.extract("out0")
        if status:
            raise RuntimeError(f"ncnn: extract failed with status {status}")
        return output

    return Session(run, lambda output: np.array(output, dtype=np.float32)[None])
