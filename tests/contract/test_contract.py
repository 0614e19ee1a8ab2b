"""What the engine and the benchmarks use of TensorRT, TensorRT for RTX and Torch-TensorRT, looked up in their wheels.

No GPU is needed, and nothing is installed: `inference.py` finds the uses in our sources, `surface.py` and `sources.py`
read what the wheels offer.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re

import pytest

from tests.contract.inference import Inference
from tests.contract.renaming import ROOT, guarded_problems, problems, program, with_other_name
from tests.contract.sources import Sources
from tests.contract.surface import Contract, bindings_in
from tests.contract.values import Use
from tests.contract.wheels import requirements, unpacked

USES_THEM = "tensorrt|trt"
"""What a module of ours has in it that has to do with these libraries."""


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


@functools.cache
def inferred(versions: Versions) -> list[Inference]:
    return infer(program(USES_THEM), contract(versions))


def infer(modules: dict[str, ast.Module], contract: Contract) -> list[Inference]:
    """Once for each of the two that offer the same: a function of ours that takes both is not to mix them up."""
    libraries = contract.libraries
    kinds = ({"torch_tensorrt", "tensorrt"}, {"tensorrt_rtx"})
    return [Inference(modules, Contract({name: libraries[name] for name in kind})) for kind in kinds]


def uses(versions: Versions) -> list[Use]:
    return [use for inference in inferred(versions) for use in inference.uses]


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


def renamable() -> list[Use]:
    """All uses but the imports of whole libraries: what has another name there is none of them."""
    return [use for use in uses(CHECKED[0]) if use.place.text != use.library]


def is_noticed(use: Use, versions: Versions) -> bool:
    renamed = infer(with_other_name(use, program(USES_THEM)), contract(versions))
    found = [each for inference in renamed for each in inference.uses]
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
