"""A checkpoint file -> the tensors and dictionaries in it, without running any code that the file may hold."""

from __future__ import annotations

import dataclasses
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import CheckpointError

SAVE_STATE_DICT = "torch.save(generator.state_dict(), 'generator.pth')"

# Enough to tell a file's kind and, in pickles of the oldest format, to see the names of the classes in it.
HEAD_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class FileContent:
    """What a checkpoint file holds.

    Attributes:
        value: usually nested dictionaries of tensors; anything that the safe unpickler makes.
        metadata: text fields of a safetensors file.
    """

    value: Any
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


def read_file(path: Path) -> FileContent:
    """Reads a PyTorch (.pth, .pt, .ckpt, .tar) or safetensors file; the content tells which, not the name.

    Raises:
        CheckpointError: missing, unreadable, damaged or unsafe, or a file of another kind.
    """
    head = _read_head(path)
    if head.startswith(b"PK\x03\x04"):
        return FileContent(_read_zip(path))
    if _is_safetensors(head):
        return _read_safetensors(path)
    if re.match(rb"\x80[\x02-\x05]", head):
        return FileContent(_load(path, head, mmap=False))
    raise CheckpointError(f"{path}: {_describe_foreign(head)}; accepted are PyTorch (.pth, .pt) and .safetensors files")


def _read_head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise CheckpointError(f"{path}: is a directory; pass {_suggest_file(path)}")
        with path.open("rb") as file:
            head = file.read(256)
            if head.startswith(b"\x80"):  # a pickle
                head += file.read(HEAD_BYTES)
    except (FileNotFoundError, ValueError) as error:  # ValueError: a null character in the name
        raise CheckpointError(f"{path}: no such file; pass a generator's .pth or .safetensors file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{path}: the file is empty; download or copy it again")
    return head


def _suggest_file(directory: Path) -> str:
    suffixes = (".pth", ".pt", ".ckpt", ".safetensors")
    names = sorted(file.name for file in directory.iterdir() if file.suffix in suffixes)
    return f"one of the files in it, e.g. {_likely_generator(names)}" if names else "a .pth or .safetensors file"


def _likely_generator(names: list[str]) -> str:
    return next((name for name in names if re.search(r"(net_?|_|^)G(_|\.)|gen", name)), names[0])


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            data = next((name for name in names if name == "data.pkl" or name.endswith("/data.pkl")), None)
            inner = {name.partition("/")[2] for name in names}
            pickled = archive.read(data) if data else b""
    except Exception as error:  # damaged names and offsets raise any kind of exception
        raise _damaged(path, error) from error
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        raise CheckpointError(
            f"{path}: is a TorchScript archive, which holds code; accepted is the weights file it was made from, "
            f"saved with {SAVE_STATE_DICT}"
        )
    if data is None:
        raise CheckpointError(
            f"{path}: is a zip archive (such as an exported .pt2 program or .npz) but no checkpoint; "
            f"accepted are files saved with {SAVE_STATE_DICT}"
        )
    return _load(path, pickled, mmap=True)


def _load(path: Path, pickled: bytes, *, mmap: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, before an error about the same
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise _refused(path, pickled, error) from error
    except Exception as error:  # the unpickler meets damaged bytes with any kind of exception
        raise _damaged(path, error) from error


def _refused(path: Path, pickled: bytes, error: Exception) -> CheckpointError:
    """The error for a pickle that asks for more than tensors and plain values."""
    named = re.search(r"(?:GLOBAL|[Cc]lass) (\w+(?:\.\w+)+)", str(error))
    if b"torch.nn.modules." in pickled:
        return CheckpointError(
            f"{path}: holds a whole pickled module, that is code, and is not loaded; "
            f"in the program that wrote it save the weights alone: {SAVE_STATE_DICT}"
        )
    if named:
        return CheckpointError(
            f"{path}: holds code ({named.group(1)}) and is not loaded, since loading could run it; "
            f"if you trust its origin, save the weights alone in the program that wrote it: {SAVE_STATE_DICT}"
        )
    if "Unsupported operand" in str(error):
        return CheckpointError(
            f"{path}: holds pickled objects other than tensors, or is damaged, and is not loaded; "
            f"save the weights alone in the program that wrote it: {SAVE_STATE_DICT}"
        )
    return _damaged(path, error)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    words = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    reason = words.partition("\n")[0][:120] or type(error).__name__
    return CheckpointError(f"{path}: the file is damaged or incomplete ({reason}); download or copy it again")


def _is_safetensors(head: bytes) -> bool:
    """An 8-byte little-endian header length, then the header's opening brace."""
    return len(head) > 8 and head[8:9] == b"{" and head[6:8] == b"\0\0"


def _read_safetensors(path: Path) -> FileContent:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    return FileContent(tensors, metadata)


def _looks_like_text(head: bytes) -> bool:
    return all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head[:16])


def _describe_foreign(head: bytes) -> str:
    if not _looks_like_text(head):
        return "no checkpoint: the file's format is unknown or its beginning is damaged"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the file itself (run `git lfs pull`)"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page instead of the file itself (use its download link)"
    first_line = head.decode("ascii", "replace").splitlines()[0][:40]
    return f"a text file (it begins {first_line!r})"
