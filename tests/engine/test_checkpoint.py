"""Files as users have them are loaded without a flag and compute what the code that wrote them computes."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.checkpoint import inspect_checkpoint, load_generator, save_generator
from engine.errors import CheckpointError
from engine.generators import CONFIG_KEY, ResNetConfig, SRVGGConfig, build
from tests.architectures import LAYOUTS, Layout, animegan, reference_resnet, reference_unet, super_resolution
from tests.architectures.discriminators import DISCRIMINATORS
from tests.tolerances import CHECKPOINT_ATOL

VARIANTS = [
    pytest.param(layout, variant, id=f"{layout.name}: {variant}") for layout in LAYOUTS for variant in layout.variants
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Pictures here are tiny: on a busy machine, threads would wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights as of a trained network: every value matters to the output, which neither vanishes nor saturates."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, deviation: float) -> None:
        tensor.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(1234)
            elif name.endswith("filt"):
                continue
            elif tensor.dim() > 1:
                normal(tensor, 0.0, tensor[0].numel() ** -0.5)
            elif name.endswith("weight"):
                normal(tensor, 1.0, 0.2)
            else:
                normal(tensor, 0.0, 0.1)
    return module.eval()


def picture(layout: Layout, channels: int, *, batch: int = 2) -> Tensor:
    low, high = layout.value_range
    unit = torch.rand(batch, channels, layout.height, layout.width, generator=torch.Generator().manual_seed(7))
    return low + (high - low) * unit


def difference(generator: nn.Module, definition: nn.Module, image: Tensor) -> float:
    """Largest difference of the outputs, relative to the output's size where that is beyond 1."""
    with torch.no_grad():
        expected, actual = definition(image), generator(image)
    assert expected.shape == actual.shape
    assert expected.std() > 1e-3, "a constant picture would compare nothing"
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1.0)).item()


def save(value: object, path: Path) -> Path:
    torch.save(value, path)
    return path


def small_resnet(**options: object) -> nn.Module:
    return randomise(reference_resnet.ReferenceResNet(**{"blocks": 2, "width": 4, **options}))


@pytest.mark.parametrize(("layout", "variant"), VARIANTS)
def test_loads_every_layout(layout: Layout, variant: str, tmp_path: Path) -> None:
    definition = randomise(layout.variants[variant]())
    path = save(definition.state_dict(), tmp_path / "file.pth")

    generator = load_generator(path)

    assert generator.config.family == layout.family
    assert not generator.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in generator.parameters())
    assert generator.input_range == layout.value_range
    image = picture(layout, generator.config.in_channels, batch=1 if layout.family == "unet" else 2)
    assert difference(generator, definition, image) <= CHECKPOINT_ATOL
    info = inspect_checkpoint(path)
    assert info.parameters == sum(p.numel() for p in definition.parameters())
    assert (info.wrappers, info.prefix) == ((), "")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_canonical_names_load_in_the_reference(layout: Layout, tmp_path: Path) -> None:
    """What is loaded and saved again natively, or as a state dict, loads again and is the same."""
    definition = randomise(next(iter(layout.variants.values()))())
    generator = load_generator(save(definition.state_dict(), tmp_path / "file.pth"))
    save_generator(generator, tmp_path / "native.safetensors", metadata={"licence": "CC0"})
    again = load_generator(tmp_path / "native.safetensors")
    plain = load_generator(save(generator.state_dict(), tmp_path / "plain.pth"))
    assert again.config == generator.config
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert torch.equal(tensor, plain.state_dict()[name])
    info = inspect_checkpoint(tmp_path / "native.safetensors")
    assert (info.layout, info.metadata["licence"]) == ("native", "CC0")
    if "reference" in layout.name:
        assert generator.state_dict().keys() == definition.state_dict().keys()


def test_fresh_generator_has_reference_names() -> None:
    assert build(ResNetConfig(width=8)).state_dict().keys() == reference_resnet.ReferenceResNet().state_dict().keys()


