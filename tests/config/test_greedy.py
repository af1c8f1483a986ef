"""Temperature 0 in training: which algorithms take it, by what they compute."""

from __future__ import annotations

from typing import Any

import pytest

from winnow.algorithms.table import ALGORITHMS
from winnow.config.phases import phases_of
from winnow.config.schema import from_dict
from winnow.config.validation import cautions
from winnow.errors import UserError
from winnow.rollouts.generate import evaluation_params, sampling_params

ALONE: dict[str, Any] = {"samples_per_prompt": 1, "sampling": {"temperature": 0.0}}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_likelihood_of_one_sample_alone_can_be_greedy(name: str) -> None:
    """A ratio to a distribution that is 1 at one token is not defined, nor what is exact for pi;
    pairs and baselines need more than one sample a prompt, and there is one."""
    config = from_dict({**ALONE, "algorithm": name})
    if name in ("rft", "raft"):
        (phase,) = phases_of(config)
        assert any("sharper" in said for said in cautions(config, phase.algorithm))
        return
    with pytest.raises(UserError) as caught:
        phases_of(config)
    alone = ALGORITHMS[name].needs_group is not None
    assert caught.value.setting == ("samples_per_prompt" if alone else "sampling.temperature")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"algorithm": "raft++"}, "clipped(low=0.2, high=0.28) needs log-probs at the temperature"),
        ({"algorithm": {"name": "raft", "loss": "nll-tempered"}}, "nll-tempered needs log-probs"),
        ({"algorithm": {"name": "raft", "entropy": 0.1}}, "the entropy bonus needs"),
        ({"algorithm": {"name": "raft", "kl": "in-loss(0.1)"}}, "in-loss(beta=0.1"),
        ({"algorithm": "gibbs"}, "gibbs(beta=0.5, r_max=1.0) needs samples of the whole distribut"),
        ({"algorithm": {"name": "rft", "advantage": "softmax(beta=0.5, over=set)"}}, "softmax(bet"),
        ({"algorithm": "raft", "samples_per_prompt": 4}, "at 0 the 4 samples of a prompt are the"),
    ],
)
def test_what_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        phases_of(from_dict({**ALONE, **given}))
    assert caught.value.setting == "sampling.temperature"
    assert says in str(caught.value)


def test_an_evaluation_has_what_sampling_has_but_for_its_own() -> None:
    config = from_dict({"sampling": {"temperature": 0.7, "top_k": 5, "stop": ["x"]}})
    assert evaluation_params(config) == sampling_params(config)
    own = {"temperature": 0.0, "top_k": 0, "top_p": 0.5, "max_tokens": 9}
    other = evaluation_params(config.model_copy(update={"eval": from_dict({"eval": own}).eval}))
    assert {key: getattr(other, key) for key in own} == own
    assert other.stop == ("x",)
    assert other.greedy
