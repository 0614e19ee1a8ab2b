"""Translate a video, webcam, image or folder: `python -m engine.run SOURCE [-o OUT] [--style NAME|CHECKPOINT]`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import engine
from engine.allocator import import_engine, keep_freed_memory
from engine.errors import BackendError, EngineError, SinkError
from engine.report import ProgressBar, check_json_target, print_summary, summarise, write_json
from engine.samples import SAMPLE

if TYPE_CHECKING:
    from engine.pipeline import Pipeline, Progress
    from engine.quick_start import QuickTranslator
    from engine.switching import StyleSwitcher
    from engine.translator import Translator
    from engine.video.base import Sink, Source, SourceInfo

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
        prog="python -m engine.run",
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
        "--engine", type=_not_empty, metavar="FILE", help="engine that python -m engine.export wrote, for this style"
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
        "--hwaccel",
        choices=("auto", "none", "cuda"),
        default="auto",
        help="NVIDIA's video decoder and encoder. auto: where they work and frames are translated on a CUDA device",
    )
    video.add_argument("--frames", type=_positive, metavar="N", help="stop after N frames")
    video.add_argument("--show", action="store_true", help="show the result in a window; q or Esc ends")
    video.add_argument("--benchmark", action="store_true", help="write nothing, report the speed")
    video.add_argument("--camera-size", type=_size, metavar="WxH", help="size to ask the webcam for")

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
    if options.threads:
        _check_threads(options.threads)
    jobs = video.expand(options.source) if options.source is not None else [str(SAMPLE)]
    runner = Runner(options, stop, many=len(jobs) > 1)
    status = 0
    for job in jobs:
        try:
            runner.run(job)
        except EngineError as error:
            if len(jobs) == 1:
                raise
            status = _report(error, debug=options.debug, name=job)
        if stop.signal_number is not None:
            status = stop.exit_status
            break
    if options.json:
        write_json(options.json, {"version": engine.__version__, "results": runner.summaries})
    return status


def _check_threads(threads: int) -> None:
    most = 4 * (os.cpu_count() or 1)
    if threads > most:
        raise BackendError(f"--threads {threads} is too many for {os.cpu_count()} cores: at most {most}")


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a stop of the running pipeline; a second one ends the process at once."""

    def __init__(self) -> None:
        self.pipeline: Pipeline | None = None
        self.signal_number: int | None = None

    @property
    def exit_status(self) -> int:
        return 128 + (self.signal_number or signal.SIGINT)

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Signals are handled here inside the `with` block, and as before after it."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, stack: FrameType | None) -> None:
        if self.signal_number is not None:
            os._exit(128 + number)
        self.signal_number = number
        if self.pipeline is None:
            raise KeyboardInterrupt
        self.pipeline.stop()
        if self.pipeline.is_starting:
            raise KeyboardInterrupt  # a compilation would go on for a minute


