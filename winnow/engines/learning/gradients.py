"""The gradient of a mini-batch. Takes modules; every learner calls it on its rank.

A sample that no term runs over never reaches the model, and what no term reads is never computed.
Denominators are given, so neither micro-batches nor ranks change a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from winnow.algorithms.denominators import Totals
from winnow.algorithms.objective import Term, factors, learned_from
from winnow.algorithms.own import is_own, own_code
from winnow.algorithms.spec import show
from winnow.engines.learning.microbatches import ALONE, Part, Rank, turns
from winnow.engines.learning.optimizer import side_by_side
from winnow.engines.models.critic import LocalCritic
from winnow.engines.models.distributions import Frozen, divergences, entropies
from winnow.engines.models.forward import Contexts, Piece, PolicyForward
from winnow.errors import OwnCodeError, number_of
from winnow.types import Group, Sums


@dataclass(frozen=True)
class Models:
    """The models that terms read.

    Attributes:
        forward: The policy.
        critic: For terms that read values.
        reference: The reference's whole distributions over some pieces, for terms that read `kl`.
        stepped: What the optimizer steps, its gradients to be moved into one block between
            micro-batches; empty: they stay where they are made.
    """

    forward: PolicyForward
    critic: LocalCritic | None = None
    reference: Callable[[Sequence[Piece]], Frozen] | None = None
    stepped: Sequence[Tensor] = ()


def accumulate(
    models: Models,
    groups: Sequence[Group],
    terms: Sequence[Term],
    totals: Totals,
    temperature: float,
    microbatch_tokens: int,
    version: int | None = None,
    rank: Rank = ALONE,
) -> Sums:
    """Add the gradient of the terms over a mini-batch to the parameters' ``.grad``.

    Args:
        groups: Groups of a mini-batch, with advantages, the rejected samples included.
        totals: Counts of the whole mini-batch, of which the groups may be a part.
        temperature: Of the sampler. Ratios are taken at it, likelihoods at 1.
        microbatch_tokens: See `microbatches.cut`.
        version: Of the policy: its own samples are compared with their sampler's log-probs.
        rank: Which part of the groups is this process's own. All are given the same groups; what
            is returned is of its own alone, `influence` aside.
    """
    scales = [[factors(group, term, totals) for term in terms] for group in groups]
    done = Sums(
        influence=[
            _influence(group, scale, terms) for group, scale in zip(groups, scales, strict=True)
        ]
    )
    batches, idle = turns(
        groups,
        [learned_from(group, terms) for group in groups],
        microbatch_tokens,
        rank,
        share=models.forward.shares_prefix,
        whole=any(term.span == "group" for term in terms),
    )
    for number, parts in enumerate(batches):
        if number == 1:
            side_by_side(models.stepped)
        seen = _Seen(models, parts, temperature)
        loss = _loss(seen, terms, scales, done)
        if version is not None:
            _measure_gap(seen, version, done)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        done.loss += float(loss.detach())
    for parts in idle:
        loss = _loss(_Seen(models, parts, temperature), terms, scales, Sums())
        if loss.requires_grad:
            torch.autograd.backward(loss * 0)
    return done


def together(parts: Sequence[Sums]) -> Sums:
    """The sums of a mini-batch, of those of each rank."""
    done = Sums(influence=parts[0].influence)
    for part in parts:
        done.loss += part.loss
        done.samples += part.samples
        done.tokens += part.tokens
        done.positions += part.positions
        done.clipped += part.clipped
        done.ratio_tokens += part.ratio_tokens
        done.ratio_sum += part.ratio_sum
        done.ratio_max = max(done.ratio_max, part.ratio_max)
        done.kl_sum += part.kl_sum
        done.token_ratios += part.token_ratios
        done.log_weights += part.log_weights
        done.gap_sum += part.gap_sum
        done.gap_tokens += part.gap_tokens
        done.gap_kl_sum += part.gap_kl_sum
        done.gap_tv_sum += part.gap_tv_sum
        for name, (value, count) in part.measures.items():
            before = done.measures.get(name, (0.0, 0))
            done.measures[name] = (before[0] + value, before[1] + count)
    return done


def _influence(group: Group, scales: list[list[float]], terms: Sequence[Term]) -> list[float]:
    """For each sample |coefficient x advantage|, summed over tokens and terms about rewards."""
    found = [0.0] * len(group.samples)
    for term, scale in zip(terms, scales, strict=True):
        if "advantage" in term.reads:
            for i in term.covers(group):
                advantage = sum(map(abs, group.token_advantages(i)))
                if term.span != "token":
                    advantage /= len(group.samples[i].token_ids)
                found[i] += abs(scale[i]) * advantage
    return found


class _Seen:
    """What terms read of one micro-batch, each made when it is first asked for."""

    def __init__(self, models: Models, parts: Sequence[Part], temperature: float) -> None:
        self.parts = parts
        self.members = [(part, i) for part in parts for i in part.samples]
        self.lengths = torch.tensor([n for part in parts for n in part.lengths])
        self._models, self._temperature = models, temperature
        self._pieces = [part.piece for part in parts]
        self._made: dict[tuple[str, float], Tensor] = {}
        self._at: Contexts | None = None
        self._frozen: Frozen | None = None

    def freeze(self) -> None:
        """Read the reference; before the policy, whose module it may borrow."""
        assert self._models.reference is not None
        self._frozen = self._models.reference(self._pieces)

    def __call__(self, name: str, term: Term) -> Tensor:
        heat = self._temperature if term.tempered else 1.0
        if (name, heat) not in self._made:
            self._made[name, heat] = self._make(name, heat)
        return self._made[name, heat]

    @property
    def positions(self) -> int:
        return self._at.positions if self._at is not None else 0

    def sampled(self) -> Tensor | None:
        """log pi of each token at the temperature of recorded log-probs, if a term has read it."""
        return self._made.get(("logp", self._temperature or 1.0))

    def per_token(self, values: Sequence[float]) -> Tensor:
        """A number for each sample, repeated for each of its tokens."""
        return self._tensor(values).repeat_interleave(self.lengths.to(self._device))

    def per_sample(self, values: Sequence[float]) -> Tensor:
        return self._tensor(values)

    def _contexts(self) -> Contexts:
        if self._at is None:
            self._at = self._models.forward.contexts(self._pieces)
        return self._at

    def _make(self, name: str, heat: float) -> Tensor:
        forward = self._models.forward
        if name == "logp":
            return forward.logprobs(self._contexts(), heat)
        if name == "entropy":
            return entropies(forward, self._contexts(), heat)
        if name == "kl":
            assert self._frozen is not None
            return divergences(forward, self._contexts(), self._frozen, heat)
        if name == "value":
            assert self._models.critic is not None
            return self._models.critic.values(self._contexts, self._pieces)
        if name == "sample":
            return torch.arange(len(self.members)).repeat_interleave(self.lengths).to(self._device)
        if name == "group":
            numbers = [place for place, part in enumerate(self.parts) for _ in part.samples]
            return torch.tensor(numbers, device=self._device)
        return self._tensor([x for part, i in self.members for x in _recorded(name, part, i)])

    def _tensor(self, values: Sequence[float]) -> Tensor:
        wide = torch.promote_types(self._models.forward.dtype, torch.float32)
        return torch.tensor(values, dtype=torch.float64).to(self._device, wide)

    @property
    def _device(self) -> torch.device:
        return self._models.forward.device


def _recorded(name: str, part: Part, number: int) -> Sequence[float]:
    """An annotation of each token of a sample, made before; zeros where it has none."""
    group, sample = part.group, part.group.samples[number]
    annotations = group.annotation(number)
    given = {
        "old": sample.logprobs,
        "advantage": group.token_advantages(number),
        "ref": annotations.ref_logprobs,
        "old_value": annotations.values,
        "returns": annotations.returns,
    }[name]
    return given or (0.0,) * len(sample.token_ids)


def _loss(
    seen: _Seen, terms: Sequence[Term], scales: list[list[list[float]]], done: Sums
) -> Tensor:
    """The part of the mini-batch's loss that one micro-batch holds."""
    if any("kl" in term.reads for term in terms):
        seen.freeze()
    losses = []
    for number, term in enumerate(terms):
        given = [seen(name, term) for name in term.reads]
        with own_code(term.loss, "loss"):
            values = term.loss(*given)
        scale = [scales[part.place][number][i] for part, i in seen.members]
        if term.span == "group":
            scale = [max(scales[p.place][number][i] for i in p.samples) for p in seen.parts]
        factor = seen.per_token(scale) if term.span == "token" else seen.per_sample(scale)
        _check(term, values, factor)
        if is_own(term.loss):
            _check_gradient(term, values, given)
        losses.append((values * factor.to(values)).sum())
        with own_code(term.loss, "loss"):
            measured = term.loss.measure(*given)
        _measure(measured, factor != 0, done)
        if term.loss.needs_old and "advantage" in term.reads:
            _measure_ratio(seen, term, done)
    done.samples += len(seen.members)
    done.tokens += int(seen.lengths.sum())
    done.positions += seen.positions
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss.to(total)
    return total


