"""Tells of alarms as a run goes, and knows of a resumed run which were on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from winnow.reporting.alarms.history import History, PromptScores, Row
from winnow.reporting.alarms.reading import Reading
from winnow.reporting.alarms.rule import Rule
from winnow.reporting.alarms.scores import scores_of
from winnow.reporting.alarms.table import ALARMS, WINDOW
from winnow.reporting.events import Alarm, SamplesScored, StepEnd
from winnow.reporting.metrics import Evaluation
from winnow.reporting.observer import Observer

CALM = 5
"""Steps in a row that an alarm must be well for until it has cleared: else it would flap."""


@dataclass
class Standing:
    """Whether an alarm is on, and for how many steps it has been well since."""

    on: bool = False
    calm: int = 0

    def change(self, reading: Reading | None) -> bool:
        """Take a step's reading in; whether that raises or clears the alarm."""
        if reading is None or reading.state == "between":
            self.calm = 0
            return False
        if reading.state == "alarming":
            raised, self.on, self.calm = not self.on, True, 0
            return raised
        self.calm += 1
        cleared = self.on and self.calm >= CALM
        self.on = self.on and not cleared
        return cleared


class Alarms(Observer):
    """Looks at a run after each step, and tells `raises` of each alarm that begins or clears.

    Args:
        raises: Is told of them: `Observers.on_alarm`.
        thresholds: From where on each is one; those that are not named are off.
        window: Steps that most look back over.
        stop: Names of those that end the run.
        phases: Of a cycle.
    """

    def __init__(
        self,
        raises: Callable[[Alarm], None],
        thresholds: Mapping[str, float],
        *,
        window: int = WINDOW,
        stop: Collection[str] = (),
        phases: int = 1,
    ) -> None:
        self._raises, self._stop, self._thresholds = raises, stop, thresholds
        self._history = History(window, phases)
        self._standing = {name: Standing() for name in ALARMS if name in thresholds}

    @property
    def on(self) -> list[str]:
        """The names of those that are on."""
        return [name for name, standing in self._standing.items() if standing.on]

    def on_samples(self, samples: SamplesScored) -> None:
        if samples.split == "train":
            self._history.add_samples(scores_of(samples.groups))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._history.add_evaluation(asdict(evaluation))

    def on_step(self, step: StepEnd) -> None:
        for alarm in self._after(step.metrics):
            self._raises(alarm)

    def replay(
        self,
        steps: Iterable[tuple[Row, Sequence[Row], Sequence[PromptScores] | None]],
        told: Iterable[Row] = (),
    ) -> None:
        """Take in what a run did before it was resumed, without telling anyone.

        Args:
            steps: For each its row, the evaluations since the step before, and the scores of its
                new samples, if it had any.
            told: The rows of alarms.jsonl: an alarm is on if that is the last that was told of it.
        """
        for row, evaluations, scores in steps:
            if scores is not None:
                self._history.add_samples(scores)
            for one in evaluations:
                self._history.add_evaluation(one)
            for _ in self._after(row):
                pass
        on = {row.get("name"): not row.get("cleared") for row in told}
        for name, standing in self._standing.items():
            standing.on = on.get(name, False)

    def _after(self, row: Row) -> list[Alarm]:
        """The alarms that begin or clear with a step."""
        self._history.add_step(row)
        found = []
        for name, standing in self._standing.items():
            reading = ALARMS[name].read(self._history, self._thresholds[name])
            if standing.change(reading) and reading is not None:
                found.append(self._alarm(ALARMS[name], row["step"], reading, standing.on))
        return found

    def _alarm(self, rule: Rule, step: int, reading: Reading, on: bool) -> Alarm:
        threshold = self._thresholds[rule.name]
        told = alarm_of(rule, step, reading, threshold, on=on)
        return replace(told, stops=True) if on and rule.name in self._stop else told


def alarm_of(rule: Rule, step: int, reading: Reading, threshold: float, *, on: bool) -> Alarm:
    """What is told of an alarm that begins, or that has cleared."""
    value = rule.shown(reading.value)
    if not on:
        what = rule.measures.rstrip(".")
        what = what if what[1].isupper() else f"{what[0].lower()}{what[1:]}"
        text = f"{what}: {value}"
        return Alarm(step, rule.name, text, "", True, reading.value, threshold)
    says, facts = rule.says[reading.variant], {**reading.facts, "value": value}
    text = f"{says.happens} {says.matters}".format_map(facts)
    advice = says.advice.format_map(facts)
    return Alarm(step, rule.name, text, advice, False, reading.value, threshold)
