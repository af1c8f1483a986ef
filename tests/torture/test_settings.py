"""Settings at random in commands, and each number at both ends of its range, in a run."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, seed, settings

from tests.config.fuzz import CONFIGS, ROWS, Values, ends, modest, nested
from tests.torture.table import Outcome, Row, Tally
from winnow.cli import main
from winnow.config.recipe import merge
from winnow.config.schema import from_dict
from winnow.errors import UserError
from winnow.reporting.observer import Observers
from winnow.training import run as running


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


Command = Callable[[list[str]], tuple[BaseException, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: Any, capsys: Any) -> Command:
    """`winnow train` up to where a model would be loaded: what ended it, its output."""
    monkeypatch.chdir(tmp_path)

    def reached(*_: Any, **__: Any) -> None:
        raise Reached

    monkeypatch.setattr(running, "assemble", reached)

    def run(words: list[str]) -> tuple[BaseException, str, str]:
        monkeypatch.setattr(sys, "argv", ["winnow", "train", *words])
        try:
            with modest():
                main.main()
            raise AssertionError("it has neither reached the model nor exited")
        except BaseException as error:  # noqa: BLE001  # raised in its trial
            end = error
        said = capsys.readouterr()
        return end, said.out, said.err

    return run


def check_commands(number: int, part: int, model: Path, command: Command, tally: Tally) -> None:
    """Each command reaches the model, or ends with one line and exit code 2; no folder is made."""
    outcomes: Counter[Outcome] = Counter()

    @seed(part)
    @settings(max_examples=number)
    @given(CONFIGS)
    def try_them(values: Values) -> None:
        words = ["--set", f"model={model}", "--set", "prompts.size=60", "--set", "eval.size=4"]
        for key, value in flat(values):
            text = written(value)
            if text is not None and "\0" not in key and key.isprintable():
                words += ["--set", f"{key}={text}"]
        end, out, err = command([*words, "--out", "run"])
        outcome = Outcome.UNHARMED if isinstance(end, Reached) else Outcome.TOLD
        with tally.trial(Row.WRONG_SETTINGS, outcome):
            if not isinstance(end, Reached | SystemExit):
                raise end
            assert "Traceback" not in out + err
            if isinstance(end, SystemExit):
                assert end.code == 2, err
                assert re.fullmatch(r"winnow: .+\n", err), err
            assert not Path("run").exists()
        outcomes[outcome] += 1

    try_them()
    assert min(outcomes[Outcome.UNHARMED], outcomes[Outcome.TOLD]) > number / 25, outcomes


@pytest.mark.torture
@pytest.mark.parametrize("part", range(4))
def test_the_command_is_a_run_or_exit_code_2(part, tiny_model, command, tally):
    check_commands(250, part, tiny_model, command, tally)


def test_some_commands(tiny_model, command, tally):
    check_commands(60, 4, tiny_model, command, tally)


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
    ("critic.warmup", 10**9): "critic.warmup: there are only 8 updates",
    ("eval.size", 10**6): "eval.size: it holds out 30 of 30",
    ("eval.test_size", 10**6): "eval.test_size: eval.size and it hold out 30 of 30",
    ("sampling.max_tokens", 10**7): "prompts: .* no room for sampling.max_tokens = 10000000 ",
    ("eval.max_tokens", 10**7): "prompts: .* no room for eval.max_tokens = 10000000 ",
    ("reward.import_seconds", 0.001): "reward: cannot load 'math': .* 0.001 s, reward.import_",
    ("reward.memory_gib", 0.001): "reward: cannot load 'math': .*0.001 GiB, reward.memory_gib",
}
"""Beside the other settings here, or for this model: what the line says."""
ENDS = [
    (key, end)
    for key in ROWS
    if key not in LONG and not key.startswith("engine.") and key != "reward.time_limit"
    for end in ends(key)
]


def check_an_end(key: str, end: float, model: Path, tally: Tally) -> None:
    """Two steps with this setting at the end of its range, or one line about it."""
    Path("a.jsonl").write_text('{"prompt": "1", "completion": "2"}')
    over = load_values(TINY)
    for begin, needed in WITH.items():
        merge(over, load_values(needed) if key.startswith(begin) else {})
    value = [end] * 2 if key == "optimizer.betas" else end
    merge(over, nested([(key, value)]))
    told = REFUSED.get((key, end))
    with tally.trial(Row.EXTREMES, Outcome.TOLD if told else Outcome.UNHARMED):
        config = from_dict({**over, "model": str(model)})
        if told:
            with pytest.raises(UserError, match=rf"^{told}") as caught:
                running.run(config, out=Path("run"), observers=Observers())
            assert len(str(caught.value).splitlines()) == 1
            return
        result = running.run(config, out=Path("run"), observers=Observers())
        assert len(result.metrics) == (1 if (key, end) == ("budget.seconds", 0.001) else 2)


@pytest.mark.torture
@pytest.mark.parametrize(("key", "end"), ENDS, ids=[f"{key}={end}" for key, end in ENDS])
def test_the_ends_of_a_range_train(key, end, tiny_model, tmp_path, monkeypatch, tally):
    monkeypatch.chdir(tmp_path)
    check_an_end(key, end, tiny_model, tally)


@pytest.mark.parametrize(("key", "end"), [("optimizer.lr", 1e-20), ("eval.size", 10**6)])
def test_some_ends(key, end, tiny_model, tmp_path, monkeypatch, tally):
    monkeypatch.chdir(tmp_path)
    assert (key, end) in ENDS
    check_an_end(key, end, tiny_model, tally)


def load_values(values: Values) -> Values:
    """A copy that may be written to."""
    return {key: dict(v) if isinstance(v, dict) else v for key, v in values.items()}
