"""Which answers are one answer, who wins the vote, and the statistics of curves over n.

And what pictures show of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, pairwise, permutations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from tests.build import group
from winnow.errors import UserError
from winnow.evaluation import plots
from winnow.evaluation.curves import PromptSamples, curves, label_outcomes
from winnow.evaluation.overoptimisation_fit import best_of_n_study
from winnow.evaluation.voting import ballots, winner
from winnow.rewards.factory import make_reward
from winnow.theory.intervals import mean_interval, rate_interval, wilson
from winnow.types import Prompt, Score


def labels_of(texts: Sequence[str], answers: str, equal=None) -> list[int | None]:
    return ballots([group([1] * len(texts), texts=texts)], answers, equal).labels[0]


def boxed(*formulas: str) -> list[str]:
    return [f"so \\boxed{{{formula}}}." for formula in formulas]


class TestNumbers:
    @pytest.mark.parametrize(
        ("texts", "labels"),
        [
            (["is 1/2", "0.5", "#### 0.50", "2"], [0, 0, 0, 1]),
            (["1,000 apples", "#### 1000", "1e3", "100"], [0, 0, 0, 1]),
            (["no idea", "", "3", "none"], [None, None, 0, None]),
            (["1,23", "3", "1.2.3"], [None, 0, None]),  # unreadable: no vote
            (["-3", "3", "- 3 is wrong, = -3"], [0, 1, 0]),
            (["0.1", "0.1000000001"], [0, 1]),  # exactly
            (["结果是42", "42", "5"], [0, 0, 1]),
            (boxed("2", r"\sqrt{2}", r"\sqrt {2}", "2"), [0, 1, 1, 0]),  # a box has a vote
            ([*boxed(r"3 \text{ or } 4", "4"), "3 or 4", "#### 3, 4"], [0, 1, None, None]),
        ],
    )
    def test_equal_numbers_are_one_answer(self, texts, labels) -> None:
        assert labels_of(texts, "number") == labels

    @given(st.lists(st.fractions(-99, 99, max_denominator=12), min_size=1, max_size=12))
    def test_they_are_compared_as_fractions(self, values: list[Fraction]) -> None:
        found = labels_of([f"= {v.numerator}/{v.denominator}" for v in values], "number")
        for value, label in zip(values, found, strict=True):
            for other, other_label in zip(values, found, strict=True):
                assert (label == other_label) == (value == other)

    def test_texts(self) -> None:
        assert labels_of([" Yes\n", "yes", "YES ", "yes.", "no"], "text") == [0, 0, 0, 1, 2]


def ordered(items):
    """Lists of such items, each with another order of its places."""
    return st.lists(items, min_size=1, max_size=9).flatmap(
        lambda made: st.tuples(st.just(made), st.permutations(range(len(made))))
    )


class Comparing:
    """Equal where the texts' letters are the same; fails on some. Counts what it was asked."""

    name = "comparing"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        self.asked += [(prompt.answer or "", text) for prompt, text in items]
        return [
            Score.failed("it hung") if "?" in text else Score(float(letters(p.answer, text)))
            for p, text in items
        ]

    def close(self) -> None: ...


class Quarrel(Comparing):
    """Fails between a formula and another one."""

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [
            Score(1.0)
            if letters(p.answer, text)
            else Score.failed("it hung")
            if "bad" in text
            else Score(0.0)
            for p, text in items
        ]


class Near(Comparing):
    """Equal where the lengths are one apart at most, which is no equivalence; fails on some."""

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [
            Score.failed("it hung")
            if "z" in text
            else Score(float(abs(len(p.answer or "") + len("\\boxed{}") - len(text)) <= 1))
            for p, text in items
        ]


def letters(answer: str | None, text: str) -> bool:
    return sorted(answer or "") == sorted(text.removeprefix("\\boxed{").removesuffix("}"))


