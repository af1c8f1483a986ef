"""No settings bring a traceback or a quiet hour: they are a config, or a line that says why not."""

from __future__ import annotations

import re
import signal
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, seed, settings

from tests.config.fuzz import CONFIGS, ROWS, WRONG, Values, ends, nested
from tests.torture.table import Outcome, Row
from winnow.cli import main
from winnow.config.phases import phases_of
from winnow.config.recipe import dumps, merge
from winnow.config.schema import Config, from_dict
from winnow.errors import UserError
from winnow.reporting.observer import Observers
from winnow.training import run as running
from winnow.training.setup import Plan, plan

SMALL = {"prompts": {"size": 60}, "eval": {"size": 4}}
MOST_BYTES = 32 * 2**20
NAMED = {"", "recipe", "--set"} | {key.split(".")[0] for key in ROWS}


@contextmanager
def modest() -> Iterator[None]:
    """In the block, little memory, and an end: a hang is a failure, not a quiet hour."""

    def hung(*_: Any) -> None:
        raise AssertionError("30 s of processor time are gone")

    before = signal.signal(signal.SIGVTALRM, hung)
    signal.setitimer(signal.ITIMER_VIRTUAL, 30)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def checked(values: Values, model: Path) -> Plan | UserError:
    """What becomes of settings before a model is loaded."""
    over: Values = {"model": str(model)}
    merge(over, {key: dict(table) for key, table in SMALL.items()})
    try:
        merge(over, values)
        return plan(from_dict(over))
    except UserError as error:
        return error


def check_line(error: UserError, keys: Iterable[object]) -> None:
    """One line of bearable length that begins with a setting."""
    said = str(error)
    assert len(said.splitlines()) == 1, said
    assert len(said) < 1000, said
    assert error.setting.split(".")[0] in NAMED | {str(key) for key in keys}, said


@pytest.mark.parametrize("key", ROWS)
def test_each_setting_is_tried_with_each_wrong_value(key) -> None:
    """Where a value is none of them, the config can be written and read again."""
    taken = 0
    for value in WRONG:
        values = nested([(key, value)])
        with modest():
            try:
                config = from_dict(values)
                phases_of(config, open_file=lambda *_: pytest.fail("it is not opened here"))
            except UserError as error:
                check_line(error, values)
                continue
            except pytest.fail.Exception:
                assert key == "samples_file"
        taken += 1
        assert from_toml(dumps(config)) == config
    assert taken < len(WRONG) / 2


def test_settings_are_a_config_or_one_line(tiny_model) -> None:
    seen = {True: 0, False: 0}

    @settings(max_examples=150)
    @given(CONFIGS)
    def try_them(values: Values) -> None:
        with modest():
            found = checked(values, tiny_model)
        seen[isinstance(found, Plan)] += 1
        if isinstance(found, Plan):
            assert from_toml(dumps(found.config)) == found.config
            return
        check_line(found, values)

    for once in ({}, {"prompts": {"source": "gym:no"}}):  # imports are not the settings' memory
        checked(once, tiny_model)
    try_them()
    assert min(seen.values()) > 15, seen  # it tries both


def from_toml(text: str) -> Config:
    import tomllib

    return from_dict(tomllib.loads(text))


class Reached(Exception):
    """All checks without a model have passed."""


