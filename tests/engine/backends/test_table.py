"""The table of backends, and that everything which lists backends agrees with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from engine.backends import BACKENDS, FileBackend, InMemoryBackend, get_backend
from engine.errors import BackendError
from engine.export import FORMATS
from engine.jobs import takes_device_frames
from engine.precision import PRECISIONS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("document", ["README.md", "docs/backends.md"])
def test_documents_have_every_backend_in_their_table(document: str) -> None:
    table = re.search(r"^\| `--backend` \|.*\n((?:\|.*\n)+)", (ROOT / document).read_text(), re.MULTILINE)
    assert table is not None
    first_cells = [line.split("|")[1] for line in table.group(1).splitlines()[1:]]
    assert sorted(re.findall(r"`([^`]+)`", " ".join(first_cells))) == sorted(BACKENDS)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_says_what_others_need_to_know(name: str) -> None:
    backend = get_backend(name)
    assert backend.name == name
    assert isinstance(backend, FileBackend if backend.is_file else InMemoryBackend)
    assert set(backend.precisions) <= set(PRECISIONS)
    assert backend.devices
    assert not backend.extra or f"\n{backend.extra} = [" in (ROOT / "pyproject.toml").read_text()
    assert not backend.modules or backend.extra
    for device in {"cpu", "cuda"} - set(backend.devices):
        assert backend.unavailable(torch.device(device))


def test_frames_stay_on_a_gpu_for_those_that_run_in_our_graphs() -> None:
    assert [name for name in BACKENDS if takes_device_frames(name)] == ["fused", "tensorrt", "tensorrt-rtx"]
    assert takes_device_frames("auto")


def test_formats_are_those_of_the_table() -> None:
    assert list(FORMATS).count("safetensors") == 1
    assert {kind: backend.name for kind, backend in FORMATS.items() if backend} == {
        "torchscript": "torchscript",
        "aoti": "aoti",
        "onnx": "onnxruntime",
        "openvino": "openvino",
        "tensorrt": "tensorrt",
        "tensorrt-rtx": "tensorrt-rtx",
    }


def test_an_unknown_backend_is_one_line() -> None:
    with pytest.raises(BackendError, match=r"^unknown backend 'openvion': did you mean 'openvino'\? accepted are"):
        get_backend("openvion")