class TestFormulas:
    @pytest.fixture(scope="class")
    def equal(self):
        made = make_reward("math", workers=1)
        yield made
        made.close()

    @pytest.mark.parametrize(
        ("texts", "labels"),
        [
            (boxed(r"\frac{1}{2}", "0.5", "1/2", r"\frac12", "0.25"), [0, 0, 0, 0, 1]),
            (boxed(r"2\sqrt{3}", r"\sqrt{12}", r"\sqrt{3}", "3"), [0, 0, 1, 2]),
            (boxed("x+1", "1+x", "x+2", "1"), [0, 0, 1, 2]),
            (boxed("3+4", "7", "4"), [0, 0, 1]),  # not the last number in the box
            (boxed("1, 2", "2", "1"), [0, 1, 2]),
            (boxed("2^{10}", "1,024", "1024", "10"), [0, 0, 0, 1]),
            (boxed("2", r"\sqrt{2}", "2", "1.414214"), [0, 1, 0, 2]),
            (boxed("50%", "0.5", "50"), [0, 0, 1]),  # of the two that it equals, the smaller
            (
                [*boxed("C"), "The answer is C.", "Well", r"So $x = \frac12$", "0.5"],
                [0, 0, None, 1, 1],
            ),
            (["<think>\\boxed{7}</think> It is 5", "5", "<think> 5"], [0, 0, None]),
            ([*boxed("", "5"), "5", "no number", "#### 5"], [None, 0, 0, None, 0]),
            (boxed("333333/1000000", "1/3", "0.333333", r"1\frac{1}{3}"), [0, 1, 0, 2]),
        ],
    )
    def test_equal_formulas_are_one_answer(self, equal, texts, labels) -> None:
        assert labels_of(texts, "math", equal) == labels

    def test_a_comparison_that_cannot_be_made_is_counted(self, equal) -> None:
        texts = boxed("1", r"\frac{1}{0}", "2", "x", r"\frac{1}{0}", "!!")
        made = ballots([group([1] * 6, texts=texts)] * 2, "math", equal)
        assert made.labels == [[0, 1, 2, 3, 1, 4]] * 2
        assert made.failed == 4  # two formulas of two prompts

    def test_two_numbers_are_not_asked_about(self) -> None:
        equal = Comparing()
        assert labels_of([*boxed("1", "2", "1.0", "3/4"), "#### 2"], "math", equal) == [
            0, 1, 0, 2, 1,
        ]  # fmt: skip
        assert equal.asked == []

    def test_a_failure_makes_a_label_of_its_own(self) -> None:
        made = ballots([group([1] * 4, texts=boxed("ab", "z?", "ba", "z?"))], "math", Comparing())
        assert made.labels == [[0, 1, 0, 1]]  # equal texts are equal all the same
        assert made.failed == 1  # it is asked about once, not beside every other

    def test_a_failure_between_two(self) -> None:
        made = ballots([group([1] * 3, texts=boxed("a", "b", "bad"))], "math", Quarrel())
        assert made.labels == [[0, 1, 2]]
        assert made.failed == 2

    def test_the_order_of_the_samples_has_no_say(self) -> None:
        """In whatever order they were sampled, the same answers are one; not so if each were
        compared with those before it: bb is as near to a as to ccc.
        """
        found = set()
        for order in permutations(["a", "bb", "ccc", "dddd", "zz", "12345678"]):
            labels = labels_of(boxed(*order), "math", Near())
            shares = list(zip(labels, order, strict=True))
            found.add(frozenset(frozenset(f for label, f in shares if label == k) for k in labels))
        assert len(found) == 1


def plain_vote(labels, weights) -> set[int]:
    """Labels with most votes, by a loop over exact fractions."""
    totals: dict[int, Fraction] = {}
    for label, weight in zip(labels, weights, strict=True):
        if label is not None and weight > 0:
            totals[label] = totals.get(label, Fraction(0)) + Fraction(weight)
    return {label for label, total in totals.items() if total == max(totals.values())}


VOTE = st.tuples(st.none() | st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]))


class TestWinner:
    @given(st.lists(VOTE, min_size=1, max_size=9), st.floats(0, 1, exclude_max=True))
    def test_it_is_of_the_labels_on_top_and_the_heaviest_of_those(self, votes, priority) -> None:
        labels, weights = zip(*votes, strict=True)
        top = plain_vote(labels, weights)
        found = winner(list(labels), weights, lambda: priority)
        if not top:
            assert found is None
            return
        assert labels[found] in top
        same = [i for i, label in enumerate(labels) if label == labels[found]]
        assert weights[found] == max(weights[i] for i in same)

    def test_the_samples_of_an_answer_win_by_lot_too(self) -> None:
        """Two answers of two votes: four samples, each with chance 1/4; then the heaviest alone."""
        rng = np.random.default_rng(0)
        found = [winner([0, 1, 1, 0, 2], [1.0] * 5, rng.random) for _ in range(800)]
        assert chisquare([found.count(i) for i in range(4)]).pvalue > 0.001
        assert found.count(4) == 0
        places = np.linspace(0, 1, 50, endpoint=False)
        assert {winner([0, 0, 0], [1.0, 3.0, 1.0], lambda p=p: p) for p in places} == {1}
        # .3 and .1 + .2 weigh the same
        assert {winner([0, 0], [0.3, 0.1 + 0.2], lambda p=p: p) for p in places} == {0, 1}

    @given(ordered(VOTE))
    def test_without_a_tie_the_order_has_no_say(self, sampled) -> None:
        votes, order = sampled
        labels, weights = zip(*votes, strict=True)
        if len(plain_vote(labels, weights)) != 1:
            return
        shuffled = [votes[i] for i in order]
        found = winner(list(labels), weights, lambda: 0.0)
        again = winner([v[0] for v in shuffled], [v[1] for v in shuffled], lambda: 0.99)
        assert labels[found] == shuffled[again][0]

    def test_a_tie_goes_by_lot(self) -> None:
        rng = np.random.default_rng(0)
        found = [winner([0, 1, 1, 0, 2], [1.0] * 5, rng.random) for _ in range(600)]
        assert set(found) == {0, 1, 2, 3}
        assert 250 < found.count(0) + found.count(3) < 350

    def test_tenths_tie_although_they_do_not_add_up(self) -> None:
        """.1 + .2 > .3 in floating point."""
        weights, labels = [0.1, 0.2, 0.3], [0, 0, 1]
        assert winner(labels, weights, lambda: 0.0) == 1  # the heavier of its two
        assert winner(labels, weights, lambda: 0.99) == 2


