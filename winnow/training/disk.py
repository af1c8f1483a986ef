"""What a run will take on the disk, from its phases and the size of its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from winnow.config.phases import Phase
from winnow.config.reference import ema_decay
from winnow.engines.base import PHASE
from winnow.prompts.loading import PromptSet
from winnow.storage.sizes import (
    BYTES,
    Estimate,
    ModelSize,
    most_checkpoints,
    optimizer_bytes,
    samples_bytes,
    weights_bytes,
)


def disk_estimate(phases: Sequence[Phase], prompts: PromptSet, size: ModelSize) -> Estimate:
    """The most that a run takes on the disk, its phases one after another.

    Args:
        phases: All of them, in order.
        size: Of the model that is trained.
    """
    config = phases[0].config
    whole = weights_bytes(replace(size, adapters=False), config.dtype)
    own = whole if config.lora.merge else weights_bytes(size, config.dtype)
    final = config.checkpoint.average > 0 or config.lora.merge
    others = own * final + whole * size.copies_base
    every, last = config.checkpoint.every, phases[-1].last
    saved = [*range(every, last + 1, every), last]
    begun = any(phase.refers and phase.config.reference == PHASE for phase in phases[1:])
    stopping = config.eval.patience > 0
    return Estimate(
        checkpoint=max(_checkpoint(phase, size) for phase in phases),
        checkpoints=most_checkpoints(
            [*saved, 0] if stopping else saved, config.checkpoint.keep, stopping + begun
        ),
        others=others,
        samples=sum(map(_samples, phases)) + _evaluated(phases, prompts),
    )


def _checkpoint(phase: Phase, size: ModelSize) -> int:
    """Bytes of a checkpoint of a phase."""
    config = phase.config
    own_trunk = "values" in phase.algorithm.needs and config.critic.trunk == "own"
    critic = size.parameters if own_trunk else 0
    averaged = phase.refers and ema_decay(config.reference) is not None
    state = optimizer_bytes(
        size, config.dtype, critic=critic, critic_dtype=config.dtype, ema=averaged
    )
    weights = weights_bytes(size, config.dtype) + BYTES[config.dtype] * critic
    return weights + state


def _samples(phase: Phase) -> int:
    """Bytes of the samples of a phase, refilling aside."""
    config = phase.config
    return samples_bytes(phase.prompts * config.samples_per_prompt, config.sampling.max_tokens)


def _evaluated(phases: Sequence[Phase], prompts: PromptSet) -> int:
    """Bytes of the samples of all evaluations."""
    config, last = phases[0].config, phases[-1].last
    number = 2 + ((last - 1) // config.eval.every if config.eval.every else 0)
    samples = (number * len(prompts.held_out) + 2 * len(prompts.test)) * config.eval.samples
    return samples_bytes(samples, config.sampling.max_tokens)
