"""Attention in bfloat16 on a CPU, against softmax(scale q k' + mask) v in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from winnow.engines.models import low_attention as module
from winnow.engines.models.low_attention import low_attention

LOW = torch.bfloat16
ROUNDED = 2.0**-8
"""Unit in the last place of bfloat16, relative."""


def some(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(LOW)


def case(queries: int, keys: int = 11) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three blocks of two heads, of which each query sees some keys, the first always."""
    query = some(3, 2, queries, 8, seed=1)
    key, value = some(3, 2, keys, 8, seed=2), some(3, 2, keys, 4, seed=3)
    hidden = torch.rand(3, 1, queries, keys, generator=torch.Generator().manual_seed(4)) < 0.5
    hidden[..., 0] = False
    mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
    return query, key, value, mask


def exactly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    scores = 0.3 * query.double() @ key.double().transpose(-1, -2) + mask
    return scores.softmax(-1) @ value.double()


@pytest.mark.parametrize("queries", [1, 3, 20])
def test_values_and_gradients_are_those_of_attention_up_to_rounding(queries: int) -> None:
    query, key, value, mask = case(queries)
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    slopes = some(3, 2, queries, 4, seed=5)
    wanted = exactly(*leaves, mask)
    wanted_grads = torch.autograd.grad((wanted * slopes).sum(), leaves)
    got = low_attention(*leaves, mask, 0.3)
    grads = torch.autograd.grad(got, leaves, slopes)
    # Scores, weights and what comes out are each rounded: three or four units, of typical sizes.
    assert got.dtype == LOW
    for found, right in zip((got, *grads), (wanted, *wanted_grads), strict=True):
        off = (found.double() - right.double()).pow(2).mean().sqrt()
        assert off < 3 * ROUNDED * right.double().pow(2).mean().sqrt()
    assert not torch.equal(got.double(), wanted)
    with torch.no_grad():
        assert torch.equal(low_attention(query, key, value, mask, 0.3), got)


def test_what_is_hidden_counts_for_nothing() -> None:
    query, key, value, mask = case(3)
    mask[..., 7] = -torch.inf
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    low_attention(*leaves, mask, 0.3).float().sum().backward()
    assert all(leaf.grad is not None and not leaf.grad[:, :, 7].any() for leaf in leaves[1:])
    before = low_attention(query, key, value, mask, 0.3)
    key[:, :, 7], value[:, :, 7] = 100.0, -100.0
    assert torch.equal(low_attention(query, key, value, mask, 0.3), before)


@pytest.mark.parametrize("scores", [1, 2 * 20 * 11 * 2])
def test_blocks_do_not_depend_on_each_other(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value, mask = case(20)

    def both() -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (query, key, value)]
        out = low_attention(*leaves, mask, 0.3)
        return [out.detach(), *torch.autograd.grad(out.float().pow(2).sum(), leaves)]

    whole = both()
    monkeypatch.setattr(module, "_SCORES", scores)
    assert len(module._parts(query, key)) > 1
    for part, all_ in zip(both(), whole, strict=True):
        torch.testing.assert_close(part, all_, rtol=2 * ROUNDED, atol=2 * ROUNDED)
