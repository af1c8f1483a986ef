"""Runs whose sampler has a copy of the weights in bfloat16."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w

import winnow
from tests.kills import FIRST, check_resumed, config, go, lines, samples
from winnow.config.phases import phases_of
from winnow.config.schema import from_dict
from winnow.config.unread import unread
from winnow.config.validation import refuse
from winnow.engines import devices
from winnow.engines.devices import Processor
from winnow.errors import UserError
from winnow.reporting.observer import Observers
from winnow.rollouts.collect import run_sample
from winnow.training.watching import thresholds_of

HALF = {"sampling": {"max_tokens": 4, "stop": ["\n"], "dtype": "bfloat16"}}


@pytest.mark.parametrize("more", [{}, {"lora": {"rank": 4}}], ids=["whole", "lora"])
def test_killed_and_resumed_it_ends_as_the_unbroken_run(
    tiny_model: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    """Bit by bit: the copy is made of the weights of a checkpoint as of those that were there."""
    given = config(tiny_model, tmp_path, algorithm="raft++", optimizer={"lr": 1e-3}, **HALF, **more)
    whole, _ = check_resumed(given, tmp_path, lambda heard: [len(heard) // 2, 7], FIRST)
    rows = whole.metrics
    assert rows[-1]["policy_version"] > 0
    for row in rows:
        assert 0 < row["logprob_gap"] < 0.05  # another number than the learner's, by rounding
        assert 0 < row["sampler_kl"] < row["logprob_gap"]
        assert 0 < row["sampler_tv"] <= 0.5 * row["logprob_gap"] * 1.1


def test_ratios_are_to_the_distribution_that_was_sampled(tiny_model: Path, tmp_path: Path) -> None:
    """At the very weights that sampled, the importance weight of a completion is the learner's
    probability over the copy's: not 1, but 1 on average, as sequence-importance needs."""
    loss = {"algorithm": {"name": "reinforce", "loss": "sequence-importance"}}
    given = {**loss, "optimizer": {"lr": 0.0}, **HALF}
    run = go(
        config(tiny_model, tmp_path, steps=1, samples_per_prompt=64, **given), tmp_path / "run"
    )
    (row,) = run.metrics
    assert 1e-4 < row["ratio_max_deviation"] < 0.5
    assert row["weight_mean"] == pytest.approx(1, abs=5 * row["logprob_gap"])
    plain = {**given, "sampling": {"max_tokens": 4, "stop": ["\n"]}}
    run = go(config(tiny_model, tmp_path, steps=1, **plain), tmp_path / "plain")
    assert run.metrics[0]["ratio_max_deviation"] < 1e-4


@pytest.mark.parametrize(("flags", "dtype"), [({"avx512_bf16"}, "bfloat16"), (set(), "float32")])
def test_auto_is_written_down_and_kept_where_it_would_be_another(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: set[str],
    dtype: str,
) -> None:
    auto = {"sampling": {"max_tokens": 4, "dtype": "auto"}}
    given = config(tiny_model, tmp_path, steps=1, algorithm="raft", device="cpu", **auto)
    monkeypatch.setattr(devices, "processor", lambda: Processor("", frozenset(flags)))
    out = tmp_path / "run"
    first = go(given, out)
    written = tomllib.loads((out / "config.toml").read_text())
    assert written["sampling"]["dtype"] == dtype
    other = {"avx512_bf16"} ^ flags
    monkeypatch.setattr(devices, "processor", lambda: Processor("", frozenset(other)))
    written["steps"] = 2
    (out / "config.toml").write_text(tomli_w.dumps(written))
    winnow.train(resume=out, quiet=True)
    gaps = [row["logprob_gap"] for row in lines(out, "metrics.jsonl")]
    assert len(gaps) == 2
    assert first.metrics[0]["logprob_gap"] == gaps[0]
    assert all((gap > 1e-4) is (dtype == "bfloat16") for gap in gaps if gap is not None)