WRAPPERS = {
    "DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "torch.compile": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "compiled DataParallel": lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    "state_dict": lambda s: {"epoch": 3, "state_dict": s},
    "model_state_dict and optimizer": lambda s: {"model_state_dict": s, "optimizer_state_dict": optimizer_state()},
    "params_ema before params": lambda s: {"params": shifted(s), "params_ema": s},
    "params": lambda s: {"params": s},
    "netG": lambda s: {"netD": DISCRIMINATORS["PatchGAN"]().state_dict(), "netG": s, "step": torch.tensor(4)},
    "G_A2B before G_B2A": lambda s: {"G_B2A": shifted(s), "G_A2B": s, "D_A": DISCRIMINATORS["PatchGAN"]().state_dict()},
    "generator": lambda s: {"generator": {f"module.{k}": v for k, v in s.items()}, "args": {"lr": 2e-4}},
    "G": lambda s: collections.OrderedDict(G=s),
    "nested": lambda s: {"models": {"gen_A": {"state_dict": s}}, "history": [1, 2.0, "three"]},
    "flat with discriminator": lambda s: {
        "state_dict": {f"netG_A.{k}": v for k, v in s.items()}
        | {f"netG_B.{k}": v for k, v in shifted(s).items()}
        | {f"netD_A.{k}": v for k, v in DISCRIMINATORS["PatchGAN"]().state_dict().items()},
    },
    "any prefix": lambda s: {f"wrapper.inner_net.{k}": v for k, v in s.items()},
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
}

WRAPPED = {
    "resnet": lambda: reference_resnet.ReferenceResNet(blocks=2, width=4),
    "unet": lambda: reference_unet.ReferenceUNet(downs=5, width=4),
    "srvgg": lambda: super_resolution.CompactNet(2, 4, 1),
    "animegan": lambda: animegan.AnimeNet(4),
}


