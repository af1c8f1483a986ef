"""A likelihood at another temperature than the samples' moves the policy, whatever the rewards.

Exactly: a completion is one token, and all tokens of the vocabulary are weighed by how likely they
are to be sampled, so that the gradient is the expected one of a step.
"""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.training.test_fake_engine import SETTINGS, files
from winnow.algorithms.denominators import SurvivorSums
from winnow.algorithms.losses import NLL, TemperedNLL
from winnow.algorithms.objective import Term, totals
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import from_dict
from winnow.config.validation import cautions
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.models.forward import PolicyForward
from winnow.types import Group, Outcome, Prompt, Sample, Score

PROMPT = (5, 9, 2)


def expected_gradient(net: torch.nn.Module, term: Term, heat: float) -> list[torch.Tensor]:
    """Every reward is 1, every sample survives: sum over y of pi_T(y) times the gradient of y."""
    with torch.no_grad():
        logits = net(input_ids=torch.tensor([PROMPT])).logits[0, -1]
    chance = (logits / heat).softmax(-1).tolist()
    tokens = range(len(chance))
    group = Group(
        Prompt("a", "a"),
        PROMPT,
        tuple(Sample((token,), (0.0,), "", "stop") for token in tokens),
        (Score(1.0),) * len(chance),
        (Outcome(True, ""),) * len(chance),
        tuple(chance),
    )
    net.zero_grad()
    models = Models(PolicyForward(net))
    accumulate(models, [group], [term], totals([group]), heat, 1000)
    return [p.grad for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("heat", [0.7, 1.0, 1.5])
def test_with_equal_rewards_the_expected_gradient_is_zero_at_the_samples_temperature(heat) -> None:
    net = tiny.model(3).double()
    for loss, at in ((TemperedNLL(), heat), (NLL(), 1.0)):
        gradient = expected_gradient(net, Term(loss, SurvivorSums()), heat)
        largest = max(float(g.abs().max()) for g in gradient)
        if at == heat:
            assert largest < 1e-14
        else:
            assert largest > 1e-4


def test_the_loss_is_that_of_the_tempered_policy() -> None:
    """Against autograd on the logits alone: grad of -sum_y w(y) log softmax(z / T)(y)."""
    net = tiny.model(3).double()
    head = net.get_output_embeddings().weight
    term, heat = Term(TemperedNLL(), SurvivorSums()), 0.7
    weights = [0.5 if token in (7, 11) else 0.0 for token in range(head.shape[0])]
    group = Group(
        Prompt("a", "a"),
        PROMPT,
        tuple(Sample((token,), (0.0,), "", "stop") for token in range(len(weights))),
        (Score(1.0),) * len(weights),
        (Outcome(True, ""),) * len(weights),
        tuple(weights),
    )
    net.zero_grad()
    accumulate(Models(PolicyForward(net)), [group], [term], totals([group]), heat, 1000)
    found = head.grad.clone()
    net.zero_grad()
    logp = (net(input_ids=torch.tensor([PROMPT])).logits[0, -1] / heat).log_softmax(-1)
    scale = term.denominator(1, len(weights), totals([group]))
    (-scale * (logp[7] + logp[11]) * 0.5).backward()
    torch.testing.assert_close(found, head.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("row", "heat", "said"),
    [("raft", 0.7, "sharper"), ("raft", 1.3, "flatter"), ("raft", 1.0, ""), ("grpo", 0.7, "")],
)
def test_a_person_is_told(row, heat, said) -> None:
    config = from_dict({"sampling": {"temperature": heat}})
    told = list(cautions(config, ALGORITHMS[row]))
    assert [f"makes the policy {said}," in text for text in told] == [True] * bool(said)
    other = ALGORITHMS[row].with_cells({"loss": "nll-tempered"}) if row == "raft" else None
    assert other is None or list(cautions(config, other)) == []


@pytest.mark.parametrize(("row", "notes"), [("raft", 1), ("rft", 0)])
def test_it_is_told_where_samples_are_made_every_step(tmp_path, monkeypatch, row, notes) -> None:
    """Samples that were made once come from one policy: there are no rounds."""
    from tests.fake_engine import Engine
    from tests.kills import KillAt
    from winnow.engines import factory
    from winnow.training.run import run

    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))
    sampling = {"max_tokens": 4, "temperature": 0.7}
    given = {**SETTINGS, **files(tmp_path), "algorithm": row, "steps": 1, "sampling": sampling}
    listener = KillAt()
    run(from_dict(given), out=tmp_path / "run", observers=listener)
    assert sum("nll is at temperature 1" in note for note in listener.notes) == notes
