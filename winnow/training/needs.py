"""What a run needs of memory and disk, by its settings and the size of its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from winnow.config.phases import Phase
from winnow.config.reference import names_model
from winnow.config.schema import Config
from winnow.config.schema.lora import LoraConfig
from winnow.engines.base import START, ModelSize
from winnow.engines.factory import engine_for
from winnow.prompts.loading import PromptSet
from winnow.rollouts.generate import evaluation_params
from winnow.training.forecast import Disk, Memory, apart, copy_bytes, disk, memory
from winnow.training.phase_runner import needs_start


@dataclass(frozen=True)
class Needs:
    """What a run holds at most."""

    memory: Memory
    disk: Disk


def needs(
    size: ModelSize, config: Config, phases: Sequence[Phase], prompts: PromptSet, longest: int
) -> Needs:
    """What a run holds at most; no weights are read for it.

    Args:
        longest: Tokens of the longest prompt.
    """
    measured = evaluation_params(config)
    kl = bool(prompts.held_out) and config.eval.kl_prompts > 0
    kl = kl and not measured.truncated and not measured.greedy and not config.lora.rank
    start = needs_start(config, phases)
    passing = _bytes(config, "samples_from", config.samples_from) if config.samples_from else 0
    others = passing + _references(config, phases)
    held = memory(size, config, phases, longest=longest, start=start or kl, others=others)
    aside = copy_bytes(size) if kl and not start else 0
    if config.engine.cpu_offload:
        aside, passing = apart(held, size), 0
    held_out = len(prompts.held_out) + len(prompts.test)
    return Needs(
        replace(held, aside=aside, passing=passing), disk(size, config, phases, held_out, longest)
    )


def _references(config: Config, phases: Sequence[Phase]) -> int:
    """Bytes of other models that are references."""
    names = {
        phase.config.reference
        for phase in phases
        if phase.refers and phase.config.reference != START and names_model(phase.config.reference)
    }
    return sum(_bytes(config, "reference", name) for name in names)


def _bytes(config: Config, field: str, name: str) -> int:
    """What one process holds of another model's weights, as a setting names it."""
    other = config.model_copy(update={"model": name, "lora": LoraConfig()})
    return copy_bytes(engine_for(other, field=field).size())
