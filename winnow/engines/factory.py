"""Puts engines and samplers together, as `[engine]` says.

A new kind is one entry here, and its name in `config/schema/engine.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.config.schema import Config
from winnow.config.schema.judge import judge_config
from winnow.config.schema.lora import LoraConfig
from winnow.engines.base import Engine, Sampler
from winnow.engines.devices import collector_paused, launched, pick_device, sampling_dtype
from winnow.engines.models.loading import BUILT_IN, check_ahead, resolve
from winnow.engines.ray.placement import behind
from winnow.errors import UserError
from winnow.reporting.observer import Observers
from winnow.rewards.base import Reward
from winnow.rewards.factory import judge_reader
from winnow.storage.answers import Answers
from winnow.types import Prompt

_MAX_TOKENS = "sampling.max_tokens"


def _local_engine(
    config: Config, field: str, checkpoint: Path | None, folder: Path | None
) -> Engine:
    check_ahead(config.model, field, weights=checkpoint is None or config.lora.rank > 0)
    with collector_paused():
        from winnow.engines.local.engine import LocalEngine

        return LocalEngine(config, field, checkpoint, folder)


def _sharded_engine(
    config: Config, field: str, checkpoint: Path | None, folder: Path | None
) -> Engine:
    from winnow.engines.fsdp.crew import lead
    from winnow.engines.fsdp.engine import ShardedEngine
    from winnow.engines.local.sampler import LocalSampler

    worker = lead(config.device, LocalSampler)
    worker.team.run(worker, type(worker).take_threads, config.threads)
    return ShardedEngine(worker, config, field, checkpoint, folder)


def follow() -> int:
    """Be a process that follows rank 0, where several were started; the exit code."""
    from winnow.engines.fsdp.crew import follow as serve
    from winnow.engines.local.sampler import LocalSampler

    return serve(LocalSampler)


def dismiss() -> None:
    """Let processes that follow this one end."""
    from winnow.engines.fsdp.crew import dismiss as let_go

    let_go()


def launch(
    address: str, config: Config, words: Sequence[str], folder: Path, show: Callable[[bytes], None]
) -> int:
    """Have a Ray cluster run `winnow train`; the exit code. See `engines.ray.driver.launch`."""
    from winnow.engines.ray.driver import Job
    from winnow.engines.ray.driver import launch as launched_by_ray

    return launched_by_ray(address, Job(config, tuple(words), folder), show)


@dataclass(frozen=True)
class Kind:
    """A kind of engine: what makes one (see `engine_for`), and what looks for its models."""

    make: Callable[[Config, str, Path | None, Path | None], Engine]
    check: Callable[[str, str, Sequence[str]], object]


ENGINES: Mapping[str, Kind] = {
    "local": Kind(_local_engine, resolve),
    "fsdp": Kind(_sharded_engine, resolve),
}
"""By what trains."""


@dataclass(frozen=True)
class Place:
    """Where a sampler belongs.

    Attributes:
        folder: Of the run, for logs; it may not be there yet.
        note: Hears what a person should know as it happens.
    """

    folder: Path | None = None
    note: Callable[[str], None] = lambda text: None


def _own(config: Config, engine: Callable[[], Engine], _: Place) -> Sampler:
    return engine().sampler(config.sampling)


def _server(config: Config, _: Callable[[], Engine], __: Place) -> Sampler:
    from winnow.engines.server.client import Server
    from winnow.engines.server.sampler import ServerSampler

    own = config.engine
    how: dict[str, Any] = {
        "api": own.api,
        "concurrency": own.concurrency,
        "requests_per_minute": own.requests_per_minute,
        "timeout": own.timeout,
        "retries": own.retries,
        "key_env": own.key_env,
    }
    url, model = config.engine.url or "", config.sampling_model
    options = config.prompts.chat_template_options
    sampler = ServerSampler(Server(url=url, model=model, **how, template_options=options))
    sampler.check()
    return sampler


def _vllm(config: Config, engine: Callable[[], Engine], place: Place) -> Sampler:
    from winnow.engines.vllm.setup import vllm_sampler

    if (door := behind(os.environ)) is None:
        return vllm_sampler(config, engine(), place.folder, place.note)
    from winnow.engines.ray.servers import starter

    return vllm_sampler(config, engine(), place.folder, place.note, starter(*door))


SAMPLERS: Mapping[str, Callable[[Config, Callable[[], Engine], Place], Sampler]] = {
    "local": _own,
    "openai": _server,
    "vllm": _vllm,
}
"""What makes the sampler of each kind, from the settings and, where it needs one, the engine."""


def judge_for(
    options: Mapping[str, Any], key: str, answers: Answers, *, check: bool = False
) -> Reward:
    """A model behind a server as a reward.

    Args:
        options: See `config.schema.judge`.
        key: The table that has them, for messages.
        check: Whether to ask first if there is a server.

    Raises:
        UserError: an option that is wrong; nobody answers.
    """
    from winnow.engines.server.judge import Judge

    how = judge_config(options, key)
    judge = Judge(how, key, judge_reader(how.parse, how.scores), answers)
    if check:
        try:
            judge.check()
        except UserError:
            judge.close()
            raise
    return judge


def engine_for(
    config: Config,
    *,
    field: str = "model",
    checkpoint: Path | None = None,
    folder: Path | None = None,
) -> Engine:
    """The engine of a config's model; its weights are read when they are first needed.

    Args:
        field: The setting that names the model, for messages.
        checkpoint: Where its present weights are, if not the model's own.
        folder: Of the run, where something must outlive the checkpoints.

    Raises:
        UserError: no such model or device, or a tokenizer that cannot be loaded.
    """
    kind, ranks = config.engine.learner, launched()[1]
    if ranks > 1 and kind != "fsdp":
        problem = f"{ranks} processes were started, and {kind!r} trains in one"
        raise UserError("engine.learner", problem, "use 'fsdp', or start winnow train by itself")
    return ENGINES[kind].make(config, field, checkpoint, folder)


def decoder(model: str) -> Callable[[Sequence[int]], str]:
    """What turns tokens of a model into text, special tokens included.

    Raises:
        UserError: no such model, or its tokenizer is not on this machine.
    """
    from winnow.engines.models.loading import load_tokenizer

    tokenizer = load_tokenizer(resolve(model), local=True)
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


def policy_sampler(
    config: Config, engine: Engine, *, ratio: bool, place: Place | None = None
) -> Sampler:
    """The sampler of a policy that is trained.

    Args:
        ratio: Whether some loss divides by the log-probs that it gives.

    Raises:
        UserError: it cannot take the policy's weights, or gives other log-probs.
    """
    sampler = SAMPLERS[config.engine.sampler](config, lambda: engine, place or Place())
    if not sampler.capabilities.loads_weights:
        problem = f"{config.engine.sampler!r} samples from weights of its own, not from the policy"
        raise UserError("engine.sampler", problem, "use 'local'")
    if ratio and not sampler.capabilities.true_logprobs:
        problem = f"{config.engine.sampler!r} does not give the log-probs that the loss divides by"
        raise UserError("engine.sampler", problem, "use an algorithm without a ratio (rft, raft)")
    return sampler


def longest_of_evaluation(config: Config) -> tuple[str, int]:
    """The setting that bounds completions of held-out prompts, and its value in tokens."""
    if config.eval.max_tokens is None:
        return _MAX_TOKENS, config.sampling.max_tokens
    return "eval.max_tokens", config.eval.max_tokens


def sampler_for(
    config: Config,
    prompts: Sequence[Prompt],
    observers: Observers,
    setting: str = _MAX_TOKENS,
    max_tokens: int | None = None,
    folder: Path | None = None,
) -> Sampler:
    """The sampler where nothing is trained, ready.

    Args:
        folder: Of what is made; it may not be there yet.
        setting, max_tokens: What bounds a completion. Default: `sampling.max_tokens`.

    Raises:
        UserError: what `engine_for` raises; a prompt longer than the model's context; no answer
            from the server; conversations for an endpoint that takes none.
    """
    if config.engine.sampler == "openai":
        from winnow.engines.server.sampler import check_conversations

        check_conversations(config.engine.api, prompts)

    def engine() -> Engine:
        observers.progress("load model", 0, 1)
        made = engine_for(config)
        check_prompts(made, prompts, max_tokens or config.sampling.max_tokens, setting)
        made.load()
        for note in made.notes():
            observers.note(f"{config.model}: {note}")
        return made

    place = Place(folder, observers.note)
    return SAMPLERS[config.engine.sampler](config, engine, place)


def check_model(name: str, field: str, others: Sequence[str] = (), *, kind: str = "local") -> None:
    """Raise a `UserError` if there is no such model, without reading it.

    Args:
        others: Other values of the setting, for suggestions.
        kind: Of engine.
    """
    ENGINES[kind].check(name, field, others)


def check_device(config: Config) -> None:
    """Raise a `UserError` if this machine lacks the device that is asked for by name.

    For `auto` and `cpu` torch is not imported.
    """
    if config.engine.sampler != "openai" and config.device not in ("auto", "cpu"):
        pick_device(config.device)


def settled(config: Config) -> Config:
    """The config with what it leaves to this machine decided: `sampling.dtype = "auto"`.

    What is written of a run says it: the run is resumed in it on another machine too.
    """
    if config.sampling.dtype != "auto":
        return config
    dtype = sampling_dtype("auto", pick_device(config.device))
    sampling = config.sampling.model_copy(update={"dtype": dtype})
    return config.model_copy(update={"sampling": sampling})


def built_in() -> tuple[str, bool]:
    """The built-in model's name, and whether its weights are on this machine."""
    return BUILT_IN, resolve(BUILT_IN).gguf is not None


def check_prompts(
    engine: Engine, prompts: Sequence[Prompt], max_tokens: int, setting: str = _MAX_TOKENS
) -> None:
    """Raise a `UserError` where the longest prompt leaves no room for a completion."""
    if not prompts:
        return
    length, name = max((len(engine.encode(prompt)), prompt.id) for prompt in prompts)
    context = engine.context
    if context is not None and length + max_tokens > context:
        raise UserError(
            "prompts",
            f"prompt {name!r} has {length} tokens and leaves no room for {setting} = "
            f"{max_tokens} in the model's context of {context}",
            f"shorten or drop the prompt, or lower {setting}",
        )


def engine_beside(config: Config, policy: Engine, field: str, name: str, remedy: str) -> Engine:
    """The engine of another model that works on a policy's tokens.

    Args:
        field: The setting that names it.
        remedy: What to do if it has another vocabulary.

    Raises:
        UserError: it has; or what `engine_for` raises.
    """
    other = engine_for(config.model_copy(update={"model": name, "lora": LoraConfig()}), field=field)
    if other.vocabulary != policy.vocabulary:
        problem = f"{name!r} has another vocabulary than {config.model!r}"
        raise UserError(field, problem, remedy)
    return other
