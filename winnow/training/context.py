"""What the training loop works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from winnow.config.phases import Phase
from winnow.engines.base import Engine, Learner
from winnow.errors import NoServer
from winnow.rollouts.context import Context
from winnow.training.sft_mix import Anchor
from winnow.training.sources import Source

UNHEALTHY = "unhealthy"
"""What a checkpoint's state calls a `Run`'s."""


@dataclass
class Run:
    """One phase of a run.

    Attributes:
        anchor: Supervised examples for every update.
        steps_done: Steps of the whole run that are done.
        unhealthy: Latest updates in a row whose loss or gradient was not finite.
        empty_steps: Steps of this phase, since it was begun or resumed, without an update.
        protect: Steps whose checkpoints must be kept.
        number: Of the phase, in a run that has several.
        lost: What ended an evaluation, and ends the run once the step is saved.
    """

    phase: Phase
    context: Context
    engine: Engine
    learner: Learner
    source: Source
    anchor: Anchor | None = None
    steps_done: int = 0
    unhealthy: int = 0
    empty_steps: int = 0
    protect: Sequence[int] = ()
    number: int | None = None
    lost: NoServer | None = None

    def publish(self) -> None:
        """Have the sampler use the weights as they are now."""
        self.context.sampler.load(self.engine.publish(self.learner.version))
