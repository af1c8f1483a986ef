"""Makes the engine or the sampler that a config asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from winnow.config.schema import Config
from winnow.engines.base import Sampler
from winnow.engines.models.loading import ModelSource, resolve
from winnow.reporting.observer import Reporter
from winnow.rewards.factory import check_suited
from winnow.types import Prompt

if TYPE_CHECKING:
    import torch

    from winnow.engines.local.engine import LocalEngine


def sampler_for(config: Config, prompts: Sequence[Prompt], reporter: Reporter) -> Sampler:
    """The sampler where nothing is trained: the model in this process, or a server.

    Raises:
        UserError: no such device, a prompt longer than the model's context, no answer from the
            server.
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
    """The config's model in this process, from a checkpoint if one is given; and its device."""
    import torch

    from winnow.engines.devices import pick_device
    from winnow.engines.local.engine import LocalEngine

    # A checkpoint of adapters holds them alone; the learner loads them over the model.
    whole = checkpoint is not None and not config.lora.rank
    source = ModelSource(str(checkpoint)) if whole else resolve(config.model)
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    reporter.progress("load model", 0, 1)
    return LocalEngine(source, config.dtype, device, "model", config.lora, config.seed), device
