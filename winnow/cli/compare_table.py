"""What `winnow compare` prints: 80 columns, whatever the terminal, the same for the same study."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from winnow.errors import number_of
from winnow.reporting.forecast import duration
from winnow.studies.quantities import QUANTITY_MEASURES

if TYPE_CHECKING:
    from winnow.studies.planning import StudyPlan
    from winnow.studies.preview import StudyPreview

WIDTH = 80
_NAME = 13
Row = Sequence[str]


def comparison_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """A comparison (`studies.analysis.compared`) as lines."""
    told = result["study"]
    budget = "".join(f", {limit:,.10g} {kind} each" for kind, limit in told["budget"].items())
    yield f"{told['name']}: {_counted(told['variants'], told['seeds'])}{budget}"
    unit = "points" if _percent(told) else told["metric"]
    yield (
        f"intervals of {100 * told['level']:.10g} % over seeds; differences in {unit}; "
        f"p all: Holm over {number_of(told['comparisons'], 'pair')}"
    )
    yield ""
    yield from _variants(result)
    yield from _differences(result, "differences")
    yield from _differences(result, "on_the_way")
    yield from _quantities(result)
    yield ""
    for said in [*result["verdicts"], *(f"note: {note}" for note in result["notes"])]:
        yield from _wrapped(said, "- ")
    yield ""
    for one in result.get("sharing", ()):
        yield from _wrapped(one["said"], "- ")


def _counted(variants: Sequence[object], seeds: Sequence[int]) -> str:
    return f"{number_of(len(variants), 'variant')} x {number_of(len(seeds), 'seed')}"


def _variants(result: Mapping[str, Any]) -> Iterator[str]:
    told = result["study"]
    level = told["reach"]
    widths, to = (5, 21, 6, 10, 16), f"{told['axis']} to "
    reach = f"{to}{_value(told, level, widths[4] - len(to))}" if level is not None else ""
    head = ("variant", "seeds", told["metric"], "IQM", "on the way", reach)
    rows = [
        (
            one["name"],
            str(len(one["seeds"])),
            _ranged(told, one.get("mean"), widths[1]),
            _value(told, one["iqm"]["value"], widths[2]) if one.get("iqm") else "-",
            _value(told, one["area"]["value"], widths[3]) if one.get("area") else "-",
            _reached(one.get("reach")),
        )
        for one in result["variants"]
    ]
    yield from _table(head, rows, widths)


def _reached(reach: Mapping[str, Any] | None) -> str:
    if not reach or not reach["each"]:
        return "-"
    median = "never" if reach["median"] is None else f"{reach['median']:,.0f}"
    return f"{median} ({reach['reached']}/{len(reach['each'])})"


def _differences(result: Mapping[str, Any], key: str) -> Iterator[str]:
    told = result["study"]
    own = [one for one in result[key] if one["a"] == told["reference"]]
    if not own:
        return
    yield ""
    what = "at the end" if key == "differences" else "on the way"
    head = (f"- {told['reference']}", f"paired, {what}", "unpaired", "p", "p all", "better")
    widths = (22, 22, 6, 6, 6)
    rows = [
        (
            one["b"],
            _difference(told, one["paired"], widths[0]),
            _difference(told, one["unpaired"], widths[1]),
            _p(one["paired"]["p"]),
            _p(one["adjusted_p"]),
            f"{one['improvement']['value']:.0%}",
        )
        for one in own
    ]
    yield from _table(head, rows, widths)


def _quantities(result: Mapping[str, Any]) -> Iterator[str]:
    """What is beside the metric, where two variants have the same: each in its own unit."""
    told = result["study"]
    if not result["quantities"]:
        return
    yield ""
    head = (f"- {told['reference']}", "at equal", told["metric"], "points or nats", "p all", "told")
    rows, widths = [], (14, 8, 24, 6, 4)
    for one in result["quantities"]:
        measure = QUANTITY_MEASURES[one["quantity"]]
        size = _sized(one["paired"], measure.scale, measure.digits, widths[2])
        what = one["quantity"].replace("_", " ")
        where = _value(told, one["metric"], widths[1])
        rows.append(
            (one["b"], what, where, size, _p(one["adjusted_p"]), "yes" if one["told"] else "no")
        )
    yield from _table(head, rows, widths)


def _table(
    head: Row, rows: Sequence[Row], widths: Sequence[int], room: int = _NAME
) -> Iterator[str]:
    """Columns to the right of a name; a name that is too long has a line of its own."""

    def line(name: str, cells: Sequence[str]) -> str:
        made = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return " ".join([name.ljust(room), *made]).rstrip()

    for name, *cells in (head, *rows):
        if len(name) > room:
            yield name
            name = ""
        yield line(name, cells)


def _percent(told: Mapping[str, Any]) -> bool:
    return bool(told["metric"] == "accuracy")


def _fitting(text: Callable[[int], str], digits: int, width: int) -> str:
    """A cell with so many decimals, or as many as leave it within its width."""
    made = [text(fewer) for fewer in range(digits, -1, -1)]
    return next((cell for cell in made if len(cell) <= width), made[-1])


def _value(told: Mapping[str, Any], value: float | None, width: int) -> str:
    if value is None:
        return "-"
    if _percent(told):
        return f"{value:.1%}"
    return _fitting(lambda digits: f"{value:.{digits}f}", 3, width)


def _ranged(told: Mapping[str, Any], found: Mapping[str, float | None] | None, width: int) -> str:
    if found is None:
        return "-"
    value, low, high = (found[key] for key in ("value", "low", "high"))
    if low is None or high is None:
        return _value(told, value, width)
    if _percent(told):
        return f"{value:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
    return _fitting(lambda d: f"{value:.{d}f} [{low:.{d}f}, {high:.{d}f}]", 3, width)


def _difference(told: Mapping[str, Any], found: Mapping[str, Any], width: int) -> str:
    return _sized(found, *((100, 1) if _percent(told) else (1, 3)), width)


def _sized(found: Mapping[str, Any], scale: float, digits: int, width: int) -> str:
    value, low, high = (found[key] for key in ("estimate", "low", "high"))
    if low is None:
        return _fitting(lambda d: f"{scale * value:+.{d}f}", digits, width)
    return _fitting(
        lambda d: f"{scale * value:+.{d}f} [{scale * low:.{d}f}, {scale * high:.{d}f}]",
        digits,
        width,
    )


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _wrapped(text: str, begin: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=begin,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def plan_lines(plan: StudyPlan) -> Iterator[str]:
    """How many seeds a difference needs, as lines."""
    yield from _wrapped(
        f"to find a difference of {plan.difference:g} in {plan.power:.0%} of studies, "
        f"intervals of {plan.level:.10g}:",
        "",
    )
    yield ""
    head = ("variants", "pilot", "sd", "sd unpaired", "seeds", f"of {plan.comparisons} pairs")
    rows = [
        (
            f"{need.b} - {need.a}",
            str(need.seeds),
            f"{need.sd:.4f}",
            f"{need.unpaired_sd:.4f}",
            _many(need.alone),
            _many(need.all),
        )
        for need in plan.needs
    ]
    yield from _table(head, rows, (6, 9, 12, 10, 13), room=25)
    yield ""
    few = min(need.seeds for need in plan.needs)
    if few < _FEW:
        yield from _wrapped(
            f"sd is of {few} seeds, so it may be far off: run the pilot with more to rely on it", ""
        )
    same = [f"{need.b} - {need.a}" for need in plan.needs if need.sd == 0]
    if same:
        told = f"an sd of 0 ({', '.join(same)}) does not say that other seeds would agree as well"
        yield from _wrapped(f"{told}: as many seeds as are named are the fewest that can tell", "")
    if plan.seeds is not None and plan.samples is not None:
        yield f"{plan.seeds:,} seeds: {plan.samples:,.0f} training samples"
    if plan.seconds is not None:
        times = ", ".join(f"{name} {duration(s)}" for name, s in plan.run_seconds.items())
        yield f"time, {number_of(plan.parallel, 'run')} at a time: {duration(plan.seconds)}"
        yield from _wrapped(f"a run: {times}", "")
    elif plan.seeds is not None:
        yield "time: unknown, since no run of this folder was timed"


_FEW = 6


def _many(seeds: int | None) -> str:
    return "too many" if seeds is None else f"{seeds:,}"


def preview_lines(made: StudyPreview) -> Iterator[str]:
    """What a study would run, as lines."""
    budget = "".join(f"{limit:,.10g} {kind}" for kind, limit in made.budget.items())
    yield f"folder:  {made.folder}"
    runs = f"{_counted(made.variants, made.seeds)} = {number_of(made.runs, 'run')}"
    yield f"runs:    {runs}, {made.runs - made.left} of them done"
    yield f"at once: {made.parallel}, {number_of(made.threads, 'thread')} each"
    yield f"budget:  {budget or 'none: each ends with its last step'}"
    took = "unknown, since no run was timed; a first seed would tell"
    yield f"time:    {took if made.seconds is None else duration(made.seconds)}"
    if len(made.seeds) < made.least_seeds:
        yield from _wrapped(
            f"note: {number_of(len(made.seeds), 'seed')} can tell no difference; "
            f"{made.least_seeds} are the fewest that can",
            "",
        )
    yield ""
    for one in made.variants:
        done = number_of(one.done, "run")
        yield f"{one.name}: {one.steps:,} steps at most, {one.samples:,} samples, {done} done"
        if one.name == made.reference:
            yield "  the reference, with which the others are compared"
        for setting in one.settings:
            yield from _wrapped(setting, "  ")
