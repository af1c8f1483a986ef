"""A recipe over many GPUs: what fits, what takes how long, and what waits for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from winnow.config.phases import Phase, naming, phases_of
from winnow.config.reference import names_model
from winnow.config.schema import Config
from winnow.config.unread import unread
from winnow.config.validation import refuse
from winnow.engines.base import PHASE, START
from winnow.errors import UserError
from winnow.prompts.loading import PromptSet
from winnow.storage.sizes import human
from winnow.training.file_source import open_file
from winnow.training.forecast import Disk, checkpoint_bytes, file_bytes
from winnow.training.needs import needs
from winnow.training.scale.devices import ASSUMED, Device, device_named
from winnow.training.scale.held import Server, Stages, server, stages
from winnow.training.scale.shapes import ITEM, Shape, shape_of
from winnow.training.scale.step import Lengths, Spread, Step, spread_of, step_of
from winnow.training.scale.times import Sampling, Update, sampling, updates
from winnow.training.scale.traffic import Traffic, traffic
from winnow.types import Prompt

_DAY = 86400.0
PROMPT_TOKENS = 256
"""Of a prompt, where nothing else is said."""


@dataclass(frozen=True)
class Asked:
    """What a recipe does not say.

    Attributes:
        device: Name of a GPU.
        ranks: Processes that learn.
        prompt: Tokens of a prompt, on average.
        completion: Tokens of a completion, on average; ``None``: all have the most.
    """

    device: str
    ranks: int = 1
    prompt: int = PROMPT_TOKENS
    completion: int | None = None


@dataclass(frozen=True)
class Daily:
    """Bytes that a day writes.

    Attributes:
        samples: Kept, all of them.
        checkpoints: Written; as many as `checkpoint.keep` says are kept.
    """

    samples: float
    checkpoints: float


@dataclass(frozen=True)
class PhaseForecast:
    """One phase.

    Attributes:
        name: Empty where there is only one.
        server: What a server holds; ``None`` where the ranks sample.
        slots: Most completions under way in a sampler.
        notes: What does not fit, in sentences.
    """

    name: str
    lengths: Lengths
    step: Step
    stages: Stages
    server: Server | None
    slots: int
    sampling: Sampling
    update: Update
    traffic: Traffic
    daily: Daily
    notes: tuple[str, ...]

    @property
    def waits(self) -> dict[str, float]:
        """Seconds of a step, stage by stage; answers are read while servers sample."""
        return {
            "sampling": max(self.sampling.total, self.traffic.reading),
            "updates": self.update.total,
            "weights to servers": self.traffic.writing,
        }

    @property
    def seconds(self) -> float:
        """Of a step, evaluations and rewards aside."""
        return sum(self.waits.values())

    @property
    def bound(self) -> str:
        """What most of the time is spent on, in words."""
        stage = max(self.waits, key=lambda name: self.waits[name])
        if stage == "sampling":
            if self.traffic.reading > self.sampling.total:
                return "rank 0 reads answers"
            if self.sampling.steps <= self.lengths.most and self.sampling.weights > 0.5:
                return "the longest completion"
            return "decoding"
        if stage == "updates":
            return "network" if self.update.network > self.update.compute else "updates"
        return stage


@dataclass(frozen=True)
class ScaleForecast:
    """A run over many GPUs, calculated."""

    model: str
    shape: Shape
    device: str
    gpu: Device
    spread: Spread
    disk: Disk
    phases: tuple[PhaseForecast, ...]


def forecast(config: Config, asked: Asked) -> ScaleForecast:
    """Check a recipe and calculate what it takes. No model, prompt or GPU is looked for.

    Raises:
        UserError: a setting that a run would refuse, or that this cannot calculate.
    """
    gpu, shape = device_named(asked.device), shape_of(config.model)
    phases = phases_of(config, None, open_file)
    _check(config, phases, asked)
    spread = spread_of(config, asked.ranks)
    made = [_phase(phase, shape, gpu, spread, asked) for phase in phases]
    size = shape.size(config.dtype, config.lora, asked.ranks)
    kept = needs(size, config, phases, _prompts(config), asked.prompt).disk
    return ScaleForecast(config.model, shape, asked.device, gpu, spread, kept, tuple(made))


def _check(config: Config, phases: Sequence[Phase], asked: Asked) -> None:
    own = config.engine
    if own.learner != "fsdp":
        raise UserError("engine.learner", "only 'fsdp' is calculated for GPUs", "set it")
    for name, dtype in (("dtype", config.dtype), ("engine.vllm_dtype", own.vllm_dtype)):
        if dtype == "float32":
            problem = "'float32' cannot be calculated: a device's FLOP/s are those of bfloat16"
            raise UserError(name, problem, "use 'bfloat16'")
    if config.samples_from is not None:
        raise UserError("samples_from", "a second model cannot be calculated", "leave it out")
    for phase in phases:
        with naming(phase.name):
            refuse(unread(phase.config, training=True))
            what = phase.config.reference
            if phase.refers and names_model(what) and what not in (START, PHASE):
                problem = f"a second model ({what!r}) cannot be calculated"
                raise UserError("reference", problem, "leave it out")
            if phase.config.critic.trunk == "own" and "values" in phase.algorithm.needs:
                raise UserError("critic.trunk", "'own' cannot be sharded", "use 'shared'")
            most = phase.config.sampling.max_tokens
            if asked.completion is not None and asked.completion > most:
                problem = f"must be at most sampling.max_tokens = {most} (got {asked.completion})"
                raise UserError("--completion-tokens", problem)


def _prompts(config: Config) -> PromptSet:
    """As many as would be held out, without any text."""
    held, test = config.eval.sizes(10**9)
    empty = Prompt("", "")
    return PromptSet((empty,), (empty,) * held, (empty,) * test)


def _phase(phase: Phase, shape: Shape, gpu: Device, spread: Spread, asked: Asked) -> PhaseForecast:
    config, item = phase.config, ITEM[phase.config.dtype]
    most = config.sampling.max_tokens
    lengths = Lengths(asked.prompt, asked.completion or most, most)
    step = step_of(phase, lengths, spread.ranks)
    size = shape.size(config.dtype, config.lora, spread.ranks)
    memory = needs(size, config, [phase], _prompts(config), asked.prompt).memory
    if spread.servers:
        memory = replace(memory, cache=0)
    recompute, longest = config.engine.activation_checkpointing, asked.prompt + most
    held = stages(memory, shape, step, longest, item=item, recompute=recompute)
    if config.engine.cpu_offload:
        held = replace(held, held=0, gradients=0)
    served = _server(config, shape, gpu, spread, lengths)
    slots = -(-config.sampling.batch // (spread.servers or 1))
    if served is not None:
        slots = min(slots, served.sequences)
    else:
        slots = min(slots, int(memory.cache / (shape.cache(item) * longest)))
    number = ITEM[config.engine.vllm_dtype or config.dtype] if served is not None else item
    drawn = sampling(shape, gpu, step, lengths, spread, slots=slots, item=number)
    update = updates(shape, gpu, step, lengths, spread.ranks, item=item, recompute=recompute)
    made = PhaseForecast(
        name=phase.name,
        lengths=lengths,
        step=step,
        stages=held,
        server=served,
        slots=slots,
        sampling=drawn,
        update=update,
        traffic=traffic(step, lengths, spread, _version(config, shape)),
        daily=Daily(0.0, 0.0),
        notes=tuple(_misfits(config, shape, gpu, held, served, longest)),
    )
    steps = _DAY / made.seconds
    mean = config.model_copy(
        update={"sampling": config.sampling.model_copy(update={"max_tokens": lengths.completion})}
    )
    daily = Daily(
        samples=steps * file_bytes(1, step.prompts, mean, lengths.prompt),
        checkpoints=steps / config.checkpoint.every * checkpoint_bytes(size, config, phase),
    )
    return replace(made, daily=daily)


def _version(config: Config, shape: Shape) -> int:
    """Bytes of what servers are sent: all weights, or adapters alone, which are float32."""
    if config.engine.transfer == "lora":
        return shape.adapters(config.lora) * ITEM["float32"]
    return shape.parameters * ITEM[config.dtype]


def _server(
    config: Config, shape: Shape, gpu: Device, spread: Spread, lengths: Lengths
) -> Server | None:
    if not spread.servers:
        return None
    may = gpu.memory * spread.each * config.engine.vllm_memory
    item = ITEM[config.engine.vllm_dtype or config.dtype]
    return server(shape, may, item, lengths.prompt + lengths.completion / 2)


def _misfits(
    config: Config,
    shape: Shape,
    gpu: Device,
    held: Stages,
    served: Server | None,
    longest: int,
) -> list[str]:
    """What would not go, in sentences."""
    found = []
    room = gpu.memory * ASSUMED.memory
    if held.most > room:
        found.append(
            f"a rank needs {human(held.most)}, and about {human(room)} of {human(gpu.memory)} can "
            "be filled: more ranks, a lower microbatch_tokens or "
            "engine.activation_checkpointing = true"
        )
    if served is not None and not served.sequences:
        found.append(
            f"a server's weights ({human(served.weights)}) leave no room for keys and values: give "
            "it more GPUs (engine.vllm_devices and --tensor-parallel-size in engine.vllm_args)"
        )
    context = min(shape.context, config.engine.vllm_context or shape.context)
    if longest > context:
        found.append(
            f"a prompt and sampling.max_tokens are {longest} tokens, and the context is {context}: "
            "a run refuses a prompt of more than "
            f"{max(0, context - config.sampling.max_tokens)} tokens"
        )
    return found
