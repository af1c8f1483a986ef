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
from winnow.tree import added
from winnow.types import Group


@dataclass
class Accumulated:
    """Sums over the micro-batches of one mini-batch."""

    loss: float = 0.0
    draws: int = 0
    tokens: int = 0
    positions: int = 0
    clipped: int = 0
    ratio_tokens: int = 0
    ratio_sum: float = 0.0
    ratio_max: float = 0.0
    kl_sum: float = 0.0
    token_ratios: list[float] = field(default_factory=list)
    log_weights: list[float] = field(default_factory=list)
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
        microbatch_tokens: Most tokens that go through the model at a time (a shared beginning
            counted once, padding counted), where a single answer behind its prompt is not longer
            than that already.
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


@torch.no_grad()
def sequence_logprobs(
    forward: PolicyForward, groups: Sequence[Group], temperature: float, microbatch_tokens: int
) -> list[list[float]]:
    """log pi of every whole answer at a temperature, nats: for each group, for each of its draws.

    Args:
        microbatch_tokens: As for `accumulate`.
    """
    every = [group.with_(weights=(1.0,) * len(group.draws)) for group in groups]
    numbers = {id(group): number for number, group in enumerate(every)}
    found = [[0.0] * len(group.draws) for group in groups]
    for parts in _microbatches(every, microbatch_tokens, forward.shares_prefix):
        at = forward.contexts([part.piece for part in parts])
        members = [(numbers[id(part.group)], i) for part in parts for i in part.draws]
        lengths = [len(groups[number].draws[i].token_ids) for number, i in members]
        logp = forward.logprobs(at, temperature).double()
        for (number, i), answer in zip(members, torch.split(logp, lengths), strict=True):
            found[number][i] = float(answer.sum())
    return found


def _loss(
    forward: PolicyForward,
    parts: Sequence[_Part],
    terms: Sequence[Term],
    scales: dict[int, list[list[float]]],
    temperature: float,
    done: Accumulated,
) -> torch.Tensor:
    """The part of the mini-batch's loss that one micro-batch holds."""
    at = forward.contexts([part.piece for part in parts])
    members = [(part.group, i) for part in parts for i in part.draws]
    lengths = torch.tensor([len(group.draws[i].token_ids) for group, i in members])

    def per_token(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(lengths).to(like)

    logp_at: dict[float, torch.Tensor] = {}
    total = torch.zeros((), device=at.targets.device)
    for number, term in enumerate(terms):
        heat = temperature if term.loss.needs_old else 1.0
        if heat not in logp_at:
            logp_at[heat] = forward.logprobs(at, heat)
        logp = logp_at[heat]
        recorded = [x for group, i in members for x in group.draws[i].logprobs]
        old = torch.tensor(recorded, dtype=torch.float64).to(logp)
        weight = per_token([group.weights[i] for group, i in members], logp)
        scale = per_token([scales[id(group)][number][i] for group, i in members], logp)
        total = total + (term.loss(logp, old, weight) * scale).sum()
        if term.loss.needs_old:
            _measure_ratio(term, logp.detach(), old, weight, lengths, done)
    done.draws += len(members)
    done.tokens += len(at.targets)
    done.positions += at.positions
    return total


def _measure_ratio(
    term: Term,
    logp: torch.Tensor,
    old: torch.Tensor,
    weight: torch.Tensor,
    lengths: torch.Tensor,
    done: Accumulated,
) -> None:
    log_ratio = logp - old
    ratio = log_ratio.exp()
    done.token_ratios += ratio.tolist()
    answers = torch.split(log_ratio.double(), lengths.tolist())
    done.log_weights += [float(answer.sum()) for answer in answers]
    done.ratio_tokens += ratio.numel()
    done.ratio_sum += float(ratio.sum())
    done.ratio_max = max(done.ratio_max, float((ratio - 1).abs().max()))
    done.kl_sum += float((ratio - 1 - log_ratio).sum())
    if isinstance(term.loss, Clipped):
        done.clipped += int(term.loss.clips(logp, old, weight).sum())


def _microbatches(groups: Sequence[Group], limit: int, share: bool) -> list[list[_Part]]:
    return _trees(groups, limit) if share else _rows(groups, limit)


def _trees(groups: Sequence[Group], limit: int) -> list[list[_Part]]:
    """Whole groups together, those whose prompts begin alike side by side, longer groups split.

    Micro-batches are about equally long: no last one is too small for a good matrix product.
    """
    ordered = sorted((g for g in groups if trained(g)), key=lambda group: group.prompt_ids)
    parts = [part for group in ordered for part in _split(group, limit)]
    whole = added((), [ids for part in parts for ids in part.piece.inputs])
    enough = whole / max(1, -(-whole // limit))
    batches: list[list[_Part]] = []
    used = 0
    before: tuple[int, ...] = ()
    for part in parts:
        inputs = part.piece.inputs
        extra = added(before, inputs)
        if not batches or used >= enough or used + extra > limit:
            batches.append([])
            used, extra = 0, added((), inputs)
        batches[-1].append(part)
        used, before = used + extra, max(inputs)
    return batches


def _split(group: Group, limit: int) -> list[_Part]:
    """The whole group where it is short enough, else draws of like beginnings together."""
    inputs = {i: (*group.prompt_ids, *group.draws[i].token_ids[:-1]) for i in trained(group)}
    parts: list[_Part] = []
    taken: list[int] = []
    used = 0
    for i in sorted(inputs, key=lambda i: inputs[i]):
        extra = added(inputs[taken[-1]] if taken else (), [inputs[i]])
        if taken and used + extra > limit:
            parts.append(_Part(group, tuple(sorted(taken))))
            taken, used, extra = [], 0, len(inputs[i])
        taken.append(i)
        used += extra
    return [*parts, _Part(group, tuple(sorted(taken)))]


def _rows(groups: Sequence[Group], limit: int) -> list[list[_Part]]:
    """Each answer in a row of its own, rows of like length side by side."""
    parts = [_Part(group, (i,)) for group in groups for i in trained(group)]
    lengths = {id(part): len(part.piece.inputs[0]) for part in parts}
    parts.sort(key=lambda part: -lengths[id(part)])
    batches: list[list[_Part]] = []
    for part in parts:
        if batches and (len(batches[-1]) + 1) * lengths[id(batches[-1][0])] <= limit:
            batches[-1].append(part)
        else:
            batches.append([part])
    return batches
