"""The bundled styles: small generators in this folder, each a native checkpoint that describes itself.

To add one, put NAME.safetensors here with the metadata fields name, description, trained_on, licence and author
(`python -m training.train --model distillation` writes them), and its attribution into README.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from engine.errors import CheckpointError

__all__ = ["DEFAULT_STYLE", "Style", "find_style", "list_styles", "locate_generator"]

DEFAULT_STYLE = "vermilion"

_FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Style:
    """What a bundled style says of itself.

    Attributes:
        name: what `--style` takes.
        description: how it looks, in one line.
        architecture: the generator in one line, such as "ResNet, 6 blocks, 16 channels, instance norm, ...".
        parameter_count: number of learned values.
        size_bytes: size of the file.
        trained_on: the pictures it learned from.
        licence: of the weights.
        author: whom to name, the authors of what it was made from too.
        path: the checkpoint.
    """

    name: str
    description: str
    architecture: str
    parameter_count: int
    size_bytes: int
    trained_on: str
    licence: str
    author: str
    path: Path


def list_styles() -> list[Style]:
    """The bundled styles, the default first, then by name; read from the files' headers, without the weights."""
    styles = [_read_style(path) for path in _FOLDER.glob("*.safetensors")]
    return sorted(styles, key=lambda style: (style.name != DEFAULT_STYLE, style.name))


def locate_generator(style: str | Path) -> Path:
    """The file behind a bundled style's name or a checkpoint's path; what looks like a path is taken as one.

    Raises:
        CheckpointError: it is no path and no style has this name.
    """
    path = Path(style)
    return path if path.exists() or path.suffix or path.name != str(style) else find_style(str(style))


def find_style(name: str) -> Path:
    """The checkpoint of the bundled style called `name`; upper and lower case are the same.

    Raises:
        CheckpointError: there is no such style.
    """
    paths = {path.stem: path for path in sorted(_FOLDER.glob("*.safetensors"))}
    if name.lower() in paths:
        return paths[name.lower()]
    near = difflib.get_close_matches(name.lower(), paths, n=1)
    question = f"did you mean {near[0]}? " if near else ""
    raise CheckpointError(
        f"no style {name!r}: {question}bundled are {', '.join(paths) or 'none'}; a checkpoint is given by its path"
    )


def _read_style(path: Path) -> Style:
    from engine.generators import CONFIG_KEY, config_from_dict

    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
            parameter_count = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        architecture = config_from_dict(json.loads(metadata[CONFIG_KEY])).describe()
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no bundled style: its header is damaged ({error}); install again") from error
    return Style(
        name=path.stem,
        description=metadata.get("description", ""),
        architecture=architecture,
        parameter_count=parameter_count,
        size_bytes=path.stat().st_size,
        trained_on=metadata.get("trained_on", ""),
        licence=metadata.get("licence", ""),
        author=metadata.get("author", ""),
        path=path,
    )
