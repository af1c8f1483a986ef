"""Everything that the training loop works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from winnow.algorithms.algorithm import Algorithm
from winnow.config.schema import Config
from winnow.engines.base import Learner, Sampler
from winnow.reporting.observer import Reporter
from winnow.reporting.timing import Stopwatch
from winnow.rewards.base import Reward
from winnow.storage.run_folder import RunStore
from winnow.training.sft_mix import Anchor
from winnow.training.sources import Source
from winnow.types import Prompt


@dataclass
class Run:
    """One phase of a run.

    Attributes:
        whole: The settings of the whole run, with which held-out prompts are evaluated.
        steps_done: Steps of the whole run that are done.
        unhealthy: Latest updates in a row whose loss or gradient was not finite.
        anchor: Supervised examples for every update.
        restart: Weights that each round is trained from, if not those of the round before.
        protect: Steps whose checkpoints must be kept.
        phase: Its number, where there are several.
    """

    config: Config
    whole: Config
    algorithm: Algorithm
    sampler: Sampler
    learner: Learner
    source: Source
    reward: Reward
    held_out: Sequence[Prompt]
    store: RunStore
    watch: Stopwatch
    reporter: Reporter
    steps_done: int = 0
    unhealthy: int = 0
    anchor: Anchor | None = None
    restart: Sequence[Any] | None = None
    protect: Sequence[int] = ()
    phase: int | None = None
