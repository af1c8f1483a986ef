"""KL to other weights: of samples in the very proportions of a policy it is the definition."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.fake_engine import Engine, logp
from winnow.engines.base import START
from winnow.evaluation.kl import kl_by_prompt, kl_to_start
from winnow.types import Group, Origin, Prompt, Sample, Score


@pytest.mark.parametrize("heat", [1.0, 2.0])
def test_by_enumeration(tmp_path: Path, heat: float) -> None:
    """Ten samples in proportion to the probabilities, errors too: sum p log(p / q)."""
    counts = {0: 5, 1: 3, 2: 2}
    p = np.array([counts.get(digit, 1e-300) for digit in range(10)]) / 10
    q = logp(np.linspace(0, 1, 10), heat)
    (tmp_path / "logits.json").write_text(json.dumps(list(np.linspace(0, 1, 10))))
    engine = Engine(SimpleNamespace(model=str(tmp_path)))
    engine.now = heat * np.log(p)
    assert np.exp(logp(engine.now, heat)) == pytest.approx(p)
    digits = [digit for digit, count in counts.items() for _ in range(count)]
    group = Group(
        Prompt("x", "x"),
        (1,),
        tuple(Sample((48 + d,), (float(np.log(p[d])),), str(d), "stop") for d in digits),
        (*[Score(1.0)] * 4, *[Score(0.0)] * 4, *[Score.failed("broken")] * 2),
        origin=Origin("m", heat),
    )
    expected = sum(p[d] * (np.log(p[d]) - q[d]) for d in counts)
    assert kl_by_prompt(engine, [group, group], START) == pytest.approx([expected] * 2)
    found = kl_to_start(engine, [group, group], step=1)
    assert (found.value, found.low, found.high) == (pytest.approx(expected), None, None)
    assert kl_by_prompt(engine, [group]) == pytest.approx([0.0])
