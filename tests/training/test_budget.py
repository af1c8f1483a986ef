"""A run ends with the first step that spends its budget, however often it is killed on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kills import KillAt, check_resumed, lines, samples
from tests.training.faked import settings
from winnow.config.phases import phases_of
from winnow.config.schema import from_dict
from winnow.errors import UserError
from winnow.training.budget import spent_by
from winnow.training.run import run


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """48 samples of one token a step, two updates; 8 steps if nothing ends it."""
    return {**settings(tmp_path, monkeypatch), "steps": 8}


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"samples": 96}, 2),  # 48 a step: reached with the second, exactly
        ({"samples": 97}, 3),
        ({"tokens": 100}, 3),  # a token a sample
        ({"updates": 5}, 3),  # two a step
        ({"seconds": 1e-3}, 1),
        ({"samples": 100_000}, 8),  # `steps` ends it
        ({"samples": 200, "updates": 3}, 2),  # the first that is spent
    ],
)
def test_it_ends_with_the_step_that_reaches_it(
    given: dict[str, Any], tmp_path: Path, budget: dict[str, float], steps: int
) -> None:
    listener = KillAt()
    run(from_dict({**given, "budget": budget}), out=tmp_path / "run", observers=listener)
    rows = lines(tmp_path / "run", "metrics.jsonl")
    assert [row["step"] for row in rows] == [*range(1, steps + 1)]
    assert len(samples(tmp_path / "run")) == 48 * steps
    evaluated = lines(tmp_path / "run", "evals.jsonl")
    assert evaluated[-1]["step"] == steps  # the model that it ends with is evaluated and saved
    assert (tmp_path / "run" / "checkpoints" / f"step-{steps}").is_dir()
    said = [note for note in listener.notes if note.startswith("stopped: budget.")]
    assert len(said) == (steps < 8)


def test_resumed_it_ends_at_the_same_step(given: dict[str, Any], tmp_path: Path) -> None:
    config = from_dict({**given, "budget": {"samples": 240}})
    whole, _ = check_resumed(config, tmp_path, lambda heard: [len(heard) // 3, len(heard) // 4])
    assert whole.metrics[-1]["step"] == 5


def test_once_it_is_spent_nothing_is_trained(given: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(from_dict({**given, "budget": {"samples": 96}}), out=out, observers=KillAt())
    listener = KillAt()
    run(resume=out, observers=listener)
    assert len(lines(out, "metrics.jsonl")) == 2
    assert any("it stopped at step 2, so nothing is trained; for more, raise budget" in note
               for note in listener.notes)  # fmt: skip
    path = out / "config.toml"
    path.write_text(path.read_text().replace("samples = 96", "samples = 144"))
    run(resume=out, observers=KillAt())
    assert len(lines(out, "metrics.jsonl")) == 3


def test_later_passes_over_samples_spend_none() -> None:
    rows = [
        {
            "samples": 8,
            "tokens_sampled": tokens,
            "updates": 2,
            "seconds": {"sample": 1.0, "kl": 9.0},
        }
        for tokens in (30, 0, 10)
    ]
    assert spent_by(rows)[-1] == {"samples": 16, "tokens": 40, "updates": 6, "seconds": 3.0}


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"algorithm": "rft", "budget": {"samples": 10}}, "budget.samples"),
        ({"algorithm": "rft", "budget": {"tokens": 10}}, "budget.tokens"),
        ({"phases": [{"steps": 1}, {"steps": 2}], "budget": {"updates": 10}}, "budget"),
    ],
)
def test_what_it_cannot_hold_is_refused(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(UserError) as raised:
        phases_of(from_dict(settings))
    assert raised.value.setting.endswith(setting)