class Runner:
    """Translates one job after the other with one translator."""

    def __init__(self, options: argparse.Namespace, stop: StopRequest, *, many: bool) -> None:
        from engine.precision import choose_device, is_surely_cpu
        from engine.styles import DEFAULT_STYLE
        from engine.video import choose_hardware

        self.summaries: list[dict[str, Any]] = []
        self._options = options
        self._stop = stop
        self._many = many
        self._styles = options.style or [DEFAULT_STYLE]
        self._translator: StyleSwitcher | None = None
        self._is_on_cpu = is_surely_cpu(options.device)
        needs_no_hardware = self._is_on_cpu and options.hwaccel != "cuda"
        self._hardware = None if needs_no_hardware else choose_hardware(options.hwaccel, choose_device(options.device))
        if self._hardware is not None and (options.backend not in ("auto", "fused") or options.engine):
            # Frames of the other backends pass through system memory: better at once than twice.
            self._hardware = dataclasses.replace(self._hardware, frames_device="")

    def run(self, job: str) -> None:
        """Translates one source to its output, with progress and summary.

        Raises:
            EngineError: it could not be done; `error.partial` says what was kept.
        """
        from engine import video
        from engine.engines import describe_rows
        from engine.pipeline import Pipeline

        options = self._options
        with contextlib.closing(
            video.open_source(job, live_size=options.camera_size, hardware=self._hardware)
        ) as source:
            translator = self._translator_for(source.info)
            sink = self._open_sink(job, source, on_next=translator.next)
            frame_count = _least(source.info.frame_count, options.frames)
            with ProgressBar(frame_count, disable=options.quiet) as bar:
                unexplained = options.explain

                def show(progress: Progress) -> None:
                    nonlocal unexplained
                    bar.show(progress)
                    if unexplained and translator.choice:
                        bar.write(describe_rows(translator.choice))
                        unexplained = False

                pipeline = Pipeline(
                    source, translator, sink, batch=options.batch, limit=options.frames, on_progress=show
                )
                self._stop.pipeline = pipeline
                try:
                    result = pipeline.run()
                finally:
                    self._stop.pipeline = None
        hardware = video.hardware_used(source, sink)
        self.summaries.append(summarise(source.info, result, style=translator.style, hardware=hardware))
        if not options.quiet:
            print_summary(source.info, result, hardware=hardware)

    def _translator_for(self, info: SourceInfo) -> StyleSwitcher:
        from engine.quick_start import QuickTranslator, Request
        from engine.styles import locate_generator
        from engine.switching import StyleSwitcher

        options = self._options
        expected_frames = None if info.live else _least(info.frame_count, options.frames)

        def make_full(style: str) -> Translator:
            import_engine()
            import torch

            from engine.translator import Translator

            if options.threads:
                torch.set_num_threads(options.threads)
            return Translator(
                style,
                backend=options.backend,
                precision=options.precision,
                device=options.device,
                norm_mode=options.norm_mode,
                engine_file=options.engine,
                live=info.live,
                explain=options.explain,
                expected_frames=expected_frames,
            )

        def make(style: str) -> Translator | QuickTranslator:
            if not self._can_start_quickly():
                return make_full(style)
            request = Request(
                locate_generator(style),
                backend=options.backend,
                precision=options.precision,
                norm_mode=options.norm_mode,
                expected_frames=expected_frames,
                live=info.live,
                threads=options.threads,
            )
            return QuickTranslator(request, lambda: make_full(style), size=(info.height, info.width))

        if self._translator is None:
            self._translator = StyleSwitcher(self._styles, make)
        return self._translator

    def _can_start_quickly(self) -> bool:
        """Whether an engine that an earlier run has proven may be taken, if there is one."""
        from engine.quick_start import QUICK_BACKENDS

        options = self._options
        is_quick = options.backend in QUICK_BACKENDS and not (options.engine or options.explain)
        return self._is_on_cpu and is_quick

    def _open_sink(self, job: str, source: Source, *, on_next: Callable[[], None]) -> Sink:
        from engine import video

        options = self._options
        output = None if options.benchmark else self._output_of(job, source)
        return video.open_sink(
            str(output) if output else None,
            source,
            crf=options.crf,
            codec=options.codec,
            overwrite=options.overwrite,
            hardware=self._hardware,
            show=options.show or (output is None and not options.benchmark),
            on_next=on_next,
        )

    def _output_of(self, job: str, source: Source) -> Path | None:
        """Where the result of `job` goes; None: only to a window."""
        from engine import video
        from engine.video.partial_file import unused

        options = self._options
        if options.output is None:
            if source.info.live or options.show:
                return None
            folder = Path.cwd() if job == str(SAMPLE) else None
        elif self._many or Path(options.output).is_dir() or options.output.endswith(("/", os.sep)):
            folder = Path(options.output)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SinkError(f"can't make the folder {folder}: {error.strerror}") from error
        else:
            return Path(options.output)
        proposed = video.default_output(job, Path(self._styles[0]).stem)
        if folder is not None and not proposed.suffix:
            return folder  # images keep their names in it
        if folder is not None:
            proposed = folder / proposed.name
        return proposed if options.overwrite else unused(proposed)


def _least(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return min(known) if known else None


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


def _crf(text: str) -> int:
    return _whole_number(text, least=0, most=63)


def _whole_number(text: str, *, least: int, most: int | None) -> int:
    accepted = f"a whole number from {least}" + (f" to {most}" if most is not None else "")
    if not text.isascii() or not text.isdigit() or int(text) < least or (most is not None and int(text) > most):
        raise argparse.ArgumentTypeError(f"{text!r} is not {accepted}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.lower().partition("x")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 1280x720")
    return _positive(width), _positive(height)


if __name__ == "__main__":
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - closed by the caller (`>&-`)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    status = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # noqa: PERF203 - nobody reads it; the interpreter must not complain of that at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    # CPython ends with the signal itself, whatever the status, if KeyboardInterrupt was raised inside an exec() once.
    if status > 128 or threading.active_count() > 1:
        os._exit(status)  # a stopped run may still be inside the generator; the interpreter must not wait for it
    sys.exit(status)
