"""Who may import whom: the layers of the engine, and the borders between the packages.

An import inside a function counts as well as one at the top of a module. One under TYPE_CHECKING does not count.
"""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    ("run", "cli", "doctor", "export", "serve"),  # command lines
    ("cluster",),  # jobs on many machines
    ("jobs", "job_queue", "dry_run", "report", "stop", "window_controls"),  # one source -> one output
    (
        "pipeline",
        "switching",
        "compose",
        "channel",
        "result",
        "similar",
        "pacing",
        "steady",
    ),  # decode | translate | encode
    ("translator",),
    ("choosing",),  # which engine
    ("engine_files",),  # engines that are files: in the cache, or exported
    ("runners",),  # uint8 frames -> uint8 frames
    ("backends",),
    ("fused",),  # generator -> program of the native engine
    ("cache",),
    ("generators", "checkpoint", "styles"),
    ("video",),
    # Small modules, each one thing.
    (
        *("allocator", "command_line", "device", "errors", "files", "memory", "ops", "parity"),
        *("part_files", "parts", "precision"),
        *(
            "reference",
            "samples",
            "sizes",
            "times",
            "_native",
            "",
        ),  # "": `engine` itself, with the version
    ),
)
"""The modules and folders of `engine`, from the top down. Each imports from its own line and from lines below it."""

UPWARD: dict[tuple[str, str], str] = {}
"""The lazy imports that run up the layers, each with its reason: at most `MOST_UPWARD`."""

MOST_UPWARD = 4

