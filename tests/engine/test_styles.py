"""The bundled styles: what they say of themselves, and what they do to a real frame."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from engine import styles
from engine.checkpoint import load_generator
from engine.errors import CheckpointError
from engine.styles import DEFAULT_STYLE, find_style, list_styles
from tests.tolerances import PARITY_PSNR_DB

SAMPLE = Path(styles.__file__).parent.parent / "samples" / "sample.mp4"
NAMES = [style.name for style in list_styles()]


@pytest.fixture(scope="module")
def frame() -> Tensor:
    """A frame of the sample clip: float [1, 3, 360, 640] in [-1, 1]."""
    with av.open(str(SAMPLE)) as container:
        picture = next(iter(container.decode(video=0))).to_ndarray(format="rgb24")
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def uint8_psnr_db(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two pictures in [-1, 1] after rounding to uint8."""
    a, b = (((x.float() + 1.0) * 127.5).round().clamp(0, 255) for x in (a, b))
    error = (a - b).square().mean().item()
    return 10.0 * math.log10(255.0**2 / error) if error else math.inf


def test_the_default_is_listed_first() -> None:
    assert NAMES[0] == DEFAULT_STYLE
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_style_describes_itself(name: str) -> None:
    style = next(style for style in list_styles() if style.name == name)
    generator = load_generator(style.path)
    assert style.parameter_count == generator.parameter_count()
    assert style.architecture == generator.config.describe()
    assert style.size_bytes == style.path.stat().st_size
    assert all((style.description, style.trained_on, style.licence, style.author))
    assert find_style(name) == style.path
    assert find_style(name.upper()) == style.path


def test_the_files_are_readable_for_everyone() -> None:
    assert all(style.path.stat().st_mode & 0o444 == 0o444 for style in list_styles())


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(CheckpointError, match=f"did you mean {DEFAULT_STYLE}\\?.*bundled are .*{DEFAULT_STYLE}"):
        find_style(DEFAULT_STYLE[:-1])


def test_an_unknown_name_that_is_near_nothing_is_answered_with_the_list() -> None:
    with pytest.raises(CheckpointError, match=f"no style 'qqqqqq': bundled are .*{DEFAULT_STYLE}"):
        find_style("qqqqqq")


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header....")
    monkeypatch.setattr(styles, "_FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match=r"broken\.safetensors is no bundled style"):
        list_styles()


@pytest.mark.parametrize("name", NAMES)
def test_a_real_frame_is_stylised(name: str, frame: Tensor) -> None:
    with torch.inference_mode():
        painted = load_generator(find_style(name))(frame)
    assert painted.shape == frame.shape
    assert painted.isfinite().all()
    assert uint8_psnr_db(painted, frame) < 16.0  # nothing like its input: a light filter is above 20 dB
    assert painted.std() > 0.3  # and no flat colour
    # What was an edge still is: the picture can be recognised.
    correlation = np.corrcoef(_edges(painted), _edges(frame))[0, 1]
    assert correlation > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_the_same_frame_gives_the_same_picture(name: str, frame: Tensor) -> None:
    small = frame[..., :128, :192]
    with torch.inference_mode():
        assert torch.equal(load_generator(find_style(name))(small), load_generator(find_style(name))(small))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_keeps_the_parity_contract(name: str, frame: Tensor) -> None:
    generator = load_generator(find_style(name))
    with torch.inference_mode():
        expected = generator(frame)
        painted = generator.to(torch.bfloat16)(frame.to(torch.bfloat16))
    assert uint8_psnr_db(painted, expected) >= PARITY_PSNR_DB["bf16"]


@pytest.mark.parametrize("name", NAMES)
def test_a_little_noise_changes_little(name: str, frame: Tensor) -> None:
    """Noise of two levels, as between two frames of a film, must not make the picture flicker."""
    generator = load_generator(find_style(name))
    noise = torch.randn(frame.shape, generator=torch.Generator().manual_seed(0)) * (2.0 / 127.5)
    with torch.inference_mode():
        assert uint8_psnr_db(generator(frame + noise), generator(frame)) > 30.0


def _edges(image: Tensor) -> np.ndarray:
    """Gradient magnitudes of the brightness at a quarter of the size, as one row."""
    brightness = torch.nn.functional.avg_pool2d(image.mean(1, keepdim=True), 4)[0, 0]
    horizontal, vertical = brightness.diff(dim=1)[:-1], brightness.diff(dim=0)[:, :-1]
    return torch.hypot(horizontal, vertical).flatten().numpy()
