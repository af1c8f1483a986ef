"""Decoding: one prefill for each prompt, its key/value cache shared out to its draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from winnow.engines.base import Request, SamplingParams
from winnow.engines.cache import keep_rows, share_out
from winnow.engines.choose import choose
from winnow.engines.stopping import Stopper
from winnow.errors import UserError
from winnow.types import Draw, FinishReason


@dataclass
class _Row:
    """One answer being drawn."""

    request: int
    uniforms: Sequence[float]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    reason: FinishReason | None = None


def decode(
    module: torch.nn.Module,
    requests: Sequence[Request],
    prompts: Sequence[Sequence[int]],
    stopper: Stopper,
    *,
    batch: int,
    pads: bool,
    version: int,
) -> Iterator[tuple[int, list[Draw]]]:
    """Draw for every request; yield (its number, its draws) as requests finish.

    Args:
        prompts: Token ids of each request's prompt.
        batch: Most answers decoded side by side.
        pads: Whether prompts of different lengths may share a batch, padded on the left.
        version: Policy version, recorded with each draw.
    """
    finished: dict[int, list[Draw]] = {number: [] for number in range(len(requests))}
    for wave in _waves(requests, prompts, batch, pads):
        params = requests[wave[0].request].params
        with torch.inference_mode():
            _decode_wave(module, wave, prompts, params, stopper)
        for row in wave:
            finished[row.request].append(_draw(row, stopper, version))
        for number in sorted({row.request for row in wave}):
            if len(finished[number]) == requests[number].n:
                yield number, finished.pop(number)


def _waves(
    requests: Sequence[Request], prompts: Sequence[Sequence[int]], batch: int, pads: bool
) -> Iterator[list[_Row]]:
    """Rows in the order of the requests, `batch` at a time, of one kind of parameters."""
    wave: list[_Row] = []
    previous: tuple[object, ...] | None = None
    for number, request in enumerate(requests):
        kind = (request.params, None if pads else len(prompts[number]))
        for uniforms in _uniforms(request):
            if wave and (len(wave) == batch or kind != previous):
                yield wave
                wave = []
            wave.append(_Row(number, uniforms))
            previous = kind
    if wave:
        yield wave


def _uniforms(request: Request) -> list[list[float]]:
    """The random numbers of a request's draws: of its seed alone, whatever is decoded beside it."""
    generator = torch.Generator().manual_seed(request.seed)
    shape = (request.n, request.params.max_tokens)
    table: list[list[float]] = torch.rand(shape, generator=generator, dtype=torch.float64).tolist()
    return table


def _decode_wave(
    module: torch.nn.Module,
    rows: Sequence[_Row],
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    stopper: Stopper,
) -> None:
    """Fill the rows. Finished rows leave the batch when a quarter of it is done."""
    device = next(module.parameters()).device
    numbers = sorted({row.request for row in rows})
    logits, cache, mask = _prefill(module, [prompts[number] for number in numbers], device)
    share = torch.tensor([numbers.index(row.request) for row in rows], device=device)
    logits, mask = logits[share], mask[share]
    share_out(cache, share, params.max_tokens)
    alive = list(rows)
    for position in range(params.max_tokens):
        uniforms = torch.tensor(
            [row.uniforms[position] for row in alive], dtype=torch.float64, device=device
        )
        choice = choose(logits, uniforms, params.temperature, params.top_k, params.top_p)
        columns = (choice.tokens.tolist(), choice.logprobs.tolist(), choice.entropies.tolist())
        for row, token, logprob, entropy in zip(alive, *columns, strict=True):
            if row.reason is None:
                row.tokens.append(token)
                row.logprobs.append(logprob)
                row.entropies.append(entropy)
                row.reason = stopper.reason(row.tokens, params.max_tokens)
        going = [i for i, row in enumerate(alive) if row.reason is None]
        if not going:
            return
        tokens = choice.tokens
        if len(going) <= 0.75 * len(alive):
            keep = torch.tensor(going, device=device)
            alive = [alive[i] for i in going]
            tokens, mask = tokens[keep], mask[keep]
            keep_rows(cache, keep)
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        logits = module(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=mask.sum(-1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]


def _prefill(
    module: torch.nn.Module, prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Any, Tensor]:
    """Each prompt once, padded on the left: last logits (prompts, vocabulary), cache and mask."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    out = module(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp_(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = getattr(out, "past_key_values", None)
    if cache is None:
        raise UserError(
            f"model: {type(module).__name__} keeps no cache of its prompt that draws could share; "
            "take an architecture with past_key_values"
        )
    return out.logits[:, -1], cache, mask


def _draw(row: _Row, stopper: Stopper, version: int) -> Draw:
    assert row.reason is not None
    return Draw(
        token_ids=tuple(row.tokens),
        logprobs=tuple(row.logprobs),
        text=stopper.text(row.tokens, row.reason),
        finish_reason=row.reason,
        policy_version=version,
        entropies=tuple(row.entropies),
    )
