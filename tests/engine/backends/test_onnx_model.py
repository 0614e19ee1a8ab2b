"""ONNX files: one node per layer, nothing that depends on the size, and the arithmetic of the modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.backends.base import INPUT, OUTPUT
from engine.errors import BackendError
from engine.generators import Generator, ResNetConfig, build
from tests.engine.small_generators import CONFIGS, SIZES, parity_db, picture, small_generator
from tests.tolerances import PARITY_PSNR_DB

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from engine.backends.onnx_model import count_nodes, export_onnx, onnx_model  # noqa: E402

NODES = {
    "resnet": {
        "Pad": 6,
        "Conv": 8,
        "InstanceNormalization": 9,
        "Relu": 7,
        "Add": 2,
        "ConvTranspose": 2,
        "Tanh": 1,
    },
    "resnet-blur": {
        "Pad": 12,
        "Conv": 10,
        "InstanceNormalization": 7,
        "Relu": 6,
        "Add": 1,
        "ConvTranspose": 2,
        "Tanh": 1,
    },
    "resnet-nearest": {
        "Pad": 4,
        "Conv": 8,
        "InstanceNormalization": 7,
        "Relu": 6,
        "Add": 1,
        "Resize": 2,
        "Tanh": 1,
    },
    "resnet-separable": {"Pad": 4, "Conv": 8, "Relu": 6, "Add": 1, "ConvTranspose": 2, "Tanh": 1},
    "unet": {"Conv": 5, "LeakyRelu": 4, "Relu": 5, "ConvTranspose": 5, "Concat": 4, "Tanh": 1},
    "unet-instance": {
        "Conv": 5,
        "LeakyRelu": 4,
        "Relu": 5,
        "ConvTranspose": 5,
        "InstanceNormalization": 7,
        "Concat": 4,
        "Tanh": 1,
    },
    "transformer_net": {"Pad": 8, "Conv": 8, "InstanceNormalization": 7, "Relu": 6, "Add": 1, "Resize": 2},
    "animegan": {
        "Pad": 14,
        "Conv": 19,
        "GroupNormalization": 18,
        "LeakyRelu": 16,
        "Add": 1,
        "Resize": 2,
        "Tanh": 1,
    },
    "animegan-half-pixel": {
        "Pad": 13,
        "Conv": 16,
        "GroupNormalization": 15,
        "LeakyRelu": 14,
        "Resize": 2,
        "Tanh": 1,
    },
    "srresnet": {"Conv": 7, "LeakyRelu": 4, "Relu": 1, "Add": 2, "DepthToSpace": 2, "Resize": 1},
    "srresnet-x3": {"Conv": 6, "LeakyRelu": 3, "Relu": 1, "Add": 2, "DepthToSpace": 1, "Resize": 1},
    "rrdbnet": {"Conv": 21, "LeakyRelu": 15, "Concat": 12, "Mul": 4, "Add": 5, "Resize": 2},
    "rrdbnet-x1": {"Conv": 22, "LeakyRelu": 15, "Concat": 12, "Mul": 4, "Add": 5, "Resize": 2},
    "srvgg": {"Conv": 3, "PRelu": 2, "DepthToSpace": 1, "Resize": 1, "Add": 1},
}


class Layers(Generator):
    """A generator of the given layers, for what no family has."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def run(model, image: Tensor) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {INPUT: np.ascontiguousarray(image.numpy())})[0])


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_is_a_node(name: str, dynamic: bool) -> None:
    model = onnx_model(small_generator(name), torch.zeros(1, 3, *SIZES[0]), dynamic=dynamic)
    onnx.checker.check_model(model, full_check=True)
    assert count_nodes(model) == NODES[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_one_file_serves_every_size(name: str) -> None:
    generator = small_generator(name)
    model = onnx_model(generator, torch.zeros(1, 3, *SIZES[0]), dynamic=True)
    for size in SIZES:
        image = picture(generator, *size)
        assert parity_db(generator, image, run(model, image)) >= PARITY_PSNR_DB["fp32"]


def test_shapes_are_those_of_the_example_or_open() -> None:
    generator, example = small_generator("srresnet-x3"), torch.zeros(2, 3, 20, 30)

    def shapes(dynamic: bool) -> list[list[int | str]]:
        graph = onnx_model(generator, example, dynamic=dynamic).graph
        assert (graph.input[0].name, graph.output[0].name) == (INPUT, OUTPUT)
        values = (graph.input[0], graph.output[0])
        return [[side.dim_value or side.dim_param for side in v.type.tensor_type.shape.dim] for v in values]

    assert shapes(dynamic=False) == [[2, 3, 20, 30], [2, 3, 60, 90]]
    assert shapes(dynamic=True) == [[2, 3, "height", "width"], [2, 3, "output_height", "output_width"]]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_half_precision_model_has_half_precision_weights_and_no_casts(name: str) -> None:
    model = onnx_model(small_generator(name), torch.zeros(1, 3, *SIZES[0], dtype=torch.float16))
    kinds = {
        weight.name: onnx.TensorProto.DataType.Name(weight.data_type)
        for weight in model.graph.initializer
        if not weight.name.startswith(("pads_", "scales_"))
    }
    assert set(kinds.values()) == {"FLOAT16"}, kinds
    assert count_nodes(model) == NODES[name]


def test_the_file_is_the_model(tmp_path: Path) -> None:
    path = tmp_path / "generator.onnx"
    model = export_onnx(small_generator("resnet"), torch.zeros(1, 3, 32, 32), path)
    assert onnx.load(path) == model
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_layers_that_no_family_has_keep_their_arithmetic() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)
    generator = Layers(
        nn.Conv2d(3, 4, 3, padding=2, dilation=2),
        nn.ReLU(),
        norm,  # nothing to be folded into
        nn.GroupNorm(2, 4),
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2),
        nn.BatchNorm2d(4),  # nor here: grouped
        nn.CircularPad2d(1),
        nn.ConstantPad2d((1, 0, 2, 0), 0.5),
        nn.Conv2d(4, 3, 3, padding_mode="replicate", padding=1),
    ).eval()
    generator.requires_grad_(False)
    image = torch.rand(1, 3, 8, 12)
    torch.testing.assert_close(run(onnx_model(generator, image), image), generator(image), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Function(lambda x: torch.cumsum(x, 1)), "no ONNX operator is known for aten.cumsum"),
        (Function(lambda x: torch.add(x, x, alpha=2)), "with a factor"),
        (nn.Upsample(scale_factor=1.5), "no enlargement by a whole factor"),
        (nn.Upsample(size=(7, 7), mode="bilinear"), "no enlargement by a whole factor"),
        (nn.InstanceNorm2d(3, track_running_stats=True), "running statistics"),
    ],
)
def test_what_can_not_be_written_is_an_error(layer: nn.Module, message: str) -> None:
    generator = Layers(nn.Conv2d(3, 3, 1), nn.ReLU(), layer).eval()
    with pytest.raises(BackendError, match=message):
        onnx_model(generator, torch.zeros(1, 3, 8, 8))


def test_training_mode_is_refused() -> None:
    generator = Layers(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    generator.layers[1].train()
    with pytest.raises(BackendError, match=r"call eval\(\) first"):
        onnx_model(generator, torch.zeros(1, 3, 8, 8))


def test_bfloat16_is_refused() -> None:
    with pytest.raises(BackendError, match="float32 and float16, not in"):
        onnx_model(build(ResNetConfig(width=4, blocks=1)).eval(), torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16))
