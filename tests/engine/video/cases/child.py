"""One job in a process of its own, which may hang, be killed or run into a limit: `child SOURCE OUTPUT`.

It does what `python -m engine.run` does, with a translator that changes nothing, so torch need not be imported. The
last line of its standard output is JSON: frames, output, warnings; or error and partial.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.stop import StopRequest

ROOT = Path(__file__).parents[4]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the process ended: its status (negative: by that signal), and what it said of the job."""

    status: int
    said: dict[str, Any]
    errors: str

    @property
    def partial(self) -> Path | None:
        return Path(self.said["partial"]) if self.said.get("partial") else None


def command(source: Path | str, output: Path, *options: str) -> list[str]:
    """The command line of a child."""
    return [sys.executable, "-m", __name__, str(source), str(output), *options]


def start(source: Path | str, output: Path, *options: str, **popen: Any) -> subprocess.Popen[str]:
    """Starts a child in which SIGHUP is not ignored, whatever this process does."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
    return subprocess.Popen(command(source, output, *options), text=True, cwd=ROOT, preexec_fn=listen, **pipes)


def end(process: subprocess.Popen[str], *, seconds: float = 60) -> Ended:
    """Waits for a child. One that doesn't end in time is killed, and the test fails."""
    try:
        printed, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError(f"it does not end within {seconds} s") from None
    lines = printed.strip().splitlines()
    assert "Traceback" not in errors, errors
    return Ended(process.returncode, json.loads(lines[-1]) if lines else {}, errors)


def run(source: Path | str, output: Path, *options: str, seconds: float = 60, **popen: Any) -> Ended:
    """Runs a child to its end."""
    return end(start(source, output, *options, **popen), seconds=seconds)


def listen() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def main() -> None:
    # Libraries are loaded before signals are handled: an interruption in the middle of one would end in a traceback.
    import tests.engine.video.identity  # noqa: F401
    from engine.stop import StopRequest

    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("output", type=Path)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--frame-seconds", type=float, default=0.0, help="time that the translation of a frame takes")
    parser.add_argument("--most-bytes", type=int, help="limit of a file's size (ulimit -f)")
    parser.add_argument("--no-trailer", action="store_true", help="nothing more can be written after the last frame")
    parser.add_argument("--ready", type=Path, help="a file that is made when signals are handled")
    options = parser.parse_args()
    if options.most_bytes is not None:
        limit_files(options.most_bytes)
    stop = StopRequest()
    with stop.handled():
        if options.ready is not None:
            options.ready.touch()
        status, said = do_job(options, stop)
        print(json.dumps(said), flush=True)
        os._exit(status)  # signals are handled to the end, and a thread that hangs in a read does not keep the process


def do_job(options: argparse.Namespace, stop: StopRequest) -> tuple[int, dict[str, Any]]:
    """Runs the job; gives its exit status and what there is to say."""
    from engine.errors import EngineError
    from engine.pipeline import Pipeline
    from engine.video import open_sink, open_source
    from tests.engine.video.identity import Identity

    class Slow(Identity):
        def submit(self, frames: Any) -> Callable[[], Any]:
            time.sleep(options.frame_seconds)
            return super().submit(frames)

    try:
        source = open_source(options.source)
        sink = open_sink(str(options.output), source, overwrite=options.overwrite)
        if options.no_trailer:
            fill_up_before(sink, options.output.parent)
        stop.pipeline = Pipeline(source, Slow(), sink)
        result = stop.pipeline.run()
    except EngineError as error:
        return 1, {"error": str(error), "partial": str(error.partial) if error.partial else None}
    except KeyboardInterrupt:
        return stop.exit_status, {"error": "stopped", "partial": None}
    output = str(result.output) if result.output else None
    if not result.completed:
        return stop.exit_status, {"error": "stopped", "partial": output}
    return 0, {"frames": result.frames, "warnings": result.warnings, "output": output}


def fill_up_before(sink: Any, folder: Path) -> None:
    """Lets no file grow beyond the largest one in the folder once the sink is to finish."""
    finish = sink.finish

    def finish_without_room(**given: Any) -> Any:
        limit_files(max(path.stat().st_size for path in folder.iterdir()))
        return finish(**given)

    sink.finish = finish_without_room


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


if __name__ == "__main__":
    main()
