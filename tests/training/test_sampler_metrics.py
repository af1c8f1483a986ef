"""What a run's metrics say of a sampler that is not what the learner takes it for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fake_engine import Engine, Sampler
from tests.kills import KillAt, lines
from tests.training.faked import settings, trained
from winnow.config.schema import from_dict
from winnow.engines import factory
from winnow.rollouts.collect import run_sample
from winnow.types import Sample

Row = dict[str, Any]


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return settings(tmp_path, monkeypatch)


def rows(given: dict[str, Any], out: Path) -> list[Row]:
    return lines(trained(given, out), "metrics.jsonl")


def sampling_by(sampler: type[Sampler], monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Engine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.sampler = lambda _: sampler(self)

    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Own, lambda *_: None))


def edited(change: Any) -> type[Sampler]:
    """A sampler whose samples are changed on their way: of one request at a time."""

    class Edited(Sampler):
        def _sample(self, requests: Any) -> Any:
            for place, group in super()._sample(requests):
                yield place, group.with_(samples=tuple(change(self, group.samples)))

    return Edited


def test_a_good_sampler(given, tmp_path) -> None:
    made = rows(given, tmp_path / "run")
    assert max(row["updates"] for row in made) == 2  # the second is of other weights
    for row in made:
        assert 0 <= row["logprob_gap"] < 1e-6  # rounded to float32
        # 6 groups of 8: 168 pairs, whose chance is a tenth at least
        assert row["identical_pairs"] == pytest.approx(row["identical_expected"], abs=0.2)
        assert row["retokenised_rate"] is None


def test_log_probs_that_are_off_are_off_by_so_much(given, tmp_path, monkeypatch) -> None:
    def shifted(_: Sampler, samples: tuple[Sample, ...]) -> list[Sample]:
        return [replace(one, logprobs=(one.logprobs[0] - 0.25,)) for one in samples]

    sampling_by(edited(shifted), monkeypatch)
    for row in rows(given, tmp_path / "run"):
        assert row["logprob_gap"] == pytest.approx(0.25, abs=1e-6)


def test_stale_weights_show_once_there_are_updates(given, tmp_path, monkeypatch) -> None:
    """The sampler goes on with the weights it began with, and names those it was told of."""

    class Stale(Sampler):
        def __init__(self, engine: Any) -> None:
            super().__init__(engine)
            self.first = engine.now.copy()

        def _sample(self, requests: Any) -> Any:
            self.engine.now, present = self.first, self.engine.now
            groups = list(super()._sample(requests))
            self.engine.now = present
            yield from groups

    sampling_by(Stale, monkeypatch)
    first, second, *_ = rows(given, tmp_path / "run")
    assert first["logprob_gap"] < 1e-6
    assert second["logprob_gap"] > 0.05


def test_a_sampler_that_ignores_seeds(given, tmp_path, monkeypatch) -> None:
    sampling_by(edited(lambda _, samples: samples[:1] * len(samples)), monkeypatch)
    row = rows(given, tmp_path / "run")[0]
    assert row["identical_pairs"] == 1
    assert row["identical_expected"] == pytest.approx(0.1)  # ten digits, all alike at the start
    assert row["logprob_gap"] is None  # rloo learns nothing from equal samples


def test_log_probs_that_are_not_those_of_the_samples_say_nothing(
    given, tmp_path, monkeypatch
) -> None:
    class Untrue(Sampler):
        capabilities = replace(Sampler.capabilities, true_logprobs=False)

    sampling_by(Untrue, monkeypatch)
    row = rows({**given, "algorithm": "rft", "steps": 1}, tmp_path / "run")[0]
    assert row["identical_pairs"] is not None
    assert row["identical_expected"] is None


def test_after_a_restart_the_weights_are_not_those_that_sampled(given, tmp_path) -> None:
    given = {**given, "rounds": {"restart": True}}
    assert {row["logprob_gap"] for row in rows(given, tmp_path / "run")} == {None}


def test_another_models_samples_are_not_compared(given, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "logits.json").write_text(json.dumps([0.0] * 9 + [3.0]))
    given = {**given, "algorithm": "rft", "steps": 2, "prompts_per_step": 3}
    from_other = rows({**given, "samples_from": str(other)}, tmp_path / "other-run")
    assert {row["logprob_gap"] for row in from_other} == {None}
    own = rows(given, tmp_path / "run")  # samples of both steps are of the start
    assert own[0]["logprob_gap"] < 1e-6
    assert own[1]["logprob_gap"] is None


def test_a_file_without_tokens_is_tokenized_anew(given, tmp_path) -> None:
    config = from_dict({**given, "samples_per_prompt": 6})
    run_sample(config, out=tmp_path / "pool", held_out=False, observers=KillAt())
    table = pq.read_table(tmp_path / "pool" / "samples").to_pylist()
    for row in table:
        row["token_ids"], row["token_ends"] = None, [0, 1] if row["sample"] == 2 else [1]
        row["logprobs"], row["tokens"] = None, len(row["token_ends"])
        row["entropies"] = None
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "pool.parquet")
    keys = ("sampling", "samples_per_prompt", "prompts", "steps")
    given = {key: value for key, value in given.items() if key not in keys}
    given |= {"algorithm": "rft", "samples_file": str(tmp_path / "pool.parquet")}
    given |= {"eval": {"size": 0}}
    for row in rows(given, tmp_path / "run"):
        assert row["retokenised_rate"] == pytest.approx(1 / 6)  # one of six
        assert row["logprob_gap"] is row["identical_pairs"] is row["identical_expected"] is None
    whole = rows({**given, "samples_file": str(tmp_path / "pool")}, tmp_path / "whole")
    assert {(row["logprob_gap"], row["retokenised_rate"]) for row in whole} == {(None, None)}
