"""What follows objects through sources, and what reads a library, on made-up ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.contract.inference import Inference
from tests.contract.introspect import signature_of, signatures_in
from tests.contract.sources import Sources
from tests.contract.surface import Contract

LIBRARY = {
    "lib/__init__.py": """
from collections import namedtuple
from lib._builder import *
from lib import tools
from lib.config import Config as Config, Mode

Features = namedtuple("Features", ["fast", "slow"])
FEATURES = Features(True, False)

def load(path: str, /, *, mode: Mode = None, **kwargs) -> "Engine":
    return _load(path, **kwargs)

def _load(path, device=None, **kwargs):
    return kwargs.pop("retries", 1)
""",
    "lib/_builder.py": """
from lib.config import Config
from typing import List, Optional
__all__ = ["Builder", "Engine", "Logger"]

class Logger:
    def log(self, severity, message): ...
    def flush(self): ...

class Builder:
    def __init__(self, logger: Logger) -> None:
        self.threads = 1
    def make_config(self) -> Optional[Config]: ...
    def build(self, network, config: Config) -> "Engine": ...

class Engine:
    @property
    def tensors(self) -> List["Tensor"]: ...
    @classmethod
    def empty(cls, size: int) -> "Engine": ...

class Tensor:
    name: str
    def set_shape(self, low, high): ...
""",
    "lib/config.py": """
from enum import Enum
class Mode(Enum):
    SAFE = 1
    FAST = 2
class Config:
    mode: Mode
    def set_flag(self, flag: int, value: bool = True) -> None: ...
""",
    "lib/tools.py": """
from lib.config import Config
def register(name: str, lazy: bool = False): ...
def convert(config: Config, value): ...
""",
}

PROGRAM = """
import functools
import lib
from lib.tools import convert, register

def build(library, path, options):
    builder = library.Builder(log())
    config = builder.make_config()
    adjust(library, config)
    engine = builder.build(None, config=config)
    for tensor in engine.tensors:
        tensor.set_shape(1, high=2)
    return Session(engine)

def adjust(library, config):
    config.mode = library.Mode.FAST
    config.set_flag(3, **flags())

def flags():
    found = {"value": True}
    return found

class Session:
    def __init__(self, engine):
        self._engine = engine
    def names(self):
        return [tensor.name for tensor in self._engine.tensors if tensor is not None]

def log():
    class Log(lib.Logger):
        def log(self, severity, message):
            self.last = message
    return Log()

@register("name", lazy=True)
def callback(config, value):
    convert(config, value)
    return config.mode

class Base:
    def __init__(self, engine, config):
        self._pair = engine, (config, None)
    def prepare(self):
        self.use(self._pair[0].tensors[0])
    def use(self, tensor):
        pass

class Derived(Base):
    def __init__(self, library, engine, config):
        super().__init__(engine, config)
    def use(self, tensor):
        _, (config, _) = self._pair
        config.set_flag(4)
        tensor.set_shape(5, 6)

def new(library):
    if not hasattr(library, "Turbo"):
        return library.Builder(log())
    return library.Turbo(library.Speed.HIGH)

def by_name():
    new(lib)
    import importlib
    named = importlib.import_module("lib")
    Derived(named, named.load("path"), named.Builder(log()).make_config()).prepare()

def main():
    by_name()
    build(lib, "path", {})
    if hasattr(lib.Mode, "SAFE"):
        mode = lib.Mode.SAFE
    lib.load("path", mode=lib.Mode.FAST, device="cpu", retries=3)
    lib.Engine.empty(size=3)
    fast = lib.FEATURES.fast
    later = functools.partial(adjust, lib)
