"""Cells of one's own: a function says the defaults of its kind, a class under it may say more."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch

from tests.build import group, with_advantages
from winnow.algorithms.advantages import Advantage, One
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.assignment import assign_advantages, referred
from winnow.algorithms.denominators import Denominator, SampleMeans, SurvivorSums, Totals
from winnow.algorithms.kl import KL, InReward
from winnow.algorithms.losses import NLL, Loss
from winnow.algorithms.objective import Term
from winnow.algorithms.registry import ADVANTAGES, DENOMINATORS, LOSSES, RULES
from winnow.algorithms.selection import Correct, Rule, columns_read
from winnow.algorithms.spec import parse, show
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import Config, from_dict
from winnow.config.validation import check
from winnow.errors import UserError
from winnow.rollouts.select import select


def not_the_first(group, alive, rng):
    return [None if i else "the first" for i in range(len(alive))]


def twice(rewards):
    return 2 * rewards


def downhill(logp, old, weight):
    return -weight * logp


def halves(length, siblings, totals):
    return 0.5


WRITTEN = {
    "select": [f"{__name__}:not_the_first"],
    "advantage": f"{__name__}:twice",
    "loss": f"{__name__}:downhill",
    "denominator": f"{__name__}:halves",
}
IN_A_RECIPE = from_dict({"algorithm": {"name": "raft", **WRITTEN}}).algorithm.build()
IN_PYTHON = replace(
    ALGORITHMS["raft"],
    select=[not_the_first],
    advantage=twice,
    terms=(Term(downhill, halves),),
)
FUNCTIONS = [
    (RULES, not_the_first),
    (ADVANTAGES, twice),
    (LOSSES, downhill),
    (DENOMINATORS, halves),
]


@pytest.mark.parametrize("row", [IN_A_RECIPE, IN_PYTHON], ids=["recipe", "Python"])
class TestFunctions:
    def test_they_do_what_they_do(self, row) -> None:
        (got,) = with_advantages([group([1, 0.5, 0, None])], row)
        assert [v.reason for v in got.outcomes[:3]] == ["the first", "survived", "survived"]
        assert got.advantages == (0, 1, 0, 0)
        (term,) = row.terms
        assert term.loss(torch.tensor(-3.0), torch.tensor(-1.0), torch.tensor(2.0)) == 6
        assert term.factor(7, 1, Totals(1, 1, 1, 1, 1)) == 0.5

    def test_they_say_the_defaults(self, row) -> None:
        (rule,) = row.select
        assert rule.reads == {"text", "tokens"}  # it is given everything
        assert (rule.group_rule, rule.blind, rule.pairs, rule.one_policy) == (False,) * 4
        advantage = row.advantage
        assert (advantage.over, advantage.whiten, advantage.of_rewards) == ("group", "none", True)
        assert (advantage.of_survivors, advantage.one_policy) == (False, False)
        (term,) = row.terms
        assert (term.reads, term.span, term.tempered) == (
            ("logp", "old", "advantage"),
            "token",
            True,
        )
        assert (term.loss.needs_old, term.loss.covers) == (True, "nonzero")
        assert (term.loss.measure(1, 2, 3), term.loss.clips(1, 2, 3)) == ({}, None)
        assert term.denominator.counts == "survivors"

    def test_what_follows_from_the_defaults(self, row) -> None:
        assert row.needs == {"old"}
        assert row.needs_group == f"advantage {__name__}:twice"
        assert row.needs_one_policy is None
        check(Config(), row)
        with pytest.raises(
            UserError, match=r"^samples_per_prompt: it is 1, and advantage .*:twice comp"
        ):
            check(from_dict({"samples_per_prompt": 1}), row)
        with pytest.raises(UserError, match=r"^sampling\.top_k: raft divides by the probabilit"):
            check(from_dict({"sampling": {"top_k": 5}}), row)

    def test_they_are_named_by_where_they_live(self, row) -> None:
        assert row.formula == f"{__name__}:halves [{__name__}:downhill]"
        assert {key: row.cells()[key] for key in WRITTEN} == WRITTEN


def test_both_ways_are_the_same_row() -> None:
    assert IN_A_RECIPE == IN_PYTHON
    assert hash(IN_A_RECIPE) == hash(IN_PYTHON)
    assert replace(IN_PYTHON, advantage=lambda rewards: 2 * rewards) != IN_PYTHON


@pytest.mark.parametrize(("kind", "function"), FUNCTIONS, ids=["rule", "adv", "loss", "mean"])
def test_a_function_is_wrapped_once(kind, function) -> None:
    cell = kind.adopt("x", function)
    assert kind.adopt("x", cell) is cell
    assert parse("x", show(cell), kind) == cell
    assert show(cell) == show(function) == f"{__name__}:{function.__name__}"


class Short(Rule):
    """A rule that counts tokens, of samples that must be of one policy."""

    reads = frozenset({"tokens"})
    one_policy = True

    def __call__(self, group, alive, rng):
        return [None if sample.length < 3 else "long" for sample in group.samples]


@dataclass(frozen=True)
class Above(Advantage):
    """Of all groups at once."""

    margin: float = 0.0
    over = "set"

    def __call__(self, rewards):
        return rewards - rewards.mean() - self.margin


class Unlikely(Loss):
    """It reads no more than it says, and the reference at temperature 1."""

    reads = ("logp", "ref")
    covers = "counted"
    formula = "log pi/pi_ref"

    def __call__(self, logp, ref):
        return logp - ref

    def measure(self, logp, ref):
        return {"distance": (logp - ref).abs()}


class Words(Denominator):
    counts = "samples"
    formula = "1/samples sum_t"

    def __call__(self, length, siblings, totals):
        return 1 / totals.samples


class TestClasses:
    row = Algorithm("mine", (Short(),), Above(), (Term(Unlikely(), Words()),))

    def test_what_they_say_is_heard(self) -> None:
        assert columns_read(self.row.select) == {"tokens"}
        assert self.row.needs_one_policy == f"{__name__}:Short"
        assert self.row.needs_group is None
        assert self.row.needs == {"ref", "rejected"}
        assert self.row.refers == {False}
        assert self.row.formula == "1/samples sum_t [log pi/pi_ref]"
        (got,) = with_advantages([group([1, 0, 0], lengths=[5, 1, 1])], self.row)
        assert self.row.terms[0].covers(got) == (0, 1, 2)  # the rejected one too
        assert got.survivors == (1, 2)
        logp, ref = torch.tensor(-1.0), torch.tensor(-3.0)
        assert self.row.terms[0].loss.measure(logp, ref) == {"distance": 2.0}

    def test_an_advantage_of_all_groups(self) -> None:
        judging = replace(self.row, advantage=One())
        groups = with_advantages([group([1, 1]), group([0, 0])], judging)
        assert [g.advantages for g in assign_advantages(groups, Above(), "0/1")] == [
            (0.5, 0.5),
            (-0.5, -0.5),
        ]
        assert assign_advantages(groups, Above(1.0), "0/1")[0].advantages == (-0.5, -0.5)

    def test_they_are_read_back(self) -> None:
        assert show(Above(1.0)) == f"{__name__}:Above"
        assert parse("advantage", show(Above()), ADVANTAGES) == Above()
        assert isinstance(parse("select", show(Short()), RULES), Short)
        assert show(KL("k1", "token")) == "winnow.algorithms.kl:KL"

    def test_one_under_a_cell_has_not_its_name(self) -> None:
        """A recipe that says `correct` would run another."""
        assert show(Correct()) == "correct"
        assert show(Lenient()) == f"{__name__}:Lenient"
        assert isinstance(parse("select", show(Lenient()), RULES), Lenient)


class Lenient(Correct):
    """A cell of the table that was changed."""


def test_a_function_may_compare_the_samples_of_a_group() -> None:
    """So that a KL in the reward is taken from rejected samples too: they are compared with."""
    (sampled,) = with_advantages([group([1, 0, 1])], replace(IN_PYTHON, kl=InReward()))
    assert sampled.survivors == (1, 2)
    assert referred(sampled, IN_PYTHON.advantage) == (0, 1, 2)


def says_more(*given):
    return given[0]


says_more.needs_old = False
says_more.reads = ("logp",)


class TestRefused:
    """What would be passed over in silence, or fail at the first step."""

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (
                {"advantage": NLL()},
                "algorithm.advantage: unknown advantage 'nll'; available: one, reward",
            ),
            ({"advantage": "one"}, "algorithm.advantage: 'one' is of type str, not a f"),
            (
                {"select": (Correct,)},
                f"algorithm.select: '{Correct.__module__}:Correct' is a class, not a",
            ),
            (
                {"select": (says_more,)},
                f"algorithm.select: '{__name__}:says_more' has 'reads', which is not read; "
                "subclass winnow.algorithms.selection.Rule",
            ),
        ],
        ids=["another kind", "a name", "a class", "a function that says something"],
    )
    def test_in_python(self, given, said) -> None:
        with pytest.raises(UserError, match=f"^{re.escape(said)}"):
            Algorithm("mine", **given)

    def test_in_a_term(self) -> None:
        with pytest.raises(UserError, match=r"^algorithm\.loss: '.*:says_more' has 'needs_old',"):
            Term(says_more, SampleMeans())
        with pytest.raises(UserError, match=r"^algorithm\.denominator: unknown denominator 'nll'"):
            Term(NLL(), NLL())
        with pytest.raises(TypeError, match="denominator"):
            Term(NLL())

    def test_in_a_recipe(self) -> None:
        for key, name, said in (
            ("loss", "says_more", "'{}' has 'needs_old', which is not read"),
            ("advantage", "Short", "'{}' is a cell of another kind, not an advantage; sub"),
            ("denominator", "WRITTEN", "'{}' is of type dict, not a"),
        ):
            config = from_dict({"algorithm": {"name": "raft", key: f"{__name__}:{name}"}})
            with pytest.raises(UserError) as caught:
                config.algorithm.build()
            said = said.format(f"{__name__}:{name}")
            assert str(caught.value).startswith(f"algorithm.{key}: {said}")

    def test_over_a_file(self, tmp_path) -> None:
        with pytest.raises(UserError, match=r"^rule: unknown selection rule 'survivor-sums'"):
            select(tmp_path, [SurvivorSums()])
        with pytest.raises(UserError, match=r"^rule: '3' is of type int, not a"):
            select(tmp_path, [3])


def test_a_class_that_does_nothing_says_so() -> None:
    class Idle(Rule):
        pass

    with pytest.raises(NotImplementedError):
        Idle()(group([1]), [True], np.random.default_rng(0))


class Named(Rule):
    """One that imitates the cells of the table: with a name, and without arguments."""

    cell = "named"

    def __call__(self, group, alive, rng):
        return [None] * len(alive)


class Mistaken(Loss):
    """One that asks for what no loss is given."""

    reads = ("logp", "weight")


class Everywhere(Loss):
    covers = "weighted"


class Loose(Denominator):
    counts = "groups"


class Wide(Advantage):
    over = "world"


class Sees(Rule):
    reads = frozenset({"logprobs"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"terms": (Mistaken(), SampleMeans())},
            "algorithm.loss: .* declares reads = 'weight'; use",
        ),
        (
            {"terms": (Everywhere(), SampleMeans())},
            "algorithm.loss: .* declares covers = 'weighted'",
        ),
        (
            {"terms": (NLL(), Loose())},
            "algorithm.denominator: .* declares counts = 'groups'; use s",
        ),
        ({"advantage": Wide()}, "algorithm.advantage: .* declares over = 'world'; use "),
        (
            {"select": (Sees(),)},
            "algorithm.select: .* declares reads = 'logprobs'; use text, tok",
        ),
    ],
    ids=["reads", "covers", "counts", "over", "rule"],
)
def test_what_is_declared_in_unknown_words_is_refused(given, said) -> None:
    """Before a run, not in the midst of it, and never in silence."""
    terms = given.get("terms")
    make = partial(Term, *terms) if terms else partial(Algorithm, "mine", **given)
    with pytest.raises(UserError, match=f"^{said}"):
        make()


def test_a_class_with_a_name_is_shown_as_where_it_lives() -> None:
    mine = Algorithm("mine", select=(Named(),))
    assert show(mine.select[0]) == f"{__name__}:Named"
    assert parse("rule", f"{__name__}:Named", RULES)(group([1]), [True], None) == [None]


def test_one_rule_stands_for_a_list_of_it() -> None:
    assert Algorithm("mine", select=Correct()).select == (Correct(),)
    assert (
        Algorithm("mine", select=not_the_first).select
        == Algorithm("m", select=(not_the_first,)).select
    )
    with pytest.raises(UserError, match=r"^algorithm\.select: 'correct' is of type str"):
        Algorithm("mine", select="correct")


def test_an_algorithm_of_ones_own_can_be_pickled() -> None:
    mine = Algorithm("mine", select=(not_the_first, Correct()), advantage=twice)
    again = pickle.loads(pickle.dumps(mine))
    assert again == mine
    assert again.select[0](group([1, 0]), [True, True], None) == ["the first", None]
