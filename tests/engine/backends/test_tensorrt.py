"""Torch-TensorRT: what can be checked without it and without a GPU; the whole of it where both are there."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.backends import BACKENDS
from engine.backends import tensorrt as module
from engine.backends.tensorrt_layers import check_layers, engine_dtype, layers_in_json, profile_shapes
from engine.errors import BackendError
from engine.generators import Generator, UNetConfig, build
from tests.engine.small_generators import CONFIGS, SIZES, parity_db, picture, small_generator
from tests.tolerances import PARITY_PSNR_DB

backend = BACKENDS["tensorrt"]
HALF = torch.zeros(1, 3, *SIZES[0], dtype=torch.float16)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch_tensorrt" else find(name))
    for device in ("cpu", "cuda"):
        reason = backend.unavailable(torch.device(device))
        assert reason is not None
        assert reason.startswith("torch_tensorrt")
        assert reason.endswith("not installed: pip install 'streamgan[tensorrt]'")
        assert backend.unbuildable(torch.device(device)) == reason


def test_it_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert backend.unavailable(torch.device("cpu")) == "needs a CUDA device"
    assert backend.unavailable(torch.device("cuda")) is None


def compile_of_2_12(exported_program: Any, inputs: Any = None, *, use_explicit_typing: bool = False) -> None:
    """The signature of torch_tensorrt.dynamo.compile up to 2.12, as far as the options depend on it."""


def compile_of_2_13(exported_program: Any, inputs: Any = None, **kwargs: Any) -> None:
    """The same from 2.13 on, where every network is strongly typed."""


@pytest.mark.parametrize(
    ("compile_function", "own"), [(compile_of_2_12, {"use_explicit_typing": True}), (compile_of_2_13, {})]
)
def test_options_ask_for_one_strongly_typed_engine(compile_function: Any, own: dict[str, bool]) -> None:
    options = module.compile_options(SimpleNamespace(dynamo=SimpleNamespace(compile=compile_function)), HALF)
    shared = {"device", "disable_tf32", "require_full_compilation", "min_block_size", "immutable_weights"}
    assert options.keys() == shared | own.keys()
    assert options["require_full_compilation"]
    assert options["disable_tf32"]
    assert own.items() <= options.items()
    assert "enabled_precisions" not in options  # from 2.13 on it does nothing and says nothing


class LoudDebugger:
    """Does to the root logger what Torch-TensorRT's debugger does."""

    def __init__(self, **options: Any) -> None:
        assert options == {"log_level": "error", "engine_builder_monitor": False}

    def __enter__(self) -> None:
        logging.getLogger().handlers[:] = [logging.StreamHandler()]
        logging.getLogger().setLevel("ERROR")

    def __exit__(self, *_: object) -> None:
        pass


def test_compiling_leaves_the_log_as_it_was() -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    with module._detailed(SimpleNamespace(dynamo=SimpleNamespace(Debugger=LoudDebugger))):
        assert root.level == logging.ERROR
    assert (root.handlers, root.level) == before


# One layer of each kind as TensorRT's documentation prints them: version 10, and 11 with its other keys.
OLD_LAYER = {
    "Name": "conv1",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "x", "Dimensions": [1, 64, 56, 56], "Format/Datatype": "Channel major FP16 format"}],
    "Outputs": [{"Name": "y", "Dimensions": [1, 64, 56, 56], "Format/Datatype": "Half"}],
}
NEW_LAYER = {
    "Name": "conv1",
    "LayerType": "correlation",
    "Inputs": [{"Name": "x", "Dimensions": [1, 64, 56, 56], "Datatype": "Half", "Format": "(NHWC) Channel major"}],
    "Constants": [{"Name": "a", "Dimensions": [1], "Datatype": "Float", "Format": "(Linear)"}],
    "Outputs": [{"Name": "y", "Dimensions": [1, 64, 56, 56], "Datatype": "Half", "Format": "(NHWC)"}],
}
NORM = {
    "Name": "norm",
    "LayerType": "kgen",
    "Inputs": [{"Name": "y", "Dimensions": [1, 64, 56, 56], "Datatype": "Half"}],
    "Outputs": [{"Name": "sums", "Dimensions": [1, 64, 1, 1], "Datatype": "Float"}],
}


