"""Engines in files, run as users run them; the processor and TorchScript take their place where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.backends import BACKENDS
from engine.backends import tensorrt as tensorrt_backend
from engine.cache import EngineCache
from engine.checkpoint import save_generator
from engine.export import main as export
from engine.run import main as run
from engine.video.nvidia.trials import decoder_missing
from tests.engine.small_generators import SIZES, small_generator
from tests.media import make_video

LAYERS = Path(__file__).parents[2] / "build" / "gpu" / "tensorrt-layers.json"
RUNS = {"cpu": 2, "cuda": 20}
PRECISIONS = {"cpu": "fp32", "cuda": "fp16"}

on_gpu = pytest.mark.needs_cuda
each_engine = pytest.mark.parametrize(
    ("device", "backend"),
    [
        ("cpu", "torchscript"),
        pytest.param("cuda", "tensorrt", marks=on_gpu),
        pytest.param("cuda", "tensorrt-rtx", marks=on_gpu),
    ],
)


def skip_without(device: str, backend: str) -> None:
    found = BACKENDS[backend]
    if reason := found.unavailable(torch.device(device)) or found.unbuildable(torch.device(device)):
        pytest.skip(reason)


def saved(name: str, folder: Path) -> Path:
    path = folder / f"{name}.safetensors"
    save_generator(small_generator(name), path)
    return path


def translated(source: Path, folder: Path, *options: str) -> dict[str, Any]:
    """What a run of a few frames tells of itself."""
    summary = folder / "summary.json"
    command = [str(source), "-o", str(folder / "frame_%03d.png"), "-y", "--frames", "8", "--json", str(summary)]
    assert run([*command, "--quiet", *options]) == 0
    (found,) = json.loads(summary.read_text())["results"]
    return dict(found)


@on_gpu
def test_what_an_engine_tells_of_its_layers_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is judged: a version of TensorRT may spell it in another way."""
    skip_without("cuda", "tensorrt")
    read = tensorrt_backend.layers_in_json

    def keep(text: str) -> list[dict[str, Any]]:
        LAYERS.parent.mkdir(parents=True, exist_ok=True)
        LAYERS.write_text(text)
        return read(text)

    monkeypatch.setattr(tensorrt_backend, "layers_in_json", keep)
    example = torch.zeros(1, 3, *SIZES[0], dtype=torch.float16, device="cuda")
    facts = BACKENDS["tensorrt"].build(small_generator("resnet").cuda(), example, "fp16", tmp_path / "x.plan")
    assert facts["layers"] == len(json.loads(LAYERS.read_text())["Layers"])


EXPORTS = [("resnet", False), ("resnet", True), ("unet", False), ("rrdbnet-x1", False)]


@pytest.mark.parametrize(
    ("device", "backend", "name", "has_operators"),
    [
        ("cpu", "torchscript", *EXPORTS[0]),
        *(pytest.param("cpu", "torchscript", *each, marks=pytest.mark.slow) for each in EXPORTS[1:]),
        *(pytest.param("cuda", "tensorrt", *each, marks=on_gpu) for each in EXPORTS),
        *(pytest.param("cuda", "tensorrt-rtx", name, False, marks=on_gpu) for name, has in EXPORTS if not has),
    ],
)
def test_an_export_for_every_size_runs(
    device: str, backend: str, name: str, has_operators: bool, tmp_path: Path
) -> None:
    skip_without(device, backend)
    found = BACKENDS[backend]
    if has_operators and (reason := found.operators_unavailable()):
        pytest.skip(reason)
    style, engine = saved(name, tmp_path), tmp_path / f"engine{found.suffix}"
    command = [str(style), "--format", found.export_format, "--size", "128x128", "--dynamic", "--device", device]
    command += ["--precision", PRECISIONS[device], "-o", str(engine), *(["--operators"] if has_operators else [])]
    assert export(command) == 0
    for height, width in SIZES:
        video = make_video(tmp_path / f"{width}.mp4", size=(width, height))
        told = translated(video, tmp_path, "--style", str(style), "--device", device, "--engine", str(engine))
        assert (told["backend"], told["precision"]) == (backend, PRECISIONS[device])


@each_engine
@pytest.mark.time_limit(300)
def test_an_engine_of_the_cache_runs_beside_the_decoder(device: str, backend: str, tmp_path: Path) -> None:
    """Each run loads it and captures its graphs while the decoder's thread is at work; none of them may fail."""
    skip_without(device, backend)
    if device == "cuda" and (reason := decoder_missing(0)):
        pytest.skip(reason)
    style = saved("resnet", tmp_path)
    video = make_video(tmp_path / "video.mp4", pts=[512 * index for index in range(50)], size=(320, 192))
    options = ["--style", str(style), "--device", device, "--backend", backend, "--precision", PRECISIONS[device]]
    options += ["--hwaccel", "cuda" if device == "cuda" else "none"]
    entries = []
    for _ in range(RUNS[device]):
        told = translated(video, tmp_path, *options)
        assert (told["backend"], told["precision"]) == (backend, PRECISIONS[device])
        assert told["video_hardware"] == (["NVDEC"] if device == "cuda" else [])
        entries.append([entry.folder.stat().st_ino for entry in EngineCache().entries()])
    assert entries == [entries[0]] * RUNS[device]
    assert len(entries[0]) == 1
