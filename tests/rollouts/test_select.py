"""From a file of samples to outcomes: exactness by chi-square, tallies by brute force, mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tests.build import group
from winnow.algorithms.registry import RULES
from winnow.algorithms.selection import Rule, columns_read, select
from winnow.algorithms.spec import parse
from winnow.config.schema import from_dict
from winnow.errors import UserError
from winnow.rollouts.select import select as select_file
from winnow.rollouts.select import select_table
from winnow.storage.sample_table import read_samples
from winnow.storage.schema import write_groups
from winnow.training.file_source import open_file, select_all
from winnow.types import Group, Origin, Outcome


def write(folder: Path, groups: Sequence[Group], name: str = "samples.parquet") -> Path:
    path = folder / name
    write_groups(path, "sample", 0, groups)
    return path


# Exactness

ANSWERS = np.array(["a", "b", "c", "d", "e"])
REF = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
REWARDS = np.array([0.0, 0.5, 0.9, 1.0, 0.85])
PROMPTS, EACH = 2_100, 100


def pi_star(beta: float) -> np.ndarray:
    weights = REF * np.exp((REWARDS - 1) / beta)
    return weights / weights.sum()


def proposals(path: Path, each: int, prompts: int, seed: int) -> Path:
    """Samples of a policy over five answers, the same for every prompt."""
    rng = np.random.default_rng(seed)
    sampled = rng.choice(len(REF), size=prompts * each, p=REF)
    table = {
        "prompt_id": np.repeat([f"p{i}" for i in range(prompts)], each),
        "sample": np.tile(np.arange(each, dtype=np.int32), prompts),
        "text": ANSWERS[sampled],
        "reward": REWARDS[sampled],
        "model": ["five"] * len(sampled),
        "temperature": np.ones(len(sampled)),
    }
    pq.write_table(pa.table(table), path)
    return path


def p_value(path: Path, expected: np.ndarray) -> float:
    """Chi-square of the answers in a file, cells that expect fewer than 5 pooled."""
    texts = pq.read_table(path, columns=["text"])["text"].to_numpy()
    seen = np.array([(texts == answer).sum() for answer in ANSWERS], dtype=float)
    wanted = expected * seen.sum()
    small = wanted < 5
    if small.any():
        small[np.argmin(np.where(small, np.inf, wanted))] = True
        seen = np.append(seen[~small], seen[small].sum())
        wanted = np.append(wanted[~small], wanted[small].sum())
    return float(chisquare(seen, wanted).pvalue)


@pytest.fixture(scope="module")
def five(tmp_path_factory) -> Path:
    return proposals(tmp_path_factory.mktemp("five") / "five.parquet", EACH, PROMPTS, 1)


@pytest.mark.parametrize("beta", [0.05, 0.5, 5, 100])
def test_what_gibbs_accepts_is_sampled_from_pi_star(five, tmp_path, beta):
    """210,000 proposals in one go; the rate of acceptance is Z / M."""
    out = tmp_path / "kept.parquet"
    selected = select_file(five, [f"gibbs(beta={beta}, r_max=1)"], out=out, seed=5)
    expected = pi_star(beta)
    assert selected.samples == PROMPTS * EACH == 210_000
    assert pq.read_metadata(out).num_rows == selected.survivors > 10_000
    assert p_value(out, expected) > 0.001
    rate = (REF * np.exp((REWARDS - 1) / beta)).sum()
    error = (rate * (1 - rate) / selected.samples) ** 0.5
    assert abs(selected.survivors / selected.samples - rate) < 4 * error
    assert selected.notes == [
        f"gibbs(beta={beta}, r_max=1): 210000 proposals, {selected.survivors} accepted "
        f"({selected.survivors / 210_000:.4f}); exact samples from pi* of five at temperature 1, "
        f"beta = {beta:g}, if no reward can exceed 1"
    ]
    if beta == 0.5:  # the test can tell: not from a temperature a little off, not from what sampled
        assert p_value(out, pi_star(0.55)) < 1e-6
        assert p_value(five, expected) < 1e-6


class TestFinished:
    """Two samples of one prompt, the second cut off."""

    @pytest.fixture
    def file(self, tmp_path) -> Path:
        scored = group([1, 1])
        cut = replace(scored.samples[1], finish_reason="length")
        return write(tmp_path, [scored.with_(samples=(scored.samples[0], cut))])

    @pytest.fixture
    def silent(self, file, tmp_path) -> Path:
        """The same file, not saying how its samples ended."""
        path = tmp_path / "silent.parquet"
        pq.write_table(pq.read_table(file).drop_columns(["finish_reason"]), path)
        return path

    def test_it_is_read_from_the_file(self, file):
        assert select_file(file, ["finished"]).survived.tolist() == [True, False]

    def test_a_file_that_does_not_say_is_refused(self, silent):
        with pytest.raises(UserError, match=r"no column finish_reason, which select needs"):
            select_file(silent, ["finished"])

    def test_training_reads_it_too_and_refuses_likewise(self, file, silent):
        for path, refused in ((file, False), (silent, True)):
            config = from_dict({"algorithm": "rft", "samples_file": str(path)})
            row = config.algorithm.build().with_cells({"select": ["finished"]})
            if refused:
                with pytest.raises(UserError, match=r"^samples_file: .*no column finish_reason"):
                    open_file(config, row)
                continue
            (found,), _ = select_all(open_file(config, row).table, row, seed=0)
            assert [outcome.reason for outcome in found.outcomes] == ["survived", "cut off"]


def test_a_bound_above_all_rewards_costs_samples_only(five, tmp_path):
    out = tmp_path / "kept.parquet"
    selected = select_file(five, ["at-most(60)", "gibbs(0.5, 1.5)", "at-most(20)"], out=out)
    assert p_value(out, pi_star(0.5)) > 0.001
    assert selected.notes[0].endswith("if no reward can exceed 1.5")
    assert "; exact samples from pi* of five" in selected.notes[0]


def test_the_largest_reward_seen_is_no_bound(tmp_path):
    """With four samples a prompt, the best of each is kept for certain: it is not pi*."""
    four = proposals(tmp_path / "four.parquet", 4, 12_000, 2)
    out = tmp_path / "kept.parquet"
    selected = select_file(four, ["gibbs(0.5)"], out=out)
    assert p_value(out, pi_star(0.5)) < 1e-6
    (note,) = selected.notes
    assert "NOT exact samples from pi*: r_max is only the largest reward seen for each p" in note


def mine(group, alive, rng):
    return [None] * len(alive)


class Counting(Rule):
    """It says that it counts tokens, and is given no more."""

    reads = frozenset({"tokens"})

    def __call__(self, group, alive, rng):
        return [
            None if sample.length == 2 and not sample.text else "no" for sample in group.samples
        ]


def test_a_rule_of_ones_own_is_given_what_it_reads(tmp_path):
    """A function all there is, unless a class says that it wants less."""
    path = write(tmp_path, [group([1, 1, 1], texts=["a", "bb", "cc"], lengths=[1, 2, 2])])
    said = select_file(path, [lambda group, alive, rng: [sample.text for sample in group.samples]])
    assert said.words[1:] == ["a", "bb", "cc"]
    assert select_file(path, [Counting()]).survivors == 2


EXACT = [
    ["gibbs(1, 1)"],
    ["everything", "gibbs(1, 1)", "everything"],
    ["at-most(2)", "gibbs(1, 1)", "at-most(1)"],
]
INEXACT = [
    (["gibbs(1)"], "r_max is only the largest reward seen for each prompt"),
    (["correct", "gibbs(1, 1)"], "correct selected before it"),
    (
        ["everything", "correct", "length(1, 9)", "gibbs(1, 1)"],
        "correct, length(low=1, high=9) sel",
    ),
    (["as-recorded", "gibbs(1, 1)"], "as-recorded selected before it"),
    (["gibbs(1, 1)", "distinct"], "distinct selected among what it accepted"),
    (["gibbs(1, 1)", "at-most(2)", "best"], "best(1) selected among what it accepted"),
    (
        ["tests.rollouts.test_select:mine", "gibbs(1, 1)"],
        "tests.rollouts.test_select:mine selected before it",
    ),
    (["correct", "gibbs(1)", "mixed"], "r_max is only the largest reward seen for each prompt; co"),
]


class TestWhatIsClaimed:
    def note(self, folder: Path, groups: Sequence[Group], rules: Sequence[str]) -> str:
        table = read_samples([write(folder, groups)], ["text", "tokens"], why="here")
        *_, note = select_table(table, [parse("rule", rule, RULES) for rule in rules]).notes
        return note

    @pytest.mark.parametrize("rules", EXACT, ids=str)
    def test_what_is_exact(self, tmp_path, rules) -> None:
        """Rules that look at no sample leave a sample of the same distribution."""
        made = [group([1, 0, 1, 0]).with_(origin=Origin("m", 0.7, True))]
        note = self.note(tmp_path, made, rules)
        assert "; exact samples from pi* of m at temperature 0.7, truncated, beta = 1, if n" in note
        assert "NOT" not in note
        unnamed = self.note(tmp_path, [group([1, 0])], rules)
        assert "; exact samples from pi* of the policy that sampled, beta = 1, if no rew" in unnamed

    @pytest.mark.parametrize(("rules", "why"), INEXACT, ids=str)
    def test_what_is_not_and_why(self, tmp_path, rules, why) -> None:
        note = self.note(tmp_path, [group([1, 0, 1, 0])], rules)
        assert f"; NOT exact samples from pi*: {why}" in note
        assert "; exact" not in note

    def test_errors_stand_against_it(self, tmp_path) -> None:
        note = self.note(tmp_path, [group([1, 0, None]), group([1], name="y")], ["gibbs(1, 1)"])
        assert note.startswith("gibbs(beta=1, r_max=1): 3 proposals, ")
        assert note.endswith("NOT exact samples from pi*: 1 samples had no score")

    def test_survivors_of_another_selection_are_no_proposals(self, tmp_path) -> None:
        path, out = write(tmp_path, [group([1, 0, 1]), group([1, 1, 0], name="y")]), tmp_path / "o"
        out.mkdir()
        select_file(path, ["everything"], out=out / "all.parquet")
        (note,) = select_file(out / "all.parquet", ["gibbs(1, 1)"]).notes
        assert "; exact samples" in note
        select_file(path, ["correct"], out=out / "kept.parquet")
        (note,) = select_file(out / "kept.parquet", ["gibbs(1, 1)"]).notes
        assert "NOT exact samples from pi*: samples of 1 prompts are missing from the file" in note

    @settings(max_examples=30)
    @given(st.lists(st.sets(st.integers(0, 6), min_size=1), min_size=1, max_size=5))
    def test_missing_samples_are_noticed(self, tmp_path_factory, there) -> None:
        rows = [(f"p{i}", number) for i, numbers in enumerate(there) for number in numbers]
        path = tmp_path_factory.mktemp("gaps") / "samples.parquet"
        names, numbers = zip(*rows[::-1], strict=True)
        pq.write_table(pa.table({"prompt_id": names, "sample": numbers}), path)
        gaps = sum(max(s) - min(s) + 1 > len(s) for s in there)
        assert read_samples([path], [], why="here").gaps() == gaps
        pq.write_table(pa.table({"prompt_id": names}), path)
        assert read_samples([path], [], why="here").gaps() == 0

    def test_rso_is_not_called_exact(self, tmp_path) -> None:
        note = self.note(tmp_path, [group([1, 0])], ["rso(1)"])
        assert note.startswith(
            "rso(beta=1, k=8): NOT exact samples from pi*: as published, r_max is"
        )

    def test_samples_that_nobody_has_judged_pass_as_recorded(self, tmp_path) -> None:
        said = (Outcome(True, "survived"), Outcome(False, "wrong"))
        old = write(tmp_path, [group([1, 0]).with_(outcomes=said)], "old.parquet")
        new = write(tmp_path, [group([0, 0, 0])], "new.parquet")
        selected = select_file([old, new], ["as-recorded"])
        assert selected.survived.tolist() == [True, False, True, True, True]
        assert selected.notes == ["as-recorded: 3 samples have no outcome in the file and pass"]
        assert select_file(old, ["as-recorded"]).notes == []


# Agreement, and what was lost to what

CHOICES = [
    "everything", "correct", "best(2)", "distinct", "distinct-text", "mixed", "drop-all-wrong",
    "drop-all-right", "length(2, 3)", "at-most(2)", "band(0.3, 0.7)", "gibbs(0.5)",
    "gibbs(0.5, 1)", "rso(0.5, 2)",
]  # fmt: skip
CERTAIN = ["correct", "distinct", "distinct-text", "mixed", "length(2, 3)", "band(0.3, 0.7)"]


@st.composite
def files(sample) -> list[Group]:
    return [
        group(
            sample(st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), min_size=n, max_size=n)),
            texts=sample(st.lists(st.sampled_from(["1+1=2", "1 + 1 = 2", "2", "TWO", "two"]),
                                min_size=n, max_size=n)),
            lengths=sample(st.lists(st.integers(1, 4), min_size=n, max_size=n)),
            name=f"p{place}",
        )
        for place, n in enumerate(sample(st.lists(st.integers(1, 6), min_size=1, max_size=5)))
    ]  # fmt: skip


def rules_of(names: Sequence[str]) -> list:
    return [parse("rule", name, RULES) for name in names]


class TestAgreement:
    @settings(max_examples=60)
    @given(files(), st.lists(st.sampled_from(CHOICES), min_size=1, max_size=4), st.integers(0, 99))
    def test_a_file_is_judged_as_its_groups_are(self, tmp_path_factory, groups, names, seed):
        path, rules = write(tmp_path_factory.mktemp("agree"), groups), rules_of(names)
        table = read_samples([path], sorted(columns_read(rules)), why="here")
        priority = [np.random.default_rng([seed, number]) for number in range(len(groups))]
        judged = [select(one, rules, own) for one, own in zip(groups, priority, strict=True)]
        outcomes = [outcome for one in judged for outcome in one.outcomes]
        selected = select_table(table, rules, seed=seed)
        assert selected.survived.tolist() == [v.survived for v in outcomes]
        assert [selected.words[i] for i in selected.reasons] == [v.reason for v in outcomes]
        assert (selected.samples, selected.prompts) == (len(outcomes), len(groups))
        self.adds_up(selected, any(s.error for one in groups for s in one.scores), len(names))

    def adds_up(self, selected, errors: bool, rules: int) -> None:
        tallies = selected.tallies
        assert len(tallies) == rules + errors
        assert tallies[0].seen == selected.samples
        for one, following in pairwise(tallies):
            assert one.seen - one.removed == following.seen
        assert (
            tallies[-1].seen - tallies[-1].removed == selected.survivors == selected.survived.sum()
        )
        assert sum(t.prompts_removed for t in tallies) == selected.prompts - selected.prompts_left
        assert all(sum(t.reasons.values()) == t.removed for t in tallies)

    @settings(max_examples=60)
    @given(files(), st.lists(st.sampled_from(CERTAIN), min_size=1, max_size=4))
    def test_a_rules_losses_are_what_it_takes_from_the_rules_before(
        self, tmp_path_factory, groups, names
    ):
        """Brute force: the first k rules alone, and the prompts of which they leave a sample."""
        table = read_samples(
            [write(tmp_path_factory.mktemp("brute"), groups)], ["text", "tokens"], why="here"
        )
        sizes = np.repeat(np.arange(len(groups)), [len(one.samples) for one in groups])
        kept = [
            select_table(table, rules_of(["everything", *names[:k]])).survived for k in range(5)
        ]
        alive = [(int(mask.sum()), len(set(sizes[mask]))) for mask in kept]
        tallies = select_table(table, rules_of(names)).tallies[-len(names) :]
        for k, tally in enumerate(tallies):
            assert tally.rule == str(rules_of(names)[k])
            (samples, prompts), (samples_left, prompts_left) = alive[k], alive[k + 1]
            assert (tally.seen, tally.removed) == (samples, samples - samples_left)
            assert tally.prompts_removed == prompts - prompts_left

    def test_reasons_are_counted_without_the_sample_they_name(self, tmp_path) -> None:
        made = [group([1, 1, 1, None], texts=["a", "a", "a", "b"]), group([1] * 2, name="y")]
        selected = select_file(write(tmp_path, made), ["distinct", "at-most(1)"])
        assert [dict(t.reasons) for t in selected.tallies] == [
            {"verifier error: broken": 1},
            {"same path": 2},
            {"more than 1": 1},
        ]
        assert set(selected.words) >= {"survived", "same path as sample 0", "more than 1"}

    def test_another_seed_decides_otherwise(self, tmp_path) -> None:
        path = write(tmp_path, [group([1] * 40)])
        kept = [select_file(path, ["at-most(20)"], seed=s).survived.tolist() for s in (0, 0, 1)]
        assert kept[0] == kept[1] != kept[2]


class TestGradedRewards:
    """A rule that reads only whether a sample is right throws the rest of its reward away."""

    def notes(self, folder: Path, rewards: Sequence[float | None], *rules: str, **how) -> list[str]:
        found = select_file(write(folder, [group(rewards)]), list(rules), quiet=True, **how).notes
        return [note for note in found if "between 0 and 1" in note]

    def test_it_is_said_of_the_rules_that_do(self, tmp_path) -> None:
        (said,) = self.notes(tmp_path, [0.5, 1, 0], "distinct-text", "correct", "best(1)")
        assert "; correct uses only whether a reward is >= 1; for graded" in said
        (said,) = self.notes(tmp_path, [0.5, 1, 0], "drop-all-wrong", "correct")
        assert "; drop-all-wrong, correct use only whether" in said

    def test_it_is_not_said_of_others(self, tmp_path) -> None:
        blind = ("everything", "at-most(2)", "as-recorded", "length(high=9)", "best(1)")
        assert self.notes(tmp_path, [0.5, 1, 0], *blind) == []
        assert self.notes(tmp_path, [1, 0, None], "correct") == []
        assert self.notes(tmp_path, [0.5, 1, 0], "correct", right_at=0.5) == []
