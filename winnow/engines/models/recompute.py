"""Blocks of a transformer that keep no activations: the backward pass computes them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from winnow.engines.models.made_again import kept
from winnow.engines.models.precision import same_products
from winnow.engines.models.tree_attention import same_again


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer: the list of modules that holds most parameters."""
    lists: list[Any] = [inner for inner in module.modules() if isinstance(inner, nn.ModuleList)]
    return list(max(lists, key=lambda each: sum(p.numel() for p in each.parameters()), default=[]))


def compute_again(block: nn.Module, module: nn.Module) -> None:
    """Have a block keep no activations, and see in the second pass what it saw in the first."""
    plain = block.forward

    def forward(*given: Any, **more: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*given, **more)
        seen, multiplied = same_again(module), same_products()

        @contextmanager
        def again() -> Iterator[None]:
            with seen(), multiplied(next(block.parameters()).device):
                yield

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return kept(), again()

        run = partial(plain, **more)
        return checkpoint(run, *given, use_reentrant=False, context_fn=contexts)

    block.forward = forward


def keep_activations(block: nn.Module) -> None:
    """Undo `compute_again`."""
    del vars(block)["forward"]
