"""The scripts of examples/: each runs as its docstring says, and uses only the public API."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import engine
from engine import video
from engine.parity import psnr_db
from engine.samples import SAMPLE
from tests.architectures.reference_resnet import ReferenceResNet
from tests.media import Audio, make_video, read
from tests.tolerances import PARITY_PSNR_DB

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
PUBLIC = {"engine.video": set(video.__all__), "engine.export": {"export"}}


def run(name: str, *arguments: str, cwd: Path, without_engine: bool = False) -> str:
    """Runs an example as a user does; returns what it prints."""
    script = str(EXAMPLES / name)
    start = [script]
    if without_engine:
        start = ["-c", f"import sys, runpy; sys.modules['engine'] = None; runpy.run_path({script!r})"]
    done = subprocess.run([sys.executable, *start, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A frame of the sample clip, 320x180."""
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), cv2.resize(cv2.VideoCapture(str(SAMPLE)).read()[1], (320, 180)))
    return path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_are_short_and_say_how_to_run_them(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) <= 25
    assert f"python examples/{script.name} " in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_use_the_public_api(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("engine"):
            assert {alias.name for alias in node.names} <= PUBLIC[node.module or ""]
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "engine":
            assert node.attr in engine.__all__


def test_translate_file(tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", audio=(Audio(),))
    assert run("translate_file.py", "clip.mp4", "translated.mp4", cwd=tmp_path) == "translated.mp4\n"
    clip, translated = read(tmp_path / "clip.mp4"), read(tmp_path / "translated.mp4")
    assert translated.times == clip.times
    assert translated.of_type("audio")[0].payloads == clip.of_type("audio")[0].payloads
    assert psnr_db(translated.image(), clip.image()) < 30  # it is another picture


def test_checkpoint_in_five_lines(tmp_path: Path, photo: Path) -> None:
    torch.manual_seed(0)
    model = ReferenceResNet(blocks=2)
    torch.save(model.state_dict(), tmp_path / "latest_net_G.pth")
    run("checkpoint_in_five_lines.py", "latest_net_G.pth", photo.name, "translated.png", cwd=tmp_path)
    frame = torch.from_numpy(cv2.imread(str(photo)))
    with torch.no_grad():
        image = model(frame.flip(2).permute(2, 0, 1)[None] / 127.5 - 1)
    expected = ((image[0].permute(1, 2, 0).flip(2) + 1) * 127.5).round().byte().numpy()
    translated = cv2.imread(str(tmp_path / "translated.png"))
    assert psnr_db(translated, expected) >= PARITY_PSNR_DB["bf16"]


def test_webcam_without_a_window(tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4")
    run("webcam.py", "clip.mp4", "--frames", "4", "--output", "translated.mp4", cwd=tmp_path)
    assert len(read(tmp_path / "translated.mp4").frames) == 4


def test_export_and_load(tmp_path: Path, photo: Path) -> None:
    run("export_and_load.py", "export", "vermilion", "generator.pt", cwd=tmp_path)
    loading = ("load", "generator.pt", photo.name, "translated.png")
    run("export_and_load.py", *loading, cwd=tmp_path, without_engine=True)
    frame: np.ndarray = cv2.resize(cv2.imread(str(photo)), (640, 360))
    expected = engine.Translator("vermilion", backend="eager", precision="fp32")(frame)
    assert psnr_db(cv2.imread(str(tmp_path / "translated.png")), expected) >= PARITY_PSNR_DB["fp32"]
