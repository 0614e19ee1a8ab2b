"""Jobs: one source to one output each, with progress and a summary."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engine
from engine.compose import composer
from engine.errors import SinkError, SourceError
from engine.files import sha256
from engine.report import ProgressBar, print_summary, summarise
from engine.samples import SAMPLE
from engine.steady import Steady
from engine.stop import StopRequest
from engine.times import show_time
from engine.window_controls import WindowControls

if TYPE_CHECKING:
    from engine.parts import Parts
    from engine.result import Progress
    from engine.runners.base import RunnerInfo
    from engine.switching import StyleSwitcher
    from engine.video.base import Sink, Source, SourceInfo

logger = logging.getLogger("streamgan")

# Frames of a file that the CPU works on at the same time: their threads need not wait for each other.
_FRAMES_AT_ONCE = 2

# What a translator depends on.
_GENERATOR_OPTIONS = (
    *("style", "backend", "precision", "device", "norm_mode", "engine", "threads", "explain", "target_fps"),
)


@dataclasses.dataclass(frozen=True)
class OpenJob:
    """A source and its output, not translated yet; `parts`: of the output, if it is kept in parts."""

    name: str
    source: Source
    sink: Sink
    output: Path | None
    parts: Parts | None
    controls: WindowControls | None


class JobRunner:
    """Translates one job after the other with one translator.

    Args:
        options: of the command line.
        stop: ends the job that is under way.
        many: there are several jobs, so an output is a folder.
        before: what has translated other jobs; its translator goes on where the options ask for the same.

    Attributes:
        summaries: JSON values of each job that is done.
        missing: pictures that could not be read or written, in all jobs.
        options, stop: as given.
        on_progress: called as that of `Pipeline`, if it is there.
    """

    def __init__(
        self, options: argparse.Namespace, stop: StopRequest, *, many: bool, before: JobRunner | None = None
    ) -> None:
        from engine.device import choose_device, is_surely_cpu
        from engine.styles import DEFAULT_STYLE
        from engine.video import TimeRange, choose_hardware

        self.summaries: list[dict[str, Any]] = []
        self.missing = 0
        self.options = options
        self.stop = stop
        self.on_progress: Callable[[Progress], None] | None = None
        self._many = many
        self._written: set[Path] = before._written if before is not None else set()  # never replaced by this run
        self._styles = options.style or [DEFAULT_STYLE]
        self._generator = [getattr(options, name) for name in _GENERATOR_OPTIONS]
        is_same = before is not None and before._generator == self._generator
        self._translator: StyleSwitcher | None = before._translator if before is not None and is_same else None
        is_preview = options.preview is not None
        self._time_range = TimeRange(options.preview if is_preview else options.start, options.end, is_still=is_preview)
        self._comparison = options.compare
        if is_preview and options.compare != "split":
            self._comparison = "side"
        self._is_on_cpu = is_surely_cpu(options.device)
        # What a hardware encoder makes is not kept in parts.
        needs_no_hardware = is_preview or ((self._is_on_cpu or options.cluster) and options.hwaccel != "cuda")
        self._hardware = None if needs_no_hardware else choose_hardware(options.hwaccel, choose_device(options.device))
        if self._hardware is not None and (options.engine or not takes_device_frames(options.backend)):
            # Frames of the other backends pass through system memory: better at once than twice.
            self._hardware = dataclasses.replace(self._hardware, frames_device="")

    def run(self, job: str) -> None:
        """Translates one source to its output, with progress and summary.

        Raises:
            EngineError: it could not be done; `error.partial` says what was kept.
        """
        opened = self.open(job)
        if opened is not None:
            self.translate(opened)

    def open(self, job: str) -> OpenJob | None:
        """Opens a source and its output; None if that is there and to be left as it is.

        Raises:
            EngineError: one of them can't be opened.
        """
        options = self.options
        source = self.open_source(job)
        try:
            output = self.output_of(job, source)
            if options.target_fps and not source.info.live and (output is not None or not options.show):
                raise SourceError(
                    f"{job}: --target-fps is for cameras, live streams and --show without -o: "
                    "what is written of a file would depend on the machine's speed"
                )
            if output is not None and options.skip_existing and output.is_file():
                logger.warning("%s is there already: %s is left out", output, job)
                source.close()
                return None
            translator = self.translator_for(source.info)
            is_shown = options.show or (output is None and not options.benchmark and not options.virtual_camera)
            controls = WindowControls(options.strength, self._comparison, translator, output) if is_shown else None
            sink, parts = self._open_sink(job, source, output, controls=controls)
        except BaseException:
            source.close()
            raise
        return OpenJob(job, source, sink, output, parts, controls)

    def open_source(self, job: str) -> Source:
        """Opens a source as the options say."""
        from engine import video

        return video.open_source(
            job,
            live_size=self.options.camera_size,
            reconnect_seconds=self.options.reconnect,
            hardware=self._hardware,
            deinterlace=self.options.deinterlace != "no",
            background=self.options.background,
            time_range=self._time_range,
        )

    def translate(self, opened: OpenJob) -> None:
        """Translates what was opened, and closes it.

        Raises:
            EngineError: as `run`.
        """
        from engine import video
        from engine.pipeline import Pipeline
        from engine.runners.base import describe_measurements
        from engine.similar import StillDetector

        options, source, sink, controls = self.options, opened.source, opened.sink, opened.controls
        with contextlib.closing(source):
            translator = self.translator_for(source.info)
            with ProgressBar(self.frame_count(source.info), disable=options.quiet) as bar:
                unexplained = options.explain

                def show(progress: Progress) -> None:
                    nonlocal unexplained
                    bar.show(progress)
                    if self.on_progress is not None:
                        self.on_progress(progress)
                    if unexplained and translator.choice:
                        bar.write(describe_measurements(translator.choice))
                        unexplained = False

                pipeline = Pipeline(
                    source,
                    translator,
                    sink,
                    batch=options.batch,
                    limit=options.frames,
                    on_progress=show,
                    steady=Steady(options.steady, threads=options.threads) if options.steady else None,
                    compose=controls or composer(options.strength, self._comparison),
                    is_still=StillDetector(lambda: translator.state) if options.skip_similar else None,
                    pace=translator.pace if options.target_fps else None,
                )
                self.stop.pipeline = pipeline
                try:
                    result = pipeline.run()
                finally:
                    self.stop.pipeline = None
        self.missing += source.missing + sink.missing
        hardware = video.hardware_used(source, sink)
        size = translator.internal_size if options.target_fps else None
        told: dict[str, Any] = {"steady": options.steady, "hardware": hardware, "internal_size": size}
        if result.output is not None:
            self._written.add(result.output.absolute())
        self.summaries.append(summarise(source.info, result, style=translator.style, **told))
        if not options.quiet:
            print_summary(source.info, result, names_output=options.json != "-", **told)

    def frame_count(self, info: SourceInfo) -> int | None:
        """How many frames of a source are translated; None: unknown."""
        return _least(info.frame_count, self.options.frames)

    def translator_for(self, info: SourceInfo) -> StyleSwitcher:
        """The translator of all jobs; made for the first one."""
        from engine.switching import StyleSwitcher
        from engine.translator import Translator

        options = self.options
        expected_frames = None if info.live else _least(info.frame_count, options.frames)

        def make(style: str, like: RunnerInfo | None = None) -> Translator:
            return Translator(
                style,
                backend=like.backend if like else options.backend,
                precision=like.precision if like else options.precision,
                device=options.device,
                norm_mode=options.norm_mode,
                engine_file=options.engine,
                expected_frames=expected_frames,
                live=info.live,
                explain=options.explain,
                threads=options.threads,
                frames_at_once=1 if expected_frames == 1 else _FRAMES_AT_ONCE,
            )

        if self._translator is None:
            self._translator = StyleSwitcher(self._styles, make, target_fps=options.target_fps)
        return self._translator

    def _open_sink(
        self, job: str, source: Source, output: Path | None, *, controls: WindowControls | None
    ) -> tuple[Sink, Parts | None]:
        """The output, and the parts that it is kept in."""
        from engine import video

        options, make_parts = self.options, self._parts_of(job, source)
        made: list[Parts] = []

        def keep(path: Path) -> Parts:
            assert make_parts is not None
            made.append(make_parts(path))
            return made[0]

        is_stream = options.output is not None and video.protocol_of(options.output) is not None
        sink = video.open_sink(
            options.output if is_stream else str(output) if output else None,
            source,
            crf=options.crf,
            codec=options.codec,
            audio=options.audio,
            overwrite=options.overwrite,
            hardware=self._hardware,
            show=controls is not None,
            virtual_camera=options.virtual_camera,
            controls=controls,
            stays=(lambda: self.stop.signal_number is None) if options.preview is not None else None,
            parts=keep if make_parts is not None and not is_stream else None,
            reconnect_seconds=options.reconnect,
        )
        return sink, made[0] if made else None

    def _parts_of(self, job: str, source: Source) -> Callable[[Path], Parts] | None:
        """Makes the parts of an output; None where nothing can be kept, or the source can't be read again."""
        from engine.parts import SECONDS, Parts, identity_of
        from engine.styles import locate_generator

        options = self.options
        is_kept = options.part_seconds != 0 and not options.show and not options.virtual_camera
        is_kept &= self._hardware is None
        if not is_kept or source.info.live or not Path(job).is_file():
            return None

        def make(output: Path) -> Parts:
            frames_depend_on = {
                "source": identity_of(Path(job)),
                "style": sha256(locate_generator(self._styles[0])),
                "--norm-mode": options.norm_mode,
                "--codec": options.codec,
                "--crf": options.crf,
                "--deinterlace": options.deinterlace,
                "--background": options.background,
                "--start": options.start and show_time(options.start),
                "--end": options.end and show_time(options.end),
                "--frames": options.frames,
                "--strength": options.strength,
                "--steady": options.steady or None,
                "--compare": options.compare,
                "--skip-similar": options.skip_similar,
                "version of StreamGAN": engine.__version__,
            }
            return Parts(
                output,
                frames_depend_on,
                frame_count=_least(source.info.frame_count, options.frames),
                seconds=options.part_seconds or (SECONDS if options.cluster else None),
                restart=options.restart,
                keep=options.keep_parts,
            )

        return make

    @property
    def makes_folder(self) -> bool:
        """Whether the output is a folder that is made where there is none."""
        output = self.options.output
        is_folder = output is not None and (Path(output).is_dir() or output.endswith(("/", os.sep)))
        return output is not None and (self._many or is_folder)

    def output_of(self, job: str, source: Source, *, is_dry: bool = False) -> Path | None:
        """Where the result of `job` goes, into a folder that is made unless `is_dry`; None: only to a window."""
        from engine import video
        from engine.video.partial_file import unused

        options = self.options
        if options.benchmark:
            return None
        if options.output is not None and video.protocol_of(options.output) is not None:
            if self._many:
                raise SinkError(f"{options.output}: takes one source, and there are several")
            return Path(options.output)
        if options.output is None:
            if source.info.live or options.show or options.virtual_camera:
                return None
            folder = Path.cwd() if job == str(SAMPLE) else None
        elif self.makes_folder:
            folder = Path(options.output)
            is_meant = options.output.endswith(("/", os.sep)) or folder.is_dir()
            if not is_meant and folder.suffix.lower() in video.SUFFIXES:
                raise SinkError(f"{folder}: names one file, and there are several sources; name a folder")
            try:
                if not is_dry:
                    folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SinkError(f"can't make the folder {folder}: {error.strerror}") from error
        else:
            return self._named(Path(options.output))
        proposed = video.default_output(job, Path(self._styles[0]).stem, source)
        if folder is not None and not proposed.suffix:
            return folder  # images keep their names in it
        if folder is not None:
            proposed = folder / proposed.name
        proposed = self._named(proposed)
        may_be_there = (options.overwrite and proposed.absolute() not in self._written) or options.skip_existing
        return proposed if may_be_there else unused(proposed)

    def _named(self, output: Path) -> Path:
        """The name of what is written: of a preview, that of a picture beside the output."""
        if self.options.preview is None or output.suffix.lower() == ".png":
            return output
        return output.with_suffix(".preview.png")


def _least(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return min(known) if known else None


def takes_device_frames(backend: str) -> bool:
    """Whether frames on a GPU need no copy for the backend, or for the one that `auto` starts with."""
    from engine.backends import get_backend

    return get_backend("fused" if backend == "auto" else backend).is_captured