"""


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    folder = tmp_path_factory.mktemp("library")
    for name, text in LIBRARY.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return Contract({"lib": Sources(folder, "lib")})


def infer(program: str, contract: Contract) -> Inference:
    return Inference({"program.py": ast.parse(program)}, contract)


def problems(program: str, contract: Contract) -> list[str]:
    """But for `hasattr(library, "Turbo")`, which is false."""
    found = (use for use in infer(program, contract).uses if use.place.text != "Turbo")
    return [use.problem for use in found if use.problem is not None]


def test_a_program_in_order_has_no_problems(contract: Contract) -> None:
    assert problems(PROGRAM, contract) == []
    used = {use.place.text for use in infer(PROGRAM, contract).uses}
    assert used >= {
        "Builder",
        "make_config",
        "mode",
        "set_flag",
        "value",
        "tensors",
        "set_shape",
        "name",
        "log",
        "fast",
    }


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("library.Builder(log())", "library.Maker(log())", "lib has no 'Maker'"),
        ("library.Builder(log())", "library.Builder()", "lacks 'logger'"),
        ("library.Builder(log())", "library.Builder(log(), 2)", "takes 1 positional arguments, not 2"),
        ("library.Builder(log())", "library.Builder(log(), logger=2)", "gets 'logger' twice"),
        ("builder.make_config()", "builder.create_config()", "has no 'create_config'"),
        ("None, config=config", "None, settings=config", "has no parameter 'settings'"),
        ("engine.tensors", "engine.inputs", "has no 'inputs'"),
        ("tensor.set_shape(1, high=2)", "tensor.set_size(1, high=2)", "has no 'set_size'"),
        ("tensor.set_shape(1, high=2)", "tensor.set_shape(1, most=2)", "has no parameter 'most'"),
        ("config.mode = ", "config.kind = ", "has no 'kind'"),
        ("library.Mode.FAST\n", "library.Mode.QUICK\n", "has no 'QUICK'"),
        ("config.set_flag(3", "config.add_flag(3", "has no 'add_flag'"),
        ('{"value": True}', '{"on": True}', "has no parameter 'on'"),
        ('{"value": True}', "other()", "**flags(): the keys can't be read"),
        ("tensor.name", "tensor.label", "has no 'label'"),
        ("def log(self, severity", "def write(self, severity", "has no method 'write' to override"),
        ("lazy=True", "later=True", "has no parameter 'later'"),
        ("return config.mode", "return config.kind", "has no 'kind'"),
        ('hasattr(lib.Mode, "SAFE")', 'hasattr(lib.Mode, "SURE")', "has no 'SURE'"),
        ("retries=3", "tries=3", "has no parameter 'tries'"),
        ('device="cpu"', 'place="cpu"', "has no parameter 'place'"),
        ('lib.load("path"', 'lib.load(path="path"', "lacks 'path'"),
        ("size=3", "length=3", "has no parameter 'length'"),
        ("FEATURES.fast", "FEATURES.quick", "has no 'quick'"),
        ("config.set_flag(4)", "config.flag(4)", "has no 'flag'"),
        ("tensor.set_shape(5, 6)", "tensor.shape(5, 6)", "has no 'shape'"),
        ('named.load("path")', 'named.read("path")', "lib has no 'read'"),
        ("import convert,", "import change as convert,", "lib.tools has no 'change'"),
        ("from lib.tools", "from lib.utils", "there is no such module"),
    ],
)
def test_what_is_not_there_is_a_problem(right: str, wrong: str, said: str, contract: Contract) -> None:
    assert right in PROGRAM
    found = problems(PROGRAM.replace(right, wrong), contract)
    assert any(said in problem for problem in found), found


def test_what_the_program_asks_for_is_marked(contract: Contract) -> None:
    uses = infer(PROGRAM, contract).uses
    assert {use.place.text for use in uses if use.is_guarded} == {"SAFE", "Turbo"}


def test_keywords_that_are_added_under_a_condition_are_marked(contract: Contract) -> None:
    program = """
import lib
options = {"mode": 1}
if "device" in names:
    options["device"] = 2
lib.load("path", **options)
"""
    uses = infer(program, contract).uses
    assert {use.place.text: use.is_guarded for use in uses if use.kind == "keyword"} == {"mode": False, "device": True}


# --- signatures


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        ("build(self: lib.Builder) -> lib.Engine\n\n  Builds (slowly).", [(["self"], "lib.Engine")]),
        (
            "make(self: A, b: Callable[[int, str], B] = <Mode.SAFE: 0>, *, c: dict = {}) -> None",
            [(["self", "b", "c"], "None")],
        ),
        (
            "f(*args, **kwargs)\nOverloaded function.\n\n1. f(a: int) -> A\n\nf(b)\n\n2. f(arg0: str, /) -> list[B]\n",
            [(["a"], "A"), (["arg0"], "list[B]")],
        ),
        ("Initialize self.  See help(type(self)) for accurate signature.", []),
        ("Some (text) without a signature.", []),
        ("", []),
    ],
)
def test_signatures_in_docstrings(doc: str, expected: list[tuple[list[str], str]]) -> None:
    found = [([each["name"] for each in one["parameters"]], one["returns"]) for one in signatures_in(doc)]
    assert found == expected


def test_parameters_without_names_take_no_keywords() -> None:
    (found,) = signatures_in("f(arg0: int, b: int = 2, *, c: str) -> A")
    assert [(each["by_position"], each["by_name"], each["required"]) for each in found["parameters"]] == [
        (True, False, True),
        (True, True, False),
        (False, True, True),
    ]


def test_signatures_of_python_functions() -> None:
    def function(first: Path, /, second: int = 1, *others: int, third: str, **more: int) -> Path:
        return first

    (found,) = signature_of(function)
    assert [each["name"] for each in found["parameters"]] == ["first", "second", "third"]
    assert (found["more_positions"], found["more_names"], found["returns"]) == (True, True, "Path")


def test_keywords_that_a_function_reads_itself() -> None:
    def function(**options: int) -> int:
        return options.get("first", 0) + options["second"] if "second" in options else 0

    def passed_on(**options: int) -> object:
        return dict(**options) or options["first"]

    (found,) = signature_of(function)
    assert (set(found["other_names"]), found["more_names"]) == ({"first", "second"}, False)
    (found,) = signature_of(passed_on)
    assert (found["other_names"], found["more_names"]) == ([], True)
