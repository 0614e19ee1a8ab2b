"""A file of the user's as the engine: run where it fits, refused with one line where it doesn't."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from engine.errors import BackendError
from engine.export import export
from engine.generators import Generator, ResNetConfig, build
from engine.parity import PARITY_DB, psnr_db
from engine.translator import Translator
from tests.engine.choosing.frames import FRAME, HALF, OTHER, TORCHSCRIPT, exact, random_frame

pytestmark = pytest.mark.usefixtures("auto_is_one_precision", "on_the_cpu")


def exported(generator: Generator, path: Path, *, dynamic: bool = False, size: tuple[int, int] = (48, 32)) -> Path:
    export(generator, "torchscript", path, size=size, precision="fp32", dynamic=dynamic)
    return path


def test_a_file_of_the_users_is_run(resnet: Generator, tmp_path: Path) -> None:
    translator = Translator(resnet, engine_file=exported(resnet, tmp_path / "e.pt", dynamic=True))
    for frame in (FRAME, OTHER):
        assert psnr_db(translator(frame), exact(resnet, frame)) >= PARITY_DB["fp32"]
        assert str(translator.engine) == "torchscript fp32"


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("truncated", "is damaged: its SHA-256 differs"),
        ("another generator", "is an engine of another generator"),
        ("another size", "takes frames of 48x32, not 24x40"),
        ("foreign version", "can't be run by TorchScript of this torch"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_and_the_next_engine_runs(
    resnet: Generator,
    tmp_path: Path,
    trouble: str,
    message: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING, "streamgan")
    path = exported(resnet, tmp_path / "e.pt")
    frame, generator = FRAME, resnet
    if trouble == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif trouble == "another generator":
        generator = build(ResNetConfig(width=8, blocks=1)).eval()
    elif trouble == "another size":
        frame = OTHER
    else:

        def refuse(*arguments: object, **options: object) -> None:
            raise RuntimeError("Legacy model format is not supported")

        monkeypatch.setattr(torch.jit, "load", refuse)
    translator = Translator(generator, engine_file=path)
    assert psnr_db(translator(frame), exact(generator, frame)) >= PARITY_DB[HALF]
    assert translator.engine is not None
    assert translator.engine.backend == "fused"
    assert len(caplog.messages) == 1
    assert message in caplog.messages[0]


def test_a_size_outside_of_what_a_file_was_built_for(
    resnet: Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Packages of AOTInductor do not check their input: what is written beside them does."""
    path = exported(resnet, tmp_path / "e.pt", dynamic=True)
    description = tmp_path / "e.pt.json"
    told = json.loads(description.read_text())
    told["facts"] = {"smallest_side": 28, "largest_side": 48}
    description.write_text(json.dumps(told))
    translator = Translator(resnet, engine_file=path)
    translator(FRAME)
    assert str(translator.engine) == "torchscript fp32"
    assert not caplog.messages
    for frame in (OTHER, random_frame(32, 52)):
        assert psnr_db(translator(frame), exact(resnet, frame)) >= PARITY_DB[HALF]
        assert translator.engine.backend == "fused"  # type: ignore[union-attr]
    assert "takes frames with sides from 28 to 48, not 24x40" in caplog.messages[0]
    assert "takes frames with sides from 28 to 48, not 52x32" in caplog.messages[1]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("made_by", {"runtime": "torch 2.11"}, f"was made by torch 2.11, here is torch {torch.__version__}: export it"),
        ("facts", {"processor": ["avx2", "avx1024"]}, "was compiled for a processor with avx1024: export it here"),
    ],
)
def test_machine_code_for_another_machine_is_not_run(
    field: str,
    value: dict[str, object],
    message: str,
    resnet: Generator,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = exported(resnet, tmp_path / "e.pt")
    description = tmp_path / "e.pt.json"
    told = json.loads(description.read_text())
    told[field] = value
    description.write_text(json.dumps(told))
    monkeypatch.setattr(TORCHSCRIPT, "same_runtime", True)
    translator = Translator(resnet, engine_file=path)
    assert psnr_db(translator(FRAME), exact(resnet, FRAME)) >= PARITY_DB[HALF]
    assert translator.engine.backend == "fused"  # type: ignore[union-attr]
    assert len(caplog.messages) == 1
    assert message in caplog.messages[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "aoti"}, "is an engine of the backend torchscript, not aoti"),
        ({"precision": "bf16"}, "is an engine in fp32, not bf16"),
    ],
)
def test_a_file_of_another_kind_than_asked_for_is_refused(
    resnet: Generator, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    path = exported(resnet, tmp_path / "e.pt")
    with pytest.raises(BackendError, match=message):
        Translator(resnet, engine_file=path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [None, "", "{}", '{"of": {"backend": "x", "precision": "y"}}', "[]"])
def test_a_file_without_its_description_is_refused(resnet: Generator, tmp_path: Path, text: str | None) -> None:
    path = exported(resnet, tmp_path / "e.pt")
    description = tmp_path / "e.pt.json"
    description.unlink() if text is None else description.write_text(text)
    with pytest.raises(BackendError, match="not loaded" if text is None else "does not describe an engine"):
        Translator(resnet, engine_file=path)
    with pytest.raises(BackendError, match="no such engine"):
        Translator(resnet, engine_file=tmp_path / "none.pt")
