"""A tracker that keeps what it is told, in place of one whose library is not installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from winnow.reporting.trackers import factory
from winnow.reporting.trackers.base import Record, Tracker


class Heard(Tracker):
    """Keeps its calls, and may raise at the n-th call of a method."""

    name = "trackio"

    def __init__(self, note: Any) -> None:
        super().__init__(note)
        self.calls: list[tuple[Any, ...]] = []
        self.raises: tuple[str, BaseException] | None = None

    def hear(self, *call: Any) -> None:
        if self.raises is not None and self.raises[0] == call[0]:
            raise self.raises[1]
        self.calls.append(call)

    def begin(self, start, record: Record, *, new: bool) -> str:
        self.hear("begin", start, Record(**vars(record)), new)
        return "somewhere"

    def scalars(self, step, values):
        self.hear("scalars", step, dict(values))

    def table(self, step, name, columns, rows):
        self.hear("table", step, name, tuple(columns), [*rows])

    def alert(self, alarm):
        self.hear("alert", alarm)

    def finish(self, end, step, result):
        self.hear("finish", end, step, dict(result))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == kind]


class Forgets(Heard):
    forgets = True


def installed(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Put modules in the place of libraries that are not here."""
    for module in modules:
        module.__spec__ = ModuleSpec(module.__name__, None, origin="made up")
        monkeypatch.setitem(sys.modules, module.__name__, module)


def heard(monkeypatch: pytest.MonkeyPatch, kind: type[Heard] = Heard) -> list[Heard]:
    """Has `trackers = ["trackio"]` make one of these; each that is made is in the list."""
    made: list[Heard] = []

    def make(note: Any) -> Heard:
        made.append(kind(note))
        return made[-1]

    installed(monkeypatch, ModuleType("trackio"))
    monkeypatch.setitem(factory.TRACKERS, "trackio", make)
    return made


def leaves(value: Any, *above: str) -> Iterator[tuple[str, float]]:
    """The numbers of a row of a file, by the names that trackers are to have."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if above or key != "step":
                yield from leaves(inner, *above, key)
    elif type(value) in (int, float):
        yield "/".join(above), value


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "crc32"} for row in found]


def metrics_of(folder: Path) -> dict[int, dict[str, float]]:
    """The numbers of metrics.jsonl by step."""
    return {row["step"]: dict(leaves(row)) for row in rows(folder, "metrics.jsonl")}


def evaluations_of(folder: Path) -> dict[int, dict[str, float]]:
    """The numbers of evals.jsonl by step, those of pass@k by their k."""
    found: dict[int, dict[str, float]] = {}
    for row in rows(folder, "evals.jsonl"):
        each = {str(one.pop("k")): one for one in row["pass_at_k"]}
        split = row["split"]
        told = {f"{split}/{k}": v for k, v in leaves({**row, "pass_at_k": each})}
        found.setdefault(row["step"], {}).update(told)
    return found