@pytest.mark.parametrize(
    ("labels", "right", "expected"),
    [
        ([0, 0, 0, 1], [1, 0, 1, 0], [1, 1, 1, 0]),
        ([0, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]),
        ([0, 0, 1, 1], [1, 0, 0, 0], [0.5, 0.5, 0, 0]),  # as often right as wrong
        ([None, 0, None], [1, 0, 0], [1, 0, 0]),  # no answer has no label: left alone
    ],
)
def test_an_answer_is_what_most_of_its_outcomes_say(labels, right, expected) -> None:
    assert label_outcomes(labels, np.array(right, dtype=bool)).tolist() == expected


def test_a_tie_between_verdicts_counts_half() -> None:
    """One answer, right by one verdict and wrong by the other: neither order is right."""
    for right in ([True, False], [False, True]):
        flags = np.array(right)
        one = PromptSamples(np.arange(2), flags, np.ones(2), np.ones(2), [0, 0])
        made = curves([one], [1, 2], np.random.default_rng(0)).majority
        assert [point.value for point in made] == [0.5, 0.5]


class TestIntervals:
    @pytest.mark.parametrize("prompts", [15, 30])
    def test_they_cover(self, prompts) -> None:
        """Data sets sampled anew, prompts included; the truth from many more prompts."""
        rng = np.random.default_rng(prompts)
        ns, number = [1, 2, 8], 8

        def sampled(count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            """Right or not, score and answer; wrong answers are of two kinds."""
            right = rng.random((count, size)) < rng.beta(1, 2, (count, 1))
            return right, right + rng.normal(size=right.shape), rng.integers(1, 3, right.shape)

        right, score, wrong = sampled(100_000, max(ns))
        truth: dict[str, list[float]] = {"passes": [], "best": [], "majority": []}
        for n in ns:
            truth["passes"].append(right[:, :n].any(axis=1).mean())
            top = score[:, :n].argmax(axis=1)
            truth["best"].append(right[np.arange(len(right)), top].mean())
            votes = np.array([right[:, :n].sum(1), *((~right & (wrong == k))[:, :n].sum(1)
                              for k in (1, 2))])  # fmt: skip
            tied = votes == votes.max(axis=0)
            truth["majority"].append((tied[0] / tied.sum(axis=0)).mean())
        covered = {(name, i): 0 for name in truth for i in range(len(ns))}
        for _ in range(200):
            right, score, wrong = sampled(prompts, number)
            sets = [
                [
                    PromptSamples(np.arange(number), r, s, np.ones(number), labels)
                    for r, s, labels in rows
                ]
                for rows in (
                    zip(right, score, [[]] * prompts, strict=True),
                    zip(right, score, np.where(right, 0, wrong).tolist(), strict=True),
                )
            ]
            by_score, by_vote = (curves(rows, ns, rng) for rows in sets)
            for name, i in covered:
                made = by_vote if name == "majority" else by_score
                point = getattr(made, name)[i]
                covered[name, i] += point.low <= truth[name][i] <= point.high
        for key, count in covered.items():
            assert 0.90 <= count / 200 <= 0.985, key

    @given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=40), st.integers(1, 9))
    def test_of_yes_and_no_it_is_wilsons(self, values, blocks) -> None:
        array = np.array(values)
        assert rate_interval(array, blocks)[1:] == pytest.approx(wilson(array))

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(1, 50))
    def test_it_holds_the_mean(self, values, blocks) -> None:
        mean, low, high = rate_interval(np.array(values), blocks)
        assert mean == pytest.approx(np.mean(values))
        if len(values) == 1:
            assert (low, high) == (None, None)
        else:
            assert 0 <= low <= mean <= high <= 1
            assert low < high

    def test_far_from_the_ends_it_is_the_normal_one(self) -> None:
        values = np.random.default_rng(0).uniform(0.3, 0.7, 3000)
        assert rate_interval(values, 40) == pytest.approx(mean_interval(values), abs=1e-4)

    def test_no_more_than_the_separate_outcomes(self) -> None:
        """Values that hardly differ: as sure as m N / n answers make it, not surer."""
        values = np.array([0.5, 0.5000001] * 500)
        _, low, high = rate_interval(values, 3)
        assert (low, high) == pytest.approx(wilson(np.repeat([0.0, 1.0], 1500)), abs=1e-4)
        assert low < wilson(np.repeat([0.0, 1.0], 1500))[0]


