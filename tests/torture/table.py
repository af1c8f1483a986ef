"""What became of every trial, as the table that `make torture` prints."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from enum import StrEnum
from pathlib import Path

from winnow.errors import UserError

FILE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"


class Outcome(StrEnum):
    """How a trial ended."""

    UNHARMED = "unharmed"  # as if nothing had been done to it, bit for bit
    TOLD = "told"  # one line, or one sample's error, says what is wrong; nothing else is lost
    WRONG = "wrong"  # a traceback, a hang, another value, a wrong reward


class Row(StrEnum):
    """What is done to Winnow, in the order of the table."""

    KILLED_TRAIN = "kill -9 of `winnow train`"
    KILLED_SAMPLE = "kill -9 of `winnow sample`"
    FULL_DISK = "a full disk"
    FLIPPED_BITS = "one bit of a run flipped"
    EXTREMES = "a setting at the end of its range"
    WRONG_SETTINGS = "settings at random"
    SERVERS = "a misbehaving server"
    VERIFIERS = "a hostile verifier"
    HOSTILE_NUMBER = "hostile completions, `number`"
    HOSTILE_GSM8K = "hostile completions, `gsm8k`"
    HOSTILE_MATH = "hostile completions, `math`"
    HOSTILE_EXACT = "hostile completions, `exact`"
    HOSTILE_REGEX = "hostile completions, `regex`"
    RIGHT_NUMBER = "right completions, `number`"
    RIGHT_GSM8K = "right completions, `gsm8k`"
    RIGHT_MATH = "right completions, `math`"
    RIGHT_EXACT = "right completions, `exact`"
    RIGHT_REGEX = "right completions, `regex`"


class Tally:
    """Counts trials by what became of them."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def count(self, row: Row, outcome: Outcome, number: int = 1) -> None:
        self._record("trials", (str(row), str(outcome), number))

    @contextmanager
    def trial(self, row: Row, outcome: Outcome, number: int = 1) -> Iterator[None]:
        """Trials that end so where the block passes, and wrong where it raises."""
        try:
            yield
        except BaseException:
            self.count(row, Outcome.WRONG, number)
            raise
        self.count(row, outcome, number)


Counts = Mapping[Row, Counter[Outcome]]


def counted(properties: Iterable[tuple[str, object]]) -> dict[Row, Counter[Outcome]]:
    """The properties of all tests' reports, summed."""
    found: dict[Row, Counter[Outcome]] = {}
    for name, value in properties:
        if name == "trials":
            assert isinstance(value, tuple | list)
            row, outcome, number = value
            found.setdefault(Row(row), Counter())[Outcome(outcome)] += number
    return found


def lines(counts: Counts) -> list[str]:
    """The table, and where and when it was made."""
    width = max(len(row) for row in counts)
    shown = [f"{'what is done':{width}}   trials" + "".join(f"{o:>10}" for o in Outcome)]
    for row in Row:
        if row in counts:
            cells = "".join(f"{counts[row][outcome]:10,}" for outcome in Outcome)
            shown.append(f"{row:{width}} {counts[row].total():8,}{cells}")
    return [*shown, f"{date.today().isoformat()}, {machine()}"]


def machine() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    named = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    processor = (named or [platform.machine()])[0]
    python = platform.python_version()
    return f"{os.cpu_count()} cores ({processor}), {platform.system()}, Python {python}"


def write(counts: Counts, file: Path = FILE) -> None:
    """Put the table into the page, between its marks.

    Raises:
        UserError: Some of it was not tried.
    """
    if missing := [row for row in Row if row not in counts]:
        raise UserError("--write-table", f"not tried: {', '.join(missing)}", "run all of it")
    before, _, rest = file.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    told = "\n".join(lines(counts))
    file.write_text(f"{before}{BEGIN}```\n{told}\n```\n{END}{after}")
