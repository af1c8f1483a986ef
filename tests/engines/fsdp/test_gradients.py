"""The gradient of several processes is that of one, whatever is summed and however it is cut.

One process, over a module that is not sharded, is what the other tests of learners are about. In
float64 two orders of a sum differ by 1e-16; a denominator that is not global, or a group that is
counted twice or not at all, by far more than 1e-10.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tests import tiny
from tests.engines.fsdp.ragged import groups
from tests.engines.fsdp.spawned import on
from tests.engines.models.architectures import build
from winnow.algorithms.kl import InLoss
from winnow.algorithms.objective import Term, totals
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.lora import LoraConfig
from winnow.engines.fsdp.ranks import Team
from winnow.engines.fsdp.sharding import ShardedForward, settle, shard
from winnow.engines.learning.gradients import Models, accumulate, together
from winnow.engines.learning.microbatches import ALONE
from winnow.engines.models import made_again
from winnow.engines.models.critic import LocalCritic
from winnow.engines.models.distributions import frozen
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.lora import Adapters
from winnow.types import Group

Job = tuple[tuple[Term, ...], list[Group]]
ROWS = {name: row for name, row in ALGORITHMS.items() if row.terms}


def jobs() -> dict[str, Job]:
    """What every row sums, with an entropy bonus and a whole KL each once."""
    made = {name: (row.objective, groups(row)) for name, row in ROWS.items()}
    grpo = replace(ROWS["grpo"], entropy=0.01, kl=InLoss(0.04, "full"))
    made["entropy and KL"] = grpo.objective, groups(grpo)
    likeliest = ROWS["raft"]
    for what, counts in (("one group", (3,)), ("a rank without", (2, 2)), ("large", (1, 30, 2))):
        made[what] = likeliest.objective, groups(likeliest, counts)
    return made


def net(tie: bool, lora: int, dtype: torch.dtype) -> nn.Module:
    made = tiny.model(3, tie_word_embeddings=tie)
    if lora:
        adapters = Adapters(made, LoraConfig(rank=lora), 1, "base")
        with torch.no_grad():  # else the gradient of their other half is 0
            for number, (name, p) in enumerate(made.named_parameters()):
                if "lora_B" in name:
                    p.fill_(0.01 * (number % 3 + 1))
        assert adapters
    return exact_norms(made).to(dtype)


def exact_norms(module: nn.Module) -> nn.Module:
    """Norms in the data type of the module: those of Llama round to float32, whatever it is."""
    for inner in list(module.modules()):
        for name, norm in list(inner.named_children()):
            if type(norm).__name__ == "LlamaRMSNorm":
                other = nn.RMSNorm(len(norm.weight), norm.variance_epsilon)
                other.weight = norm.weight
                inner.register_module(name, other)
    return module


def gradients(
    team: Team | None,
    work: dict[str, Job],
    tie: bool,
    lora: int,
    dtype: torch.dtype,
    again: bool,
    offload: bool,
) -> dict[str, tuple[float, dict[str, Tensor]]]:
    """For each job the loss and the gradients: over a team, or of a plain module."""
    module = net(tie, lora, dtype)
    forward = PolicyForward(module)
    if team is not None:
        shard(module, team.mesh, dtype, recompute=again, offload=offload)
        forward = ShardedForward(module, dtype, team.device)
    critic = LocalCritic(forward, CriticConfig())
    nn.init.constant_(critic.head.weight, 0.1)
    critic.to(dtype)
    found: dict[str, tuple[float, dict[str, Tensor]]] = {}
    for name, (terms, made) in work.items():
        module.zero_grad()
        critic.zero_grad()

        def reference(pieces: Any) -> Any:
            return frozen(forward, pieces, copy=True)

        models = Models(forward, critic, reference)
        rank = team.rank if team else ALONE
        done = accumulate(models, made, terms, totals(made), 1.0, 40, None, rank)
        if team is not None:
            settle(module)
            done = together(team.everyone(done))
            for p in critic.head.parameters():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                team.summed(p.grad)
        found[name] = (
            done.loss,
            {
                key: whole(p.grad)
                for key, p in [*module.named_parameters(), *critic.head.named_parameters("head")]
                if p.grad is not None and float(whole(p.grad).abs().max()) > 0
            },
        )
    return found


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def compare(
    ranks: int,
    tolerance: float,
    *,
    tie: bool = True,
    lora: int = 0,
    dtype: torch.dtype = torch.float64,
    again: bool = False,
    offload: bool = False,
    only: Sequence[str] = (),
) -> None:
    work = {name: job for name, job in jobs().items() if not only or name in only}
    given = work, tie, lora, dtype
    expected = gradients(None, *given, False, False)
    for found in on(ranks, gradients, *given, again, offload):
        for name, (loss, grads) in expected.items():
            told, theirs = found[name]
            assert told == pytest.approx(loss, rel=tolerance, abs=tolerance), name
            assert theirs.keys() == grads.keys(), name
            for key, grad in grads.items():
                far = float((theirs[key] - grad).norm() / grad.norm())
                assert far < tolerance, (name, key)


def test_two_ranks_have_the_gradient_of_one() -> None:
    compare(2, 1e-10)


def test_three_ranks_do_with_untied_embeddings_and_activations_computed_again() -> None:
    some = ("ppo", "dpo", "entropy and KL", "one group", "a rank without")
    compare(3, 1e-10, tie=False, again=True, only=some)


@pytest.mark.fsdp
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_gradients_whatever_the_number(ranks, tie, again, dtype, near) -> None:
    compare(ranks, near, tie=tie, again=again, dtype=dtype)


@pytest.mark.fsdp
@pytest.mark.parametrize("ranks", [2, 3])
def test_gradients_of_adapters(ranks) -> None:
    compare(ranks, 1e-10, lora=4)


@pytest.mark.fsdp
@pytest.mark.parametrize("lora", [0, 4])
def test_gradients_that_are_kept_in_the_host(lora) -> None:
    """On a CPU the way is the same, and there is nothing to move."""
    compare(2, 1e-10, lora=lora, offload=True)


def after_a_norm(team: Team, again: bool) -> list[float]:
    """Gradients through blocks that end in a norm, whose weight is gathered for its block alone.

    Args:
        again: Whether cheap activations are made again.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_again, "_LEAST", 1)
        module = build("opt", torch.float32, do_layer_norm_before=False)
        shard(module, team.mesh, torch.float32)
        with made_again.made_again() if again else nullcontext():
            logits = module(input_ids=torch.arange(1, 9)[None]).logits
        logits.pow(2).sum().backward()
        return [float(settled(p.grad).double().sum()) for p in module.parameters()]


def settled(gradient: Tensor | None) -> Tensor:
    assert isinstance(gradient, DTensor)
    return gradient.full_tensor()


def test_a_block_may_end_in_what_is_made_again() -> None:
    (made,), (plain,) = (on(1, after_a_norm, again) for again in (True, False))
    assert made == plain