class TestKL:
    @given(st.lists(st.integers(0, 5), min_size=8, max_size=8))
    def test_the_bound_is_one(self, levels) -> None:
        scores = np.array(levels, dtype=float)
        one = PromptSamples(np.arange(8), scores > 2, scores, np.ones(8), [])
        made = curves([one], [1, 2, 4, 8], np.random.default_rng(0))
        shares = np.unique(scores, return_counts=True)[1] / 8
        cumulated = np.append(0, np.cumsum(shares))
        for n, plugin, bound in zip((1, 2, 4, 8), made.kl_plugin, made.kl_bound, strict=True):
            m = np.diff(cumulated**n)
            assert plugin == pytest.approx((m * np.log(m / shares)).sum(), abs=1e-9)
            assert plugin <= bound + 1e-12


class TestPictures:
    """What is seen on the figure as it is sampled: nothing stands on anything else."""

    def sampled(self, monkeypatch, what: str, prompts: int, number: int):
        """The figure; the judges have names that are longer than it is wide."""
        kept = []
        monkeypatch.setattr(plots, "_save", lambda figure, path: kept.append(figure))
        rng = np.random.default_rng(0)
        scores = rng.normal(size=(prompts, number))
        right = scores + rng.normal(size=scores.shape) > 1
        ns = [*(2**i for i in range(20) if 2**i < number), number]
        if what == "study":
            study = best_of_n_study(list(scores), list(right * 1.0), ns)
            plots.plot_study(study, Path("p.svg"), "model:" + "proxy" * 40, "verifier")
        else:
            labels = right[0].astype(int).tolist() if what == "vote" else []
            rows = [
                PromptSamples(np.arange(number), r, s, np.ones(number), labels)
                for r, s in zip(right, scores, strict=True)
            ]
            made = curves(rows[:1] if labels else rows, ns, rng)
            plots.plot_curves(made, Path("p.svg"), "model:" + "proxy" * 40, prompts)
        kept[0].draw_without_rendering()
        return kept[0]

    @pytest.mark.parametrize("what", ["curves", "vote", "study"])
    @pytest.mark.parametrize(("prompts", "number"), [(9, 40), (4, 1025), (3, 4)])
    def test_nothing_overlaps(self, monkeypatch, what, prompts, number) -> None:
        figure = self.sampled(monkeypatch, what, prompts, number)
        legend = figure.legends[0].get_window_extent()
        assert legend.x0 >= 0
        assert legend.x1 <= figure.bbox.x1
        for axes in figure.axes:
            assert not legend.overlaps(axes.get_window_extent())
            labels = [t for t in (*axes.get_xticklabels(), *axes.texts) if t.get_text()]
            boxes = [label.get_window_extent() for label in labels]
            assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
            assert axes.get_ylabel()
        assert figure.axes[-1].get_xlabel()

    @given(st.lists(st.floats(0, 9), min_size=1, max_size=30).map(sorted))
    def test_labels_stand_apart(self, places) -> None:
        shown = plots.spaced(places)
        assert (shown[0], shown[-1]) == (0, len(places) - 1)
        assert shown == sorted(set(shown))
        room = 0.045 * (places[-1] - places[0])
        assert all(places[b] - places[a] >= room - 1e-9 for a, b in pairwise(shown))

    @pytest.mark.parametrize("kind", [".svg", ".png", ".pdf"])
    def test_the_file_is_of_its_kind(self, tmp_path, kind) -> None:
        scores = np.arange(4.0)
        one = PromptSamples(np.arange(4), scores > 2, scores, np.ones(4), [])
        path = tmp_path / f"p{kind}"
        plots.check_picture(path)
        plots.plot_curves(curves([one, one], [1, 2, 4], np.random.default_rng(0)), path, "me", 2)
        data = path.read_bytes()
        if kind == ".svg":
            assert ElementTree.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"
            for said in (b"best of n by me", b"pass@n", b"answers sampled for each prompt, n"):
                assert said in data
        else:
            assert data.startswith({".png": b"\x89PNG\r\n", ".pdf": b"%PDF"}[kind])
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_matplotlib_is_asked_for(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(plots, "find_spec", lambda name: None)
        with pytest.raises(
            UserError, match=r"^plot: pictures need Matplotlib; pip install matplotlib$"
        ):
            plots.check_picture(tmp_path / "p.svg")
