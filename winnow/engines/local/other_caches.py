"""Caches of a batch's rows for architectures that `Slots` cannot serve: slower, and as exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from winnow.engines.devices import without_plans
from winnow.engines.models.forward import PROBE_ERRORS, PolicyForward, cache_argument
from winnow.engines.models.windows import scales_by_place


class Padded:
    """A cache of the library's: rows begin together, their prompts padded on the left.

    Args:
        pads: Whether prompts of different lengths may be placed together.
    """

    joins = False

    def __init__(
        self,
        module: torch.nn.Module,
        prompts: Sequence[Sequence[int]],
        *,
        pads: bool,
        capacity: int,
    ) -> None:
        self.capacity = capacity
        self._module = module
        self._argument = cache_argument(module)
        self._prompts = prompts
        self._pads = pads
        self._cache: Any = None
        self._mask = torch.empty(0)

    def kind(self, prompt: int) -> object:
        return None if self._pads else len(self._prompts[prompt])

    def place(self, prompts: Sequence[int]) -> Tensor:
        rows = [self._prompts[p] for p in prompts]
        longest = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, longest - len(row) :] = torch.tensor(row)
            mask[number, longest - len(row) :] = 1
        device = next(self._module.parameters()).device
        self._cache, self._mask = None, mask.to(device)
        return self._read(ids.to(device), (self._mask.cumsum(-1) - 1).clamp_(min=0))

    def forget(self, prompt: int) -> None: ...

    def keep(self, sources: Sequence[int]) -> None:
        if not sources or list(sources) == list(range(len(self._mask))):
            return
        index = torch.tensor(sources, device=self._mask.device)
        self._mask = self._mask[index]
        for layer in self._cache.layers:
            layer.reorder_cache(index)

    def step(self, tokens: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self._read(tokens[:, None], self._mask.sum(-1, keepdim=True) - 1)

    def _read(self, ids: Tensor, positions: Tensor) -> Tensor:
        cache = {} if self._cache is None else {self._argument: self._cache}
        # Of states alone padding is no part any more, and a mask is taken for one of what is read.
        states = cache and not any(hasattr(layer, "keys") for layer in self._cache.layers)
        with without_plans(ids.device):
            out: Any = self._module(
                input_ids=ids,
                attention_mask=None if states else self._mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **cache,
            )
        self._cache = getattr(out, self._argument, None)
        if self._cache is None:
            raise NotImplementedError("a model that keeps no cache")
        logits: Tensor = out.logits[:, -1]
        return logits


class Recomputed:
    """No cache: every row is read anew for each token.

    For architectures that keep nothing that could be copied when rows are split.
    """

    joins = True

    def __init__(
        self, forward: PolicyForward, prompts: Sequence[Sequence[int]], *, capacity: int
    ) -> None:
        self.capacity = capacity
        self._forward = forward
        self._prompts = prompts
        self._rows: list[list[int]] = []

    def kind(self, prompt: int) -> object:
        return None

    def place(self, prompts: Sequence[int]) -> Tensor:
        fresh = [list(self._prompts[prompt]) for prompt in prompts]
        self._rows += fresh
        return self._forward.next_logits(fresh)

    def forget(self, prompt: int) -> None: ...

    def keep(self, sources: Sequence[int]) -> None:
        self._rows = [list(self._rows[source]) for source in sources]

    def step(self, tokens: Tensor) -> Tensor:
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        return self._forward.next_logits(self._rows)


@torch.inference_mode()
def padding(forward: PolicyForward) -> bool | None:
    """Whether `Padded` may place prompts of different lengths together; ``None``: it is not exact.

    Probed on a few tokens, against the module without any cache.
    """
    may = not scales_by_place(forward.module.config) and _pads_exactly(forward)
    with forward.probing():
        for pads in (True, False) if may else (False,):
            if _follows(forward, pads):
                return pads
    return None


def _follows(forward: PolicyForward, pads: bool) -> bool:
    """Whether rows that are split, swapped and dropped go on as each would alone."""
    size = forward.vocabulary
    prompts = [[(5 * i + 2) % size for i in range(6)], [(3 * i + 1) % size for i in range(6)]]
    prompts[1] = prompts[1][: 4 if pads else 6]
    cache = Padded(forward.module, prompts, pads=pads, capacity=3)
    rows = [list(prompt) for prompt in prompts]
    try:
        cache.place([0, 1])
        for step, sources in enumerate(([1, 0, 1], [2, 1], [1, 0])):
            rows = [[*rows[s], (7 + 4 * i + step) % size] for i, s in enumerate(sources)]
            cache.keep(sources)
            got = cache.step(torch.tensor([row[-1] for row in rows], device=forward.device))
    except PROBE_ERRORS:
        return False
    return all(forward.follows(row, logits) for row, logits in zip(rows, got, strict=True))


def _pads_exactly(forward: PolicyForward) -> bool:
    """Whether a prompt padded on the left gives the logits that it gives alone."""
    module, device = forward.module, forward.device
    ids = torch.tensor([[0, 0, 0, *[(5 * i + 2) % forward.vocabulary for i in range(6)]]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    padded = module(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
    ).logits[:, -1]
    alone = module(input_ids=ids[:, 3:].to(device)).logits[:, -1]
    loose = padded.dtype in (torch.bfloat16, torch.float16)
    return bool((padded - alone).float().abs().mean() <= (0.05 if loose else 1e-4))
