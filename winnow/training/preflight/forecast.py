"""How long a run will take, by what a first sample and a step took. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from winnow.config.phases import Phase
from winnow.reporting.forecast import duration
from winnow.training.forecast import Work
from winnow.training.preflight.check import Check, passed
from winnow.training.preflight.learned import Step
from winnow.training.preflight.sampled import First

_BACK = 4
"""Forward passes that a forward and a backward pass, which recomputes the head, cost together."""


@dataclass(frozen=True)
class Times:
    """Seconds of a run.

    Attributes:
        a_sample, an_update: What they come from.
    """

    sampling: float
    updates: float
    evaluations: float
    a_sample: float
    an_update: float

    @property
    def total(self) -> float:
        return self.sampling + self.updates + self.evaluations


def times(
    work: Work, phase: Phase, first: First, learned: Sequence[int], step: Step | None
) -> Times:
    """What a run takes if its samples stay as long, and as many are learned from, as at first.

    A sample that was cut off for time is taken to go on to its limit; what encoding its prompt
    takes does not grow with it.

    Args:
        learned: Samples of each first group that a run would learn from; where the step was dealt,
            half of them are.
        step: ``None`` where none was made.
    """
    most = phase.config.sampling.max_tokens
    rows = [one for group in first.groups for one in group.samples]
    cut = first.plan.max_tokens
    whole = [most if one.length >= cut else one.length for one in rows]
    length = sum(whole) / len(whole)
    begun = min(first.seconds, first.prefill * len(first.groups))
    a_sample = ((first.seconds - begun) * length * len(rows) / first.tokens + begun) / len(rows)
    an_update = 0.0
    if step is not None and step.stats is not None:
        share = 0.5 if step.dealt else sum(learned) / len(rows)
        each = share * phase.config.samples_per_prompt * length
        prompt = sum(len(group.prompt_ids) for group in first.groups) / len(first.groups)
        expected = phase.config.prompts_per_update * ((prompt if each else 0.0) + each)
        an_update = seconds_of_update(step, expected)
    return Times(
        sampling=work.samples * a_sample,
        updates=work.updates * an_update,
        evaluations=work.evaluated * a_sample,
        a_sample=a_sample,
        an_update=an_update,
    )


def seconds_of_update(step: Step, positions: float) -> float:
    """Seconds of an update over so many positions.

    Of the step, as much as `_BACK` forward passes over its positions is in proportion to them; the
    rest, the optimizer's, is the same in every update.
    """
    assert step.stats is not None
    own = max(step.stats.positions, 1)
    passes = min(step.seconds, _BACK * step.forward / max(step.positions, 1) * own)
    return step.seconds - passes + passes * positions / own


def time_check(work: Work, found: Times, first: First, dealt: bool) -> Check:
    """The forecast in words."""
    parts = [f"sampling {duration(found.sampling)}"] * bool(work.samples)
    parts += [f"updates {duration(found.updates)}"] * bool(found.updates)
    parts += [f"evaluations {duration(found.evaluations)}"] * bool(found.evaluations)
    learned = "half of the samples are" if dealt else "as many samples are"
    return passed(
        "time",
        f"about {duration(found.total)} for {work.steps} steps ({', '.join(parts)}): "
        f"{found.a_sample:.2g} s a sample and {found.an_update:.2g} s an update, if completions "
        f"stay as long as these and {learned} learned from{first.capped}",
    )
