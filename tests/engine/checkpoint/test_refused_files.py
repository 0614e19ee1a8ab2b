"""Files that are no checkpoint, damaged or dangerous are refused, each with one line that helps."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoint import load_generator
from engine.errors import CheckpointError
from tests.engine.checkpoint.files import error_of, optimizer_state, small_resnet


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


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
