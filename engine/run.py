"""Translate a video, webcam, image or folder: `python -m engine.run SOURCE [-o OUT] [--style NAME|CHECKPOINT]`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
import traceback
from pathlib import Path

import engine
from engine.allocator import keep_freed_memory
from engine.command_line import command_name, exit_with
from engine.compose import COMPARISONS
from engine.errors import BackendError, EngineError
from engine.jobs import JobRunner, StopRequest
from engine.parts import describe
from engine.report import check_json_target, write_json
from engine.samples import SAMPLE
from engine.sizes import parse_size

logger = logging.getLogger("streamgan")

EXAMPLES = """\
examples:
  python -m engine.run clip.mp4                              bundled style, writes clip_STYLE.mp4 beside it
  python -m engine.run clip.mp4 -o out.mp4 --style latest_net_G_A.pth
  python -m engine.run photos/ -o translated/                every image of a folder
  python -m engine.run 0 --show                              webcam to a window, q ends
  python -m engine.run clip.mp4 --benchmark                  no output, just the speed
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m engine.run`."""
    parser = argparse.ArgumentParser(
        prog=command_name("engine.run"),
        description="Translate a video, webcam, image or folder with a GAN generator.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        nargs="?",
        type=_source,
        help="video file, image, folder or glob of either, webcam index (0) or /dev/videoN, URL; default: sample clip",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=_not_empty,
        metavar="OUT",
        help="video file, image, or folder; default: beside the source",
    )
    parser.add_argument("-y", "--overwrite", action="store_true", help="replace an output that exists")
    parser.add_argument(
        "--style",
        type=_not_empty,
        action="append",
        metavar="NAME|FILE",
        help="bundled style or checkpoint; default: the first of the list; with --show several, the key n goes on",
    )
    parser.add_argument("--skip-existing", action="store_true", help="leave out sources whose output is there already")
    parser.add_argument("--status", type=_not_empty, metavar="OUT", help="say how far the job of this output is")
    parser.add_argument("--list-styles", action="store_true", help="list the bundled styles and exit")

    model = parser.add_argument_group("generator")
    model.add_argument(
        "--backend",
        default="auto",
        help="auto: the fastest here; or fused, aoti, openvino, ...: python -m engine.doctor lists them",
    )
    model.add_argument(
        "--explain", action="store_true", help="measure every backend on the first frame and show the table"
    )
    model.add_argument(
        "--engine",
        type=_not_empty,
        metavar="FILE",
        help="engine that python -m engine.export wrote, for this style; it is code: use no stranger's file",
    )
    model.add_argument(
        "--precision", default="auto", help="auto: the faster of bf16 and fp32 here; or fp32, bf16, fp16, fast"
    )
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default: %(default)s)")
    model.add_argument(
        "--norm-mode",
        choices=("eval", "batch"),
        default="eval",
        help="BatchNorm statistics: those of training, or each picture's own as the pix2pix authors tested",
    )
    model.add_argument("--batch", type=_positive, metavar="N", help="frames per call (default: measured)")
    model.add_argument("--threads", type=_positive, metavar="N", help="threads of the generator (default: all cores)")

    video = parser.add_argument_group("video")
    video.add_argument(
        "--codec", metavar="NAME", help="encoder, e.g. libx265, libvpx-vp9, h264_nvenc (default: libx264)"
    )
    video.add_argument(
        "--crf", type=_crf, metavar="N", help="quality, 0 (best) to 63; smaller is better and larger files"
    )
    video.add_argument(
        "--audio",
        choices=("convert", "copy", "none"),
        default="convert",
        help="for sound that the output's container can't hold as it is. convert (default): encode it again; "
        "copy: an error. none: no sound at all",
    )
    video.add_argument(
        "--hwaccel",
        choices=("auto", "none", "cuda"),
        default="auto",
        help="NVIDIA's video decoder and encoder. auto: where they work and frames are translated on a CUDA device",
    )
    video.add_argument(
        "--deinterlace", choices=("auto", "no"), default="auto", help="auto: where the video says that it is interlaced"
    )
    video.add_argument(
        "--background",
        type=_color,
        default=(0, 0, 0),
        metavar="COLOR",
        help="behind what is transparent in a video: black, white, green or #RRGGBB (default: black)",
    )
    video.add_argument(
        "--part-seconds",
        type=_seconds,
        metavar="S",
        help="keep what is done in parts of so many seconds, from which the same command goes on after an interruption "
        "(default: 10 for jobs of over a minute); 0: in one piece",
    )
    video.add_argument("--restart", action="store_true", help="begin anew, even if parts of an earlier run are there")
    video.add_argument("--keep-parts", action="store_true", help="keep the parts when the output is complete")
    video.add_argument(
        "--strength", type=_share, default=1.0, metavar="S", help="share of the style, 0 to 1; the rest is the source"
    )
    video.add_argument(
        "--compare",
        choices=COMPARISONS,
        help="shows the source too. split: in the left half; side: beside the result; toggle: two seconds of each",
    )
    video.add_argument("--frames", type=_positive, metavar="N", help="stop after N frames")
    video.add_argument("--show", action="store_true", help="show the result in a window; q or Esc ends")
    video.add_argument("--benchmark", action="store_true", help="write nothing, report the speed")
    video.add_argument("--camera-size", type=parse_size, metavar="WxH", help="size to ask the webcam for")

    cluster = parser.add_argument_group("cluster")
    cluster.add_argument(
        "--cluster",
        type=_not_empty,
        metavar="auto|ADDRESS",
        help="have the frames translated by the workers of a Ray cluster: auto: the one that runs on this machine, or "
        "HOST:PORT of its head; --threads is the cores of one worker",
    )

    report = parser.add_argument_group("report")
    report.add_argument(
        "--json", type=_not_empty, metavar="FILE", help="write the summary as JSON; - for standard output"
    )
    report.add_argument("--quiet", action="store_true", help="no progress and no summary, errors only")
    report.add_argument("--debug", action="store_true", help="show the traceback of an error")
    report.add_argument("--version", action="version", version=f"streamgan {engine.__version__}")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit status (0 done, 1 error, 2 usage, 128 + N stopped by signal N)."""
    options = build_parser().parse_args(arguments)
    _set_up_logging(quiet=options.quiet)
    keep_freed_memory()
    stop = StopRequest()
    try:
        if options.list_styles:
            _list_styles()
            return 0
        if options.status:
            print("\n".join(describe(Path(options.status))))
            return 0
        with stop.handled():
            return _translate_jobs(options, stop)
    except EngineError as error:
        return _report(error, debug=options.debug)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return stop.exit_status
    except BrokenPipeError:
        return 1
    except Exception as error:
        if options.debug:
            raise
        print(f"error: unexpected {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        return 1


def _translate_jobs(options: argparse.Namespace, stop: StopRequest) -> int:
    from engine import video

    if options.json and options.json != "-":
        check_json_target(options.json, taken=(options.source, options.output, *(options.style or [])))
    if options.style and len(options.style) > 1 and not options.show:
        raise BackendError("several styles need a window, in which the key n goes on to the next: add --show")
    jobs = video.expand(options.source) if options.source is not None else [str(SAMPLE)]
    runner = JobRunner(options, stop, many=len(jobs) > 1)
    status = 0
    with contextlib.ExitStack() as stack:
        run = runner.run
        if options.cluster:
            from engine.cluster.spread import SpreadRunner

            run = stack.enter_context(SpreadRunner(options, runner, jobs)).run
        for job in jobs:
            try:
                run(job)
            except EngineError as error:
                if len(jobs) == 1:
                    raise
                status = _report(error, debug=options.debug, name=job)
            if stop.signal_number is not None:
                status = stop.exit_status
                break
    if options.json:
        write_json(options.json, {"version": engine.__version__, "results": runner.summaries})
    return status or (1 if runner.missing else 0)


def _list_styles() -> None:
    from engine.styles import DEFAULT_STYLE, list_styles

    for style in list_styles():
        default = " (default)" if style.name == DEFAULT_STYLE else ""
        print(f"{style.name}{default}: {style.description}")
        print(f"  {style.architecture}, {style.parameter_count:,} parameters, {style.size_bytes / 2**20:.1f} MiB")
        print(f"  trained on: {style.trained_on}")
        print(f"  licence: {style.licence}")


def _report(error: EngineError, *, debug: bool, name: str = "") -> int:
    if debug:
        traceback.print_exception(error)
    where = f"{name}: " if name and name not in str(error) else ""
    kept = f"; what was done is in {error.partial}" if error.partial else ""
    print(f"error: {where}{error}{kept}", file=sys.stderr)
    return 1


def _set_up_logging(*, quiet: bool) -> None:
    """Notes of the engine go to stderr, around the progress bar."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            from tqdm import tqdm

            tqdm.write(f"note: {record.getMessage()}", file=sys.stderr)

    logger.handlers = [Handler()]
    logger.setLevel(logging.ERROR if quiet else logging.WARNING)


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _source(text: str) -> str:
    """A source as it is given; `file:///clip.mp4` is `/clip.mp4`."""
    return _not_empty(text.removeprefix("file://") if text.startswith("file://") else text.removeprefix("file:"))


def _positive(text: str) -> int:
    return _whole_number(text, least=1, most=None)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value == 0 or 0.1 <= value <= 3600):
        raise argparse.ArgumentTypeError(f"{text!r} is not 0, or a number of seconds from 0.1 to 3600")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _crf(text: str) -> int:
    return _whole_number(text, least=0, most=63)


def _color(text: str) -> tuple[int, int, int]:
    """Bytes of blue, green and red."""
    named = {"black": "#000000", "white": "#ffffff", "green": "#00ff00"}.get(text.lower(), text)
    if not re.fullmatch("#[0-9a-fA-F]{6}", named):
        raise argparse.ArgumentTypeError(f"{text!r} is not black, white, green or #RRGGBB")
    red, green, blue = bytes.fromhex(named[1:])
    return blue, green, red


def _whole_number(text: str, *, least: int, most: int | None) -> int:
    accepted = f"a whole number from {least}" + (f" to {most}" if most is not None else "")
    if not text.isascii() or not text.isdigit() or int(text) < least or (most is not None and int(text) > most):
        raise argparse.ArgumentTypeError(f"{text!r} is not {accepted}")
    return int(text)


if __name__ == "__main__":
    exit_with(main)
