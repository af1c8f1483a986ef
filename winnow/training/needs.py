"""What a run needs of memory and disk, by its settings and the size of its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from winnow.config.phases import Phase
from winnow.config.reference import names_model
from winnow.config.schema import Config
from winnow.config.schema.lora import LoraConfig
from winnow.engines.base import START, ModelSize
from winnow.engines.factory import engine_for
from winnow.prompts.loading import PromptSet
from winnow.rollouts.generate import evaluation_params
from winnow.training.forecast import Disk, Memory, disk, memory
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
    start, others = needs_start(config, phases) or kl, _others(config, phases)
    held_out = len(prompts.held_out) + len(prompts.test)
    return Needs(
        memory(size, config, phases, longest=longest, start=start, others=others),
        disk(size, config, phases, held_out, longest),
    )


def _others(config: Config, phases: Sequence[Phase]) -> int:
    """Bytes of models that are held beside the policy: a reference, one that is sampled from."""
    names = {("samples_from", config.samples_from)} if config.samples_from else set()
    for phase in phases:
        reference = phase.config.reference
        if phase.refers and reference != START and names_model(reference):
            names.add(("reference", reference))
    found = 0
    for field, name in names:
        other = config.model_copy(update={"model": name, "lora": LoraConfig()})
        size = engine_for(other, field=field).size()
        found += size.parameters * size.item
    return found
