"""Bytes of GPU memory, by rank and stage, and of a server. Pure.

Weights, gradients and optimizer are those of `training.forecast`; here is what passes take besides.
"""

from __future__ import annotations

from dataclasses import dataclass

from winnow.training.forecast import Memory
from winnow.training.scale.shapes import Shape
from winnow.training.scale.step import Step

_SLICE = 2**25
"""Logits that a GPU holds at a time, as `engines.models.chunked_logprobs` has it."""
_LEAST = 1024
"""Least tokens of the vocabulary in a slice."""
_LOGIT = 12
"""Bytes of a logit on its way back: in the passes' data type, in float32, its slope in both."""
_WIDE = 4


@dataclass(frozen=True)
class Passing:
    """What a forward and backward pass takes beside what is held all the time, in bytes.

    Attributes:
        gathered: Weights of other ranks: embeddings and head, and two blocks at a time.
        activations: Kept for the backward pass.
        again: Activations of the one block that is computed again; 0 without checkpointing.
        head: Logits of a slice of the vocabulary, and the gradient of the features.
        reduced: Gradients of a block and of what is around all, before they are summed.
    """

    gathered: int
    activations: int
    again: int
    head: int
    reduced: int

    @property
    def total(self) -> int:
        """At its worst: in the head, in a block, or when the last gradients are summed."""
        return self.gathered + max(self.activations + max(self.head, self.again), self.reduced)


@dataclass(frozen=True)
class Stages:
    """Bytes that a rank holds at a time, by stage.

    Attributes:
        held: Through all stages: its part of weights and optimizer, and of copies.
        gradients: Its part, from the first backward pass to the optimizer's step.
        passing: Of the update.
        sampling: With weights gathered, keys and values included; only held where servers sample.
        sending: Weights gathered whole, for servers or a checkpoint.
    """

    held: int
    gradients: int
    passing: Passing
    sampling: int
    sending: int

    @property
    def update(self) -> int:
        return self.held + self.gradients + self.passing.total

    @property
    def most(self) -> int:
        return max(self.update, self.sampling, self.sending)


def kept(shape: Shape, item: int) -> int:
    """Bytes of activations of a position in one block that are kept for the backward pass.

    Inputs and scales of the norms in float32, queries, keys, values, what attention gives, and two
    tensors of the gated MLP. The others are made of them again.

    Args:
        item: Bytes of a number in the passes.
    """
    norms = 2 * (_WIDE * shape.hidden + _WIDE)
    if shape.normed:
        norms += _WIDE * (shape.queries + shape.keys + shape.heads + shape.kv_heads)
    attention = item * 2 * (shape.queries + shape.keys) + _WIDE * shape.heads
    return norms + attention + item * 2 * shape.inner


def read(shape: Shape, item: int) -> int:
    """Bytes of activations of a position in one block that its backward pass reads.

    Those of `kept`, and what is made of them: what norms give before and after their weight, keys
    and values as a tree's attention reads them (held twice at most), a copy of what comes out for
    the projection, and two tensors more of the MLP.

    Args:
        item: Bytes of a number in the passes.
    """
    norms = 2 * ((_WIDE + 2 * item) * shape.hidden + _WIDE)
    if shape.normed:
        heads = shape.heads + shape.kv_heads
        norms += (_WIDE + item) * (shape.queries + shape.keys) + _WIDE * heads
    attention = item * (3 * shape.queries + 4 * shape.keys) + _WIDE * shape.heads
    return norms + attention + item * 4 * shape.inner


def passing(shape: Shape, step: Step, longest: int, item: int, *, recompute: bool) -> Passing:
    """What a pass over the largest micro-batch takes.

    Args:
        longest: Tokens of the longest path: a prompt and a completion.
        recompute: Whether blocks keep no activations.
    """
    positions, around = step.positions, shape.around
    each, whole = positions * kept(shape, item), positions * read(shape, item)
    # One for all layers; a block of queries reads its own path's keys and its ancestors'.
    mask = item * positions * min(positions, 2 * longest) * (shape.heads // shape.kv_heads + 1)
    inputs = positions * item * shape.hidden
    elements = max(_SLICE, _LEAST * positions)
    elements = min(elements, positions * shape.vocabulary)
    return Passing(
        gathered=item * (around + 2 * shape.block),
        activations=mask + shape.layers * (inputs if recompute else each),
        again=whole if recompute else whole - each,
        head=_LOGIT * elements + (item + _WIDE) * positions * shape.hidden,
        reduced=item * (around + shape.block) + _WIDE * around,
    )


def stages(
    memory: Memory, shape: Shape, step: Step, longest: int, *, item: int, recompute: bool
) -> Stages:
    """Of a rank of a sharded learner on a GPU.

    Args:
        memory: What `forecast.memory` says; its cache is 0 where servers sample.
    """
    whole = shape.parameters * item
    held = memory.total - memory.gradients - memory.cache - whole - memory.aside
    return Stages(
        held=held,
        gradients=memory.gradients,
        passing=passing(shape, step, longest, item, recompute=recompute),
        sampling=held + (memory.cache + whole if memory.cache else 0),
        sending=held + whole,
    )


@dataclass(frozen=True)
class Server:
    """A server's memory, in bytes, over all its GPUs.

    Attributes:
        weights: Of the model.
        cache: What is left for keys and values.
        sequences: Completions of the mean length, half made, that the cache has room for.
    """

    weights: int
    cache: int
    sequences: int


def server(shape: Shape, memory: float, item: int, context: float) -> Server:
    """What a server has for keys and values.

    Args:
        memory: That it may take, all its GPUs together.
        context: Tokens of a sequence in the middle of its completion.
    """
    weights = shape.parameters * item
    cache = max(0, int(memory) - weights)
    return Server(weights, cache, int(cache / (shape.cache(item) * context)))