def test_winnow_sample_and_winnow_eval_sample_from_a_copy_too(
    tiny_model: Path, tmp_path: Path
) -> None:
    given = config(tiny_model, tmp_path, **HALF)
    plain = config(tiny_model, tmp_path, sampling={"max_tokens": 4, "stop": ["\n"]})
    for name, one in (("half", given), ("plain", plain)):
        run_sample(one, out=tmp_path / name, held_out=False, observers=Observers())
    rows = [samples_of(tmp_path / name) for name in ("half", "plain")]
    first = [[row["logprobs"][0] for row in each] for each in rows]
    off = [abs(a - b) for a, b in zip(*first, strict=True)]
    assert 0 < max(off) < 0.6
    evaluations = [
        winnow.evaluate(
            model=str(tiny_model),
            prompts=str(tmp_path / "prompts.jsonl"),
            reward="exact",
            sampling=one.sampling.model_dump(exclude_none=True),
            out=tmp_path / f"eval-{name}",
            quiet=True,
        )
        for name, one in (("half", given), ("plain", plain))
    ]
    assert evaluations[0].samples == evaluations[1].samples
    entropies = [
        samples(tmp_path / f"eval-{name}", "eval")[0]["entropies"] for name in ("half", "plain")
    ]
    assert entropies[0] != entropies[1]


def samples_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "samples").to_pylist()
    return sorted(rows, key=lambda row: (row["prompt"], row["sample"]))


REFUSED = [
    ({"algorithm": "gibbs"}, "gibbs.* is exact for samples of the policy itself"),
    ({"algorithm": "snis"}, "softmax.* is exact for samples of the policy itself"),
    ({"algorithm": {"name": "raft", "select": ["rso(0.5, 4)"]}}, "rso.* is exact for samples"),
    ({"algorithm": "gspo"}, "clips at less than what bfloat16 rounds log-probs to"),
]


@pytest.mark.parametrize(("settings", "says"), REFUSED)
def test_refused_where_a_row_is_exact_for_the_policys_own_samples(
    settings: dict[str, Any], says: str
) -> None:
    for dtype in ("bfloat16", "auto"):
        with pytest.raises(UserError, match=rf"^sampling\.dtype: .*{says}") as caught:
            phases_of(from_dict({**settings, "sampling": {"dtype": dtype}}))
        assert "\n" not in str(caught.value)
    phases_of(from_dict({**settings, "sampling": {"dtype": "float32"}}))
    phases_of(from_dict(settings))


@pytest.mark.parametrize(
    "engine",
    [
        {"sampler": "openai", "url": "http://localhost:1/v1"},
        {"sampler": "vllm", "urls": ["http://localhost:1"]},
        {"learner": "fsdp"},
    ],
)
def test_refused_where_another_samples(engine: dict[str, Any]) -> None:
    given = from_dict({"engine": engine, "sampling": {"dtype": "bfloat16"}})
    with pytest.raises(UserError, match=r"^sampling\.dtype: .*, or leave it out \(--set"):
        refuse(unread(given))
    refuse(unread(from_dict({"engine": engine})))


def test_the_alarm_knows_what_rounding_is() -> None:
    def threshold(**settings: Any) -> float:
        return thresholds_of(from_dict(settings))["sampler_disagrees"]

    assert threshold() == 0.05
    half = {"sampling": {"dtype": "bfloat16"}}
    assert threshold(**half) == 0.1
    assert threshold(**half, dtype="bfloat16") == 0.05
    assert threshold(**half, alarms={"sampler_disagrees": 0.02}) == 0.02
    assert thresholds_of(from_dict({**half, "alarms": {"off": ["sampler_disagrees"]}})) == {
        name: value
        for name, value in thresholds_of(from_dict({})).items()
        if name != "sampler_disagrees"
    }


def test_phases_share_it() -> None:
    phases = [{"algorithm": "raft", "steps": 1, "sampling": {"dtype": "bfloat16"}}]
    with pytest.raises(UserError, match=r"^phases\.1\.sampling\.dtype: it must be the same"):
        phases_of(from_dict({"phases": phases}))


def test_this_machine_says_what_it_is() -> None:
    """Linux on a PC names maker and instructions; other systems and processors may not."""
    text = Path("/proc/cpuinfo")
    found = devices.processor()
    if text.is_file() and "vendor_id" in text.read_text():
        assert found.maker in text.read_text()
        assert "sse2" in found.flags
