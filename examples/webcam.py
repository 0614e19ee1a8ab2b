"""Translate a webcam into a window (q ends), or a file.

python examples/webcam.py [SOURCE] [--frames N] [--output FILE]
"""

import argparse
import contextlib
import dataclasses
import itertools

import engine
from engine.video import StopStream, open_sink, open_source

parser = argparse.ArgumentParser()
parser.add_argument("source", nargs="?", default="0", help="webcam (0, /dev/video1), file or URL")
parser.add_argument("--frames", type=int, help="stop after so many")
parser.add_argument("--output", help="write a video instead of showing a window")
options = parser.parse_args()
translator = engine.Translator("vermilion")
with contextlib.closing(open_source(options.source)) as source:
    sink = open_sink(options.output, source, show=options.output is None)
    with contextlib.suppress(StopStream):  # q, or the window was closed
        for frame in itertools.islice(source, options.frames):  # of a webcam the newest one, whatever was missed
            sink.write(dataclasses.replace(frame, image=translator(frame.image)))
    sink.finish(is_cut=options.frames is not None)
