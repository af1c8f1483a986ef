"""What several commands are put together from: a verifier, an engine, a sampler."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from winnow import __version__
from winnow.config.schema import Config
from winnow.engines.base import Sampler
from winnow.engines.models.loading import ModelSource, resolve
from winnow.engines.reward_models.preferences import Pair
from winnow.errors import UserError
from winnow.reporting.observer import Reporter
from winnow.rewards.base import Reward
from winnow.rewards.factory import make_reward
from winnow.types import Prompt

if TYPE_CHECKING:
    import torch

    from winnow.engines.local.engine import LocalEngine
    from winnow.engines.reward_models.trainer import FitResult

_LEARNED = "model:"
"""Before the name of a sequence classifier that scores."""


@contextmanager
def reward_for(
    config: Config, reward: Callable[[Prompt, str], Any] | None = None
) -> Iterator[Reward]:
    """The verifier of a config (or the one given), its processes ended on leaving."""
    made = (
        _learned(config)
        if reward is None and config.reward.name.startswith(_LEARNED)
        else _verifier(config, reward)
    )
    try:
        yield made
    finally:
        made.close()


def check_reward(config: Config) -> None:
    """See that the verifier of a config is there, without loading a model.

    Raises:
        UserError: it is not.
    """
    if config.reward.name.startswith(_LEARNED):
        resolve(config.reward.name.removeprefix(_LEARNED), "reward")
        return
    with reward_for(config):
        pass


def _learned(config: Config) -> Reward:
    """A reward model, on the device where the run's model is.

    Raises:
        UserError: it cannot be had, or an option that it does not have.
    """
    from winnow.engines.local.engine import pick_device
    from winnow.engines.reward_models.model import RewardModel

    options = dict(config.reward.options)
    label = options.pop("label", None)
    if options:
        raise UserError(f"reward.options.{next(iter(options))}: a reward model has only: label")
    return RewardModel(
        config.reward.name.removeprefix(_LEARNED),
        device=pick_device(config.device),
        dtype=config.dtype,
        label=label,
        field="reward",
    )


def _verifier(config: Config, reward: Callable[[Prompt, str], Any] | None) -> Reward:
    return make_reward(
        config.reward.name if reward is None else reward,
        options=config.reward.options,
        time_limit=config.reward.time_limit,
        workers=config.reward.workers,
    )


def fit_reward(base: str, pairs: Sequence[Pair], *, device: str, **how: Any) -> FitResult:
    """Train a reward model from a base on preferences; see `engines.preference_trainer`."""
    from winnow.engines.local.engine import pick_device
    from winnow.engines.reward_models.trainer import fit_reward_model

    return fit_reward_model(base, pairs, device=pick_device(device), **how)


def sampler_for(config: Config, prompts: Sequence[Prompt], reporter: Reporter) -> Sampler:
    """Who draws where nothing is trained: the model in this process, or a server.

    Raises:
        UserError: no such device, a prompt longer than the model's context, nobody at the server.
    """
    check_suited(config.reward.name, prompts)
    if config.server.url is not None:
        return _server(config)
    engine, _ = engine_for(config, reporter)
    engine.check_prompts(prompts, config.sampling.max_tokens)
    return engine.sampler(config.sampling)


def _server(config: Config) -> Sampler:
    from winnow.engines.server.client import Server
    from winnow.engines.server.sampler import ServerSampler

    settings = config.server.model_dump(exclude={"url", "model"})
    sampler = ServerSampler(
        Server(url=config.server.url or "", model=config.server.model or config.model, **settings)
    )
    sampler.check()
    return sampler


def engine_for(
    config: Config, reporter: Reporter, checkpoint: Path | None = None
) -> tuple[LocalEngine, torch.device]:
    """The config's model in this process, as a checkpoint has it, if any; and where it runs."""
    import torch

    from winnow.engines.local.engine import LocalEngine, pick_device

    # A checkpoint of adapters holds them alone; the learner loads them over the model.
    whole = checkpoint is not None and not config.lora.rank
    source = ModelSource(str(checkpoint)) if whole else resolve(config.model)
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    reporter.progress("load model", 0, 1)
    return LocalEngine(source, config.dtype, device, "model", config.lora, config.seed), device


_COMPARING = ("number", "exact", "gsm8k", "math")


def check_suited(reward: str, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that a built-in verifier can say nothing of."""
    for prompt in prompts:
        if reward in _COMPARING and prompt.answer is None:
            raise UserError(
                f"reward = {reward!r} compares with an answer, but prompt {prompt.id!r} has none; "
                "set prompts.answer_column to the column that holds it"
            )
        if reward == "gym" and "gym" not in prompt.data:
            raise UserError(
                f"reward = 'gym' judges gym tasks, but prompt {prompt.id!r} is from none; "
                "set prompts.source = 'gym:TASK' (and eval.source, if any), or another reward"
            )


def environment(config: Config) -> dict[str, Any]:
    """Versions, and where the model runs."""
    from importlib.metadata import version

    where = config.server.url
    if where is None:
        from winnow.engines.local.engine import pick_device

        where = str(pick_device(config.device))
    return {
        "winnow": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": where,
        **{name: version(name) for name in ("torch", "transformers", "numpy", "pyarrow")},
    }
