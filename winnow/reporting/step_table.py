"""The table of steps: a line a step, with as many columns as there is room for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""The metrics of a step; beside them `elapsed` and `left`, as texts."""

_REPEAT = 20
"""Lines after which the headings are printed again."""
_NONE = "-"


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        width: Of its cells, a space before them included; wider cells make it wider.
        cell: What it shows of a row.
        rank: The larger, the sooner it is left out where there is no room.
        optional: Whether it is left out of a table that has nothing to show in it.
    """

    heading: str
    width: int
    cell: Callable[[Row], str]
    rank: int
    optional: bool = False


class StepTable:
    """Lays out the rows of a run."""

    def __init__(self) -> None:
        self._offline = False
        self._columns: Sequence[Column] = ()
        self._widths: Sequence[int] = ()
        self._seen: set[str] = set()
        self._lines = 0

    def lines(self, row: Row, *, offline: bool, width: int | None) -> tuple[str | None, str]:
        """The headings, where they are due, and the line of a step.

        They are due at the start, after every 20 lines, and where the columns change: for another
        kind of steps, a value that there was not before, a cell or a terminal of another width.

        Args:
            offline: Whether the samples were made before training: their rewards, entropies and
                tokens say nothing of the policy; loss and learning rate do.
            width: Of the terminal; ``None``: as wide as it gets.
        """
        columns = _OFFLINE if offline else _SAMPLED
        cells = {column.heading: column.cell(row) for column in columns}
        there = {column.heading for column in columns if cells[column.heading] != _NONE}
        if offline != self._offline:
            self._offline, self._columns, self._widths = offline, (), ()
            self._seen = set()
        new = {c.heading for c in columns if c.optional and c.heading in there - self._seen}
        self._seen |= there
        fits = all(
            len(cells[column.heading]) < own
            for column, own in zip(self._columns, self._widths, strict=True)
        )
        room = width is None or sum(self._widths) <= width
        due = new or not (self._columns and fits and room and self._lines % _REPEAT)
        if due:
            self._lay_out(columns, cells, width)
        self._lines += 1
        return (self._heading() if due else None), self._line(cells)

    def _lay_out(
        self, columns: Sequence[Column], cells: Mapping[str, str], room: int | None
    ) -> None:
        wanted = [c for c in columns if not c.optional or c.heading in self._seen]
        widths = {c.heading: max(c.width, len(cells[c.heading]) + 1) for c in wanted}
        chosen: set[str] = set()
        for column in sorted(wanted, key=lambda column: column.rank):
            name = column.heading
            if room is None or sum(widths[n] for n in (*chosen, name)) <= room:
                chosen.add(name)
        self._columns = [c for c in wanted if c.heading in chosen]
        self._widths = [widths[c.heading] for c in self._columns]
        self._lines = 0

    def _heading(self) -> str:
        return self._line({column.heading: column.heading for column in self._columns})

    def _line(self, cells: Mapping[str, str]) -> str:
        pairs = zip(self._columns, self._widths, strict=True)
        return "".join(cells[column.heading].rjust(width) for column, width in pairs)


def _number(key: str, form: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        return formatted(row[key], form)

    return cell


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


def _stage(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row['seconds'][name]:.1f}s"


def _kinds(row: Row) -> str:
    return f"{row['prompts_all_wrong']}/{row['prompts_mixed']}/{row['prompts_all_right']}"


def _trained(row: Row) -> str:
    return f"{row['samples_trained']}/{row['samples']}"


def formatted(value: float | None, form: str) -> str:
    """A number, or a dash where there is none; nothing is shown as minus zero."""
    text = _NONE if value is None else format(value, form)
    return text.replace("-", "") if text.startswith("-0.0") and float(text) == 0 else text


def _rate(row: Row) -> str:
    return formatted(row["lr"], ".2g")


_STEP = Column("step", 5, _text("step"), 0)
_TRAINED = Column("trained", 8, _trained, 1)
_EFFECTIVE = Column("eff", 6, _number("effective_survivors", ".1f"), 3)
_TOP = Column("top", 5, _number("largest_prompt_share", ".0%"), 7)
_TOKENS = Column("tok trained", 12, _text("tokens_trained"), 11)
_UPDATES = Column("upd", 4, _text("updates"), 8)
_CLIP = Column("clip", 6, _number("clip_fraction", ".1%"), 5, optional=True)
_ESS = Column("ess", 6, _number("ess", ".0%"), 9, optional=True)
_GRAD = Column("grad", 6, _number("grad_norm", ".2f"), 2)
_SECONDS = Column("secs", 7, lambda row: f"{sum(row['seconds'].values()):.1f}s", 6)
_UPDATE = Column("update", 7, _stage("update"), 10)
_CLOCK = (
    Column("elapsed", 9, _text("elapsed"), 12),
    Column("left", 8, _text("left"), 12),
)

_SAMPLED = (
    _STEP,
    Column("reward", 7, _number("reward_mean", ".3f"), 0),
    _TRAINED,
    Column("wrong/mix/right", 16, _kinds, 2),
    Column("cut", 5, _number("cut_off_rate", ".0%"), 3),
    _EFFECTIVE,
    _TOP,
    Column("entropy", 8, _number("entropy", ".3f"), 4),
    Column("tok sampled", 12, _text("tokens_sampled"), 11),
    _TOKENS,
    _UPDATES,
    _CLIP,
    _ESS,
    Column("kl", 6, _number("kl_to_reference", ".2f"), 5, optional=True),
    _GRAD,
    _SECONDS,
    Column("sample", 7, _stage("sample"), 10),
    Column("score", 6, _stage("score"), 10),
    _UPDATE,
    *_CLOCK,
)
"""Where each step makes samples."""

_OFFLINE = (
    _STEP,
    Column("loss", 9, _number("loss", ".4g"), 0),
    Column("margin", 8, _number("preference_margin", ".3f"), 1, optional=True),
    Column("pref acc", 9, _number("preference_accuracy", ".1%"), 1, optional=True),
    Column("anchor", 7, _number("anchor_loss", ".3f"), 5, optional=True),
    Column("lr", 9, _rate, 0),
    _TRAINED,
    _EFFECTIVE,
    _TOP,
    _TOKENS,
    _UPDATES,
    _CLIP,
    _ESS,
    _GRAD,
    _SECONDS,
    _UPDATE,
    *_CLOCK,
)
"""Where the samples of all steps are there before training."""
