"""A folder read back: its settings, numbers, samples and checkpoint, of a run that goes on too."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from winnow.errors import UserError, choices
from winnow.evaluation.plots import run_figure
from winnow.reporting.metrics import Metrics
from winnow.reporting.notebook import run_html
from winnow.storage.format import ENVIRONMENT, check_folder
from winnow.storage.lines import rows_of
from winnow.storage.paths import located, shown
from winnow.storage.reading import has_file, listed
from winnow.storage.rollouts import rollout_files
from winnow.storage.run_folder import FINAL, RunStore
from winnow.storage.sample_table import JOURNAL, read_samples
from winnow.storage.schema import SCHEMA
from winnow.training.early_stopping import chosen_checkpoint
from winnow.types import Group, Split


@dataclass(frozen=True)
class Run:
    """A folder of `winnow.train`, `evaluate` or `sample`; `load_run` makes one.

    Everything is read when it is asked for, so of a run that goes on it is what there is by then.
    What a folder does not have is empty: an evaluation has no steps, samples have neither. Any of
    it raises a `UserError` that names a damaged file; a last line that is cut short is left out.

    Attributes:
        folder: Absolute.
    """

    folder: Path

    @property
    def metrics(self) -> list[Metrics]:
        """The rows of metrics.jsonl, a step each: docs/metrics.md."""
        return RunStore(self.folder).lines("metrics.jsonl")

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of evals.jsonl: fields of `Evaluation`."""
        return RunStore(self.folder).lines("evals.jsonl")

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """The rows of alarms.jsonl."""
        path = self.folder / "alarms.jsonl"
        return [row for _, row in rows_of(path)] if path.is_file() else []

    @property
    def config(self) -> dict[str, Any]:
        """The settings, as config.toml has them."""
        path = self.folder / "config.toml"
        values = _parsed(path, tomllib.loads)
        section = values.get("eval", {})
        if not (isinstance(section, dict) and isinstance(section.get("patience", 0), int)):
            problem = f"{shown(path)} is damaged (eval says what no run has)"
            raise UserError("", problem, "restore it")
        return values

    @property
    def environment(self) -> dict[str, Any]:
        """Versions and device."""
        return _parsed(self.folder / ENVIRONMENT, json.loads)

    @property
    def checkpoint(self) -> Path | None:
        """The model that the run ends with, or would if it ended here; ``None`` before the first.

        `Result.checkpoint` says which that is.
        """
        if (self.folder / FINAL).is_dir():
            return self.folder / FINAL
        store = RunStore(self.folder)
        if not dict(store.checkpoints()):
            return None
        return chosen_checkpoint(store, self.config.get("eval", {}).get("patience", 0))[0]

    def samples(self, step: int | None = None, split: str | None = None) -> Iterator[Group]:
        """Every sample as it was made, scored and selected: a group for each prompt.

        A step is read when its first group is asked for. Of a folder of `winnow sample` that is not
        complete there are those of its closed files.

        Args:
            step: Default: all of them, in order.
            split: `train`, `eval`, `test`, `final` or `sample`. Default: all of them.

        Raises:
            UserError: no such split.
        """
        if split is not None and split not in get_args(Split):
            raise UserError("split", f"unknown split {split!r:.80}", choices(get_args(Split)))
        if (self.folder / JOURNAL).is_file():
            return self._gathered() if step in (None, 0) and split in (None, "sample") else iter(())
        return self._stored(step, split)

    def _gathered(self) -> Iterator[Group]:
        folder = self.folder / "samples"
        if listed(folder, "*.parquet"):
            yield from read_samples([folder], ["text"], why="load_run", optional=SCHEMA.names)

    def _stored(self, step: int | None, split: str | None) -> Iterator[Group]:
        for number, own, _ in rollout_files(self.folder):
            if step in (None, number) and split in (None, own):
                try:
                    yield from RunStore(self.folder).groups(own, number)
                except UserError as error:
                    raise error.with_(setting="") from error

    def frame(self) -> Any:
        """The metrics as a pandas DataFrame, a row a step; `seconds.sample` is one of the columns.

        Raises:
            UserError: pandas is not installed.
        """
        if find_spec("pandas") is None:
            raise UserError("frame", "data frames need pandas", "pip install pandas")
        import pandas

        return pandas.json_normalize(self.metrics)

    def plot(self) -> Any:
        """A Matplotlib figure: reward, held-out accuracy, kinds of prompts and entropy, by step."""
        return run_figure(self.metrics, self.evaluations)

    def _repr_html_(self) -> str:
        return run_html(shown(self.folder), self.metrics, self.evaluations)


def load_run(folder: str | Path) -> Run:
    """The folder of a run, finished or under way, of an evaluation or of samples.

    Raises:
        UserError: it is none, or of a later version.
    """
    path = located(folder, "folder")
    if not has_file(path / "config.toml", "folder"):
        what = f"{shown(path)} is not a run folder (it has no config.toml)"
        problem = what if path.is_dir() else f"no folder {shown(path)}"
        raise UserError("folder", problem, "name a folder of winnow.train, evaluate or sample")
    check_folder("folder", path)
    return Run(path)


def _parsed(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError("", f"cannot read {shown(path)}: {reason}", "restore it") from error
    if not isinstance(values, dict):
        raise UserError("", f"{shown(path)} is damaged (it is not a JSON object)", "restore it")
    return values
