"""What all that a run makes of samples works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from winnow.config.schema import Config
from winnow.engines.base import Sampler
from winnow.prompts.loading import PromptSet
from winnow.reporting.observer import Observers
from winnow.reporting.timing import Stopwatch
from winnow.rewards.base import AnyReward
from winnow.storage.run_folder import RunStore


@dataclass(frozen=True)
class Context:
    """A run: its settings, what it samples, scores and stores with, and who is told.

    Attributes:
        config: Of the whole run; held-out prompts are evaluated with it.
        sampler: Of the policy.
        said: Kinds of notes that were made and are not to be repeated.
    """

    config: Config
    prompts: PromptSet
    sampler: Sampler
    reward: AnyReward
    store: RunStore
    observers: Observers
    watch: Stopwatch = field(default_factory=Stopwatch)
    said: set[str] = field(default_factory=set)

    def once(self, kind: str, text: str | None) -> None:
        """Note a text, if there is one, unless one of its kind was noted."""
        if text is not None and kind not in self.said:
            self.said.add(kind)
            self.observers.note(text)
