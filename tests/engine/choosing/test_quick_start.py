"""A later run starts without importing torch, from the command line and from Python."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.run import main
from engine.samples import SAMPLE
from tests.engine.choosing.runs import frame

PROGRAM = """
import sys
from engine.run import main
status = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(status)
"""


def command_line(*arguments: str) -> tuple[list[str], str]:
    """What it prints to both."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_the_command_line_starts_without_torch(style: Path, tmp_path: Path) -> None:
    """The first run imports it, the second doesn't; both write the same file."""
    outputs = [tmp_path / "first.mp4", tmp_path / "second.mp4"]
    arguments = (str(SAMPLE), "--style", str(style), "--frames", "12")
    said = [command_line(*arguments, "-o", str(output)) for output in outputs]
    assert [lines[-1] for lines, _ in said] == ["True", "False"]
    assert all("dB of float32" in text for _, text in said)
    frames = [list(decoded(output)) for output in outputs]
    assert len(frames[0]) == len(frames[1]) == 12
    np.testing.assert_array_equal(frames[0], frames[1])


FROM_PYTHON = """
import sys, numpy as np
from engine import Translator
np.save(sys.argv[3], Translator(sys.argv[1])(np.load(sys.argv[2])))
print("torch" in sys.modules)
"""


def test_python_starts_without_torch(style: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "frame.npy", frame())
    outputs = [tmp_path / "first.npy", tmp_path / "second.npy"]
    for output, needs_torch in zip(outputs, ["True", "False"], strict=True):
        arguments = [str(path) for path in (style, tmp_path / "frame.npy", output)]
        done = subprocess.run([sys.executable, "-c", FROM_PYTHON, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout.strip()) == (0, needs_torch), done.stderr
    np.testing.assert_array_equal(np.load(outputs[0]), np.load(outputs[1]))


def decoded(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (result := capture.read())[0]:
        frames.append(result[1])
    return frames


def test_explain_measures_again(style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(SAMPLE), "--style", str(style), "--frames", "2", "--precision", "fp32", "--benchmark"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert "in an earlier run" in capsys.readouterr().err
    assert main([*arguments, "--explain"]) == 0
    assert "in an earlier run" not in capsys.readouterr().err
    logging.getLogger("streamgan").handlers = []
