"""Activations that an update does not hold, but computes again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import local
from tests.engines.fsdp import ragged
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema.critic import CriticConfig
from winnow.engines.base import LearnerPlan
from winnow.engines.models.recompute import blocks_of

GRPO, PPO = ALGORITHMS["grpo"], ALGORITHMS["ppo"]
AGAIN = {"engine": {"activation_checkpointing": True}}


def saved(run: Any) -> int:
    """Bytes that the forward pass keeps for the backward pass, weights aside."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


@pytest.mark.parametrize("how", ["float32", "mixed"])
@pytest.mark.parametrize("lora", [{}, {"lora": {"rank": 4}}], ids=["all weights", "adapters"])
@pytest.mark.parametrize("row", [GRPO, PPO], ids=["grpo", "ppo"])
def test_activations_that_are_computed_again_change_no_bit(tiny_model, how, lora, row) -> None:
    """Bit for bit, and fewer are kept: a block's input for some fifteen tensors in it."""
    groups, found, held = ragged.groups(row), [], []
    for given in ({}, AGAIN):
        engine = local.engine(tiny_model, **lora, **given)
        critic = CriticConfig(trunk="own") if row is PPO else None
        optimizer = local.plan(lr=1e-2, precision=how).optimizer
        learner = engine.learner(LearnerPlan(optimizer, 10, 40, critic=critic))
        ids = torch.arange(60)[None] % 40
        held.append(saved(lambda: engine.module()(input_ids=ids, use_cache=False)))  # noqa: B023
        stats = [local.step(learner, groups, row.objective, 0.7) for _ in range(2)]
        own = learner._critic.trained() if learner._critic is not None else []
        found.append(([(s.loss, s.grad_norm) for s in stats], local.weights(engine), own))
        learner.close()
        assert not any("forward" in vars(block) for block in blocks_of(engine.module()))
    assert found[0][0] == found[1][0]
    for one, two in zip(found[0][1:], found[1][1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert held[1] < held[0] / 4
