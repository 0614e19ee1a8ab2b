"""The tests and the benchmarks on a GPU, in steps: `python -m tests.gpu test`, `python -m tests.gpu bench`.

Cheap and basic steps come first, and the first failure ends the run. Each step has a time limit, and all of them
together have eight minutes; `--from STEP` goes on where these were not enough. The last lines are a table of the steps.
Neither a network nor a virtual environment is needed: the steps run in the Python that runs this.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOTAL_SECONDS = 480.0

# How long the last lines of a step that has ended may take to come.
_GRACE_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Step:
    """A command with a time limit.

    Attributes:
        modules: Python modules without which the step is skipped.
        program: an executable without which it is skipped.
        environment: variables that are added for it.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    modules: tuple[str, ...] = ()
    program: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def missing(self) -> str | None:
        """What it needs and isn't there, in one line; None if nothing is."""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if self.program and shutil.which(self.program) is None:
            absent.append(self.program)
        return f"{' and '.join(absent)} not installed" if absent else None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        state: "passed", "failed", "timed out", "skipped" or "not run".
        detail: the last line that it printed, or why it was skipped.
    """

    step: Step
    state: str
    detail: str = ""
    seconds: float = 0.0


def run(steps: Sequence[Step], total_seconds: float = TOTAL_SECONDS) -> list[Outcome]:
    """Runs steps until one fails or the time is over, and shows what they print."""
    outcomes: list[Outcome] = []
    end = time.monotonic() + total_seconds
    has_failed = False
    for step in steps:
        left = end - time.monotonic()
        if has_failed or left <= 0:
            outcomes.append(Outcome(step, "not run", "" if has_failed else "no time left"))
        elif (reason := step.missing()) is not None:
            outcomes.append(Outcome(step, "skipped", reason))
        else:
            print(f"--- {step.name}: {' '.join(step.command)}", flush=True)
            outcomes.append(_run_step(step, min(step.seconds, left)))
        has_failed |= outcomes[-1].state in ("failed", "timed out")
    return outcomes


def _run_step(step: Step, seconds: float) -> Outcome:
    """Runs a command in a process group of its own, which is ended with it."""
    start = time.monotonic()
    lines: list[str] = []
    try:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env={**os.environ, **step.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Outcome(step, "failed", f"{step.command[0]}: {error.strerror}")

    def show() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())

    reader = threading.Thread(target=show, daemon=True)
    reader.start()
    is_late = False
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        is_late = True
    finally:
        _end_group(process)
        reader.join(_GRACE_SECONDS)
    took = time.monotonic() - start
    detail = next((line for line in reversed(lines) if line), "").strip("= ")
    if is_late:
        return Outcome(step, "timed out", f"after {seconds:.0f} s", took)
    if process.returncode != 0:
        return Outcome(step, "failed", detail or f"exit status {process.returncode}", took)
    if "pytest" in step.command and re.search(r"\b\d+ passed", detail) is None:
        return Outcome(step, "skipped", f"no test ran: {detail}", took)
    return Outcome(step, "passed", detail, took)


def _end_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):  # nothing is left of it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def table(outcomes: Sequence[Outcome], total_seconds: float = TOTAL_SECONDS) -> list[str]:
    """The outcomes as lines: step, result, seconds."""
    results = [f"{each.state}: {each.detail}"[:80] if each.detail else each.state for each in outcomes]
    wide = max(len("total"), *(len(each.step.name) for each in outcomes)) + 2
    width = max(len("result"), *(len(result) for result in results)) + 2
    lines = [f"{'step':<{wide}}{'result':<{width}}seconds"]
    for each, result in zip(outcomes, results, strict=True):
        lines.append(f"{each.step.name:<{wide}}{result:<{width}}{each.seconds:>7.0f}")
    total = sum(each.seconds for each in outcomes)
    return [*lines, f"{'total':<{wide}}{'':<{width}}{total:>7.0f} of {total_seconds:.0f}"]


def is_good(outcomes: Sequence[Outcome]) -> bool:
    """Whether something passed, and nothing failed or was left out for lack of time."""
    states = {each.state for each in outcomes}
    return "passed" in states and states <= {"passed", "skipped"}


# --- the steps

_PYTHON = (sys.executable,)
# A missing device is a failure there, not a skip.
_REQUIRED = {"STREAMGAN_REQUIRE_CUDA": "1"}
# For the device that is there: in seconds, where all of them take a minute.
_BUILD = Step(
    "build",
    (*_PYTHON, "setup.py", "--quiet", "build_ext", "--inplace"),
    150,
    environment={
        "PATH": f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin",
        "STREAMGAN_CUDA": "ON",
        "STREAMGAN_CUDA_ARCHITECTURES": "native",
    },
)


def _tests(name: str, seconds: float, *arguments: str, modules: tuple[str, ...] = ()) -> Step:
    command = (*_PYTHON, "-m", "pytest", "-x", "-m", "needs_cuda", *arguments)
    return Step(name, command, seconds, ("pytest", *modules), environment=_REQUIRED)


def _marked(pattern: str, *, but: str = "") -> tuple[str, ...]:
    """The files of tests with some that need a GPU: others may need packages that are not there."""
    found = (file for file in sorted(ROOT.glob(pattern)) if not (but and re.search(but, file.name)))
    return tuple(str(file.relative_to(ROOT)) for file in found if "mark.needs_cuda" in file.read_text())


_BACKENDS = "tests/engine/backends"
_ENGINES = "tests/gpu/test_engines.py"

TESTS = (
    _BUILD,
    _tests("kernels", 150, *_marked("tests/cuda/test_*.py"), *_marked("tests/ops/test_*.py")),
    _tests(
        "frames",
        120,
        *_marked("tests/engine/runners/test_*.py"),
        *_marked("tests/engine/fused/test_*.py"),
        *_marked("tests/engine/test_*.py"),
    ),
    _tests("video", 90, *_marked("tests/engine/video/nvidia/test_*.py"), modules=("av",)),
    Step("doctor", (*_PYTHON, "-m", "engine.doctor"), 60),
    _tests("whole videos", 90, "tests/gpu/test_whole_videos.py", modules=("av",)),
    _tests("layers", 60, _ENGINES, "-k", "layers", modules=("torch_tensorrt", "av")),
    _tests(
        "tensorrt",
        180,
        *(*_marked(f"{_BACKENDS}/test_tensorrt*.py", but="rtx|plugin"), "-k", "resnet and fp16"),
        modules=("torch_tensorrt",),
    ),
    _tests("tensorrt-rtx", 120, *_marked(f"{_BACKENDS}/test_tensorrt_rtx*.py"), modules=("tensorrt_rtx", "onnx")),
    _tests("plugin", 120, *_marked(f"{_BACKENDS}/test_tensorrt_plugin*.py"), modules=("torch_tensorrt",)),
    _tests("exports", 240, _ENGINES, "-k", "export", modules=("av",)),
    _tests("cached engines", 120, _ENGINES, "-k", "cache", modules=("av",)),
    _tests("onnxruntime", 60, *_marked(f"{_BACKENDS}/test_onnxruntime*.py"), modules=("onnxruntime", "onnx")),
    _tests("benchmarks", 60, *_marked("tests/bench/test_*.py")),
    Step(
        "memcheck",
        (
            *("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", "--target-processes", "all"),
            *(*_PYTHON, "-m", "pytest", "-m", "needs_cuda", "tests/cuda", "-k", "statistics"),
        ),
        120,
        modules=("pytest",),
        program="compute-sanitizer",
        # Without torch's cache of memory each tensor has limits of its own.
        environment={**_REQUIRED, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    ),
)
"""What is basic first: kernels, then frames, then videos, then the engines of NVIDIA's libraries, by themselves and in
whole runs. What an engine of TensorRT tells of its layers is kept in build/gpu before the first one is judged."""


def benchmarks(results: Path) -> tuple[Step, ...]:
    """The measurements; their figures go to files in the folder `results`."""
    cases = ("--cases", "256x256x1", "1280x720x1")
    measure = (*_PYTHON, "-m", "bench", "gpu")
    own = ("--backends", "fused", "eager", "torchscript", "inductor", "--budget", "200")
    tensorrt = ("--backends", "fused", "tensorrt", "tensorrt-without-plugin", "--budget", "120", "--norms", "--videos")
    rtx = ("--backends", "fused", "tensorrt-rtx", "--budget", "60", "--norms", "--videos")
    return (
        _BUILD,
        Step("gpu", (*measure, *cases, *own, "--json", str(results / "gpu.json")), 300),
        Step(
            "tensorrt",
            (*measure, *cases, *tensorrt, "--json", str(results / "gpu-tensorrt.json")),
            240,
            modules=("torch_tensorrt",),
        ),
        Step(
            "tensorrt-rtx",
            (*measure, *cases, *rtx, "--json", str(results / "gpu-tensorrt-rtx.json")),
            120,
            modules=("tensorrt_rtx",),
        ),
    )


def describe_device() -> str:
    """The GPU and the versions that all steps run with, in one line."""
    import torch

    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return f"{name}, sm{major}{minor}, torch {torch.__version__}, CUDA {torch.version.cuda}"


def no_device() -> str | None:
    """Why there is no CUDA device for the steps, in one line; None if there is one."""
    try:
        import torch
    except ImportError as error:
        return f"PyTorch can't be imported: {error}"
    if torch.cuda.is_available():
        return None
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return f"no CUDA device: torch {torch.__version__} is built {built}"


def main(argv: list[str] | None = None) -> int:
    """Runs the steps; returns 0 if all passed or were skipped."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("what", choices=("test", "bench"))
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="of bench (default: %(default)s)")
    parser.add_argument("--from", dest="first", metavar="STEP", help="leave out the steps before this one")
    options = parser.parse_args(argv)
    steps = TESTS if options.what == "test" else benchmarks(options.results)
    names = [step.name for step in steps]
    if options.first and options.first not in names:
        print(f"error: no step {options.first!r}: there are {', '.join(names)}", file=sys.stderr)
        return 1
    if (reason := no_device()) is not None:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    print(describe_device(), flush=True)
    try:
        outcomes = run(steps[names.index(options.first) if options.first else 0 :])
    except KeyboardInterrupt:
        return 130
    print("\n".join(["", *table(outcomes)]))
    return 0 if is_good(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
