"""`instance_norm_act` as a plugin of TensorRT: what is declared, what is run, and when it is taken.

TensorRT's plugin interface is a stand-in that reads the functions' types as the real one does; what a plugin runs are
the CUDA kernels, emulated, on memory as TensorRT hands it over.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import engine_files, reference
from engine.backends import BACKENDS, tensorrt, tensorrt_plugin
from engine.cache import EngineCache
from engine.errors import BackendError
from engine.fused.norms import InstanceNormAct, fuse_norms
from tests.cuda.emulated import H100, emulate, emulated_library
from tests.engine.small_generators import CONFIGS, SIZES, parity_db, picture, small_generator
from tests.ops.cases import assert_norm_close
from tests.tolerances import INSTANCE_NORM_RTOL, PARITY_PSNR_DB

HALF = torch.zeros(1, 3, *SIZES[0], dtype=torch.float16)


class TensorDesc:
    """What TensorRT tells of a tensor while it builds."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, SimpleNamespace(name=dtype)
        self.shape_expr: Any = shape

    def like(self) -> TensorDesc:
        return TensorDesc(self.shape, self.dtype.name)


class PluginTensor:
    """What TensorRT hands to a plugin that runs."""

    def __init__(self, tensor: Tensor, order: str = "LINEAR") -> None:
        self.shape, self.data_ptr = tuple(tensor.shape), tensor.data_ptr()
        self.dtype = SimpleNamespace(name={torch.float32: "FLOAT", torch.float16: "HALF"}[tensor.dtype])
        self.format = SimpleNamespace(name=order)


