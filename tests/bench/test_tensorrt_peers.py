"""TensorRT as a peer: captured in a CUDA graph, as ours is. The library and the device are stand-ins on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.peers import Spec
from bench.peers.tensorrt_engine import load_engine
from tests.engine.cuda_stand_in import cuda_on_the_host
from tests.engine.small_generators import SIZES, small_generator
from tests.engine.tensorrt_stand_in import DynamicShapesKernelSpecializationStrategy, Engine, tensorrt_module


@pytest.mark.parametrize("is_rtx", [False, True])
def test_it_runs_in_a_graph(is_rtx: bool, tmp_path: Path) -> None:
    generator = small_generator("resnet")
    engine = Engine(generator, (1, 3, *SIZES[0]))
    engine.input_name, engine.output_name = "input", "output"
    trt: Any = tensorrt_module(engine=engine)
    trt.Logger = lambda level: None
    trt.Logger.ERROR = 1  # type: ignore[attr-defined]
    if not is_rtx:
        del trt.DynamicShapesKernelSpecializationStrategy
    (tmp_path / "generator.engine").write_bytes(b"engine")
    example = np.random.default_rng(0).random((1, 3, *SIZES[0]), dtype=np.float32)
    with cuda_on_the_host() as captures:
        engine.capturing = lambda: captures.running
        session = load_engine(trt, tmp_path, example, Spec("fp32", 1, "cuda"))
        output = session.fetch(session.run())
    assert len(captures.modes) == 1
    np.testing.assert_allclose(output, generator(torch.from_numpy(example)).numpy(), rtol=1e-4, atol=1e-4)
    (context,) = engine.contexts
    assert len(context.streams) > 1  # it has run before it is captured
    chosen = getattr(context.config, "dynamic_shapes_kernel_specialization_strategy", None)
    assert is_rtx == (chosen is DynamicShapesKernelSpecializationStrategy.EAGER)
