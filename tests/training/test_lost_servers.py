"""A run whose last server is lost ends saved, and resumed it is what it would have been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import winnow
from tests.fake_engine import Engine
from tests.training.test_fake_engine import SETTINGS, files
from winnow.engines import factory
from winnow.engines.base import START
from winnow.errors import NoServer
from winnow.evaluation import held_out
from winnow.rollouts import rollout


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))
    return {**SETTINGS, **files(tmp_path)}


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    apart = ("time", "seconds", "memory_host_gib", "crc32")
    return [{key: row[key] for key in row if key not in apart} for row in rows]


@pytest.mark.parametrize(
    ("where", "at", "saved"),
    [(held_out, 4, 4), (held_out, 8, 8), (rollout, 4, 3)],
    ids=["evaluation", "last", "step"],
)
def test_resumed_it_is_the_same(where, at, saved, given, tmp_path, monkeypatch) -> None:
    whole = winnow.train(**given, out=tmp_path / "whole", quiet=True)
    real, folder = where.sample, tmp_path / "run"

    def lost(sampler, asked, *more):
        if asked[0].step == at:
            raise NoServer("no server is left to sample (server 0: it ended)")
        return real(sampler, asked, *more)

    monkeypatch.setattr(where, "sample", lost)
    with pytest.raises(winnow.WinnowError, match="no server is left") as ended:
        winnow.train(**given, out=folder, quiet=True)
    assert str(folder) in "".join(ended.value.__notes__)
    before = winnow.load_run(folder).metrics
    assert [row["step"] for row in before] == list(range(1, saved + 1))
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{saved}"]
    with pytest.raises(winnow.WinnowError, match="no server is left"):  # still none
        winnow.train(resume=folder, quiet=True)
    monkeypatch.setattr(where, "sample", real)
    named: list[str] = []
    monkeypatch.setattr(Engine, "snapshot", lambda self, name, **_: named.append(name))
    again = winnow.train(resume=folder, quiet=True)
    assert START in named  # with all steps done too: an evaluation's KL is to the start
    assert again.metrics[:saved] == before  # none was trained again
    assert untimed(again.run.evaluations) == untimed(whole.run.evaluations)
    assert (again.before, again.after, again.gain) == (whole.before, whole.after, whole.gain)
    assert untimed(again.metrics[saved:]) == untimed(whole.metrics[saved:])
    assert untimed(again.metrics[: saved - 1]) == untimed(whole.metrics[: saved - 1])
    assert winnow.train(resume=folder, quiet=True).run.evaluations == again.run.evaluations
