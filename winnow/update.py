"""Survivors -> a gradient. Takes a module; every learner calls it on its rank.

A draw that every term weighs with zero never reaches the model. Denominators are counted over the
mini-batch before it is cut, so micro-batches change memory, not gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from winnow.forward import Piece, PolicyForward
from winnow.losses import Clipped, Term, Totals
from winnow.types import Group


@dataclass
class Accumulated:
    """Sums over the micro-batches of one mini-batch."""

    loss: float = 0.0
    draws: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    clipped: int = 0
    ratio_tokens: int = 0
    ratio_sum: float = 0.0
    ratio_max: float = 0.0
    kl_sum: float = 0.0
    influence: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """Some trained draws of one group, by number."""

    group: Group
    draws: tuple[int, ...]

    @property
    def piece(self) -> Piece:
        return Piece(self.group.prompt_ids, [self.group.draws[i].token_ids for i in self.draws])


def totals(groups: Sequence[Group]) -> Totals:
    """Counts of a mini-batch; draws without a verdict are in none of them."""
    survivors = [
        draw
        for group in groups
        for draw, verdict in zip(group.draws, group.verdicts, strict=True)
        if verdict.kept
    ]
    valid = [
        draw
        for group in groups
        for draw, is_valid in zip(group.draws, group.valid, strict=True)
        if is_valid
    ]
    return Totals(
        prompts=sum(any(group.valid) for group in groups),
        draws=len(valid),
        survivors=len(survivors),
        tokens=sum(len(draw.token_ids) for draw in valid),
        survivor_tokens=sum(len(draw.token_ids) for draw in survivors),
    )


def trained(group: Group) -> tuple[int, ...]:
    """Numbers of the draws that have a gradient."""
    return tuple(i for i, weight in enumerate(group.weights) if weight != 0)


def factors(group: Group, term: Term, counts: Totals) -> list[float]:
    """What multiplies each token's loss of each draw, weight aside; 0 for what is not trained."""
    siblings = sum(verdict.kept for verdict in group.verdicts)
    return [
        term.coefficient * term.denominator(len(draw.token_ids), siblings, counts)
        if weight
        else 0.0
        for draw, weight in zip(group.draws, group.weights, strict=True)
    ]


def accumulate(
    forward: PolicyForward,
    groups: Sequence[Group],
    terms: Sequence[Term],
    temperature: float,
    microbatch_tokens: int,
) -> Accumulated:
    """Add the gradient of the terms over a mini-batch to the parameters' ``.grad``.

    Args:
        groups: Weighed groups of a mini-batch, the rejected draws included.
        temperature: Of the sampler. Ratios are taken at it, likelihoods at 1.
        microbatch_tokens: Most tokens (padding included) in one forward pass, where a single
            answer behind its prompt is not longer than that already.
    """
    counts = totals(groups)
    done = Accumulated(influence=[[0.0] * len(group.draws) for group in groups])
    scales = {id(group): [factors(group, term, counts) for term in terms] for group in groups}
    for number, group in enumerate(groups):
        for i in trained(group):
            done.influence[number][i] = len(group.draws[i].token_ids) * sum(
                abs(group.weights[i] * scale[i]) for scale in scales[id(group)]
            )
    for parts in _microbatches(groups, microbatch_tokens, forward.shares_prefix):
        loss = _loss(forward, parts, terms, scales, temperature, done)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        done.loss += float(loss.detach())
    return done


def _loss(
    forward: PolicyForward,
    parts: Sequence[_Part],
    terms: Sequence[Term],
    scales: dict[int, list[list[float]]],
    temperature: float,
    done: Accumulated,
) -> torch.Tensor:
    """The part of the mini-batch's loss that one micro-batch holds."""
    features, targets = forward.features([part.piece for part in parts])
    members = [(part.group, i) for part in parts for i in part.draws]
    lengths = torch.tensor([len(group.draws[i].token_ids) for group, i in members])

    def per_token(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(lengths).to(like)

    logp_at: dict[float, torch.Tensor] = {}
    total = torch.zeros((), device=targets.device)
    for number, term in enumerate(terms):
        at = temperature if term.loss.needs_old else 1.0
        if at not in logp_at:
            logp_at[at] = forward.logprobs(features, targets, at)
        logp = logp_at[at]
        recorded = [x for group, i in members for x in group.draws[i].logprobs]
        old = torch.tensor(recorded, dtype=torch.float64).to(logp)
        weight = per_token([group.weights[i] for group, i in members], logp)
        scale = per_token([scales[id(group)][number][i] for group, i in members], logp)
        total = total + (term.loss(logp, old, weight) * scale).sum()
        if term.loss.needs_old:
            _measure_ratio(term, logp.detach(), old, weight, done)
    done.draws += len(members)
    done.tokens += len(targets)
    done.prompt_tokens += sum(len(part.group.prompt_ids) for part in parts)
    return total


def _measure_ratio(
    term: Term, logp: torch.Tensor, old: torch.Tensor, weight: torch.Tensor, done: Accumulated
) -> None:
    log_ratio = logp - old
    ratio = log_ratio.exp()
    done.ratio_tokens += ratio.numel()
    done.ratio_sum += float(ratio.sum())
    done.ratio_max = max(done.ratio_max, float((ratio - 1).abs().max()))
    done.kl_sum += float((ratio - 1 - log_ratio).sum())
    if isinstance(term.loss, Clipped):
        done.clipped += int(term.loss.clips(logp, old, weight).sum())


def _microbatches(groups: Sequence[Group], limit: int, share: bool) -> list[list[_Part]]:
    """Whole groups together, rows of like length side by side, longer groups split.

    Where prompts cannot be shared, each answer is a row of its own.
    """
    parts = [part for group in groups for part in _split(group, limit if share else 0)]
    parts.sort(key=lambda part: -part.piece.tokens)
    batches: list[list[_Part]] = []
    for part in parts:
        if batches and (len(batches[-1]) + 1) * batches[-1][0].piece.tokens <= limit:
            batches[-1].append(part)
        else:
            batches.append([part])
    return batches


def _split(group: Group, limit: int) -> list[_Part]:
    parts: list[_Part] = []
    taken: list[int] = []
    used = len(group.prompt_ids)
    for i in trained(group):
        inner = len(group.draws[i].token_ids) - 1
        if taken and used + inner > limit:
            parts.append(_Part(group, tuple(taken)))
            taken, used = [], len(group.prompt_ids)
        taken.append(i)
        used += inner
    return [*parts, _Part(group, tuple(taken))] if taken else parts