TRAINING_USES = {"generators", "checkpoint", "styles", *LAYERS[-1]}
"""What `training` takes from `engine`."""


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement, resolved.

    Attributes:
        importer, imported: full names of modules.
        names: what is taken from the module; empty for the module itself.
        is_lazy: it runs when a function is called, or only in the main program.
    """

    importer: str
    imported: str
    names: tuple[str, ...]
    is_lazy: bool
    line: int

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: {self.imported}"


def modules_of(root: Path, packages: Iterable[str]) -> dict[str, Path]:
    """Name -> file of the modules of some packages in the folder `root`."""
    modules = {}
    for path in (path for package in packages for path in sorted((root / package).rglob("*.py"))):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports_of(root: Path, *packages: str) -> list[Import]:
    """All imports of the modules of `packages`, those of other packages and of the standard library too."""
    modules = modules_of(root, packages)
    return [found for name, path in modules.items() for found in _imports_in(name, path, modules)]


def _imports_in(name: str, path: Path, modules: Mapping[str, Path]) -> Iterator[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node, is_lazy in _statements(ast.parse(path.read_text()), is_lazy=False):
        if isinstance(node, ast.Import):
            targets = {alias.name: () for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            # `from engine.backends import aoti` imports the module engine.backends.aoti.
            submodules = [alias.name for alias in node.names if f"{source}.{alias.name}" in modules]
            names = tuple(alias.name for alias in node.names if alias.name not in submodules)
            targets = {f"{source}.{submodule}": () for submodule in submodules} | ({source: names} if names else {})
        else:
            targets = {_module_by_name(node): ()} if _module_by_name(node) else {}
        for target, names in targets.items():
            yield Import(name, target, names, is_lazy, node.lineno)


def _statements(node: ast.AST, *, is_lazy: bool) -> Iterator[tuple[ast.stmt | ast.Call, bool]]:
    """Imports and calls under a node, each with whether it is run later than the module."""
    for child in ast.iter_child_nodes(node):
        test = ast.unparse(child.test) if isinstance(child, ast.If) else ""
        if "TYPE_CHECKING" in test:
            yield from _statements(ast.Module(child.orelse, []), is_lazy=is_lazy)
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom, ast.Call)):
            yield child, is_lazy
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _statements(child, is_lazy=is_lazy or is_function or "__main__" in test)


def _module_by_name(call: ast.Call) -> str:
    """The module that `importlib.import_module("NAME")` imports; empty for other calls, and names made at run time."""
    is_import = isinstance(call.func, ast.Attribute) and call.func.attr == "import_module"
    return str(call.args[0].value) if is_import and isinstance(call.args[0], ast.Constant) else ""


def room_of(module: str) -> str:
    """The module or folder of `engine` that a module is or lies in: "video" for engine.video.nvidia.frames."""
    return module.split(".")[1] if "." in module else ""


def upward(imports: Iterable[Import], layers: Sequence[Sequence[str]] = LAYERS) -> list[Import]:
    """The imports within `engine` that run from a lower layer to a higher one."""
    level = {room: index for index, layer in enumerate(layers) for room in layer}
    inside = [found for found in imports if {top_of(found.importer), top_of(found.imported)} == {"engine"}]
    return [found for found in inside if level[room_of(found.importer)] > level[room_of(found.imported)]]


def top_of(module: str) -> str:
    return module.partition(".")[0]


def circle(imports: Iterable[Import]) -> list[str]:
    """The modules of one import circle, the first of them again at the end; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        graph.setdefault(found.importer, set()).add(found.imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def crossing(imports: Iterable[Import]) -> list[Import]:
    """The imports of a package that is built on the importing one: `engine` <- `training` <- `bench` <- `tests`."""
    order = ("engine", "training", "bench", "tests")
    return [
        found
        for found in imports
        if top_of(found.imported) in order and order.index(top_of(found.importer)) < order.index(top_of(found.imported))
    ]


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    """Those of this project."""
    return imports_of(ROOT, "engine", "training", "bench", "tests")


# --- the project


def test_every_module_has_a_layer() -> None:
    rooms = {room_of(module) for module in modules_of(ROOT, ["engine"])}
    assert rooms <= {room for layer in LAYERS for room in layer}


def test_imports_run_downwards(imports: list[Import]) -> None:
    found = [each for each in upward(imports) if not each.is_lazy]
    assert not found, "\n".join(map(str, found))


def test_few_lazy_imports_run_upwards(imports: list[Import]) -> None:
    found = {(each.importer, each.imported) for each in upward(imports) if each.is_lazy}
    assert found == set(UPWARD)
    assert len(found) <= MOST_UPWARD


def test_modules_import_without_circles(imports: list[Import]) -> None:
    assert circle(each for each in imports if not each.is_lazy) == []


def test_lazy_imports_close_no_circle(imports: list[Import]) -> None:
    """But for those that `UPWARD` lists."""
    assert circle(each for each in imports if (each.importer, each.imported) not in UPWARD) == []


def test_packages_import_one_way(imports: list[Import]) -> None:
    assert crossing(imports) == []


def test_training_uses_models_and_not_how_they_run(imports: list[Import]) -> None:
    found = [each for each in imports if (top_of(each.importer), top_of(each.imported)) == ("training", "engine")]
    assert found
    assert [str(each) for each in found if room_of(each.imported) not in TRAINING_USES] == []


def test_nobody_imports_private_names(imports: list[Import]) -> None:
    """What `bench` and `tests` call is what users call."""
    found = [
        str(each)
        for each in imports
        if top_of(each.imported) in {"engine", "training"}
        for name in each.names
        if name.startswith("_") and not name.startswith("__") and name != "_native"
    ]
    assert found == []


def test_optional_packages_are_imported_lazily(imports: list[Import]) -> None:
    """So that `engine` and `training` work with what the installation always brings.

    A module that is itself imported lazily everywhere, such as engine.backends.onnx_model, may have them at its top. So
    may one that only such modules import, such as engine.serve.broadcast.
    """
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    modules = {"opencv-python": "cv2"}
    always = {modules.get(name, name) for name in (text.split(">")[0] for text in settings["project"]["dependencies"])}
    known = {*always, *sys.stdlib_module_names, "engine", "training"}
    ours = [each for each in imports if top_of(each.importer) in {"engine", "training"}]
    on_demand: set[str] = set()
    count = -1
    while count != len(on_demand):
        count = len(on_demand)
        at_once = {each.imported for each in ours if not each.is_lazy and each.importer not in on_demand}
        on_demand = {each.imported for each in ours} - at_once
    at_start = [each for each in ours if not each.is_lazy and each.importer not in on_demand]
    assert [str(each) for each in at_start if top_of(each.imported) not in known] == []


# --- the checks themselves, on a made-up tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project whose imports are in order."""
    files = {
        "engine/__init__.py": "",
        "engine/errors.py": "import os",
        "engine/run.py": "from engine import choosing\nfrom engine.video.base import Frame",
        "engine/choosing/__init__.py": "from .chooser import choose",
        "engine/choosing/chooser.py": "from ..errors import Error",
        "engine/video/__init__.py": "from engine.video import base",
        "engine/video/base.py": "from engine import errors",
        "training/__init__.py": "from engine.errors import Error",
    }
    for name, text in files.items():
        write(tmp_path, name, text)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found_in(tree: Path) -> list[Import]:
    return imports_of(tree, "engine", "training")


def edges(imports: Iterable[Import]) -> list[tuple[str, str]]:
    return [(each.importer, each.imported) for each in imports]


def test_checks_pass_a_tree_in_order(tree: Path) -> None:
    found = found_in(tree)
    assert ("engine.choosing", "engine.choosing.chooser") in edges(found)
    assert ("engine.choosing.chooser", "engine.errors") in edges(found)
    assert ("engine.video", "engine.video.base") in edges(found)
    assert (upward(found), circle(found), crossing(found)) == ([], [], [])


@pytest.mark.parametrize(
    "text",
    [
        "import engine.choosing",
        "from engine import choosing",
        "from engine.choosing import chooser",
        "from engine.choosing.chooser import choose",
        "from ..choosing import chooser",
        "try:\n    import engine.choosing\nexcept ImportError:\n    pass",
        "class Source:\n    from engine.choosing import chooser",
    ],
)
def test_checks_find_an_import_of_a_higher_layer(tree: Path, text: str) -> None:
    write(tree, "engine/video/base.py", text)
    (found,) = upward(found_in(tree))
    assert found.importer == "engine.video.base"
    assert room_of(found.imported) == "choosing"
    assert not found.is_lazy


@pytest.mark.parametrize(
    "text",
    [
        "def open():\n    from engine import choosing",
        "async def open():\n    if True:\n        import engine.choosing",
        "import importlib\nopen = lambda: importlib.import_module('engine.choosing')",
        "if __name__ == '__main__':\n    import engine.choosing",
    ],
)
def test_checks_tell_lazy_imports(tree: Path, text: str) -> None:
    write(tree, "engine/video/base.py", text)
    (found,) = upward(found_in(tree))
    assert found.is_lazy


def test_checks_leave_out_imports_for_types(tree: Path) -> None:
    text = "if TYPE_CHECKING:\n    import engine.choosing\nelse:\n    import engine.errors"
    write(tree, "engine/video/base.py", text)
    assert edges(found_in(tree)).count(("engine.video.base", "engine.errors")) == 1
    assert upward(found_in(tree)) == []


def test_checks_find_a_circle(tree: Path) -> None:
    write(tree, "engine/errors.py", "def lines():\n    import engine.memory")
    write(tree, "engine/memory.py", "from engine import errors")
    found = found_in(tree)
    assert set(circle(found)) == {"engine.errors", "engine.memory"}
    assert circle(each for each in found if not each.is_lazy) == []


def test_checks_find_an_import_over_the_border(tree: Path) -> None:
    write(tree, "engine/errors.py", "import training")
    assert edges(crossing(found_in(tree))) == [("engine.errors", "training")]