class Registry:
    """Takes the place of the module tensorrt.plugin."""

    TensorDesc, Tensor = TensorDesc, PluginTensor
    ShapeExprs = SimpleNamespace(from_tuple=tuple)

    class AutoTuneCombination:
        def __init__(self, io_types: str, layouts: str) -> None:
            self.types = [name.strip() for name in io_types.split(",")]
            self.orders = [name.strip() for name in layouts.split(",")]

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, Callable[..., Any]]] = {}
        self.op = SimpleNamespace(streamgan=SimpleNamespace())

    def _part(self, kind: str, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def keep(function: Callable[..., Any]) -> Callable[..., Any]:
            assert kind == "register" or name in self.parts
            self.parts.setdefault(name, {})[kind] = function
            if kind == "register":
                setattr(self.op.streamgan, name.split("::")[1], lambda *tensors, **values: (name, tensors, values))
            return function

        return keep

    def register(self, name: str) -> Any:
        return self._part("register", name)

    def autotune(self, name: str) -> Any:
        return self._part("autotune", name)

    def impl(self, name: str) -> Any:
        return self._part("impl", name)


class Converters:
    """Takes the place of Torch-TensorRT's converters."""

    def __init__(self) -> None:
        self.known: dict[Any, Callable[..., Any]] = {}
        self.constants: list[str] = []

    def dynamo_tensorrt_converter(self, target: Any, *, supports_dynamic_shapes: bool) -> Any:
        assert supports_dynamic_shapes
        return lambda function: self.known.setdefault(target, function)

    def get_trt_tensor(self, context: Any, value: Any, name: str) -> Any:
        self.constants.append(name)
        return value


@pytest.fixture
def stand_ins() -> Iterator[tuple[Registry, Converters]]:
    """In the place of TensorRT while the plugins are registered."""
    registry, converters = Registry(), Converters()
    conversion = SimpleNamespace(dynamo_tensorrt_converter=converters.dynamo_tensorrt_converter)
    utilities = SimpleNamespace(get_trt_tensor=converters.get_trt_tensor)
    modules: dict[str, Any] = {
        "tensorrt": SimpleNamespace(plugin=registry),
        "tensorrt.plugin": registry,
        "torch_tensorrt": ModuleType("torch_tensorrt"),
        "torch_tensorrt.dynamo": ModuleType("dynamo"),
        "torch_tensorrt.dynamo.conversion": conversion,
        "torch_tensorrt.dynamo.conversion.converter_utils": utilities,
    }
    forget_what_is_registered()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        tensorrt_plugin.register()
        assert not converters.known  # an engine is loaded without Torch-TensorRT
        tensorrt_plugin.register_converter()
    yield registry, converters
    forget_what_is_registered()


def forget_what_is_registered() -> None:
    tensorrt_plugin._register_once.cache_clear()
    tensorrt_plugin._register_converter_once.cache_clear()


@pytest.mark.parametrize("name", tensorrt_plugin.PLUGINS)
def test_what_is_declared(name: str, stand_ins: tuple[Registry, Converters]) -> None:
    """As TensorRT reads it: inputs, then attributes, types that are types, no defaults.

    Arrays are refused by TensorRT 11.0 and 11.1 on Python 3.13 and with NumPy 2.5, numbers with NumPy 2.4.
    """
    parts = stand_ins[0].parts[f"streamgan::{name}"]
    inputs = list(tensorrt_plugin.PLUGINS[name])
    described = inspect.signature(parts["register"])
    assert list(described.parameters) == [*inputs, "settings"]
    assert list(inspect.signature(parts["autotune"]).parameters) == [*inputs, "outputs"]
    assert list(inspect.signature(parts["impl"]).parameters) == [*inputs, "settings", "outputs", "stream"]
    for kind, part in parts.items():
        for parameter in inspect.signature(part).parameters.values():
            assert not isinstance(parameter.annotation, str), kind
            assert parameter.default is inspect.Parameter.empty
            if parameter.name in inputs:
                assert parameter.annotation is (PluginTensor if kind == "impl" else TensorDesc)
            if parameter.name == "settings":
                assert parameter.annotation is str
    assert described.return_annotation is TensorDesc


@pytest.mark.parametrize("name", tensorrt_plugin.PLUGINS)
def test_the_output_has_the_padding_around_it(name: str, stand_ins: tuple[Registry, Converters]) -> None:
    describe = stand_ins[0].parts[f"streamgan::{name}"]["register"]
    inputs = [TensorDesc((2, 16, 9, 12), "HALF") for _ in tensorrt_plugin.PLUGINS[name]]
    output = describe(*inputs, settings='{"pad": [1, 2, 3, 4]}')
    assert output.shape_expr == (2, 16, 9 + 3 + 4, 12 + 1 + 2)
    assert output.dtype.name == "HALF"
    assert inputs[0].shape_expr == (2, 16, 9, 12)


@pytest.mark.parametrize(
    ("dtype", "channels", "orders"),
    [("HALF", 16, ["LINEAR", "HWC8"]), ("HALF", 12, ["LINEAR"]), ("FLOAT", 12, ["LINEAR", "HWC"])],
)
def test_the_memory_orders_it_takes(
    dtype: str, channels: int, orders: list[str], stand_ins: tuple[Registry, Converters]
) -> None:
    """HWC8 rounds channels up to eights, which the operator does not know."""
    forms = stand_ins[0].parts["streamgan::instance_norm_act_residual"]["autotune"]
    descriptions = [TensorDesc((1, channels, 4, 4), dtype), *[TensorDesc((channels,), "FLOAT")] * 2]
    found = forms(*descriptions, descriptions[0], (descriptions[0],))
    kind = {"HALF": "FP16", "FLOAT": "FP32"}[dtype]
    assert [form.orders for form in found] == [[order, "LINEAR", "LINEAR", order, order] for order in orders]
    assert all(form.types == [kind, "FP32", "FP32", kind, kind] for form in found)


@pytest.mark.parametrize("order", ["LINEAR", "interleaved"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", tensorrt_plugin.PLUGINS)
def test_it_runs_on_memory_of_tensorrts(
    name: str,
    dtype: torch.dtype,
    order: str,
    stand_ins: tuple[Registry, Converters],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emulated_library()
    emulate(H100)
    streams: list[int] = []
    monkeypatch.setattr(torch.ops, "streamgan", torch.ops.streamgan_emulated)
    monkeypatch.setattr(tensorrt_plugin, "_tensor_at", tensor_on_the_host)
    monkeypatch.setattr(
        tensorrt_plugin, "_on_stream", lambda stream: streams.append(stream) or contextlib.nullcontext()
    )
    layout = torch.contiguous_format if order == "LINEAR" else torch.channels_last
    spelled = {torch.float32: "HWC", torch.float16: "HWC8"}[dtype] if order != "LINEAR" else order
    source = torch.Generator().manual_seed(0)

    def pixels() -> Tensor:
        return torch.randn(2, 16, 9, 12, generator=source).to(dtype).contiguous(memory_format=layout)

    input, residual = pixels(), pixels()
    weight, bias = torch.rand(16, generator=source), torch.rand(16, generator=source)
    output = torch.full((2, 16, 12, 14), math.nan, dtype=dtype).contiguous(memory_format=layout)
    inputs = [PluginTensor(input, spelled), PluginTensor(weight), PluginTensor(bias)]
    has_residual = name.endswith("residual")
    if has_residual:
        inputs.append(PluginTensor(residual, spelled))
    _, _, attributes = tensorrt_plugin.plugin_call(input, weight, bias, None, 1e-5, 0.2, False, [1, 1, 2, 1])
    run = stand_ins[0].parts[f"streamgan::{name}"]["impl"]
    run(*inputs, *attributes.values(), [PluginTensor(output, spelled)], stream=77)
    expected = reference.instance_norm_act(
        input.double(),
        weight=weight.double(),
        bias=bias.double(),
        residual=residual.double() if has_residual else None,
        activation="leaky_relu",
        pad=(1, 1, 2, 1),
    )
    assert_norm_close(output, expected, INSTANCE_NORM_RTOL[str(dtype).removeprefix("torch.")])
    assert streams == [77]


def tensor_on_the_host(pointer: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(pointer)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class Network:
    def __init__(self) -> None:
        self.plugins: list[Any] = []

    def add_plugin(self, plugin: Any, *, aot: bool) -> Any:
        assert not aot
        self.plugins.append(plugin)
        return SimpleNamespace(get_output=lambda place: f"output {place} of plugin {len(self.plugins)}")


def test_every_call_becomes_a_plugin(stand_ins: tuple[Registry, Converters]) -> None:
    _, converters = stand_ins
    target = torch.ops.streamgan.instance_norm_act.default
    fused = fuse_norms(small_generator("resnet-nearest")).half()
    program = torch.export.export(fused, (HALF,))
    calls = [node for node in program.graph.nodes if node.target is target]
    norms = sum(isinstance(layer, InstanceNormAct) for layer in fused.modules())
    assert len(calls) == norms > 5
    network = Network()
    weights = {**program.state_dict, **program.constants}
    names = {**program.graph_signature.inputs_to_buffers, **program.graph_signature.inputs_to_parameters}
    for call in calls:
        args = [weights[names[arg.name]] if getattr(arg, "name", "") in names else arg for arg in call.args]
        args[0] = call.args[0].meta["val"]
        (output,) = converters.known[target](SimpleNamespace(net=network), target, tuple(args), {}, call.name)
        assert output.startswith("output 0")
    kinds = [name for name, _, _ in network.plugins]
    residuals = sum(call.args[3] is not None for call in calls)
    assert kinds.count("streamgan::instance_norm_act_residual") == residuals > 0
    for (_, inputs, values), call in zip(network.plugins, calls, strict=True):
        _, _, _, _, epsilon, slope, over_channels, pad = call.args
        (settings,) = values.values()
        assert type(settings) is str
        told = {"epsilon": epsilon, "slope": slope, "over_channels": over_channels, "pad": list(pad)}
        assert json.loads(settings) == told
        channels = inputs[0].shape[1]
        assert [tuple(value.shape) for value in inputs[1:3]] == [(channels,), (channels,)]
        assert all(value.dtype == torch.float32 for value in inputs[1:3])


def test_a_norm_without_weights_gets_those_that_do_nothing() -> None:
    name, values, _ = tensorrt_plugin.plugin_call(HALF, None, None, None, 1e-5, 0.0, False, [0, 0, 0, 0])
    assert name == "instance_norm_act"
    assert (values["weight"].tolist(), values["bias"].tolist()) == ([1.0] * 3, [0.0] * 3)


def test_without_tensorrt_it_says_what_is_missing() -> None:
    if BACKENDS["tensorrt"].unavailable(torch.device("cuda")) is None:
        pytest.skip("TensorRT is installed")
    assert "pip install 'streamgan[tensorrt]'" in (tensorrt_plugin.unavailable() or "")
    with pytest.raises(BackendError, match="not installed"):
        tensorrt.with_plugin(object(), small_generator("resnet"))


def test_a_tensorrt_that_does_not_load_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    reason = "tensorrt is installed, but can't be loaded: libnvinfer.so.11: cannot open shared object file"
    assert tensorrt_plugin.unavailable() == reason


def test_a_generator_without_norms_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_plugin, "unavailable", lambda: None)
    features = SimpleNamespace(ENABLED_FEATURES=SimpleNamespace(qdp_plugin=True))
    with pytest.raises(BackendError, match="has no InstanceNorm"):
        tensorrt.with_plugin(features, small_generator("rrdbnet"))


def test_a_tensorrt_that_does_not_take_them_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that they are asked for: a name can't be taken twice."""
    forget_what_is_registered()
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", None)
    for _ in range(2):
        with pytest.raises(BackendError, match=r"^TensorRT does not take our plugins: [^\n]+$"):
            tensorrt_plugin.register()
    forget_what_is_registered()


@pytest.mark.parametrize("fails", ["", "build", "load"])
def test_the_cache_takes_engines_with_operators_where_they_can_be_built(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchscript = BACKENDS["torchscript"]
    traced = torchscript.build

    def build(
        generator: Any, example: Tensor, precision: str, path: Path, *, operators: bool = False
    ) -> dict[str, Any]:
        if not operators:
            return traced(generator, example, precision, path)
        path.write_bytes(b"half an engine")
        if fails == "build":
            raise BackendError("an operator is not to be had")
        facts = traced(generator, example, precision, path)
        if fails == "load":
            path.write_bytes(b"nothing that loads")
        return facts

    monkeypatch.setattr(torchscript, "prefers_operators", True)
    monkeypatch.setattr(torchscript, "build", build)
    example = torch.zeros(1, 3, *SIZES[0])
    entry = engine_files.build_into(
        EngineCache(tmp_path / "cache"), small_generator("resnet"), "0", torchscript, "fp32", example
    )
    assert ("operators" in entry.facts) == (not fails)
    assert torchscript.load(entry.folder / entry.main, example, "fp32")(example).shape == example.shape


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith(("resnet", "transformer"))])
def test_engines_with_it_run_on_the_gpu(name: str, precision: str, tmp_path: Path) -> None:
    device = torch.device("cuda")
    backend = BACKENDS["tensorrt"]
    if reason := backend.unavailable(device) or tensorrt_plugin.unavailable():
        pytest.skip(reason)
    generator, path = small_generator(name).to(device), tmp_path / "generator.plan"
    image = picture(generator, *SIZES[0]).to(device)
    half = image.to(torch.float16 if precision == "fp16" else torch.float32)
    backend.build(small_generator(name).to(device), half, precision, path, operators=True)
    run = backend.load(path, half, precision)
    assert parity_db(generator, image, run(half)) >= PARITY_PSNR_DB[precision]
