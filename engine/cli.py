"""The command `streamgan`: `streamgan run clip.mp4` does what `python -m engine.run clip.mp4` does."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import engine
from engine.command_line import PROGRAM, exit_with

# Command -> the module whose `main(arguments)` it calls, and what the help says about it.
COMMANDS = {
    "run": ("engine.run", "translate a video, webcam, image or folder"),
    "serve": ("engine.serve", "translate a webcam live on a page, and uploaded videos"),
    "train": ("training.train", "train a generator"),
    "test": ("training.test", "write a page of a run's results on its test images"),
    "evaluate": ("training.evaluate", "measure trained generators on held-out images"),
    "export": ("engine.export", "write a generator as a file for another runtime"),
    "doctor": ("engine.doctor", "say what runs on this machine, or what a checkpoint is"),
    "cache": ("engine.cache", "list or clear the compiled engines"),
    "bench": ("bench.__main__", "measure this project on this machine"),
}


def main(arguments: list[str] | None = None) -> int:
    """Calls the command that `arguments` name, and returns its exit status; 2 if there is no such command."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command in ("-h", "--help"):
        print(_help())
        return 0
    if command == "--version":
        print(f"{PROGRAM} {engine.__version__}")
        return 0
    if command not in COMMANDS:
        problem = f"unknown command {command!r}" if command else "no command"
        print(f"error: {problem}: accepted are {', '.join(COMMANDS)}; see {PROGRAM} --help", file=sys.stderr)
        return 2
    module, _ = COMMANDS[command]
    sys.argv[0] = f"{PROGRAM} {command}"
    status: int = importlib.import_module(module).main(rest)
    return status


def console_script() -> NoReturn:
    """What the installed program `streamgan` calls."""
    exit_with(main)


def _help() -> str:
    lines = [f"  {name:<10}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} [-h] [--version] COMMAND ...",
            "",
            "GAN image-to-image generators on video.",
            "",
            "commands:",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help shows the options of a command.",
        ]
    )


if __name__ == "__main__":
    console_script()
