"""References: the starting model, an EMA of the policy, or another model.

The first two have the policy's own shape, so its module borrows their weights for a pass; no second
module is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from winnow.engines.models.forward import PolicyForward


class Reference(Protocol):
    """A policy that log-probs are compared with."""

    def used(self) -> AbstractContextManager[PolicyForward]:
        """The reference, in the block; the policy's weights may be away meanwhile."""
        ...

    def follow(self, now: Sequence[Tensor]) -> None:
        """To be called after each update of the policy.

        Args:
            now: What was stepped: its trained weights, in float32 if they are rounded of that.
        """
        ...

    def state(self) -> list[Tensor]:
        """What must be saved to resume a run."""
        ...

    def load_state(self, state: Sequence[Tensor]) -> None: ...


class Fixed:
    """A reference that never changes."""

    def follow(self, now: Sequence[Tensor]) -> None: ...

    def state(self) -> list[Tensor]:
        return []

    def load_state(self, state: Sequence[Tensor]) -> None: ...


class Other(Fixed):
    """Another model."""

    def __init__(self, forward: PolicyForward) -> None:
        self._forward = forward

    def used(self) -> AbstractContextManager[PolicyForward]:
        return nullcontext(self._forward)


class Within(Fixed):
    """The policy's module in another state, such as that of LoRA's base weights.

    Args:
        bare: Puts the module into that state, in a block.
    """

    def __init__(
        self, forward: PolicyForward, bare: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._forward, self._bare = forward, bare

    @contextmanager
    def used(self) -> Iterator[PolicyForward]:
        with self._bare():
            yield self._forward


Borrow = Callable[[Sequence[Tensor]], AbstractContextManager[PolicyForward]]
"""Gives the policy's module other weights, in a block (`Policy.borrowed`)."""


class Kept(Fixed):
    """Other weights for the policy's module."""

    def __init__(self, borrow: Borrow, weights: Sequence[Tensor]) -> None:
        self._borrow = borrow
        self._weights = list(weights)

    def used(self) -> AbstractContextManager[PolicyForward]:
        return self._borrow(self._weights)


class EMA(Kept):
    """An average of the policy: average <- decay average + (1 - decay) policy, each update.

    Held in float32, so that small steps are not lost. Passes read it rounded as the policy is.
    """

    def __init__(self, borrow: Borrow, weights: Sequence[Tensor], decay: float) -> None:
        wide = [w.to(torch.promote_types(w.dtype, torch.float32), copy=True) for w in weights]
        super().__init__(borrow, wide)
        self._decay = decay

    @torch.no_grad()
    def follow(self, now: Sequence[Tensor]) -> None:
        for average, own in zip(self._weights, now, strict=True):
            average.lerp_(own.to(average.dtype), 1 - self._decay)

    def state(self) -> list[Tensor]:
        return self._weights

    def load_state(self, state: Sequence[Tensor]) -> None:
        for average, saved in zip(self._weights, state, strict=True):
            average.copy_(saved)