def shifted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Another network of the same architecture, which must not be the one loaded."""
    return {key: value + 1 for key, value in state.items()}


def optimizer_state() -> dict:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("family", WRAPPED)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_unwraps(wrapper: str, family: str, tmp_path: Path) -> None:
    definition = randomise(WRAPPED[family]())
    path = save(WRAPPERS[wrapper](definition.state_dict()), tmp_path / "file.pth")
    assert difference(load_generator(path), definition, torch.rand(1, 3, 32, 32)) <= CHECKPOINT_ATOL


def test_names_other_generators_in_the_file(tmp_path: Path) -> None:
    state = small_resnet().state_dict()
    info = inspect_checkpoint(save({"G_B2A": shifted(state), "G_A2B": state}, tmp_path / "file.pth"))
    assert info.wrappers == ("G_A2B",)
    assert info.others == ("G_B2A.model",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("file", ["file.pth", "file.safetensors"])
def test_converts_floats(file: str, dtype: torch.dtype, tmp_path: Path) -> None:
    definition = small_resnet(norm="batch").to(dtype)
    if file.endswith("pth"):
        save(definition.state_dict(), tmp_path / file)
    else:
        save_file(definition.state_dict(), tmp_path / file)
    generator = load_generator(tmp_path / file)
    assert difference(generator, definition.float(), torch.rand(1, 3, 32, 32)) <= CHECKPOINT_ATOL
    assert inspect_checkpoint(tmp_path / file).dtypes == (str(dtype).removeprefix("torch."),)


def test_loads_the_format_from_before_zip(tmp_path: Path) -> None:
    definition = small_resnet()
    torch.save(definition.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert difference(load_generator(tmp_path / "old.pth"), definition, torch.rand(1, 3, 32, 32)) <= CHECKPOINT_ATOL


def test_loads_a_bare_sequence(tmp_path: Path) -> None:
    definition = small_resnet()
    path = save(definition.model.state_dict(), tmp_path / "file.pth")
    assert difference(load_generator(path), definition, torch.rand(1, 3, 32, 32)) <= CHECKPOINT_ATOL


@pytest.mark.parametrize("counted", [False, True])
def test_drops_statistics_of_old_instance_norm(counted: bool, tmp_path: Path) -> None:
    definition = small_resnet()
    state = dict(definition.state_dict())
    for name, module in definition.named_modules():
        if isinstance(module, nn.InstanceNorm2d):
            state[f"{name}.running_mean"] = torch.rand(module.num_features)
            state[f"{name}.running_var"] = torch.rand(module.num_features)
            if counted:
                state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    generator = load_generator(save(state, tmp_path / "file.pth"))
    assert generator.config.norm == "instance"
    assert difference(generator, definition, torch.rand(1, 3, 32, 32)) <= CHECKPOINT_ATOL


def test_batch_norm_without_batch_counts(tmp_path: Path) -> None:
    definition = small_resnet(norm="batch")
    state = {k: v for k, v in definition.state_dict().items() if not k.endswith("num_batches_tracked")}
    generator = load_generator(save(state, tmp_path / "file.pth"))
    assert difference(generator, definition, torch.rand(1, 3, 32, 32)) <= CHECKPOINT_ATOL


@pytest.mark.parametrize(
    "make",
    [
        lambda: small_resnet(norm="batch", dropout=True),
        lambda: randomise(reference_unet.ReferenceUNet(downs=5)),
    ],
    ids=["resnet", "unet"],
)
def test_norm_mode_batch_uses_each_pictures_statistics(make, tmp_path: Path) -> None:
    definition = make()
    path = save(definition.state_dict(), tmp_path / "file.pth")
    for module in definition.modules():
        module.train(isinstance(module, nn.BatchNorm2d))
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    generator = load_generator(path, norm_mode="batch")
    with torch.no_grad():
        expected = torch.cat([definition(single) for single in image.split(1)])
        assert (generator(image) - expected).abs().max() <= CHECKPOINT_ATOL
        assert (load_generator(path)(image) - expected).abs().max() > 0.01


def test_norm_mode_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accepted are 'eval' and 'batch'"):
        load_generator(tmp_path, norm_mode="train")


def test_does_not_depend_on_the_file_after_loading(tmp_path: Path) -> None:
    definition = small_resnet()
    path = save(definition.state_dict(), tmp_path / "file.pth")
    generator = load_generator(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert difference(generator, definition, torch.rand(1, 3, 32, 32)) <= CHECKPOINT_ATOL


def test_describes_the_architecture(tmp_path: Path) -> None:
    info = inspect_checkpoint(save({"netG": small_resnet().state_dict()}, tmp_path / "file.pth"))
    assert info.architecture == "ResNet, 2 blocks, 4 channels, instance norm, transposed upsampling"
    assert (info.family, info.layout, info.wrappers) == ("resnet", "reference ResNet", ("netG",))
    assert info.config == ResNetConfig(width=4, blocks=2)


def test_save_replaces_or_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    path.write_text("old")
    save_generator(build(SRVGGConfig(width=4, convolutions=1)), path)
    (plain := tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode  # as readable as any other file
    assert load_generator(path).config == SRVGGConfig(width=4, convolutions=1)
    with pytest.raises(CheckpointError, match="can't be written"):
        save_generator(build(SRVGGConfig(width=4)), tmp_path / "missing" / "style.safetensors")
    assert {file.name for file in tmp_path.iterdir()} == {"plain", "style.safetensors"}


# Files that must be refused, each with one line that helps.


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def error_of(path: Path) -> str:
    """The message of loading `path`, which is one line, names the file, and is the same from `inspect_checkpoint`."""
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert len(message) - 2 * len(str(path)) < 600
    with pytest.raises(CheckpointError) as inspected:
        inspect_checkpoint(path)
    assert str(inspected.value) == message
    return message


def zip_bytes(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "latest_net_G.pth")


def test_directory(tmp_path: Path) -> None:
    assert "is a directory" in error_of(tmp_path)
    (tmp_path / "latest_net_D_A.pth").touch()
    (tmp_path / "latest_net_G_A.pth").touch()
    assert "e.g. latest_net_G_A.pth" in error_of(tmp_path)


FOREIGN = {
    "empty": (b"", "is empty"),
    "text": (b"hello, this is a text file\n", "a text file (it begins 'hello, this is a text file')"),
    "short text": (b"hi", "a text file"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "web page": (b"<!DOCTYPE html><html></html>", "a web page"),
    "binary": (bytes(range(128, 256)), "format is unknown or its beginning is damaged"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "format is unknown"),
    "truncated zip": (zip_bytes({"a": torch.ones(1000)})[:-300], "damaged or incomplete"),
    "half a zip": (zip_bytes({"a": torch.ones(1000)})[:1500], "damaged or incomplete"),
    "truncated pickle": (pickle.dumps({"a": list(range(1000))}, protocol=2)[:700], "damaged or incomplete"),
    "truncated safetensors": (b"\x40\0\0\0\0\0\0\0{" + b'"a":', "damaged or incomplete"),
    "empty dictionary": (zip_bytes({}), "empty dictionary"),
    "tensor": (zip_bytes(torch.ones(3)), "a single tensor"),
    "list": (zip_bytes([torch.ones(3)]), "holds a list"),
    "numbers": (zip_bytes({"epoch": 3, "loss": 0.5}), "holds no weights, only epoch, loss"),
    "optimizer": (zip_bytes(optimizer_state()), "optimizer's state"),
    "optimizers": (zip_bytes({"G": optimizer_state(), "D": optimizer_state()}), "optimizer's state"),
    "unknown": (
        zip_bytes({"encoder.weight": torch.ones(4, 4), "decoder.bias": torch.ones(4)}),
        "of no known generator",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_and_damaged_files(kind: str, tmp_path: Path) -> None:
    content, expected = FOREIGN[kind]
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    assert expected in error_of(path)


@pytest.mark.parametrize("form", ["zip", "before zip", "pickle", "inside a state dict"])
def test_malicious_pickle_is_not_run(form: str, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "executed")
    path = tmp_path / "file.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(trap, protocol=2))
    elif form == "inside a state dict":
        torch.save({**small_resnet().state_dict(), "extra": trap}, path)
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=form == "zip")
    message = error_of(path)
    assert "holds code (posix.mkdir)" in message or "holds code (nt.mkdir)" in message
    assert "state_dict()" in message
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(trap))  # the trap does work
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_malicious_pickle_of_other_protocols(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "executed"), protocol=protocol))
    message = error_of(path)
    assert "is not loaded" in message
    assert "state_dict()" in message
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("form", ["zip", "before zip", "safetensors"])
def test_any_damage_is_reported_or_harmless(form: str, tmp_path: Path) -> None:
    """A file cut anywhere, or with any bytes changed, loads or gives a CheckpointError."""
    path = tmp_path / "file"
    state = small_resnet().state_dict()
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    content, random_state = path.read_bytes(), random.Random(0)
    for attempt in range(40):
        damaged = bytearray(content)
        if attempt % 2:
            damaged = damaged[: random_state.randrange(len(content))]
        else:
            for _ in range(3):
                damaged[random_state.randrange(len(content))] = random_state.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            load_generator(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_pickled_module(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save(small_resnet(), path, _use_new_zipfile_serialization=zipped)
    message = error_of(path)
    assert "whole pickled module" in message
    assert "torch.save(generator.state_dict()" in message


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torchscript_archive(tmp_path: Path) -> None:
    torch.jit.trace(small_resnet(), torch.rand(1, 3, 16, 16)).save(tmp_path / "file.pt")
    assert "TorchScript archive" in error_of(tmp_path / "file.pt")


def test_other_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert "no checkpoint" in error_of(tmp_path / "file.pth")


@pytest.mark.parametrize("wrapper", ["plain", "DataParallel", "netG"])
@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_discriminator(kind: str, wrapper: str, tmp_path: Path) -> None:
    state = DISCRIMINATORS[kind]().state_dict()
    value = {"plain": state, "DataParallel": {f"module.{k}": v for k, v in state.items()}, "netG": {"netD": state}}
    path = save(value[wrapper], tmp_path / "latest_net_D_A.pth")
    assert "is a discriminator" in error_of(path)
    assert "e.g. latest_net_G_A.pth" in error_of(path)


@pytest.mark.parametrize(
    ("discriminator", "generator"),
    [
        ("latest_net_D_A.pth", "latest_net_G_A.pth"),
        ("netD_A2B.pth", "netG_A2B.pth"),
        ("D_100.pth", "G_100.pth"),
        ("discriminator.pt", "generator.pt"),
        ("disc_h.pth", "gen_h.pth"),
        ("critich.pth.tar", "genh.pth.tar"),
    ],
)
def test_names_the_generator_beside_a_discriminator(discriminator: str, generator: str, tmp_path: Path) -> None:
    path = save(DISCRIMINATORS["PatchGAN"]().state_dict(), tmp_path / discriminator)
    (tmp_path / generator).touch()
    assert f"pass {tmp_path / generator} beside it" in error_of(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    state = small_resnet().state_dict()
    state["model.10.conv_block.5.weight"][0, 0, 1, 2] = value
    message = error_of(save({"netG": state}, tmp_path / "file.pth"))
    assert "model.10.conv_block.5.weight has NaN or infinite values" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_types_that_are_not_plain_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in small_resnet().state_dict().items()}
    message = error_of(save(state, tmp_path / "file.pth"))
    assert f"model.1.weight is stored as {str(dtype).removeprefix('torch.')}" in message


def test_sparse_weight(tmp_path: Path) -> None:
    state = small_resnet().state_dict()
    state["model.1.bias"] = state["model.1.bias"].to_sparse()
    assert "model.1.bias is stored as float32, sparse_coo" in error_of(save(state, tmp_path / "file.pth"))


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


def test_missing_keys_are_named(tmp_path: Path) -> None:
    state = without(small_resnet().state_dict(), "model.11.conv_block.1.bias", "model.19.bias")
    message = error_of(save(state, tmp_path / "file.pth"))
    assert "nearest is ResNet, 2 blocks, 4 channels" in message
    assert "2 missing (model.11.conv_block.1.bias, model.19.bias)" in message
    assert "unexpected" not in message


def test_leftover_keys_are_named(tmp_path: Path) -> None:
    state = dict(small_resnet().state_dict())
    for number in range(5):
        state[f"attention.{number}.weight"] = torch.ones(2, 2)
    message = error_of(save(state, tmp_path / "file.pth"))
    assert "5 unexpected (attention.0.weight, attention.1.weight, attention.2.weight, ...)" in message
    assert "missing" not in message


def test_leftover_keys_inside_the_layout_are_named(tmp_path: Path) -> None:
    state = {**small_resnet().state_dict(), "model.10.conv_block.8.weight": torch.ones(16)}
    assert "1 unexpected (model.10.conv_block.8.weight)" in error_of(save(state, tmp_path / "file.pth"))


def test_other_shapes_are_named(tmp_path: Path) -> None:
    state = {**small_resnet().state_dict(), "model.1.weight": torch.ones(4, 3, 9, 9)}
    message = error_of(save({"netG": state}, tmp_path / "file.pth"))
    assert "1 of another shape (model.1.weight is [4, 3, 9, 9] instead of [4, 3, 7, 7])" in message


def test_mixed_blocks_are_an_error(tmp_path: Path) -> None:
    """One block of another form than the first is never silently taken for the same."""
    state = dict(small_resnet().state_dict())
    moved = {key.replace("model.11.conv_block.5", "model.11.conv_block.6"): value for key, value in state.items()}
    message = error_of(save(moved, tmp_path / "file.pth"))
    assert "2 missing" in message
    assert "model.11.conv_block.6.weight" in message


def test_sequence_with_unknown_positions_is_an_error(tmp_path: Path) -> None:
    """A layer without weights that no form of the layout has may compute anything."""
    moved = {}
    for key, value in small_resnet().state_dict().items():
        number, _, rest = key.removeprefix("model.").partition(".")
        moved[f"model.{int(number) + 2 * (int(number) > 4)}.{rest}"] = value
    assert "no known generator" in error_of(save(moved, tmp_path / "file.pth"))


def test_empty_and_odd_shapes_are_an_error(tmp_path: Path) -> None:
    state = small_resnet().state_dict()
    for shape in ((0, 3, 7, 7), (4, 0, 7, 7), (), (4,)):
        error_of(save({**state, "model.1.weight": torch.ones(shape)}, tmp_path / "file.pth"))


def test_weight_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    state = small_resnet().state_dict()
    state["model.1.weight"] = torch.ones(1).expand(4, 3, 7, 7)
    assert "less data than its shape" in error_of(save(state, tmp_path / "file.pth"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{", "metadata is damaged"),
        ("[]", "metadata is damaged"),
        ('{"family": "resnet", "width": "64"}', "accepted is a value of type int"),
        ('{"family": "resnet", "colour": 1}', "no field 'colour'"),
        ('{"family": "resnet", "blocks": 1000000000}', "blocks is 1000000000"),
        ('{"family": "diffusion"}', "unknown generator family 'diffusion'"),
        ('{"family": "resnet", "width": 4, "blocks": 3}', "tensors differ from its own configuration"),
    ],
)
def test_native_metadata_is_checked(config: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file(small_resnet().state_dict(), path, metadata={CONFIG_KEY: config})
    assert expected in error_of(path)
