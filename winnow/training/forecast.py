"""What a run will need, before it is begun: steps, samples, disk and memory. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from winnow.config.phases import Phase
from winnow.config.reference import ema_decay
from winnow.config.schema import Config
from winnow.engines.base import PHASE, ModelSize
from winnow.storage.sizes import human

_ADAM = 8
"""Bytes of the optimizer's two averages of a parameter, float32."""
_FLOAT = 4
_PER_FILE = 12_000
"""Bytes of a file of samples without any: its columns and their footer."""
_PER_SAMPLE = 40
"""Bytes of what is short in a row: numbers, reason, answer."""
_PER_TOKEN = 16
"""Bytes of a sampled token: its id, log-prob and entropy, and four of text."""
_PER_PROMPT_TOKEN = 8
"""Bytes of a prompt's token: its id and four of text."""


@dataclass(frozen=True)
class Work:
    """What a run does.

    Attributes:
        steps, updates: Of all phases; updates are at most so many.
        samples: Completions that are sampled for training, refilling aside.
        evaluations: Of the held-out prompts; with early stopping at most so many.
        evaluated: Completions that are sampled for them, and for test prompts.
    """

    steps: int
    updates: int
    samples: int
    evaluations: int
    evaluated: int


@dataclass(frozen=True)
class Disk:
    """What a run folder holds when it is largest, in bytes.

    Attributes:
        checkpoint: One checkpoint: weights, optimizer, tokenizer.
        checkpoints: How many there are at a time, while the last is written.
        models: Beside them: a final model that was averaged or merged, a base for adapters.
        samples: All samples, if none ends before its limit.
    """

    checkpoint: int
    checkpoints: int
    models: int
    samples: int

    @property
    def total(self) -> int:
        return self.checkpoint * self.checkpoints + self.models + self.samples

    def __str__(self) -> str:
        parts = [f"{self.checkpoints} x {human(self.checkpoint)} of checkpoints"]
        if self.checkpoints == 1:
            parts = [f"1 checkpoint of {human(self.checkpoint)}"]
        parts += [f"{human(self.models)} of other models"] if self.models else []
        parts += [f"up to {human(self.samples)} of samples"] if self.samples else []
        return f"up to {human(self.total)} ({', '.join(parts)})"


@dataclass(frozen=True)
class Memory:
    """What a run holds in memory, in bytes, the activations of a pass aside.

    Attributes:
        weights: Of the policy, its adapters included.
        gradients: Of what is trained.
        optimizer: Adam's two averages, and a float32 copy of bfloat16 weights.
        copies: Of the policy's weights: the start, for KL, a reference or restarts; the sampler's.
        others: Further models: another reference, another to sample from, a critic with its own.
        cache: Keys and values of the completions in progress.
        aside: Of all, what waits in the host's memory where a GPU trains.
        passing: Of the other models, what is let go of before the first update.
    """

    weights: int
    gradients: int
    optimizer: int
    copies: int
    others: int
    cache: int
    aside: int = 0
    passing: int = 0

    @property
    def total(self) -> int:
        return (
            self.weights + self.gradients + self.optimizer + self.copies + self.others + self.cache
        )

    def least(self, *, gpu: bool) -> int:
        """What a run cannot do without where its model is, with no cache at all.

        Gradients and Adam's two averages take no room before the first update.
        """
        learning = self.gradients + 2 * self.gradients
        apart = min(self.passing, learning)
        return self.total - self.cache - apart - (self.aside if gpu else 0)


def work(config: Config, phases: Sequence[Phase], held_out: int, test: int) -> Work:
    """Steps, updates and samples of a run."""
    every, last = config.eval.every, phases[-1].last
    ends = {phase.last for phase in phases}
    due = {0, *ends, *(range(every, last + 1, every) if every else ())}
    final = bool(config.checkpoint.average or config.lora.merge) and not test
    evaluations = len(due) + final if held_out else 0
    tests = 2 if test else 0
    return Work(
        steps=last,
        updates=sum(phase.all_updates for phase in phases),
        samples=sum(phase.prompts * phase.config.samples_per_prompt for phase in phases),
        evaluations=evaluations,
        evaluated=config.eval.samples * (evaluations * held_out + tests * test),
    )


def checkpoint_bytes(size: ModelSize, config: Config, phase: Phase) -> int:
    """A checkpoint of a phase: weights, optimizer, critic, the reference if it moves, tokenizer."""
    adapters = config.lora.rank > 0
    weights = size.trained * _FLOAT if adapters else size.parameters * size.item
    found = weights + size.trained * (_ADAM + _master(size, config)) + size.tokenizer
    if phase.refers and ema_decay(phase.config.reference) is not None:
        found += size.trained * _FLOAT
    if "values" in phase.algorithm.needs:
        head = (size.hidden + 1) * (_FLOAT + _ADAM)
        found += head
        if phase.config.critic.trunk == "own":
            found += size.parameters * (size.item + _ADAM + _master(size, config))
    return found


