"""Each finding of the study put to its runs: `python findings.py FOLDER` of `winnow compare`.

What is claimed was written down before the runs: of two variants, a measure and the sign of the
second minus the first. A finding shows where that sign is told, is contradicted where the other
sign is, and is open otherwise. Student's t over pairs of one seed, told by the rule of
`winnow.theory.verdict`; p is corrected over all claims (Holm).
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from winnow.studies.curves import at_metric, common_level, line_of
from winnow.studies.outcomes import Outcome, outcome_of
from winnow.studies.runs import state_of
from winnow.studies.schema import StudyFile, read_study
from winnow.theory.comparison import Difference, holm, paired, unpaired
from winnow.theory.summaries import area_under
from winnow.theory.verdicts import Measure, Rule, equal, told, verdict

Value = Callable[[Outcome], float]
Runs = Mapping[int, Outcome]
EARLY = 1 / 3
"""Of the samples."""


def accuracy(run: Outcome) -> float:
    """Held out, of the model that the run ends with."""
    return run.final


def accuracy_at(run: Outcome, share: float) -> float:
    """Held out, when this share of the samples was made."""
    xs, ys = line_of(run, "samples", lambda point: point.metric)
    return float(np.interp(share * run.spent["samples"], xs, ys))


def early(run: Outcome) -> float:
    """Mean accuracy over the first third of the samples."""
    xs, ys = line_of(run, "samples", lambda point: point.metric)
    end = EARLY * run.spent["samples"]
    inside = [x for x in xs if x < end]
    return area_under([*inside, end], [*ys[: len(inside)], accuracy_at(run, EARLY)])


def late_gain(run: Outcome) -> float:
    """What the second half of the samples adds to accuracy."""
    return run.final - accuracy_at(run, 0.5)


@dataclass(frozen=True)
class Claim:
    """A finding as two variants and a measure can show it.

    Attributes:
        b, a: Variants; the claim is about b minus a.
        value: Of a run, or the name of a quantity that is compared at equal accuracy.
        sign: What is claimed of the difference; 0: that it is within the study's margin.
    """

    finding: str
    b: str
    a: str
    what: str
    value: Value | str
    sign: Literal[-1, 0, 1]

    @property
    def measure(self) -> Measure:
        if isinstance(self.value, str):
            return Measure(self.what, "nats", 1.0, 3, None)
        return Measure(self.what, "points", 100.0, 1, None)


CLAIMS = (
    Claim(
        "positive-only training collapses entropy",
        "raft++",
        "grpo",
        "entropy at equal accuracy",
        "entropy",
        -1,
    ),
    Claim(
        "positive-only training stalls",
        "raft++",
        "grpo",
        "gain of the second half",
        late_gain,
        -1,
    ),
    Claim(
        "positive-only training stalls",
        "raft++",
        "grpo",
        "accuracy at the end",
        accuracy,
        -1,
    ),
    Claim("raft++ leads early", "raft++", "grpo", "accuracy, first third", early, 1),
    Claim(
        "all-wrong prompts harm with rewards -1/+1",
        "reinforce-no-wrong",
        "reinforce",
        "accuracy at the end",
        accuracy,
        1,
    ),
    Claim(
        "all-wrong prompts harm with rewards -1/+1",
        "reinforce-no-wrong",
        "reinforce",
        "KL at equal accuracy",
        "kl",
        -1,
    ),
    Claim(
        "sigma adds almost nothing",
        "grpo",
        "grpo-centred",
        "accuracy at the end",
        accuracy,
        0,
    ),
    Claim(
        "reinforce-rej spends less KL for the same reward",
        "reinforce-rej",
        "grpo",
        "KL at equal accuracy",
        "kl",
        -1,
    ),
    Claim(
        "reinforce-rej spends less KL for the same reward",
        "reinforce-rej",
        "reinforce",
        "KL at equal accuracy",
        "kl",
        -1,
    ),
    Claim(
        "weights without a clip are worse than none",
        "raft++-unclipped",
        "raft++-unweighted",
        "accuracy at the end",
        accuracy,
        -1,
    ),
)


@dataclass(frozen=True)
class Found:
    """A claim with what the runs say of it."""

    claim: Claim
    difference: Difference
    apart: Difference
    level: float | None

    def result(self, p: float, rule: Rule) -> str:
        """`shows`, `contradicted` or `open`."""
        sign = self.claim.sign
        if sign == 0:
            within = equal(self.difference, rule)
            return "shows" if within else "contradicted" if self._beyond(p, rule) else "open"
        if not told(self.difference, p, rule):
            return "open"
        return "shows" if self.difference.estimate * sign > 0 else "contradicted"

    def _beyond(self, p: float, rule: Rule) -> bool:
        """Whether a difference is told, and the whole interval is outside of the margin."""
        low, high, margin = self.difference.low, self.difference.high, rule.margin or 0.0
        if low is None or high is None or not told(self.difference, p, rule):
            return False
        return low > margin or high < -margin


def weighed(claim: Claim, runs: Mapping[str, Runs], level: float) -> Found | None:
    """The runs of one claim, by the seeds that both variants have; `None` if they lack it."""
    if claim.a not in runs or claim.b not in runs:
        return None
    seeds = sorted(runs[claim.a].keys() & runs[claim.b].keys())
    before, after = ([runs[name][seed] for seed in seeds] for name in (claim.a, claim.b))
    at = None
    if isinstance(claim.value, str):
        at = level_of([*before, *after], claim.value)
        if at is None:
            return None
    a, b = ([value_of(run, claim, at) for run in some] for some in (before, after))
    return Found(claim, paired(a, b, level), unpaired(a, b, level), at) if seeds else None


def level_of(runs: Sequence[Outcome], quantity: str) -> float | None:
    """The highest accuracy that all runs reach, if it is above the start."""
    found = common_level(runs, quantity)
    start = np.mean([run.points[0].metric for run in runs])
    return found if found is not None and found > start else None


def value_of(run: Outcome, claim: Claim, level: float | None) -> float:
    """What a claim is about, of one run."""
    if not isinstance(claim.value, str):
        return claim.value(run)
    found = None if level is None else at_metric(run, claim.value, level)
    if found is None:
        raise ValueError(f"a run has no {claim.value} where its accuracy is {level}")
    return found


def line(found: Found, p: float, rule: Rule) -> str:
    """A line of the table."""
    claim, scale = found.claim, found.claim.measure.scale
    digits = found.claim.measure.digits

    def interval(d: Difference) -> str:
        middle = f"{d.estimate * scale:+.{digits}f}"
        if d.low is None or d.high is None:
            return middle
        return f"{middle} [{d.low * scale:.{digits}f}, {d.high * scale:.{digits}f}]"

    told_p = "<0.001" if p < 0.0005 else f"{p:.3f}"
    sign = {-1: "below 0", 0: f"within {(rule.margin or 0) * scale:g}", 1: "above 0"}[claim.sign]
    where = "" if found.level is None else f" {100 * found.level:.1f}%"
    return (
        f"{claim.b} - {claim.a}: {claim.what}{where}\n"
        f"  {interval(found.difference):>24} {interval(found.apart):>24}"
        f" {told_p:>6} {sign:>9} {found.result(p, rule)}"
    )


def runs_of(folder: Path, study: StudyFile) -> dict[str, dict[int, Outcome]]:
    """Those that have ended, by variant and seed."""
    made: dict[str, dict[int, Outcome]] = {name: {} for name in study.variants}
    for name, seed in product(study.variants, study.study.seeds):
        run = folder / "runs" / name / f"seed-{seed}"
        state = state_of(run)
        if state in ("done", "stopped"):
            outcome = outcome_of(run, study.study.metric, stopped=state == "stopped")
            if outcome is not None:
                made[name][seed] = outcome
    return made


def main() -> None:
    """Print the table of claims, and a verdict on each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a study that `winnow compare` has run")
    folder = parser.parse_args().folder
    study = read_study(folder / "study.toml")
    runs, table = runs_of(folder, study), study.study
    found = [one for claim in CLAIMS if (one := weighed(claim, runs, table.level)) is not None]
    adjusted = holm([one.difference.p for one in found])
    rule = Rule(table.level, table.power, table.margin or None, max(1, len(found)))
    print(f"{table.name}: {len(found)} of {len(CLAIMS)} claims can be put to these runs")
    print(f"  {'paired':>24} {'unpaired':>24} {'p all':>6} {'claimed':>9} result")
    for one, p in zip(found, adjusted, strict=True):
        print(line(one, p, rule))
    print()
    for one, p in zip(found, adjusted, strict=True):
        own = rule if one.claim.sign == 0 else Rule(rule.level, rule.power, None, rule.comparisons)
        said = verdict(one.difference, p, (one.claim.a, one.claim.b), one.claim.measure, own)
        text = f"- {one.claim.finding}: {one.result(p, rule)}; {said}"
        print(textwrap.fill(text, 80, subsequent_indent="  ", break_on_hyphens=False))


if __name__ == "__main__":
    main()
