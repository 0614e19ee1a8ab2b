"""Builds an engine into the cache in another process, while this one translates.

`build` starts `python -m engine.choosing.background` at low priority and waits for it: call it from a thread. The
process ends by itself when the one that started it is gone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from engine import engine_files
from engine.backends import FileBackend, get_backend
from engine.cache import EngineCache
from engine.checkpoint import load_generator, save_generator
from engine.command_line import errors_in_one_line
from engine.errors import BackendError
from engine.generators import Generator

_NICE = 10
_WATCH_SECONDS = 0.5


def build(cache: EngineCache, generator: Generator, backend: str, precision: str, example: Tensor) -> None:
    """Builds the engine of `generator` for inputs like `example` into `cache`.

    Raises:
        BackendError: it can't be built or kept.
    """
    folder = Path(tempfile.mkdtemp(prefix="streamgan-"))
    try:
        weights = folder / "generator.safetensors"
        save_generator(generator, weights)
        command = [sys.executable, "-m", "engine.choosing.background", str(weights), backend, precision]
        command += ["--shape", *map(str, example.shape), "--dtype", str(example.dtype).removeprefix("torch.")]
        command += ["--device", str(example.device)]
        package = str(Path(__file__).parents[2])
        environment = {
            **os.environ,
            "STREAMGAN_CACHE": str(cache.folder),
            "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]),
        }
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the one that translates; the compilers below it end with it
            check=False,
        )
    except OSError as error:
        raise BackendError(f"the {backend} engine can't be built: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1].removeprefix("error: ") if lines else f"its process ended with {done.returncode}"
        raise BackendError(reason)


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    """What the process of `build` does."""
    parser = argparse.ArgumentParser(prog="python -m engine.choosing.background")
    parser.add_argument("weights", type=Path)
    parser.add_argument("backend")
    parser.add_argument("precision")
    parser.add_argument("--shape", type=int, nargs=4, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--device", required=True)
    options = parser.parse_args(arguments)
    generator = load_generator(options.weights).to(options.device)
    shutil.rmtree(options.weights.parent, ignore_errors=True)
    example = torch.zeros(options.shape, dtype=getattr(torch, options.dtype), device=options.device)
    example = example.to(memory_format=torch.channels_last)
    sha = engine_files.generator_hash(generator)
    backend = get_backend(options.backend)
    assert isinstance(backend, FileBackend)
    engine_files.build_into(EngineCache(), generator, sha, backend, options.precision, example)
    return 0


def _end_with(parent: int) -> None:
    """Ends this process and its compilers as soon as `parent` is not its parent any more."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(_NICE)
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.exit(main())
