"""Files as users have them are loaded without a flag and compute what the code that wrote them computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.checkpoint import inspect_checkpoint, load_generator, save_generator
from engine.errors import CheckpointError
from engine.generators import ResNetConfig, SRVGGConfig, build
from tests.architectures import LAYOUTS, Layout, reference_resnet, reference_unet
from tests.engine.checkpoint.files import difference, randomise, save, small_resnet
from tests.tolerances import CHECKPOINT_ATOL

VARIANTS = [
    pytest.param(layout, variant, id=f"{layout.name}: {variant}") for layout in LAYOUTS for variant in layout.variants
]


def picture(layout: Layout, channels: int, *, batch: int = 2) -> Tensor:
    low, high = layout.value_range
    unit = torch.rand(batch, channels, layout.height, layout.width, generator=torch.Generator().manual_seed(7))
    return low + (high - low) * unit


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
