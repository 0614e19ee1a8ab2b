"""Uploaded videos: kept in a temporary folder, checked in a child process, translated by `engine.run`, then removed."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from engine.serve.probe import Limits

# A client that sends nothing for so long is gone.
_SILENCE_SECONDS = 30.0
_CHECK_SECONDS = 30.0

# Being live comes first: files are translated at a lower priority.
_NICENESS = 10

_PROGRESS = re.compile(r"(\d+)/(\d+) ")


class UploadError(Exception):
    """An upload that is refused, or is not there."""


@dataclasses.dataclass
class Upload:
    """One file and what has become of it.

    Attributes:
        folder: where it and its translation are.
        name: what the translation is called when it is downloaded.
        style: name or checkpoint.
        state: "receiving", "checking", "waiting", "running", "done" or "failed".
        done, total: frames; total is 0 while it is not known.
        error: why it failed, in one line.
        ended: `time.monotonic()` when it was done or had failed.
    """

    folder: Path
    name: str
    style: str
    state: str = "receiving"
    done: int = 0
    total: int = 0
    error: str = ""
    ended: float = 0.0
    task: asyncio.Task[None] | None = None


class Uploads:
    """Translates uploaded files, one at a time.

    Args:
        limits: what is accepted.
        most: how many uploads are kept at the same time.
        keep_seconds: when a finished one is removed.
        options: more arguments for `engine.run`.
    """

    def __init__(
        self, limits: Limits, *, most: int = 8, keep_seconds: float = 3600.0, options: tuple[str, ...] = ()
    ) -> None:
        self._limits, self._most, self._keep_seconds, self._options = limits, most, keep_seconds, options
        self._folder = Path(tempfile.mkdtemp(prefix="streamgan-uploads-"))
        self._uploads: dict[str, Upload] = {}
        self._turn = asyncio.Lock()

    @property
    def counts(self) -> collections.Counter[str]:
        """How many uploads are in which state."""
        return collections.Counter(upload.state for upload in self._uploads.values())

    async def receive(self, content: Any, *, name: str, style: str) -> str:
        """Writes what is sent to disk, and begins to translate it; returns what it is called here.

        Raises:
            UploadError: it is too large, too slow, or there are too many.
        """
        await self._sweep()
        if len(self._uploads) >= self._most:
            raise UploadError(f"{self._most} uploads are kept already: download or remove one, or try again later")
        key = secrets.token_urlsafe(16)
        folder = self._folder / key
        folder.mkdir()
        upload = self._uploads[key] = Upload(folder, download_name(name, style), style)
        try:
            size = 0
            with open(folder / "source", "wb") as file:
                async for piece in _pieces(content):
                    size += len(piece)
                    if size > self._limits.bytes:
                        raise UploadError(f"the file is larger than {self._limits.bytes >> 20} MiB")
                    await asyncio.to_thread(file.write, piece)
            if not size:
                raise UploadError("the file is empty")
        except BaseException as error:
            await self.remove(key)
            if isinstance(error, OSError):
                raise UploadError(f"the file can't be kept: {error.strerror}") from error
            raise
        upload.state = "checking"
        upload.task = asyncio.ensure_future(self._translate(upload))
        return key

    def status(self, key: str) -> dict[str, Any]:
        """State and progress of an upload.

        Raises:
            UploadError: there is no such one.
        """
        upload = self._find(key)
        return {"state": upload.state, "done": upload.done, "total": upload.total, "error": upload.error}

    def result(self, key: str) -> tuple[Path, str]:
        """The translation, and what it is to be called.

        Raises:
            UploadError: it is not done.
        """
        upload = self._find(key)
        if upload.state != "done":
            raise UploadError(f"it is not done but {upload.state}")
        return upload.folder / "result.mp4", upload.name

    async def remove(self, key: str) -> None:
        """Stops and removes an upload.

        Raises:
            UploadError: there is no such one.
        """
        upload = self._find(key)
        del self._uploads[key]
        if upload.task is not None:
            upload.task.cancel()
            await asyncio.gather(upload.task, return_exceptions=True)
        await asyncio.to_thread(shutil.rmtree, upload.folder, ignore_errors=True)

    async def stop(self) -> None:
        """Removes all of them."""
        for key in list(self._uploads):
            with contextlib.suppress(UploadError):
                await self.remove(key)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _find(self, key: str) -> Upload:
        if key not in self._uploads:
            raise UploadError("there is no such upload; it may have been removed")
        return self._uploads[key]

    async def _sweep(self) -> None:
        now = time.monotonic()
        for key, upload in list(self._uploads.items()):
            if upload.ended and now - upload.ended > self._keep_seconds:
                await self.remove(key)

    async def _translate(self, upload: Upload) -> None:
        try:
            upload.total = await self._check(upload)
            upload.state = "waiting"
            async with self._turn:
                upload.state = "running"
                await self._run(upload)
            upload.state = "done"
        except UploadError as error:
            upload.state, upload.error = "failed", str(error)
        finally:
            upload.ended = time.monotonic()
            with contextlib.suppress(OSError):
                (upload.folder / "source").unlink()

    async def _check(self, upload: Upload) -> int:
        """How many frames a file says it has; it is opened in a process with limits."""
        source = str(upload.folder / "source")
        limits = json.dumps(dataclasses.asdict(self._limits))
        async with _child("-m", "engine.serve.probe", source, limits) as child:
            try:
                out, _ = await asyncio.wait_for(child.communicate(), _CHECK_SECONDS)
                told = json.loads(out)
            except (TimeoutError, asyncio.TimeoutError, ValueError) as error:
                raise UploadError("this is no video, or a damaged one") from error
        if told.get("error"):
            raise UploadError(str(told["error"]))
        return int(told["frames"])

    async def _run(self, upload: Upload) -> None:
        source, result = upload.folder / "source", upload.folder / "result.mp4"
        arguments = (str(source), "-o", str(result), "--style", upload.style, *self._options)
        async with _child("-m", "engine.run", *arguments) as child:
            last = ""
            assert child.stderr is not None
            while piece := await child.stderr.read(4096):
                for line in re.split(r"[\r\n]+", piece.decode(errors="replace")):
                    last = line.strip() or last
                    if match := _PROGRESS.search(line):
                        upload.done, upload.total = int(match[1]), int(match[2])
            if await child.wait():
                reason = last.removeprefix("error: ").replace(str(source), "the file")
                raise UploadError(reason if last.startswith("error: ") else "it can't be translated")


@contextlib.asynccontextmanager
async def _child(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process at low priority, which doesn't outlive the `with` block."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *("nice", "-n", str(_NICENESS), sys.executable),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe if "engine.serve.probe" in arguments else asyncio.subprocess.DEVNULL,
        stderr=pipe,
        start_new_session=True,  # Ctrl-C is for the server, which then ends its children
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


async def _pieces(content: Any) -> AsyncIterator[bytes]:
    while True:
        try:
            piece = await asyncio.wait_for(content.readany(), _SILENCE_SECONDS)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise UploadError(f"nothing came for {_SILENCE_SECONDS:g} s") from error
        if not piece:
            return
        yield piece


def download_name(name: str, style: str) -> str:
    """What a translation is called: `clip_vermilion.mp4`. Only harmless characters are kept."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name.replace("\\", "/")).stem)[:60].strip("._") or "video"
    return f"{stem}_{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(style).stem)}.mp4"
