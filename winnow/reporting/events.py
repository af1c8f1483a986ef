"""What observers are told: one payload for each event of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from winnow.types import Group, Split


@dataclass(frozen=True)
class RunStart:
    """A run begins or is resumed; its model is not loaded yet.

    Attributes:
        folder: The run folder; if it is new, it is not there yet.
        command: What is run.
        settings: All settings, as in config.toml: dicts, lists, strings and numbers.
        summary: What a person should know of it, perhaps in several lines; may be empty.
        first_step, last_step: The steps to be made, fewer with early stopping; 0 where nothing is
            trained.
        resumed: Whether it was begun before.
        phases: For each phase, cycles included, its name in the recipe and its last step.
        evaluation: Of a run that is resumed, the seconds that its latest evaluation took.
        spent: Of such a run with a budget, what it has spent so far, by kind.
    """

    folder: Path
    command: Literal["train", "sample", "evaluate"]
    settings: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""
    first_step: int = 0
    last_step: int = 0
    resumed: bool = False
    phases: Sequence[tuple[str, int]] = ()
    evaluation: float = 0.0
    spent: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StepEnd:
    """A step is over, and its row of metrics.jsonl is written; its checkpoint is not.

    Attributes:
        step: Its number, from 1.
        metrics: The row: docs/metrics.md.
        offline: Whether its samples were made before training, once or by others, so that nothing
            of them changes with the policy.
    """

    step: int
    metrics: Mapping[str, Any]
    offline: bool = False


@dataclass(frozen=True)
class SamplesScored:
    """The samples of a step or of an evaluation are scored, and on the disk.

    Attributes:
        step: The step that they are for, or after which they were evaluated.
        split: `train`; of an evaluation `eval`, `test` or `final`.
        groups: All of them; of a step with the outcome of the selection and advantages.
    """

    step: int
    split: Split
    groups: Sequence[Group]


@dataclass(frozen=True)
class Alarm:
    """Something goes wrong, or has stopped to; the row of alarms.jsonl is written.

    Attributes:
        step: After which it was noticed.
        name: Of the alarm, as its setting in `[alarms]` is named.
        text: What is happening and why it matters.
        advice: What to try; empty if it has cleared.
        cleared: Whether it is over.
        value, threshold: What was measured, and from where on it is an alarm.
        stops: Whether it ends the run: `alarms.stop`.
    """

    step: int
    name: str
    text: str
    advice: str = ""
    cleared: bool = False
    value: float | None = None
    threshold: float | None = None
    stops: bool = False


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is on the disk.

    Attributes:
        step: The step after which it was saved.
        folder: Where it is.
    """

    step: int
    folder: Path


@dataclass(frozen=True)
class Note:
    """Something that a person should know.

    Attributes:
        text: One line.
    """

    text: str


@dataclass(frozen=True)
class StageProgress:
    """A stage of the work has come so far.

    Attributes:
        stage: What is done, such as `sample` or `update`.
        done, total: So many of so many.
    """

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class RunEnd:
    """A run is over, however it ended.

    Attributes:
        folder: The run folder.
        status: `stopped` by Ctrl-C or an alarm, `failed` by an error.
        checkpoint: The model that training ended with; ``None`` where nothing was trained to the
            end, as are the numbers below.
        before, after: Held-out accuracy of the start and of that model.
        reward_before, reward_after: Their mean rewards on the same prompts.
        reward_gain, reward_gain_low, reward_gain_high: The difference of these, with its interval.
        gain, gain_low, gain_high: The difference over the same prompts, and its 95 % interval.
        tested: False where the checkpoint was chosen by the accuracy on those very prompts, so that
            it is too high.
        selected, evaluations: With early stopping, the chosen checkpoint's accuracy on the prompts
            that it was chosen by, and among how many evaluations it was the best.
        error: Why it failed or was stopped.
    """

    folder: Path
    status: Literal["done", "stopped", "failed"]
    checkpoint: Path | None = None
    before: float | None = None
    after: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    tested: bool = True
    selected: float | None = None
    evaluations: int | None = None
    error: str = ""
    reward_before: float | None = None
    reward_after: float | None = None
    reward_gain: float | None = None
    reward_gain_low: float | None = None
    reward_gain_high: float | None = None
