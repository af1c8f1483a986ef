"""What a comparison over seeds allows one to say, in words. Pure.

A difference is told where three things hold: there are seeds enough that flips of signs can tell
(`least_seeds`), the flips of its own differences say so, which takes no distribution for granted,
and so does Student's t after the correction for how many comparisons there are. docs/metrics.md has
how often that errs. In all other cases the words are "cannot tell".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from winnow.theory.comparison import MOST, Difference, least_seeds, seeds_needed, within


@dataclass(frozen=True)
class Measure:
    """What is compared, and how it is written.

    Attributes:
        what: Its name, such as "held-out accuracy".
        unit: The unit that is written.
        scale: How many of that unit an outcome of 1 is: 100 points.
        digits: Digits after the point.
        higher_is_better: ``None`` where neither is, as for entropy.
        least, most: What no outcome is below or above.
    """

    what: str
    unit: str = "points"
    scale: float = 100.0
    digits: int = 1
    higher_is_better: bool | None = True
    least: float = -math.inf
    most: float = math.inf

    def mean(
        self, found: tuple[float, float | None, float | None]
    ) -> tuple[float, float | None, float | None]:
        """A mean of outcomes and its interval, as far as such a mean can be."""
        return within(found, self.least, self.most)

    def difference(self, found: Difference) -> Difference:
        """A difference of means, its interval as far as such a difference can be."""
        return found.of_outcomes_within(self.least, self.most)


@dataclass(frozen=True)
class Rule:
    """When a difference is told.

    Attributes:
        level: 1 - the probability of telling a difference where there is none.
        power: How often the number of seeds that is named finds a difference of the size measured.
        margin: Two variants whose difference is within plus and minus this, in the outcomes' unit,
            count as equal; ``None``: none do.
        comparisons: How many differences were corrected for together.
    """

    level: float = 0.95
    power: float = 0.8
    margin: float | None = None
    comparisons: int = 1


def told(d: Difference, adjusted_p: float, rule: Rule) -> bool:
    """Whether a difference may be called one.

    Args:
        d: Of `comparison.paired` or `comparison.unpaired`, at the rule's level.
        adjusted_p: `comparison.holm`'s, of the p of all differences that are looked at.
        rule: When it may.
    """
    most = 1.0 - rule.level
    exact = d.exact_p is None or d.exact_p <= most
    return d.seeds >= least_seeds(rule.level) and exact and max(d.p, adjusted_p) <= most


def equal(d: Difference, rule: Rule) -> bool:
    """Whether two variants may be called equal to within the rule's margin."""
    if rule.margin is None or d.low is None or d.high is None:
        return False
    enough = d.seeds >= least_seeds(rule.level)
    return enough and -rule.margin <= d.low and d.high <= rule.margin


def verdict(
    d: Difference,
    adjusted_p: float,
    names: tuple[str, str],
    measure: Measure,
    rule: Rule = Rule(),
) -> str:
    """One line that claims no more than the seeds allow.

    Args:
        d: b minus a, of `comparison.paired` or `comparison.unpaired`, at the rule's level.
        adjusted_p: `comparison.holm`'s, of the p of all differences that are looked at.
        names: Of a and of b.
        measure: What is compared, and how it is written.
        rule: When a difference is told.
    """
    d = measure.difference(d)
    if told(d, adjusted_p, rule):
        return _better(d, names, measure)
    if equal(d, rule):
        size = f"{_number(rule.margin or 0.0, measure)} {measure.unit}{_in(measure)}"
        return f"{names[1]} and {names[0]} are equal to within {size} {_evidence(d, measure)}"
    return _cannot_tell(d, adjusted_p, names, measure, rule)


def _better(d: Difference, names: tuple[str, str], measure: Measure) -> str:
    """The higher one first, or the better one, with its lead above 0."""
    lower_first = measure.higher_is_better is False
    if (d.estimate < 0) != lower_first:
        names = (names[1], names[0])
    if d.estimate < 0:
        d = _turned(d)
    size = f"by {_number(d.estimate, measure)} {measure.unit} {_evidence(d, measure)}"
    if measure.higher_is_better is None:
        return f"{names[1]} has a higher {measure.what} than {names[0]} {size}"
    return f"{names[1]} is better than {names[0]}{_in(measure)} {size}"


def _cannot_tell(
    d: Difference, adjusted_p: float, names: tuple[str, str], measure: Measure, rule: Rule
) -> str:
    said = f"cannot tell {names[1]} from {names[0]}{_in(measure)}: "
    if d.estimate == 0 and d.sd == 0:
        return f"{said}the same at all {d.seeds} seeds"
    said += f"{_number(d.estimate, measure, '+')} {measure.unit} {_evidence(d, measure)}"
    least = least_seeds(rule.level)
    if d.seeds < least:
        said += f"; fewer than {least} tell nothing"
    elif told(d, d.p, rule) and adjusted_p > 1.0 - rule.level:
        said += f"; told if it were the only one of {rule.comparisons} comparisons"
    needed = more_seeds(d, rule)
    if needed is None:
        return said
    return f"{said}; about {needed:,} seeds would tell a difference of this size"


def more_seeds(d: Difference, rule: Rule) -> int | None:
    """About how many seeds would tell a difference of the size measured, more than there are.

    With the correction for all comparisons; ``None`` where there is no such number.
    """
    if d.sd is None or d.estimate == 0:
        return None
    needed = seeds_needed(d.estimate, d.sd, rule.level, rule.power, rule.comparisons)
    return None if needed >= MOST else max(needed, d.seeds + 1)


def _evidence(d: Difference, measure: Measure) -> str:
    seeds = f"{d.seeds} seed{'s' if d.seeds != 1 else ''}"
    if d.low is None or d.high is None:
        return f"({seeds})"
    return f"[{_number(d.low, measure)}, {_number(d.high, measure)}], {seeds}"


def _turned(d: Difference) -> Difference:
    """a minus b."""
    low, high = (None if end is None else -end for end in (d.high, d.low))
    return Difference(-d.estimate, low, high, d.p, d.seeds, d.method, d.sd, d.exact_p)


def _in(measure: Measure) -> str:
    return f" in {measure.what}" if measure.what else ""


def _number(value: float, measure: Measure, sign: str = "-") -> str:
    """Rounded; -0.0 is 0.0."""
    rounded = round(value * measure.scale, measure.digits) + 0.0
    return f"{rounded:{sign},.{measure.digits}f}"
