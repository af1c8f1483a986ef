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
LAYERS = (
    ("cli",),
    ("api",),
    ("studies",),
    ("training",),
    ("evaluation",),
    ("rollouts",),
    ("engines", "prompts"),
    ("config",),
    ("algorithms", "rewards", "storage", "reporting"),
    ("theory",),
    ("types",),
    ("errors", "user_code"),
)
"""From the top down: a room imports from those below it, for types too."""
SIDEWAYS = {("reporting", "storage")}
RANK = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
DOORS = (
    "engines.base",
    "engines.factory",
    "engines.devices",
    "engines.process_state",
    "engines.reward_models",
)
"""What of the engines is imported outside of them."""
HEAVY = {"torch", "transformers", "peft", "openai", "ray"}


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


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def everything(tree: ast.AST) -> set[str]:
    """What a module imports, inside functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and for_types_only(node):
            found |= imports(ast.Module(node.body, []))
    return found | imports(tree)


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(name) for name in TREES} - {"", "__main__"}
    assert rooms == RANK.keys()
    assert "winnow.algorithms.selection" in everything(TREES["winnow.rollouts.rollout"])
    assert "torch" in imports(TREES["winnow.engines.learning.gradients"])


@pytest.mark.parametrize("module", [name for name in TREES if room_of(name) in RANK])
def test_a_room_imports_from_below(module: str) -> None:
    own = room_of(module)
    for name in everything(TREES[module]):
        other = room_of(name) if name.split(".")[0] == "winnow" else ""
        if other and other != own:
            assert RANK[own] < RANK[other] or (own, other) in SIDEWAYS, name


@pytest.mark.parametrize("module", [name for name in TREES if room_of(name) != "engines"])
def test_models_are_behind_the_seam(module: str) -> None:
    """In `algorithms`, tensors are types."""
    wants = {name.removeprefix("winnow.") for name in everything(TREES[module])}
    around = {name for name in wants if name.startswith("engines.") and not name.startswith(DOORS)}
    around |= {name.split(".")[0] for name in wants} & HEAVY
    types_alone = {"torch"} if room_of(module) == "algorithms" else set()
    assert not around - types_alone
    assert not imports(TREES[module], inside_functions=False) & HEAVY


def test_there_is_no_circle_of_imports() -> None:
    """Not even through imports inside functions."""
    graph = {name: ours(tree) - {name} for name, tree in TREES.items()}
    while graph:
        leaves = {name for name, wants in graph.items() if not wants & graph.keys()}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: wants for name, wants in graph.items() if name not in leaves}


LIGHT = (
    "winnow",
    "winnow.cli.main",
    "winnow.config.schema",
    "winnow.config.recipe",
    "winnow.prompts.loading",
    "winnow.algorithms.table",
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
    "module",
    [
        name
        for name in TREES
        if room_of(name) in ("engines", "rollouts", "training", "evaluation")
        and name != "winnow.training.summary"  # it prints the name
    ],
)
def test_the_loop_never_asks_which_algorithm_it_runs(module: str) -> None:
    words = {
        node.value
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not words & ALGORITHMS.keys()
    assert "algorithm.name" not in ast.unparse(TREES[module])
    if module == "winnow.training.loop":
        text = (ROOT / "training" / "loop.py").read_text(encoding="utf-8").lower()
        assert not [name for name in ALGORITHMS if name in text]


FRONT_DOORS = {
    "winnow.api": {"train", "sample"},
    "winnow.rollouts.select": {"select"},
    "winnow.evaluation.best_of": {"best_of"},
    "winnow.evaluation.overoptimisation": {"overoptimisation"},
    "winnow.engines.reward_models.fit": {"fit_reward"},
}
"""What users call with names of their own choice, beside the commands."""


@pytest.mark.parametrize("module", [name for name in TREES if room_of(name) != "cli"])
def test_functions_take_eight_things_at_most(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            number = len([each for each in given if each.arg not in ("self", "cls")])
            assert number <= 8 or node.name in FRONT_DOORS.get(module, ()), node.name


BROAD = {
    ("winnow.algorithms.own", "own_code"): "raised again, a user's by the name of its function",
    ("winnow.rewards.in_process", "_score"): "a verifier may raise anything: its sample's error",
    ("winnow.rewards.worker", "_scored"): "likewise, in a process of its own",
    ("winnow.rewards.worker", "main"): "importing a verifier runs the user's code",
    ("winnow.rewards.worker", "describe"): "the exception's __str__ is the user's own",
    ("winnow.rewards.source", "pickled"): "pickling runs the code of what a function holds",
    ("winnow.rewards.child", "score"): "likewise of what a prompt holds; or raised again",
    ("winnow.rewards.child", "start"): "raised again, when the process is gone",
    ("winnow.rewards.worker_pool", "_run"): "raised again, when the others were told to stop",
    ("winnow.reporting.observer", "running"): "raised again, when the observers were told",
    ("winnow.reporting.observer", "_tell"): "a terminal stops no run; what a callback raises waits",
    ("winnow.storage.atomic", "whole_folder"): "raised again, when half a folder is gone",
    ("winnow.engines.fsdp.crew", "serve"): "told to rank 0, which raises it",
    ("winnow.training.preflight.importing", "main"): "importing a library runs its code",
    ("winnow.engines.models.tokenization", "_pieces"): "`tokenizers` raises no narrower one",
    ("winnow.engines.server.in_thread", "first_error"): "a group of what several requests raised",
    ("winnow.engines.vllm.delivery", "deliver"): "raised again, when the server goes on",
    (
        "winnow.engines.vllm.pool",
        "_given",
    ): "a thread that died would be waited for: its server fails",
    ("winnow.engines.vllm.pool", "_join"): "likewise",
    ("winnow.engines.vllm.pool", "_work"): "likewise; what is sampled ends with it",
    ("winnow.rewards.math_equivalence", "_read"): "a parser of what a model wrote raises anything",
}
"""Who catches everything, and why."""


def test_nothing_is_caught_blindly() -> None:
    found = set()
    for name, tree in TREES.items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                caught = [n.type for n in ast.walk(function) if isinstance(n, ast.ExceptHandler)]
                calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
                caught += [what for n in calls if "suppress" in names_in(n.func) for what in n.args]
                words = [word for node in caught for word in names_in(node)]
                if {"Exception", "BaseException", "BaseExceptionGroup", "everything"} & set(words):
                    found.add((name, function.name))
    assert found == BROAD.keys()


def names_in(node: ast.expr | None) -> list[str]:
    if node is None:
        return ["everything"]
    return [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]


def test_every_file_says_what_it_is() -> None:
    for name, tree in TREES.items():
        if name != "winnow.__main__":
            assert ast.get_docstring(tree), name
