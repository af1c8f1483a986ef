"""Seconds of a step by the roofline: a stage takes what its slowest resource takes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from winnow.training.scale.devices import ASSUMED, PER_HOST, Device, Efficiency
from winnow.training.scale.shapes import Shape
from winnow.training.scale.step import Lengths, Spread, Step

_FLOAT = 4


@dataclass(frozen=True)
class Sampling:
    """Seconds that a step's samples take.

    Attributes:
        prefill: Prompts, read once by each sampler that has one of their samples.
        decode: All tokens, one step of a server after another.
        steps: Decode steps; at least the longest completion has.
        batch: Completions under way at a time in one server, on average.
        weights: Share of the decode steps' bytes that are weights: the rest is keys and values.
        floor: Seconds that the longest completion takes with a server to itself.
    """

    prefill: float
    decode: float
    steps: float
    batch: float
    weights: float
    floor: float

    @property
    def total(self) -> float:
        return self.prefill + self.decode


@dataclass(frozen=True)
class Update:
    """Seconds of all updates of a step.

    Attributes:
        compute: Forward and backward passes.
        network: Weights to and gradients from other ranks.
        micro: Micro-batches of an update.
    """

    compute: float
    network: float
    micro: int

    @property
    def total(self) -> float:
        """The two overlap."""
        return max(self.compute, self.network)


def sampling(
    shape: Shape,
    device: Device,
    step: Step,
    lengths: Lengths,
    spread: Spread,
    *,
    slots: int,
    item: int,
    assumed: Efficiency = ASSUMED,
) -> Sampling:
    """Seconds of a step's samples.

    A server has its share of the samples under way, as many as `slots` at a time. It is done no
    sooner than its longest completion.

    Args:
        slots: Most completions under way in one server.
        item: Bytes of a number.
    """
    share = step.samples / spread.samplers
    under_way = max(1.0, min(share, slots))
    steps = max(share * lengths.completion / under_way, lengths.most)
    batch = share * lengths.completion / steps
    context = lengths.prompt + lengths.completion / 2
    weights = float(shape.parameters * item)
    bandwidth = device.bandwidth * spread.each * assumed.decode
    compute = device.flops * spread.each * assumed.prefill

    def seconds(rows: float) -> float:
        read = weights + rows * context * shape.cache(item)
        return max(read / bandwidth, shape.forward_flops(rows, rows * context, rows) / compute)

    prompts = min(share, step.prompts)
    pairs = prompts * lengths.prompt**2 / 2
    prefill = shape.forward_flops(prompts * lengths.prompt, pairs, prompts) / compute
    read = weights + batch * context * shape.cache(item)
    return Sampling(
        prefill=prefill,
        decode=steps * seconds(batch),
        steps=steps,
        batch=batch,
        weights=weights / read,
        floor=lengths.most * seconds(1.0),
    )


def update_flops(
    shape: Shape, positions: float, predicted: float, longest: float, *, recompute: bool
) -> float:
    """FLOPs of an update of one rank: forward, twice that backward, and what is computed again.

    The head is always computed again (`engines.models.chunked_logprobs`), blocks with
    checkpointing. Attention reads the keys of whole blocks of queries: two paths at most.
    """
    pairs = positions * min(positions, 2 * longest)
    blocks = shape.forward_flops(positions, pairs, 0)
    return (4 if recompute else 3) * blocks + 4 * shape.forward_flops(0, 0, predicted)


def wire(device: Device, ranks: int) -> float:
    """Bytes a second that a rank receives of a collective over all ranks, at best."""
    return device.link if ranks <= PER_HOST else min(device.link, device.network)


def exchanged(shape: Shape, item: int, ranks: int) -> float:
    """Bytes that a rank receives in a micro-batch: weights forward and backward, gradients."""
    return shape.parameters * (2 * item + _FLOAT) * (1 - 1 / ranks)


def updates(
    shape: Shape,
    device: Device,
    step: Step,
    lengths: Lengths,
    ranks: int,
    *,
    item: int,
    recompute: bool,
    assumed: Efficiency = ASSUMED,
) -> Update:
    """Seconds of a step's updates, on the rank that has most to do."""
    share = lengths.completion / (
        lengths.prompt / (step.samples / step.prompts) + lengths.completion
    )
    longest = lengths.prompt + lengths.completion
    flops = update_flops(shape, step.busiest, step.busiest * share, longest, recompute=recompute)
    moved = step.microbatches * exchanged(shape, item, ranks)
    return Update(
        compute=step.updates * flops / (device.flops * assumed.update),
        network=step.updates * moved / (wire(device, ranks) * assumed.network),
        micro=step.microbatches,
    )