def disk(
    size: ModelSize, config: Config, phases: Sequence[Phase], held_out: int, longest: int
) -> Disk:
    """What the run folder holds when it is largest.

    Args:
        held_out: Held-out and test prompts.
        longest: Tokens of the longest prompt.
    """
    saves = {phase.last for phase in phases}
    saves |= set(range(config.checkpoint.every, phases[-1].last + 1, config.checkpoint.every))
    first = bool(config.eval.patience)  # the start may be the best
    protected = bool(config.eval.patience) or any(
        phase.refers and phase.config.reference == PHASE for phase in phases[1:]
    )
    made = len(saves) + first
    whole = size.parameters * size.item
    final = bool(config.checkpoint.average or config.lora.merge)
    base = config.lora.rank > 0 and not size.found_by_name
    own = work(config, phases, held_out, 0)
    samples = sum(
        file_bytes(phase.config.steps, phase.prompts, phase.config, longest)
        for phase in phases
        if phase.prompts
    )
    most = config.eval.max_tokens or config.sampling.max_tokens
    prompts = own.evaluations * held_out
    samples += own.evaluations * _PER_FILE + prompts * _PER_PROMPT_TOKEN * longest
    samples += prompts * config.eval.samples * (_PER_SAMPLE + _PER_TOKEN * most)
    return Disk(
        checkpoint=max(checkpoint_bytes(size, config, phase) for phase in phases),
        checkpoints=min(made, config.checkpoint.keep + protected + 1),
        models=whole * (final + base),
        samples=samples,
    )


def memory(
    size: ModelSize,
    config: Config,
    phases: Sequence[Phase],
    *,
    longest: int,
    start: bool,
    others: int = 0,
) -> Memory:
    """What the run holds in memory at a time, in the phase that needs most; one process of it.

    Args:
        longest: Tokens of the longest prompt.
        start: Whether a copy of the starting weights is kept.
        others: Bytes of further models.
    """
    adapters = size.trained * _FLOAT if config.lora.rank else 0
    trunks = [
        size.parameters * (size.item + _FLOAT + _ADAM + _master(size, config))
        for phase in phases
        if "values" in phase.algorithm.needs and phase.config.critic.trunk == "own"
    ]
    own = size.trained * (_FLOAT if config.lora.rank else size.item)
    references = [_copy(phase, own, size.trained * _FLOAT) for phase in phases]
    if size.ranks:
        own = size.trained * _FLOAT
        references = [_copy(phase, own, own) for phase in phases]
        whole = Memory(
            weights=size.parameters * _FLOAT + adapters,
            gradients=size.trained * _FLOAT,
            optimizer=size.trained * _ADAM,
            copies=own * start + max(references),
            others=0,
            cache=0,
        )
        share = {name: -(-value // size.ranks) for name, value in vars(whole).items()}
        share["weights"] += size.parameters * size.item  # gathered, to sample and to save
        cache = max(_cache(size, config, phase, longest) for phase in phases)
        return Memory(**{**share, "others": others, "cache": cache})
    return Memory(
        weights=size.parameters * size.item + adapters,
        gradients=size.trained * _FLOAT,
        optimizer=size.trained * (_ADAM + _master(size, config)),
        copies=own * start + max(references) + _sampled_from(size, config),
        others=others + max(trunks, default=0),
        cache=max(_cache(size, config, phase, longest) for phase in phases),
    )


def _sampled_from(size: ModelSize, config: Config) -> int:
    """Bytes of the sampler's own copy."""
    item = {None: 0, "bfloat16": 2, "float32": _FLOAT, "auto": _FLOAT}[config.sampling.dtype]
    return size.parameters * item


def copy_bytes(size: ModelSize) -> int:
    """What one process holds of a model that is not trained."""
    if not size.ranks:
        return size.parameters * size.item
    return -(-size.parameters * _FLOAT // size.ranks)


def apart(held: Memory, size: ModelSize) -> int:
    """What of it is in the host's memory with `engine.cpu_offload`: all that is held in parts."""
    return held.total - held.cache - size.parameters * size.item


def _cache(size: ModelSize, config: Config, phase: Phase, longest: int) -> int:
    own = phase.config
    row = size.token_bytes * (longest + own.sampling.max_tokens)
    rows = min(config.sampling.batch, own.prompts_per_step * own.samples_per_prompt)
    return int(min(config.sampling.cache_gib * 2**30, rows * row)) if phase.prompts else 0


def _copy(phase: Phase, own: int, wide: int) -> int:
    """Bytes of a phase's reference that is the policy of another time, the start aside."""
    if not phase.refers:
        return 0
    if phase.config.reference == PHASE:
        return 0 if phase.begins_at_start else own
    return wide if ema_decay(phase.config.reference) is not None else 0


def _master(size: ModelSize, config: Config) -> int:
    """Bytes of a parameter's float32 copy, which the optimizer steps where weights are rounded."""
    return _FLOAT if size.item < _FLOAT and not config.lora.rank else 0


def file_bytes(files: int, prompts: int, config: Config, longest: int) -> int:
    """Bytes of files of samples that all have `sampling.max_tokens` tokens.

    Args:
        prompts: In all files, each with its samples.
        longest: Tokens of a prompt.
    """
    each = _PER_SAMPLE + _PER_TOKEN * config.sampling.max_tokens
    own = _PER_PROMPT_TOKEN * longest
    return files * _PER_FILE + prompts * (own + config.samples_per_prompt * each)
