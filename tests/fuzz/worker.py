"""A process that tries one mutated input after the other and says for each whether it ended as it should.

It reads seeds from its standard input, one a line, and answers each with one line of JSON: "outcome", and "fault" where
there is one. The parent notices a crash and a hang.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import random
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from engine.errors import EngineError
from tests.fuzz import originals
from tests.fuzz.mutations import mutate, mutate_packets

MEMORY_BYTES = 6 << 30  # of addresses; a damaged size must not take the machine's memory


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("video", "packets", "checkpoint"))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    folder = options.folder
    make = originals.make_checkpoints if options.kind == "checkpoint" else originals.make_videos
    (folder / "originals").mkdir()
    files = make(folder / "originals")
    complaints = (folder / "stderr").open("w+b", buffering=0)
    os.dup2(complaints.fileno(), 2)
    os.dup2(complaints.fileno(), 1)
    stacks = (folder / "stacks").open("w")
    temporary = folder / "tmp"
    os.environ["TMPDIR"] = str(temporary)
    answers.write("ready\n")
    for line in sys.stdin:
        seed = int(line)
        for used in ("in", "out", "tmp"):
            shutil.rmtree(folder / used, ignore_errors=True)
            (folder / used).mkdir()
        complaints.truncate(0)
        complaints.seek(0)
        stacks.truncate(0)
        faulthandler.dump_traceback_later(15, file=stacks)
        source, output = make_input(options.kind, seed, files, folder)
        outcome, fault = try_one(run_checkpoint if options.kind == "checkpoint" else run_video, source, output)
        gc.collect()  # what complains while it is thrown away does so now
        faulthandler.cancel_dump_traceback_later()
        fault = fault or leftovers(folder, temporary)
        answers.write(json.dumps({"seed": seed, "outcome": outcome, "fault": fault}) + "\n")


def make_input(kind: str, seed: int, files: list[Path], folder: Path) -> tuple[Path, Path]:
    """The damaged file of a seed, and the output that it goes to."""
    rng = random.Random(f"{kind} {seed}")
    original = rng.choice(files)
    source = folder / "in" / original.name
    output = folder / "out" / f"out{rng.choice(('.mp4', '.mp4', '.mp4', '.mkv'))}"
    if kind == "packets" and original.suffix != ".gif":
        mutate_packets(original, source, rng)
    else:
        source.write_bytes(mutate(original.read_bytes(), rng))
    return source, output


def try_one(run: Callable[[Path, Path], str], source: Path, output: Path) -> tuple[str, str | None]:
    """What came of one input: a word, and the fault (its first line names its kind)."""
    try:
        return run(source, output), None
    except EngineError as error:
        kept = sorted(output.parent.iterdir())
        if "\n" in str(error) or not str(error):
            return "error", f"message is not one line: {error!r}"
        if kept != ([error.partial] if error.partial else []):
            return "error", f"left {[path.name for path in kept]}, named {error.partial}"
        return "partial" if kept else "error", None
    except AssertionError as error:
        return "fault", str(error)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((frame for frame in reversed(frames) if "/engine/" in frame.filename), frames[-1])
        where = f"{Path(ours.filename).name}:{ours.name}"
        return "fault", f"{type(error).__name__} in {where}\n{''.join(traceback.format_exception(error))}"


def run_video(source: Path, output: Path) -> str:
    """Source to output; what comes out whole has to be whole."""
    import av

    from tests.engine.video.identity import translate

    result = translate(source, output)
    kept = sorted(output.parent.iterdir())
    assert kept == [output], f"output isn't alone: {[path.name for path in kept]}"
    with av.open(str(output), metadata_errors="surrogateescape") as written:
        pictures = sum(bool(packet.size) for packet in written.demux(video=0))
    assert pictures == result.frames, f"pictures missing in the output\n{pictures} of {result.frames}"
    return "noted" if result.warnings else "fine"


def run_checkpoint(source: Path, output: Path) -> str:
    """Loading, and all that a doctor would say."""
    from engine.checkpoint import inspect_checkpoint, load_generator

    load_generator(source)
    inspect_checkpoint(source)
    return "fine"


def leftovers(folder: Path, temporary: Path) -> str | None:
    """Temporary files that stay, and lines that went past our own messages."""
    if names := sorted(path.name for path in temporary.rglob("*")):
        return f"temporary files left\n{names}"
    text = (folder / "stderr").read_text(errors="replace").strip()
    return f"lines on stderr: {text.splitlines()[-1][:60]}\n{text}" if text else None


if __name__ == "__main__":
    main()
