"""The table counts what the tests count, and what is missing is not written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.torture import table
from tests.torture.table import Outcome, Row, Tally
from winnow.errors import UserError


def test_a_trial_that_raises_is_wrong() -> None:
    said: list[tuple[str, object]] = [("reached", ("x", 1.0))]
    tally = Tally(lambda name, value: said.append((name, value)))
    tally.count(Row.SERVERS, Outcome.TOLD, 3)
    with tally.trial(Row.SERVERS, Outcome.TOLD):
        pass
    with pytest.raises(KeyError), tally.trial(Row.SERVERS, Outcome.UNHARMED, 2):
        raise KeyError
    counts = table.counted(said)
    assert counts == {Row.SERVERS: Counter({Outcome.TOLD: 4, Outcome.WRONG: 2})}
    head, row, _ = table.lines(counts)
    assert head.split() == ["what", "is", "done", "trials", "unharmed", "told", "wrong"]
    assert row.split() == ["a", "misbehaving", "server", "6", "0", "4", "2"]
    assert max(map(len, (head, row))) <= 80


def test_all_of_it_is_written_or_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{table.BEGIN}old\n{table.END}\nbelow\n")
    every = {row: Counter({Outcome.UNHARMED: 1000}) for row in Row}
    with pytest.raises(UserError, match="not tried: one bit of a run flipped"):
        table.write({row: every[row] for row in Row if row is not Row.FLIPPED_BITS}, page)
    table.write(every, page)
    above, *told, below = page.read_text().splitlines()
    assert (above, below) == ("above", "below")
    assert sum(line.endswith("1,000         0         0") for line in told) == len(Row)
    assert max(map(len, told[:-4])) <= 80
