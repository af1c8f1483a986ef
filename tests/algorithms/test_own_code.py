"""Functions of one sample as rules, and what is said where a user's code goes wrong."""

from __future__ import annotations

import pickle
import re
from dataclasses import FrozenInstanceError, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import winnow
from tests.build import group, with_advantages
from winnow.algorithms.advantages import Advantage, Centred
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.assignment import assign_advantages
from winnow.algorithms.denominators import SampleMeans, Totals
from winnow.algorithms.losses import NLL
from winnow.algorithms.objective import Term
from winnow.algorithms.predicates import Predicate, SampleView
from winnow.algorithms.registry import RULES
from winnow.algorithms.selection import Correct, Rule
from winnow.algorithms.spec import parse, show
from winnow.engines.learning.gradients import _check
from winnow.errors import OwnCodeError, UserError
from winnow.rollouts.select import select
from winnow.storage.schema import write_groups
from winnow.training.file_source import open_file, select_all
from winnow.types import Group, Prompt

HERE = Path(__file__).name


def line_of(text: str) -> int:
    """Where a line of this file is."""
    lines = Path(__file__).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.strip().startswith(text))


def short(sample):
    return sample.length < 3


class Below:
    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, sample: winnow.SampleView) -> bool:
        return sample.reward < self.limit


def reasons(function: Any, made: Group) -> list[str]:
    (got,) = with_advantages([made], Algorithm("mine", select=[function]))
    return [outcome.reason for outcome in got.outcomes]


class TestFunctionsOfOneSample:
    def test_those_survive_for_which_it_is_true(self) -> None:
        made = group([1, 0, 1, None], lengths=[1, 2, 3, 4])
        error = "verifier error: broken"
        assert reasons(short, made) == ["survived", "survived", "rejected by short", error]
        assert reasons(Below(0.5), made) == [
            "rejected by Below", "survived", "rejected by Below", error,
        ]  # fmt: skip

    def test_a_lambda_is_named_by_file_and_line(self) -> None:
        first = lambda sample: "0" in sample.text  # noqa: E731
        at = f"rejected by lambda in {HERE}:{line_of('first = lambda')}"
        assert reasons(first, group([1, 1])) == ["survived", at]

    def test_what_it_sees(self) -> None:
        """And nothing of a sample without a score."""
        seen: list[SampleView] = []

        def looks(sample):
            seen.append(sample)
            return True

        made = group([0.5, None, 1], texts=["a", "b", "c"], lengths=[1, 2, 3])
        made = made.with_(prompt=Prompt("p", "q", "7", data={"x": 1}), right_at=0.5)
        reasons(looks, made)
        assert seen == [
            SampleView(made.prompt, "a", 0.5, True, 1, "stop"),
            SampleView(made.prompt, "c", 1.0, True, 3, "stop"),
        ]
        assert seen[0].prompt.data == {"x": 1}
        with pytest.raises(FrozenInstanceError):
            seen[0].text = "b"  # type: ignore[misc]

    def test_only_of_those_that_are_still_alive(self) -> None:
        seen: list[str] = []

        def looks(sample):
            seen.append(sample.text)
            return np.bool_(True)

        mine = Algorithm("mine", select=[Correct(), looks])
        with_advantages([group([1, 0, 1], texts=["a", "b", "c"])], mine)
        assert seen == ["a", "c"]

    @pytest.mark.parametrize("given", ["", 0, 1, None, "yes"])
    def test_what_is_no_bool_is_an_error(self, given) -> None:
        with pytest.raises(OwnCodeError, match=r"answers: the rule returned .*, not True or Fals"):
            reasons(answering(given), group([1]))

    def test_how_it_is_told_from_other_rules(self) -> None:
        def more(sample, limit=3):
            return sample.length < limit

        def other(group, alive, rng):
            return [None] * len(alive)

        for function in (short, more, Below(1.0), partial(more, limit=2), lambda sample: True):
            assert isinstance(RULES.adopt("x", function), Predicate)
        assert not isinstance(RULES.adopt("x", other), Predicate)
        with pytest.raises(
            UserError,
            match=re.escape("define it as f(group, alive, rng) or f(sample)"),
        ):
            RULES.adopt("x", lambda one: True)

    def test_it_has_a_name_in_a_recipe(self) -> None:
        cell = parse("select", f"{__name__}:short", RULES)
        assert cell == RULES.adopt("x", short) == RULES.adopt("x", cell)
        assert show(cell) == f"{__name__}:short"
        assert pickle.loads(pickle.dumps(cell)) == cell

    def test_alone_in_place_of_a_list(self) -> None:
        assert Algorithm("mine", select=short).select == (Predicate(short),)


def answering(given: object) -> Any:
    def answers(sample):
        return given

    return answers


class TestOverAFile:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        made = [group([1, 0], name=name) for name in ("a", "b")]
        made = [
            one.with_(prompt=replace(one.prompt, answer=one.prompt.id * 2, data={"n": number}))
            for number, one in enumerate(made)
        ]
        write_groups(tmp_path / "samples.parquet", "sample", 0, made)
        return tmp_path / "samples.parquet"

    def test_it_sees_the_whole_prompt(self, file) -> None:
        seen: list[Prompt] = []

        def looks(sample):
            seen.append(sample.prompt)
            return sample.prompt.data["n"] == 1 and sample.right

        out = file.with_name("kept.parquet")
        assert select(file, [looks], out=out).survived.tolist() == [False, False, True, False]
        assert [(p.text, p.answer) for p in seen] == [("a", "aa")] * 2 + [("b", "bb")] * 2
        assert pq.read_table(out)["reason"].to_pylist() == ["survived"]
        assert select(file, looks).survivors == 1

    def test_in_training_on_it_too(self, file) -> None:
        row = replace(
            winnow.ALGORITHMS["rft"], select=[lambda sample: sample.prompt.data["n"] == 1]
        )
        config = winnow.Config(samples_file=str(file), algorithm={"name": "rft"})
        groups, _ = select_all(open_file(config, row).table, row, seed=0)
        assert [sum(o.survived for o in one.outcomes) for one in groups] == [0, 2]

    def test_a_file_without_what_it_may_look_at_is_refused(self, file) -> None:
        table = pq.read_table(file).drop_columns(["finish_reason"])
        pq.write_table(table, file)
        with pytest.raises(UserError, match="no column finish_reason, which select needs"):
            select(file, [short])


