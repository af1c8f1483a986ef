"""What all that a run makes of samples works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from winnow.config.schema import Config
from winnow.engines.base import Sampler
from winnow.prompts.loading import PromptSet
from winnow.reporting.observer import Observers
from winnow.reporting.timing import Stopwatch
from winnow.rewards.base import Reward
from winnow.storage.run_folder import RunStore


@dataclass(frozen=True)
class Context:
    """A run: its settings, what it samples, scores and stores with, and who is told.

    Attributes:
        config: Of the whole run; held-out prompts are evaluated with it.
        sampler: Of the policy.
    """

    config: Config
    prompts: PromptSet
    sampler: Sampler
    reward: Reward
    store: RunStore
    observers: Observers
    watch: Stopwatch = field(default_factory=Stopwatch)
