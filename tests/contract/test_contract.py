"""What the engine and the benchmarks use of TensorRT, TensorRT for RTX and Torch-TensorRT, looked up in their wheels.

No GPU is needed, and nothing is installed: `inference.py` finds the uses in our sources, `surface.py` and `sources.py`
read what the wheels offer.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.contract.inference import Inference
from tests.contract.sources import Sources
from tests.contract.surface import Contract, bindings_in
from tests.contract.values import Use
from tests.contract.wheels import requirements, unpacked

ROOT = Path(__file__).parents[2]
PACKAGES = ("engine", "training", "bench")


@dataclasses.dataclass(frozen=True)
class Versions:
    """Libraries that are used together.

    Attributes:
        tensorrt: "" for what this Torch-TensorRT requires.
    """

    torch_tensorrt: str
    tensorrt: str = ""
    tensorrt_rtx: str = "1.7"

    def __str__(self) -> str:
        return f"torch-tensorrt {self.torch_tensorrt}" + (f", TensorRT {self.tensorrt}" if self.tensorrt else "")


def oldest(package: str) -> str:
    """The oldest version of a package that our extras accept."""
    found = re.search(rf'"{package}>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
    assert found is not None
    return found.group(1)


CHECKED = tuple(
    dict.fromkeys(
        [
            Versions(oldest("torch-tensorrt"), tensorrt_rtx=oldest("tensorrt_rtx")),
            Versions("2.13"),
            Versions("2.14"),
            Versions("2.14", tensorrt="11.4"),  # the newest TensorRT, which `python -m bench` takes alone
        ]
    )
)
"""What is looked up; add a version when it is out."""

each_version = pytest.mark.parametrize("versions", CHECKED, ids=str)


@functools.cache
def contract(versions: Versions) -> Contract:
    """What these versions offer."""
    torch_tensorrt = unpacked(f"torch-tensorrt=={versions.torch_tensorrt}.*")
    bindings = f"tensorrt-cu13-bindings=={versions.tensorrt}.*"
    if not versions.tensorrt:
        (bindings,) = (each for each in requirements(torch_tensorrt) if each.startswith("tensorrt-cu13-bindings"))
    rtx = unpacked(f"tensorrt_rtx_cu13_bindings=={versions.tensorrt_rtx}.*")
    return Contract(
        {
            "torch_tensorrt": Sources(torch_tensorrt, "torch_tensorrt"),
            "tensorrt": bindings_in(unpacked(bindings), "tensorrt"),
            "tensorrt_rtx": bindings_in(rtx, "tensorrt_rtx"),
        }
    )


def program() -> dict[str, ast.Module]:
    """Our modules that have to do with these libraries."""
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    texts = {str(file.relative_to(ROOT)): file.read_text() for file in files}
    return {file: ast.parse(text) for file, text in texts.items() if re.search("tensorrt|trt", text, re.IGNORECASE)}


@functools.cache
def inferred(versions: Versions) -> list[Inference]:
    return infer(program(), contract(versions))


def infer(modules: dict[str, ast.Module], contract: Contract) -> list[Inference]:
    """Once for each of the two that offer the same: a function of ours that takes both is not to mix them up."""
    libraries = contract.libraries
    kinds = ({"torch_tensorrt", "tensorrt"}, {"tensorrt_rtx"})
    return [Inference(modules, Contract({name: libraries[name] for name in kind})) for kind in kinds]


def uses(versions: Versions) -> list[Use]:
    return [use for inference in inferred(versions) for use in inference.uses]


def problems(found: Sequence[Use]) -> list[str]:
    return [use.problem for use in found if use.problem is not None and not use.is_guarded]


def guarded_problems(found: Sequence[Use]) -> list[str]:
    """Of what our code asks for before it uses it: some version of some library has to have it."""
    answers: dict[object, list[str | None]] = {}
    for use in found:
        if use.is_guarded:
            answers.setdefault((use.place, use.kind), []).append(use.problem)
    return [each[0] for each in answers.values() if each[0] is not None and None not in each]


@each_version
def test_what_is_used_is_there(versions: Versions) -> None:
    assert problems(uses(versions)) == []


def test_what_is_asked_for_is_in_some_version() -> None:
    assert guarded_problems([use for versions in CHECKED for use in uses(versions)]) == []


@each_version
def test_no_library_is_left_out(versions: Versions) -> None:
    found = {(use.library, use.kind) for use in uses(versions)}
    assert found >= {(library, kind) for library in contract(versions).libraries for kind in ("attribute", "call")}


@each_version
def test_objects_are_followed(versions: Versions) -> None:
    """A builder or a context of which `inference.py` loses sight would not be checked."""
    found = inferred(versions)
    unknown = frozenset.intersection(*(inference.unknown for inference in found))
    lost = {place for inference in found for place in inference.out_of_sight()}
    assert sorted(map(str, lost & unknown)) == []


# --- a renamed use is a failure

RENAMED = "renamed_by_the_test"


def with_other_name(use: Use) -> dict[str, ast.Module]:
    """The program with another name in one place: a call gets a keyword that there is not."""
    changed = program()
    places = 0
    for node in ast.walk(changed[use.place.file]):
        place = (getattr(node, "end_lineno", 0), getattr(node, "end_col_offset", 0))
        start = (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))
        here, text = (use.place.line, use.place.column), use.place.text
        if isinstance(node, ast.Call) and use.kind == "call" and start == here and ast.unparse(node.func) == text:
            node.keywords.append(ast.copy_location(ast.keyword(RENAMED, ast.Constant(True)), node))
        elif isinstance(node, ast.Attribute) and place == here and node.attr == text:
            node.attr = RENAMED
        elif isinstance(node, ast.Constant) and place == here and node.value == text:
            node.value = RENAMED
        elif isinstance(node, ast.keyword) and start == here and node.arg == text:
            node.arg = RENAMED
        elif isinstance(node, ast.alias) and place == here and node.name == text:
            node.name += RENAMED
        elif isinstance(node, ast.ImportFrom) and place == here and node.module == text:
            node.module = text + RENAMED
        elif isinstance(node, ast.FunctionDef) and use.kind == "method" and start == here and node.name == text:
            node.name = RENAMED
        else:
            continue
        places += 1
    assert places, use
    return changed


def renamable() -> list[Use]:
    """All uses but the imports of whole libraries: what has another name there is none of them."""
    return [use for use in uses(CHECKED[0]) if use.place.text != use.library]


def is_noticed(use: Use, versions: Versions) -> bool:
    found = [each for inference in infer(with_other_name(use), contract(versions)) for each in inference.uses]
    return bool(problems(found) + guarded_problems(found))


@pytest.mark.time_limit(120)
def test_a_renamed_use_of_each_kind_is_noticed() -> None:
    """Attribute, call, keyword and overridden method of each library: the first of each that is found."""
    first: dict[tuple[str, str], Use] = {}
    for use in renamable():
        first.setdefault((use.kind, use.library), use)
    assert {kind for kind, _ in first} >= {"attribute", "call", "keyword", "method"}
    assert [str(use.place) for use in first.values() if not is_noticed(use, CHECKED[0])] == []


@pytest.mark.slow
def test_every_renamed_use_is_noticed() -> None:
    missed = [str(use.place) for use in renamable() if not is_noticed(use, CHECKED[0])]
    assert missed == []