@pytest.mark.parametrize("layer", [OLD_LAYER, NEW_LAYER])
def test_layers_are_read_back(layer: dict[str, Any]) -> None:
    layers = layers_in_json(json.dumps({"Layers": [layer, NORM]}))
    assert check_layers(layers, "HALF") == {"layers": 2, "types": {layer["LayerType"]: 1, "kgen": 1}}
    with pytest.raises(BackendError, match=rf"a {layer['LayerType']} of the engine is in .*, not in FLOAT"):
        check_layers(layers, "FLOAT")


@pytest.mark.parametrize("text", ['{"Layers": ["conv1", "conv2"]}', '{"Layers": [{"Name": "x"}]}', "{}", "[]", "", "1"])
def test_an_engine_without_details_is_refused(text: str) -> None:
    with pytest.raises(BackendError, match="does not tell its layers' types"):
        layers_in_json(text)


def test_an_engine_without_convolutions_is_refused() -> None:
    with pytest.raises(BackendError, match="no convolutions"):
        check_layers(layers_in_json(json.dumps({"Layers": [NORM]})), "HALF")


def test_precisions() -> None:
    assert engine_dtype("fp16") == engine_dtype("fast") == torch.float16
    assert engine_dtype("fp32") == torch.float32
    with pytest.raises(BackendError, match=r"fp32, fp16 and fast .*, not in bf16"):
        engine_dtype("bf16")


def test_a_profile_holds_its_example_and_multiples() -> None:
    resnet, unet = small_generator("resnet"), build(UNetConfig(width=4, downsamplings=8))
    assert profile_shapes(resnet, torch.zeros(1, 3, 720, 1280)) == (
        (1, 3, 64, 64),
        (1, 3, 720, 1280),
        (1, 3, 2160, 3840),
    )
    assert profile_shapes(resnet, torch.zeros(2, 3, 32, 4000)) == ((2, 3, 32, 32), (2, 3, 32, 4000), (2, 3, 2160, 4000))
    assert profile_shapes(unet, torch.zeros(1, 3, 512, 512)) == (
        (1, 3, 256, 256),
        (1, 3, 512, 512),
        (1, 3, 2304, 3840),
    )


class Blend(Generator):
    """A generator that no engine is part of."""

    def forward(self, image: Tensor) -> Tensor:
        return image * 0.5


def test_a_program_without_an_engine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "generator.pt2"
    torch.export.save(torch.export.export(Blend(), (HALF.float(),)), path)
    with pytest.raises(BackendError, match=r"0 TensorRT engines and 1 calls \(aten\.mul"):
        module.check_program(module._read(path), "HALF")


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_an_error(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "generator.pt2"
    torch.export.save(torch.export.export(Blend(), (HALF.float(),)), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(BackendError, match=r"^Torch-TensorRT can't load generator\.pt2: [^\n]+: build it again$"):
        module._read(path)


def test_a_missing_or_foreign_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "generator.pt2"
    with pytest.raises(BackendError, match=r"^Torch-TensorRT can't load generator\.pt2: [^\n]+$"):
        module._read(path)
    path.write_text("<html></html>")
    with pytest.raises(BackendError, match=r"^Torch-TensorRT can't load generator\.pt2: [^\n]+$"):
        module._read(path)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_engines_run_on_the_gpu(name: str, precision: str, tmp_path: Path) -> None:
    device = torch.device("cuda")
    reason = backend.unavailable(device)
    if reason:
        pytest.skip(reason)
    generator, path = small_generator(name).to(device), tmp_path / "generator.pt2"
    image = picture(generator, *SIZES[0]).to(device)
    half = image.to(torch.float16 if precision == "fp16" else torch.float32)
    facts = backend.build(small_generator(name).to(device), half, precision, path)
    assert facts["layers"] > 0
    run = backend.load(path, half, precision)
    assert parity_db(generator, image, run(half)) >= PARITY_PSNR_DB[precision]
    with pytest.raises(BackendError, match="build it again"):
        backend.load(path, torch.zeros(1, 3, *SIZES[1], dtype=half.dtype, device=device), precision)
