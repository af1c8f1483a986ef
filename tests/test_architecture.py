"""The rooms of the house and the doors between them, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import winnow
from winnow.algorithms.table import ALGORITHMS

ROOT = Path(winnow.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
THEORY = tuple(f"theory.{path.stem}" for path in (ROOT / "theory").glob("[a-z]*.py"))
PURE = (
    "types",
    "errors",
    "cells",
    "theory",
    *THEORY,
    "paths",
    "lots",
    "selection",
    "advantages",
    "denominators",
    "losses",
    "penalties",
    "weighing",
    "patience",
    "metrics",
    "preference",
    "overoptimisation",
    "tree",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree: ast.AST, *, inside_functions: bool = True) -> set[str]:
    """What a module imports when it runs; with functions, also what it imports later."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if for_types_only(node):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in TREES else node.module for name in inner}
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= imports(node, inside_functions=inside_functions)
    return found


def ours(tree: ast.AST, **how: bool) -> set[str]:
    return {name for name in imports(tree, **how) if name.split(".")[0] == "winnow"}


def test_the_rooms_are_found() -> None:
    assert {f"winnow.{room}" for room in PURE} <= TREES.keys()
    assert "winnow.algorithms.selection" in ours(TREES["winnow.rollouts.rollout"])
    assert "torch" in imports(TREES["winnow.engines.learning.gradients"])


def test_types_and_errors_import_nothing_of_ours() -> None:
    assert ours(TREES["winnow.types"]) == ours(TREES["winnow.errors"]) == set()


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_know_neither_settings_nor_engines(room: str) -> None:
    tree = TREES[f"winnow.{room}"]
    assert ours(tree) <= {f"winnow.{other}" for other in PURE}
    heavy = {name.split(".")[0] for name in imports(tree, inside_functions=False)}
    assert not heavy & {"torch", "transformers", "pydantic", "pyarrow", "rich", "typer"}


def test_there_is_no_circle_of_imports() -> None:
    """Not even through imports inside functions."""
    graph = {name: ours(tree) - {name} for name, tree in TREES.items()}
    while graph:
        leaves = {name for name, wants in graph.items() if not wants & graph.keys()}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: wants for name, wants in graph.items() if name not in leaves}


def test_the_command_line_and_the_engines_are_known_to_nobody_below() -> None:
    for name, tree in TREES.items():
        wants = ours(tree)
        if name != "winnow.__main__":
            assert "winnow.cli.main" not in wants, name
        if name not in ("winnow.cli.main", "winnow"):
            assert "winnow.api" not in wants, name
        doors = ("winnow.training.setup", "winnow.engines.factory", "winnow.cli.doctor")
        if name not in doors and ".engines" not in name:
            assert not {w for w in wants if ".engines" in w} - {"winnow.engines.base"}, name


LIGHT = (
    "winnow",
    "winnow.cli.main",
    "winnow.config.schema",
    "winnow.config.recipe",
    "winnow.prompts",
    "winnow.algorithms.losses",
)


@pytest.mark.parametrize("module", LIGHT)
def test_what_must_be_quick_to_import(module: str) -> None:
    heavy = ["torch", "transformers", "pyarrow", "datasets", "reasoning_gym", "sympy"]
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= (150 if path.name == "loop.py" else 400)
    for node in ast.walk(TREES[name_of(path)]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None and len(node.body) > 1
            first, last = node.body[1 if documented else 0].lineno, node.end_lineno
            assert last is not None
            assert last - first < 60, node.name


@pytest.mark.parametrize(
    "room",
    [
        "loop",
        "updates",
        "rollout",
        "sources",
        "recorded",
        "wanted",
        "update",
        "evaluation",
        "assemble",
        "workshop",
        "phases",
        "parts",
        "sampling",
    ],
)
def test_the_loop_never_asks_which_algorithm_it_runs(room: str) -> None:
    words = {
        node.value
        for node in ast.walk(TREES[f"winnow.{room}"])
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not words & ALGORITHMS.keys()
    assert "algorithm.name" not in ast.unparse(TREES[f"winnow.{room}"])
    if room == "loop":
        text = (ROOT / "loop.py").read_text(encoding="utf-8").lower()
        assert not [name for name in ALGORITHMS if name in text]


def test_nothing_is_caught_blindly() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("everything", "Exception", "BaseException"):
                    # a verifier is someone else's code, and may raise anything
                    assert name.startswith("winnow.rewards."), f"{name}: except {caught}"


def test_every_file_says_what_it_is() -> None:
    for name, tree in TREES.items():
        if name != "winnow.__main__":
            assert ast.get_docstring(tree), name