def rule(group, alive, rng):
    return group.nothing


def advantage(rewards):
    return {}[len(rewards)]


def loss(logp, old, advantage):
    raise RuntimeError("away")


def denominator(length, siblings, totals):
    return length / 0


def predicate(sample):
    return sample.txt == ""


class Method(Rule):
    def __call__(self, group, alive, rng):
        return self.absent


MINE = Algorithm("mine", (lambda sample: True,), advantage, (Term(loss, denominator),))


@pytest.mark.parametrize(
    ("act", "name", "said"),
    [
        (lambda: reasons(rule, group([1])), "rule", "the rule raised AttributeError: .*nothing"),
        (lambda: reasons(Method(), group([1])), "Method", "the rule raised AttributeError: .*abs"),
        (lambda: reasons(predicate, group([1])), "predicate", "the rule raised AttributeErr.*txt"),
        (
            lambda: with_advantages([group([1, 0])], MINE),
            "advantage",
            "the advantage raised KeyError: 2",
        ),
        (
            lambda: MINE.terms[0].factor(1, 1, Totals(1, 1, 1, 1, 1)),
            "denominator",
            "the denominator raised ZeroDivisionError: .*",
        ),
    ],
    ids=["rule", "a rule's class", "of one sample", "advantage", "denominator"],
)
def test_what_is_raised_names_function_file_and_line(act, name, said) -> None:
    """On one line, which says which."""
    bodies = {
        "rule": "return group.nothing",
        "Method": "return self.absent",
        "predicate": "return sample.txt",
        "advantage": "return {}[",
        "denominator": "return length / 0",
    }
    at = re.escape(f"({HERE}:{line_of(bodies[name])})")
    with pytest.raises(OwnCodeError, match=rf"^{__name__}:{name}: {said}.* {at}; fix it$") as got:
        act()
    assert got.value.exit_code == 2
    assert "\n" not in str(got.value)


def test_an_error_of_ours_in_a_cell_of_ours_is_not_put_on_the_user(monkeypatch) -> None:
    def fails(self, group, alive, rng):
        raise KeyError("ours")

    monkeypatch.setattr(Correct, "__call__", fails)
    with pytest.raises(KeyError):
        reasons(Correct(), group([1]))


def test_what_a_rule_says_itself_stays() -> None:
    def refuses(group, alive, rng):
        raise UserError("mine", "not this one")

    with pytest.raises(UserError, match=r"^mine: not this one$"):
        reasons(refuses, group([1]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda rewards: rewards[:1], r"returned numbers of shape \(1,\) for \(2,\); return a num"),
        (lambda rewards: 1.0, r"returned numbers of shape \(\) for \(2,\)"),
        (lambda rewards: None, r"the advantage returned None, not numbers"),
        (lambda rewards: "high", r"returned 'high', not numbers; return an array of shape \(2,\)"),
        (lambda rewards: rewards / [1, np.nan], "the advantage returned nan; return finite"),
        (lambda rewards: np.full_like(rewards, np.inf), "the advantage returned inf; return fini"),
    ],
)
def test_an_advantage_that_is_no_number_a_reward(given, said) -> None:
    """It would be cut, spread over others, or poison the update."""
    with pytest.raises(OwnCodeError, match=said):
        with_advantages([group([1, 0])], Algorithm("mine", advantage=given))


class Late(Advantage):
    over = "token"

    def __call__(self, rewards, values):
        return rewards[1:]


def test_an_advantage_over_tokens_likewise() -> None:
    with pytest.raises(OwnCodeError, match=r"Late: .* returned numbers of shape \(2,\) for \(3,\)"):
        with_advantages([group([1, 0], lengths=[3, 3])], Algorithm("mine", advantage=Late()))


def test_an_own_advantage_that_is_right_is_as_one_of_the_table() -> None:
    groups = with_advantages([group([1, 0, 0, None])], Algorithm("mine"))
    own = Algorithm("mine", advantage=lambda rewards: (rewards - rewards.mean()).tolist())
    assert assign_advantages(groups, own.advantage, "0/1") == assign_advantages(
        groups, Centred(), "0/1"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.tensor(1.0), r"a tensor of shape \(\) for 3 tokens; return one number for each tok"),
        (torch.ones(2), r"a tensor of shape \(2,\) for 3 tokens"),
        (torch.ones(3, 1), r"a tensor of shape \(3, 1\) for 3 tokens"),
        (None, "the loss returned None for 3 tokens"),
    ],
)
def test_a_loss_that_is_no_number_a_token(given, said) -> None:
    """A scalar would be counted once for each token."""
    with pytest.raises(OwnCodeError, match=said):
        _check(Term(NLL(), SampleMeans()), given, torch.ones(3))
    _check(Term(NLL(), SampleMeans()), torch.ones(3), torch.ones(3))