def flat(values: Values, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and value:
            yield from flat(value, name)
        else:
            yield name, value


def written(value: object) -> str | None:
    """A value as `--set` has it, by TOML; ``None`` where no command line can."""
    try:
        text = tomli_w.dumps({"x": value}).removeprefix("x = ").strip()
        text.encode()
    except (TypeError, ValueError, AttributeError):
        return None
    return None if "\0" in text else text


@pytest.mark.torture
@pytest.mark.parametrize("part", range(4))
def test_the_command_is_a_run_or_exit_code_2(
    part, tiny_model, tmp_path, monkeypatch, capsys, tally
):
    """Up to where the model would be loaded: 4 x 250 commands, as `--set` or as a recipe."""
    monkeypatch.chdir(tmp_path)

    def reached(*_: Any, **__: Any) -> None:
        raise Reached

    monkeypatch.setattr(running, "assemble", reached)
    codes: list[int] = []

    @seed(part)
    @settings(max_examples=250)
    @given(CONFIGS)
    def try_them(values: Values) -> None:
        words = ["--set", f"model={tiny_model}", "--set", "prompts.size=60", "--set", "eval.size=4"]
        for key, value in flat(values):
            text = written(value)
            if text is not None and "\0" not in key and key.isprintable():
                words += ["--set", f"{key}={text}"]
        words += ["--out", str(tmp_path / "run")]
        monkeypatch.setattr(sys, "argv", ["winnow", "train", *words])
        with modest(), pytest.raises((SystemExit, Reached)) as end:
            main.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        codes.append(0)
        if isinstance(end.value, SystemExit):
            codes[-1] = 2
            assert end.value.code == 2, said
            assert said.err.startswith("winnow: ")
            assert said.err.count("\n") == 1
        assert not (tmp_path / "run").exists()

    try_them()
    tally.count(Row.WRONG_SETTINGS, Outcome.UNHARMED, codes.count(0))
    tally.count(Row.WRONG_SETTINGS, Outcome.TOLD, codes.count(2))
    assert codes.count(0) > 10
    assert codes.count(2) > 10


TINY: Values = {
    "steps": 2,
    "prompts_per_step": 3,
    "minibatch_prompts": 3,
    "samples_per_prompt": 3,
    "device": "cpu",
    "reward": "exact",
    "sampling": {"max_tokens": 4},
    "eval": {"size": 2},
    "prompts": {"size": 30, "template": "{question}"},
    "algorithm": {"name": "grpo"},
}
WITH: dict[str, Values] = {
    "critic": {"algorithm": {"name": "ppo"}},
    "lora": {"lora": {"rank": 2}},
    "sampling.top": {"algorithm": {"name": "raft"}},
    "anchor": {"anchor": {"source": "a.jsonl"}},
    "eval.patience": {"eval": {"every": 1}},
    "eval.test_size": {"eval": {"every": 1, "patience": 9}},
    "reward.import_seconds": {"reward": "math"},
    "reward.memory_gib": {"reward": "math"},
}
"""What a setting needs, by how its key begins."""
LONG = {
    "threads",  # it stays with the process
    *("steps", "prompts_per_step", "samples_per_prompt", "minibatch_prompts", "cycles"),
    *("algorithm.epochs", "algorithm.refill", "eval.samples", "prompts.size", "reward.workers"),
}
"""The upper ends take long, as they say."""
REFUSED = {
    *(("critic.warmup", 10**9), ("eval.size", 10**6), ("eval.test_size", 10**6)),
    *(("sampling.max_tokens", 10**7), ("reward.import_seconds", 0.001)),
    ("reward.memory_gib", 0.001),
}
"""Beside the other settings here, or for this model."""
ENDS = [
    (key, end)
    for key in ROWS
    if key not in LONG and not key.startswith("engine.") and key != "reward.time_limit"
    for end in ends(key)
]


@pytest.mark.torture
@pytest.mark.parametrize(("key", "end"), ENDS, ids=[f"{key}={end}" for key, end in ENDS])
def test_the_ends_of_a_range_train(key, end, tiny_model, tmp_path, monkeypatch, tally):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"prompt": "1", "completion": "2"}')
    over = load_values(TINY)
    for begin, needed in WITH.items():
        merge(over, load_values(needed) if key.startswith(begin) else {})
    value = [end] * 2 if key == "optimizer.betas" else end
    merge(over, nested([(key, value)]))
    config = from_dict({**over, "model": str(tiny_model)})
    if (key, end) in REFUSED:
        told = tally.trial(Row.EXTREMES, Outcome.TOLD)
        with told, pytest.raises(UserError, match=rf"^({re.escape(key)}|prompts|reward): "):
            running.run(config, out=tmp_path / "run", observers=Observers())
        return
    with tally.trial(Row.EXTREMES, Outcome.UNHARMED):
        result = running.run(config, out=tmp_path / "run", observers=Observers())
        assert len(result.metrics) == 2


def load_values(values: Values) -> Values:
    """A copy that may be written to."""
    return {key: dict(v) if isinstance(v, dict) else v for key, v in values.items()}
