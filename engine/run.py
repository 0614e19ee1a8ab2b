"""Translate a video, webcam, image or folder: `python -m engine.run SOURCE [-o OUT] [--style NAME|CHECKPOINT]`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import logging
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import engine
from engine.allocator import keep_freed_memory
from engine.command_line import command_name, exit_with
from engine.compose import COMPARISONS
from engine.dry_run import DryRun
from engine.errors import BackendError, ClusterError, EngineError, SourceError
from engine.job_queue import Job, groups_of, summary_table
from engine.jobs import JobRunner
from engine.parts import describe
from engine.report import check_json_target, write_json
from engine.sizes import parse_size
from engine.stop import StopRequest
from engine.times import parse_time

logger = logging.getLogger("streamgan")

EXAMPLES = """\
examples:
  python -m engine.run clip.mp4                              bundled style, writes clip_STYLE.mp4 beside it
  python -m engine.run clip.mp4 -o out.mp4 --style latest_net_G_A.pth
  python -m engine.run photos/ -o translated/                every image of a folder
  python -m engine.run 0 --show                              webcam to a window, h lists its keys
  python -m engine.run clip.mp4 --benchmark                  no output, just the speed
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m engine.run`."""
    parser = argparse.ArgumentParser(
        prog=command_name("engine.run"),
        usage="%(prog)s [SOURCE ...] [-o OUT] [--style NAME|FILE] [options]",
        description="Translate a video, webcam, image or folder with a GAN generator.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        nargs="*",
        type=_source,
        help="video file, image, folder or glob of either, webcam index (0) or /dev/videoN, URL; several are done one "
        "after the other; default: sample clip",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=_not_empty,
        metavar="OUT",
        help="video file, image, folder, or live output (rtmp://..., live.m3u8); default: beside the source",
    )
    parser.add_argument("-y", "--overwrite", action="store_true", help="replace an output that exists")
    parser.add_argument(
        "--style",
        type=_not_empty,
        action="append",
        metavar="NAME|FILE",
        help="bundled style or checkpoint; default: the first of the list; several with --show: keys n and p",
    )
    parser.add_argument(
        "--jobs",
        type=_not_empty,
        metavar="FILE",
        help="jobs from a TOML file: [[job]] tables with source, output and any option by its long name; options above "
        "the first table hold for all",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing; say what would be done, and how long that takes by a short measurement",
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
        "--steady",
        type=_share,
        default=0.0,
        metavar="S",
        help="calm the flicker of a translated video, 0 (default: not at all) to 1",
    )
    video.add_argument(
        "--compare",
        choices=COMPARISONS,
        help="shows the source too. split: in the left half; side: beside the result; toggle: two seconds of each",
    )
    video.add_argument(
        "--start",
        type=parse_time,
        metavar="TIME",
        help="begin with the first frame shown at this time or later: seconds, M:SS or H:MM:SS, with decimals if need "
        "be; the output begins at zero",
    )
    video.add_argument(
        "--end", type=parse_time, metavar="TIME", help="leave out what is shown at this time of the source or later"
    )
    video.add_argument(
        "--preview",
        type=parse_time,
        metavar="TIME",
        help="translate the frame of this time alone: NAME.preview.png, beside the output's name, has source and "
        "result side by side (--compare split: in halves); --show shows it instead",
    )
    video.add_argument("--frames", type=_positive, metavar="N", help="stop after N frames")
    video.add_argument("--show", action="store_true", help="show the result in a window; the key h lists the others")
    video.add_argument(
        "--virtual-camera",
        action="store_true",
        help="send the result to a virtual camera, which video calls can choose (extra virtual-camera)",
    )
    video.add_argument(
        "--target-fps",
        type=_rate,
        metavar="N",
        help="hold N frames per second of a camera, live stream or window: the generator gets smaller frames where it "
        "is too slow, and larger ones again where it can; the output keeps its size",
    )
    video.add_argument(
        "--skip-similar",
        action="store_true",
        help="show or write the last translation once more while nothing moves, however small, in the source",
    )
    video.add_argument("--benchmark", action="store_true", help="write nothing, report the speed")
    video.add_argument("--camera-size", type=parse_size, metavar="WxH", help="size to ask the webcam for")
    video.add_argument(
        "--reconnect",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to try again when a webcam or live stream goes away; 0: its end is the end (default: 30)",
    )

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
        return _report(error, debug=False)


def _translate_jobs(options: argparse.Namespace, stop: StopRequest) -> int:
    groups = groups_of(options, build_parser())
    jobs = [job for group in groups for job in group.jobs]
    for group in groups:
        group.check(_check)
    status, runner, dry_run = 0, None, DryRun() if options.dry_run else None
    for group in groups:
        try:
            runner = JobRunner(group.options, stop, many=len(group.jobs) > 1, before=runner)
        except EngineError as error:
            if len(groups) == 1:
                raise
            for job in group.jobs:
                job.fail(error)
                status = _report(error, debug=options.debug, name=job.source)
            continue
        with contextlib.ExitStack() as stack:
            run = runner.run if dry_run is None else functools.partial(dry_run.look, runner)
            if group.options.cluster and dry_run is None:
                from engine.cluster.spread import SpreadRunner

                run = stack.enter_context(SpreadRunner(group.options, runner, [job.source for job in group.jobs])).run
            for job in group.jobs:
                status = _do(job, run, runner, is_only=len(jobs) == 1, debug=options.debug) or status
                if stop.signal_number is not None:
                    break
        if stop.signal_number is not None:
            status = stop.exit_status
            break
    if dry_run is not None:
        print("\n".join(dry_run.lines()), file=sys.stderr if options.json == "-" else sys.stdout)
    elif len(jobs) > 1 and not options.quiet:
        print("\n".join(summary_table(jobs)), file=sys.stderr)
    if options.json:
        others = {
            "failed": [{"source": job.source, "error": job.error} for job in jobs if job.state == "failed"],
            "not_begun": [job.source for job in jobs if job.state == "not begun"],
        }
        done = [job.summary for job in jobs if job.summary is not None]
        plans = {} if dry_run is None else {"plans": [dataclasses.asdict(plan) for plan in dry_run.plans]}
        write_json(options.json, {"version": engine.__version__, "results": done, **others, **plans})
    return status


def _check(options: argparse.Namespace) -> None:
    """Raises EngineError where options don't go together."""
    from engine.video import TimeRange

    if options.json and options.json != "-":
        check_json_target(options.json, taken=(*options.source, options.output, *(options.style or [])))
    if options.style and len(options.style) > 1 and not options.show:
        raise BackendError("several styles need a window, in which the keys n and p change the style: add --show")
    if options.preview is not None and (options.start is not None or options.end is not None):
        raise SourceError("--preview names one time: give it without --start and --end")
    if options.cluster and any(time is not None for time in (options.start, options.end, options.preview)):
        raise ClusterError("--cluster translates whole videos: give it without --start, --end and --preview")
    if options.cluster and (options.target_fps or options.skip_similar):
        raise ClusterError("--cluster translates every frame as it is: give it without --target-fps and --skip-similar")
    if options.cluster and options.steady:
        raise ClusterError("--steady follows a video frame by frame: give it without --cluster")
    TimeRange(options.start, options.end)


def _do(job: Job, run: Callable[[str], None], runner: JobRunner, *, is_only: bool, debug: bool) -> int:
    """Does a job; raises its failure if it is the only one, else reports it. Returns its exit status."""
    done, missing = len(runner.summaries), runner.missing
    try:
        run(job.source)
    except KeyboardInterrupt:
        job.state = "stopped"
        if is_only:
            raise
        return 1
    except Exception as error:
        job.fail(error)
        if is_only:
            raise
        return _report(error, debug=debug, name=job.source)
    job.end(runner.summaries[-1] if len(runner.summaries) > done else None)
    return 1 if runner.missing > missing else 0


def _list_styles() -> None:
    from engine.styles import DEFAULT_STYLE, list_styles

    for style in list_styles():
        default = " (default)" if style.name == DEFAULT_STYLE else ""
        print(f"{style.name}{default}: {style.description}")
        print(f"  {style.architecture}, {style.parameter_count:,} parameters, {style.size_bytes / 2**20:.1f} MiB")
        print(f"  trained on: {style.trained_on}")
        print(f"  licence: {style.licence}")


def _report(error: Exception, *, debug: bool, name: str = "") -> int:
    if debug:
        traceback.print_exception(error)
    where = f"{name}: " if name and name not in str(error) else ""
    if not isinstance(error, EngineError):
        print(f"error: {where}unexpected {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        return 1
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


def _rate(text: str) -> float:
    return _number(text, least=1, most=1000, meaning="a number of frames per second from 1 to 1000")


def _share(text: str) -> float:
    return _number(text, least=0, most=1, meaning="a number from 0 to 1")


def _number(text: str, *, least: float, most: float, meaning: str) -> float:
    with contextlib.suppress(ValueError):
        if least <= float(text) <= most:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")


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
