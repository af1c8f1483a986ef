"""Rules about prompts that teach nothing: no signal, prompts without a right sample. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from winnow.reporting.alarms.history import History, PromptScores, mean
from winnow.reporting.alarms.reading import Reading, above

CLEAR_CUT = 8
"""So many prompts, all without a signal, are enough; one step of the recipes has them."""
_ENOUGH = 32
"""With so many prompts the share may be less than all."""
LEARNED = 0.9
"""Right samples of the window from where on there is little left to learn."""
_EASY = 0.8
"""Right samples of the run's first step from where on its prompts are too easy from the start."""
_COULD, _LOST = 0.05, 0.2
"""Right samples of the first step from where on the model can do some of it, and the part of them
below which it no longer can."""
_VISITS, _SAMPLES = 2, 32
"""A prompt never right in fewer is no sign: of those with 7 % right one in ten has none in 32."""
_LABEL_SAMPLES, _LABEL_PROMPTS = 64, 8
_EXPECTED = 5.0
"""Right samples of a label, if it were as easy as the others: none by luck in e^-5 of cases."""
_SOME = 0.1
"""Share of prompts with a right sample from where on others have some."""
_NAMES = 3


def no_signal(history: History, threshold: float) -> Reading | None:
    """Share of the window's prompts whose samples all have the same reward.

    Prompts that are all right because the run has learned them are no alarm: at its start they were
    not.
    """
    prompts = list(history.scored(least=2))
    tied = [one for one in prompts if one.tied]
    if len(prompts) < CLEAR_CUT:
        return None
    value = len(tied) / len(prompts)
    solved = sum(one.right == one.valid for one in tied)
    facts = {
        "tied": str(len(tied)),
        "prompts": str(len(prompts)),
        "samples": str(sum(one.valid for one in prompts)),
        "right": str(solved),
        "wrong": str(sum(one.right == 0 for one in tied)),
    }
    before = (history.begun or {}).get("right_rate") or 0.0
    facts["before"] = f"{before:.0%}"
    variant = "right" if 2 * solved > len(tied) else "wrong"
    rate = mean(history.values("right_rate"))
    if variant == "wrong" and rate is not None and before >= _COULD and rate < _LOST * before:
        variant = "lost"
    if variant == "right" and not easy_from_the_start(history):
        return Reading(value, "well", facts, variant)
    enough = value == 1 or len(prompts) >= _ENOUGH
    return Reading(value, above(value, threshold, if_=enough), facts, variant)


def without_signal(prompts: Iterable[PromptScores]) -> bool:
    """Whether the run's first step alone raises the alarm, by prompts without a right sample."""
    several = [one for one in prompts if one.valid >= 2]
    return len(several) >= CLEAR_CUT and all(one.tied and one.right == 0 for one in several)


def easy_from_the_start(history: History) -> bool:
    """Whether nearly all samples of the run's first step were right."""
    return history.begun is not None and (history.begun.get("right_rate") or 0.0) >= _EASY


def learned(history: History) -> bool:
    """Whether nearly all samples are right, and were not from the start."""
    right = mean(history.values("right_rate"))
    return right is not None and right >= LEARNED and not easy_from_the_start(history)


def starving_prompts(history: History, threshold: float) -> Reading | None:
    """Share of the window's prompts that never get a right sample, while others do.

    Such is a prompt without one in all its visits, and every prompt of a difficulty label without
    one in the window.
    """
    prompts = list(history.scored())
    if len(prompts) < CLEAR_CUT:
        return None
    labels = starving_labels(prompts)
    starving = [one for one in prompts if one.difficulty in labels or _never_right(history, one)]
    some = sum(one.right > 0 for one in prompts) / len(prompts)
    value = len(starving) / len(prompts)
    names = list(dict.fromkeys(one.name for one in starving))
    named = ", ".join(names[:_NAMES])
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    facts = {
        "starving": str(len(starving)),
        "prompts": str(len(prompts)),
        "named": f"{named}{more}",
        "labels": ", ".join(sorted(labels)),
    }
    state = above(value, threshold, if_=some >= _SOME)
    return Reading(value, state, facts, "label" if labels else "")


def _never_right(history: History, prompt: PromptScores) -> bool:
    tally = history.ever[prompt.key]
    return tally.right == 0 and tally.visits >= _VISITS and tally.valid >= _SAMPLES


def starving_labels(prompts: Iterable[PromptScores]) -> set[str]:
    """Difficulty labels without a right sample, where that is no bad luck."""
    valid: Counter[str] = Counter()
    right: Counter[str] = Counter()
    several: Counter[str] = Counter()
    for one in prompts:
        if one.difficulty is not None:
            valid[one.difficulty] += one.valid
            right[one.difficulty] += one.right
            several[one.difficulty] += 1
    others = sum(count for label, count in valid.items() if right[label])
    rate = sum(right.values()) / others if others else 0.0
    return {
        label
        for label, count in valid.items()
        if right[label] == 0
        and count >= _LABEL_SAMPLES
        and several[label] >= _LABEL_PROMPTS
        and rate * count >= _EXPECTED
    }


def tied_share(history: History) -> float | None:
    """Share of the window's prompts whose samples all have the same reward; of few ``None``."""
    prompts = list(history.scored(least=2))
    if len(prompts) < 2 * CLEAR_CUT:
        return None
    return sum(one.tied for one in prompts) / len(prompts)
