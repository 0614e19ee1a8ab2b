"""Sends many tiny frames through the pipeline and watches the memory: `python -m tests.engine.video.memory 100000`."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import av

from engine.allocator import keep_freed_memory
from engine.pipeline import Pipeline, Progress
from engine.video import open_sink, open_source
from tests.engine.video.identity import Identity
from tests.media import Audio, make_video

PART = 1000  # frames that are encoded; the film is these again and again
EVERY = 2500


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("frames", type=int)
    parser.add_argument("--suffix", default=".mkv", help="of source and output")
    options = parser.parse_args()
    keep_freed_memory()  # as engine.run begins
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = repeated(folder / f"in{options.suffix}", options.frames)
        print(json.dumps(watch(source, folder / f"out{options.suffix}")))


def repeated(path: Path, frames: int) -> Path:
    """A film of so many frames of 16x16 pixels, with sound."""
    part = path.with_name(f"part{path.suffix}")
    sound = (Audio(seconds=PART / 25, rate=16000, layout="mono"),)
    make_video(part, pts=[index * 512 for index in range(PART)], size=(16, 16), audio=sound, options={"bf": "0"})
    with av.open(str(part)) as source, av.open(str(path), "w") as output:
        copies = [output.add_stream_from_template(stream) for stream in source.streams]
        length = PART / 25
        packets = [packet for packet in source.demux() if packet.size and 0 <= packet.pts * packet.time_base < length]
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for repetition in range(frames // PART):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                shift = round(repetition * length / packet.time_base)
                copy.pts, copy.dts, copy.time_base = packet.pts + shift, packet.dts + shift, packet.time_base
                copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
                copy.stream = copies[packet.stream.index]
                output.mux_one(copy)
    part.unlink()
    return path


def watch(source: Path, output: Path) -> dict[int, int]:
    """Resident bytes after so many frames."""
    resident: dict[int, int] = {}

    def note(progress: Progress) -> None:
        place = progress.frames // EVERY * EVERY
        if place and place not in resident:
            resident[place] = resident_bytes()

    opened = open_source(str(source))
    result = Pipeline(opened, Identity(), open_sink(str(output), opened), on_progress=note).run()
    assert result.output == output
    assert not result.warnings, result.warnings
    return resident


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
