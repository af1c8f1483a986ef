"""Samples one token of each row from logits, exactly and cheaply."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from winnow.errors import WinnowError

_BLOCK = 256
_ELEMENTS = 2**19
"""Logits worked on at a time on a CPU, where 2 MiB stay in a cache."""


@dataclass(frozen=True)
class Choice:
    """A token for each sample; log-probs and entropies in nats, of the full softmax; (samples,)."""

    tokens: Tensor
    logprobs: Tensor
    entropies: Tensor


def choose(
    logits: Tensor,
    uniforms: Tensor,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    rows: Tensor | None = None,
) -> Choice:
    """Sample from softmax(logits / temperature), by inverting its distribution function.

    At temperature 0 the likeliest token is taken, of equals the first; log-probs and entropies are
    then those at 1.

    Args:
        logits: Shape (rows, vocabulary).
        uniforms: Shape (samples,), float64 in [0, 1): one number decides one sample's token.
        top_k: Sample among the k likeliest only; 0 for all.
        top_p: Sample among the likeliest that hold this mass only; 1 for all.
        rows: The row that each sample is made from, in ascending order; default: a sample for each.

    Returns:
        Tokens, with the log-probs and entropies of the full distribution.

    Raises:
        WinnowError: logits that are not numbers: the policy has diverged.
    """
    count, vocabulary = logits.shape
    if rows is None:
        rows = torch.arange(count, device=logits.device)
    size = count if logits.is_cuda else max(1, _ELEMENTS // vocabulary)
    if size >= count:  # nothing to cut, and no GPU to wait for
        return Choice(*_choose(logits, uniforms, temperature, top_k, top_p, rows))
    starts = torch.arange(0, count + size, size, device=logits.device)
    edges = torch.searchsorted(rows, starts).tolist()
    parts = []
    for start, a, b in zip(starts.tolist(), edges, edges[1:], strict=False):
        if a < b:
            part = logits[start : start + size]
            parts.append(_choose(part, uniforms[a:b], temperature, top_k, top_p, rows[a:b] - start))
    tokens, logprobs, entropies = (torch.cat(column) for column in zip(*parts, strict=True))
    return Choice(tokens, logprobs, entropies)


def _choose(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scaled = logits.float() if logits.dtype != torch.float32 else logits.clone()
    if temperature not in (0, 1):
        scaled.div_(temperature)
    scaled.sub_(scaled.amax(-1, keepdim=True))
    weights = scaled.exp()
    total = weights.sum(-1)
    if not bool(total.isfinite().all()):
        raise WinnowError(
            "the model's logits are not finite, though its weights were when they were read; if it "
            "was trained since, go back to a checkpoint with a lower optimizer.lr, else use "
            "dtype = 'float32'"
        )
    log_total = total.log()
    # H = log Z - E[z]; a logit of -inf has weight 0 and must not make 0 x inf
    finite = scaled.clamp(min=torch.finfo(torch.float32).min)
    mean = finite.mul_(weights).sum(-1) / total
    if temperature == 0:
        tokens = logits.argmax(-1)[rows]
        return tokens, scaled[rows, tokens] - log_total[rows], (log_total - mean)[rows]
    if top_k or top_p < 1:
        weights = _truncate(weights, top_k, top_p)
    tokens = _invert(weights, uniforms, rows)
    return tokens, scaled[rows, tokens] - log_total[rows], (log_total - mean)[rows]


def _truncate(weights: Tensor, top_k: int, top_p: float) -> Tensor:
    """Zero all but the k likeliest and the smallest set of mass top_p."""
    ordered, index = weights.sort(-1, descending=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_k:
        keep[:, top_k:] = False
    if top_p < 1:
        before = ordered.double().cumsum(-1) - ordered
        keep &= before < top_p * ordered.double().sum(-1, keepdim=True)
        keep[:, 0] = True
    return torch.zeros_like(weights).scatter_(-1, index, ordered * keep)


def _invert(weights: Tensor, uniforms: Tensor, rows: Tensor) -> Tensor:
    """The first token at which the running sum of its row's weights passes u x total.

    In two levels, blocks and then within one block, so that only block sums are accumulated over
    the whole vocabulary, in float64 against rounding. A token of weight zero is never chosen.
    """
    count, vocabulary = weights.shape
    blocks = -(-vocabulary // _BLOCK)
    if vocabulary % _BLOCK:
        weights = torch.nn.functional.pad(weights, (0, blocks * _BLOCK - vocabulary))
    table = weights.view(count, blocks, _BLOCK)
    sums = table.sum(-1).double()[rows]
    block, rest = _search(sums, uniforms * sums.sum(-1))
    place, _ = _search(table[rows, block].double(), rest)
    return block * _BLOCK + place


def _search(masses: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first mass whose running sum exceeds the target, and the rest of the target.

    Where rounding puts the target at or past the end, the last mass above zero is taken.
    """
    running = masses.cumsum(-1)
    index = torch.searchsorted(running, target[:, None].contiguous(), right=True).squeeze(-1)
    last = torch.searchsorted(running, running[:, -1:].contiguous(), right=False).squeeze(-1)
    index = torch.minimum(index, last)
    before = (running - masses).gather(-1, index[:, None]).squeeze(-1)
    return index, (target - before).clamp_(min=0)
