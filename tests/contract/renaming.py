"""Our modules that use a library, what is wrong with their uses, and the same modules with one use renamed."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

from tests.contract.values import Use

ROOT = Path(__file__).parents[2]
PACKAGES = ("engine", "training", "bench")

RENAMED = "renamed_by_the_test"


def program(pattern: str) -> dict[str, ast.Module]:
    """Our modules with this pattern in their text, whatever the case."""
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    texts = {str(file.relative_to(ROOT)): file.read_text() for file in files}
    return {file: ast.parse(text) for file, text in texts.items() if re.search(pattern, text, re.IGNORECASE)}


def problems(found: Sequence[Use]) -> list[str]:
    return [use.problem for use in found if use.problem is not None and not use.is_guarded]


def guarded_problems(found: Sequence[Use]) -> list[str]:
    """Of what our code asks for before it uses it: some version of some library has to have it."""
    answers: dict[object, list[str | None]] = {}
    for use in found:
        if use.is_guarded:
            answers.setdefault((use.place, use.kind), []).append(use.problem)
    return [each[0] for each in answers.values() if each[0] is not None and None not in each]


def with_other_name(use: Use, changed: dict[str, ast.Module]) -> dict[str, ast.Module]:
    """The program, which is changed, with another name in one place: a call gets a keyword that there is not."""
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
