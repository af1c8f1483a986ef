"""A critic in this process: the return to expect before each token of a completion.

It reads what the policy reads, shared prefixes once, and gives a value only where a completion
token is predicted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from winnow.config.schema.critic import CriticConfig
from winnow.engines.models.forward import Contexts, Piece, PolicyForward
from winnow.errors import UserError

_FILE = "critic.safetensors"


def check_readable(policy: PolicyForward) -> None:
    """Raise a `UserError` if a model changes its logits after the head: features are not enough."""
    if not policy.splits_head:
        raise UserError(
            "algorithm.critic",
            "this model changes its logits after the head, so a critic cannot read it",
            "use an algorithm without a critic (rloo, grpo)",
        )


class LocalCritic(nn.Module):
    """A linear head, at first zero, on the policy's own features or on those of a trunk of its own.

    A trunk of its own is a copy of the policy that is trained for values alone.

    Raises:
        UserError: see `check_readable`.
    """

    def __init__(self, policy: PolicyForward, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        check_readable(policy)
        embeddings = cast(Any, policy.module).get_output_embeddings()
        made: Any = nn.utils.skip_init  # of no random numbers, which are the caller's
        self.head = made(nn.Linear, embeddings.in_features, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.trunk = copy.deepcopy(policy.module) if config.trunk == "own" else None
        if self.trunk is not None:
            self.trunk.requires_grad_(True)
        self._own = PolicyForward(self.trunk) if self.trunk is not None else None
        self.detached = False
        """Whether the policy's features are left alone, while only the head learns."""

    def values(self, policy: Callable[[], Contexts], pieces: Sequence[Piece]) -> Tensor:
        """The return to expect before each completion token, float32, shape (tokens,).

        Args:
            policy: Gives the policy's own contexts of the pieces, where its features are shared.
        """
        alone = self._own is None and self.detached
        with torch.set_grad_enabled(torch.is_grad_enabled() and not alone):
            at = policy() if self._own is None else self._own.contexts(pieces)
        found: Tensor = self.head(at.features.to(self.head.weight.dtype)).squeeze(-1)
        return found[at.index]

    def trained(self) -> list[nn.Parameter]:
        """Its parameters, except those of a language model's head, which it never uses."""
        unused = cast(Any, self.trunk).get_output_embeddings() if self.trunk is not None else None
        tied = (
            unused is not None
            and unused.weight is cast(Any, self.trunk).get_input_embeddings().weight
        )
        left = set() if tied or unused is None else {id(p) for p in unused.parameters()}
        return [p for p in self.parameters() if id(p) not in left]

    def save(self, folder: Path) -> None:
        # One by one: tied weights share their memory, which the format refuses.
        save_file(
            {str(i): p.detach().contiguous() for i, p in enumerate(self.trained())}, folder / _FILE
        )

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        saved = load_file(folder / _FILE)
        for number, parameter in enumerate(self.trained()):
            parameter.copy_(saved[str(number)])
