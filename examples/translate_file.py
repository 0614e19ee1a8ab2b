"""Translate a video file; sound, subtitles and timestamps are kept.

python examples/translate_file.py clip.mp4 translated.mp4 [STYLE|CHECKPOINT]
"""

import contextlib
import dataclasses
import sys

import engine
from engine.video import open_sink, open_source

clip, output, *style = sys.argv[1:]
translator = engine.Translator(style[0] if style else "vermilion")
with contextlib.closing(open_source(clip)) as source:
    sink = open_sink(output, source)
    try:
        for frame in source:
            sink.write(dataclasses.replace(frame, image=translator(frame.image)))
        print(sink.finish())
    except BaseException:
        print(sink.abort())  # what is done, under a name that says that it is partial
        raise
