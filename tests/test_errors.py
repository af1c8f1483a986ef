"""Errors are data: a setting, a problem, a remedy and notes, whose text nobody edits."""

from __future__ import annotations

import ast
import copy
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

import winnow
from winnow.cli import main
from winnow.errors import Stopped, UserError, WinnowError, notes

TREES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(Path(winnow.__file__).parent.rglob("*.py"))
}
NAMES = {"UserError", "WinnowError", "Stopped"}


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (("steps", "must be at least 1", "raise it"), "steps: must be at least 1; raise it"),
        (("steps", "must be at least 1"), "steps: must be at least 1"),
        (("", "d.jsonl line 3 is not JSON", "fix it"), "d.jsonl line 3 is not JSON; fix it"),
        (("", "it broke"), "it broke"),
    ],
)
def test_an_error_reads_as_one_line(parts, line) -> None:
    error = UserError(*parts)
    assert str(error) == line
    assert (error.setting, error.problem, error.remedy) == (*parts, "")[:3]


def test_a_line_alone_is_no_error() -> None:
    with pytest.raises(TypeError):
        UserError("steps: must be at least 1")


def test_another_part_leaves_the_rest_and_the_first_error_alone() -> None:
    error = UserError("reference", "no such model", "name one")
    error.add_note("4 samples are kept")
    moved = error.with_(setting="phases.2.reference")
    assert str(moved) == "phases.2.reference: no such model; name one"
    assert str(error.with_(remedy="")) == "reference: no such model"
    assert str(error) == "reference: no such model; name one"
    assert notes(moved) == notes(error) == ["4 samples are kept"]
    assert notes(UserError("", "x")) == []


def raised() -> None:
    error = UserError("steps", "must be at least 1", "raise it")
    error.add_note("in a worker")
    raise error


def in_a_process(_: UserError) -> BaseException:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        failure = pool.submit(raised).exception()
    assert failure is not None
    return failure


@pytest.mark.parametrize(
    "sent",
    [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy, in_a_process],
)
def test_an_error_survives_being_sent(sent: Callable[[UserError], BaseException]) -> None:
    error = UserError("steps", "must be at least 1", "raise it")
    error.add_note("in a worker")
    got = sent(error)
    assert isinstance(got, UserError)
    assert (got.setting, got.problem, got.remedy) == (error.setting, error.problem, error.remedy)
    assert (str(got), notes(got)) == (str(error), ["in a worker"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            UserError("steps", "must be\n  at least 1", "raise it"),
            2,
            "steps: must be at least 1; rai",
        ),
        (Stopped("stopped"), 130, "stopped; 4 samples are kept"),
        (WinnowError("it broke"), 1, "it broke; 4 samples are kept"),
    ],
)
def test_the_command_line_prints_one_line(error, code, line, monkeypatch, capsys) -> None:
    def app(**_: object) -> None:
        error.add_note("4 samples\nare kept")
        raise error

    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(sys, "argv", ["winnow", "train"])
    with pytest.raises(SystemExit) as end:
        main.main()
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (code, "")
    assert said.err.startswith(f"winnow: {line}")
    assert said.err.endswith("; 4 samples are kept\n")
    assert said.err.count("\n") == 1


def ended(app: Callable[..., None], monkeypatch) -> SystemExit:
    monkeypatch.setattr(main, "app", app)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            main.main()
    finally:
        signal.signal(signal.SIGTERM, before)
        main._terminated.clear()
    return end.value


def test_sigterm_stops_a_run_as_ctrl_c_does(monkeypatch, capsys) -> None:
    """With what it says then, and the exit code of a process that the signal ended: 128 + 15."""

    def app(**_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as stop:
            raise Stopped("stopped; resume: winnow train --resume a") from stop

    assert ended(app, monkeypatch).code == 143
    assert capsys.readouterr().err == "winnow: stopped; resume: winnow train --resume a\n"
    assert ended(lambda **_: signal.raise_signal(signal.SIGINT), monkeypatch).code == 130


def test_a_terminal_has_its_errors_broken_at_words(monkeypatch, capsys) -> None:
    words = "prompts.source: no file a-long-name-that-is-not-broken.jsonl in /some/where else"

    def app(**_: object) -> None:
        raise UserError("", words)

    monkeypatch.setenv("COLUMNS", "24")
    ended(app, monkeypatch)
    assert capsys.readouterr().err == f"winnow: {words}\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ended(app, monkeypatch)
    lines = capsys.readouterr().err.splitlines()
    assert " ".join(lines) == f"winnow: {words}"
    assert [len(line) <= 24 for line in lines] == [True, True, False, True, True][: len(lines)]


# what the source does


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


@pytest.mark.parametrize("path", TREES, ids=lambda path: path.stem)
def test_every_error_says_which_part_is_which(path) -> None:
    for call in calls(TREES[path], "UserError"):
        where = f"{path}:{call.lineno}"
        assert 2 <= len(call.args) + len(call.keywords) <= 3, where
        setting = call.args[0]
        if isinstance(setting, ast.Constant):
            assert not set(":;") & set(setting.value), where
    named = [
        node.value
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Assign)
        and any(is_name(target, name) for target in node.targets for name in ("problem", "remedy"))
    ]
    for part in [*named, *(part for call in calls(TREES[path], "UserError") for part in call.args)]:
        assert "; " not in "".join(texts(part)), f"{path}:{part.lineno}: two parts in one"


def texts(part: ast.expr) -> Iterator[str]:
    """What is written in a string, the values of its holes aside."""
    if isinstance(part, ast.Constant):
        yield str(part.value)
    elif isinstance(part, ast.JoinedStr):
        yield from (str(v.value) for v in part.values if isinstance(v, ast.Constant))


@pytest.mark.parametrize("path", TREES, ids=lambda path: path.stem)
def test_nobody_edits_the_text_of_another_error(path) -> None:
    """A caught error of ours is passed on as it is, `with_` another part, or with a note."""
    if path.name == "main.py":  # which prints it
        return
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ExceptHandler) and node.name and caught(node) & NAMES:
            for inner in ast.walk(node):
                pasted = isinstance(inner, ast.FormattedValue) and is_name(inner.value, node.name)
                written = (
                    isinstance(inner, ast.Call)
                    and isinstance(inner.func, ast.Name)
                    and inner.func.id in ("str", "repr")
                    and any(is_name(argument, node.name) for argument in inner.args)
                )
                edited = pasted or written
                assert not edited, f"{path}:{inner.lineno}"


def caught(handler: ast.ExceptHandler) -> set[str]:
    return {node.id for node in ast.walk(handler.type or handler) if isinstance(node, ast.Name)}


def is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def test_paths_are_as_they_are_seen_from_here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = UserError("out", f"{tmp_path}/a/b exists, {tmp_path}x does not", f"see {tmp_path}/c")
    assert str(error) == f"out: a/b exists, {tmp_path}x does not; see c"
    monkeypatch.chdir("/")
    assert str(UserError("out", "/a/b exists")) == "out: /a/b exists"