def _check(term: Term, values: object, factor: Tensor) -> None:
    """Raise an `OwnCodeError` if a loss gave anything but a number for each of its span."""
    shape = tuple(values.shape) if isinstance(values, Tensor) else None
    if shape != tuple(factor.shape):
        said = f"{values!r:.60}" if shape is None else f"a tensor of shape {shape}"
        problem = f"the loss returned {said} for {number_of(len(factor), term.span)}"
        raise OwnCodeError(show(term.loss), problem, f"return one number for each {term.span}")


def _check_gradient(term: Term, values: Tensor, given: Sequence[Tensor]) -> None:
    """Raise an `OwnCodeError` if a user's loss other than 0 was cut off from what is learned."""
    if not values.requires_grad and any(one.requires_grad for one in given) and values.any():
        problem = "the loss returned numbers without a gradient, from which nothing is learned"
        raise OwnCodeError(show(term.loss), problem, "compute them from its tensors, undetached")


def _measure(values: Mapping[str, Tensor], covered: Tensor, done: Sums) -> None:
    for name, value in values.items():
        sum_, count = done.measures.get(name, (0.0, 0))
        found = value.detach()[covered]
        done.measures[name] = (sum_ + float(found.double().sum()), count + found.numel())


def _measure_ratio(seen: _Seen, term: Term, done: Sums) -> None:
    """How far the policy has moved from the one that sampled, where an advantage is not 0."""
    # On the CPU: a GPU would be waited for once a sample.
    given = {name: seen(name, term).detach().cpu() for name in term.reads}
    has = [part.group.has_advantage(i) for part, i in seen.members]
    here = torch.tensor(has).repeat_interleave(seen.lengths)
    log_ratios = given["logp"] - given["old"]
    samples = torch.split(log_ratios.double(), seen.lengths.tolist())
    done.log_weights += [
        float(own.sum()) for own, counts in zip(samples, has, strict=True) if counts
    ]
    log_ratio = log_ratios[here]
    ratio = log_ratio.exp()
    done.token_ratios += ratio.tolist()
    done.ratio_tokens += ratio.numel()
    done.ratio_sum += float(ratio.sum())
    if len(ratio):
        done.ratio_max = max(done.ratio_max, float((ratio - 1).abs().max()))
    exact = log_ratio.double()  # near 0 a float32 leaves nothing of it but rounding
    done.kl_sum += float((exact.expm1() - exact).sum())
    with own_code(term.loss, "loss"):
        clipped = term.loss.clips(*given.values())
    if clipped is not None:
        done.clipped += int(clipped[here].sum())


def _measure_gap(seen: _Seen, version: int, done: Sums) -> None:
    """How far the policy's log-probs are from its sampler's, over samples of this very version."""
    logp = seen.sampled()
    samples = [part.group.samples[i] for part, i in seen.members]
    own = [
        bool(one.logprobs) and one.policy_version == version and not one.version_spans
        for one in samples
    ]
    if logp is None or not any(own):
        return
    rows = torch.split(logp.detach().cpu().double(), seen.lengths.tolist())
    for row, sample, counts in zip(rows, samples, own, strict=True):
        if counts:
            recorded = torch.tensor(sample.logprobs, dtype=torch.float64)
            log_ratio = row - recorded
            off = log_ratio.expm1()
            done.gap_sum += float(log_ratio.abs().sum())
            done.gap_tokens += len(row)
            done.gap_kl_sum += float((off - log_ratio).sum())
            done.gap_tv_sum += float(off.abs().sum()) / 2
