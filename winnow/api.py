"""Winnow from Python: `winnow.train(...)` and `winnow.evaluate(...)`.

import winnow

def right(prompt: winnow.Prompt, completion: str) -> float:
    return float(completion.strip() == prompt.answer)

result = winnow.train(
    model="smollm2-135m",
    prompts=[{"prompt": "2 + 2 =", "answer": "4"}, ...],
    reward=right,
    algorithm="raft++",
    steps=50,
    sampling={"max_tokens": 8, "stop": ["\\n"]},
)
print(result.before, result.after, result.gain, result.checkpoint)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from winnow.algorithms.algorithm import Algorithm
from winnow.config.recipe import load
from winnow.config.schema import Config, from_dict
from winnow.engines.process_state import own_state
from winnow.errors import UserError
from winnow.evaluation.held_out import run_evaluation
from winnow.prompts.rows import from_rows
from winnow.reporting.metrics import Evaluation
from winnow.reporting.observer import Observer
from winnow.reporting.terminal import observing
from winnow.rewards.given import RewardGiven, reward_setting
from winnow.rollouts.collect import SampleResult, resume_sample, run_sample
from winnow.storage.atomic import disk, make_folder, refuse, write_text
from winnow.storage.paths import located
from winnow.storage.run_folder import ROWS, next_folder
from winnow.studies.running import Comparison, run_study
from winnow.training.run import Result, run


@own_state()
def train(
    *,
    model: str | Path | None = None,
    prompts: Source | None = None,
    reward: RewardGiven | None = None,
    algorithm: str | Algorithm | None = None,
    steps: int | None = None,
    eval_prompts: str | Path | Rows | None = None,
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    accept_changes: bool = False,
    callbacks: Sequence[Observer] = (),
    quiet: bool = False,
    **settings: Any,
) -> Result:
    """Train a model on its own good samples.

    Args:
        model: Hub id, folder, .gguf file or `smollm2-135m`.
        prompts: A source as in a recipe, or rows with the columns `prompt` and `answer`; or the
            settings of that section, its `source` either of these.
        reward: A built-in name, `module:function`, or a function of (prompt, completion).
        algorithm: A row of the table, or an `Algorithm` of your own.
        eval_prompts: Held-out prompts of their own; else some of `prompts` are held out.
        recipe: Start from a recipe instead of from the defaults.
        out: Run folder; default: the next free `runs/NAME-001`.
        resume: A run folder to resume; give only `reward` and `algorithm` with it, if objects.
        accept_changes: Resume though settings or data have changed.
        callbacks: Observers of your own: docs/callbacks.md.
        quiet: Print nothing.
        settings: Any other key of the config; sections as dicts.

    Raises:
        UserError: something that the caller can fix.
        WinnowError: the run had to stop.
    """
    own = algorithm if isinstance(algorithm, Algorithm) else None
    given: dict[str, Any] = {
        "model": model,
        "prompts": prompts,
        "algorithm": None if own else algorithm,
        "steps": steps,
        "reward": reward_setting(reward),
    }
    over = {key: value for key, value in given.items() if value is not None} | settings
    if eval_prompts is not None:
        merge_section(over, "eval", {"source": eval_prompts})
    with observing(quiet, callbacks) as observers:
        if resume is not None:
            if over.keys() - {"reward"} or isinstance(reward, str) or recipe or out:
                problem = "a run resumes with its own settings"
                raise UserError("resume", problem, "give no others beside it")
            return run(
                resume=located(resume, "resume"),
                observers=observers,
                reward=reward,
                algorithm=own,
                accept_changes=accept_changes,
            )
        _only_resuming(accept_changes)
        folder = located(out, "out") if out is not None else next_folder(own.name if own else "run")
        with config_of(recipe, over, folder) as config:
            return run(config, out=folder, observers=observers, reward=reward, algorithm=own)


@own_state()
def evaluate(
    *,
    model: str | Path | None = None,
    prompts: str | Path | Rows | None = None,
    reward: RewardGiven | None = None,
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    callbacks: Sequence[Observer] = (),
    quiet: bool = False,
    **settings: Any,
) -> Evaluation:
    """Sampled accuracy of a model on prompts: `eval.size` of them, or all rows that are given.

    Raises:
        UserError: something that the caller can fix.
    """
    given = {"model": model, "reward": reward_setting(reward)}
    over = {key: value for key, value in given.items() if value is not None} | settings
    if prompts is not None:
        merge_section(over, "eval", {"source": prompts})
        own = settings.get("eval")
        sized = isinstance(own, Mapping) and "size" in own
        if isinstance(prompts, Sequence) and not isinstance(prompts, str) and not sized:
            merge_section(over, "eval", {"size": max(1, len(prompts))})
    folder = located(out, "out") if out is not None else next_folder("eval")
    called = {"eval": "prompts=..."}
    with (
        config_of(recipe, over, folder, called) as config,
        observing(quiet, callbacks) as observers,
    ):
        return run_evaluation(config, out=folder, observers=observers, reward=reward)


def compare(
    study: str | Path | Mapping[str, Any], out: str | Path | None = None, *, quiet: bool = False
) -> Comparison:
    """Train every variant of a study with every seed, and compare them over seeds.

    Each run is an ordinary run folder, made by a process of its own. What was stopped or killed is
    resumed by the same call.

    Args:
        study: A STUDY.toml, the folder of a study that was begun, or the tables of a STUDY.toml as
            dicts: docs/compare.md.
        out: Folder of the study. Default: `studies/NAME`.
        quiet: Print nothing.

    Raises:
        UserError: something that the caller can fix.
        Stopped: by Ctrl-C; the runs end saved.
        WinnowError: no run has a result. Those that fail beside others that do not are in `failed`.
    """
    return run_study(study, out, quiet=quiet)


@own_state()
def sample(
    *,
    model: str | Path | None = None,
    prompts: str | Path | Rows | None = None,
    reward: RewardGiven | None = None,
    n: int | None = None,
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    held_out: bool = False,
    accept_changes: bool = False,
    callbacks: Sequence[Observer] = (),
    quiet: bool = False,
    **settings: Any,
) -> SampleResult:
    """Sample n completions of every prompt, score them, keep them all.

    Args:
        prompts: A source as in a recipe, or rows with the columns `prompt` and `answer`. Without
            `held_out`, those that training would use; all rows unless `eval` is given.
        n: Samples a prompt: `samples_per_prompt`.
        resume: A folder to resume; give only `reward` with it, if a function.
        held_out: Sample for the held-out prompts instead.
        accept_changes: Resume though settings or data have changed.
        settings: Any other key of the config. To sample from a server:
            `engine={"sampler": "openai", "url": ...}`.

    Raises:
        UserError: something that the caller can fix.
    """
    given = {"model": model, "prompts": prompts, "reward": reward_setting(reward)}
    over = {key: value for key, value in given.items() if value is not None} | settings
    if n is not None:
        if "samples_per_prompt" in over:
            raise UserError("samples_per_prompt", *_TWICE)
        over["samples_per_prompt"] = n
    rows = isinstance(prompts, Sequence) and not isinstance(prompts, str)
    if rows and not held_out and "eval" not in over:
        merge_section(over, "eval", {"size": 0})  # all of the rows that were given
    with observing(quiet, callbacks) as observers:
        if resume is not None:
            if over.keys() - {"reward"} or isinstance(reward, str) or recipe or out or held_out:
                problem = "sampling resumes with its own settings"
                raise UserError("resume", problem, "give no others beside it")
            return resume_sample(
                located(resume, "resume"),
                observers=observers,
                reward=reward,
                accept_changes=accept_changes,
            )
        _only_resuming(accept_changes)
        folder = located(out, "out") if out is not None else next_folder("sample")
        with config_of(recipe, over, folder) as config:
            return run_sample(
                config, out=folder, held_out=held_out, observers=observers, reward=reward
            )


def _text(given: Any) -> Any:
    """What was given, paths in it as the texts that settings have; rows as they are."""
    if isinstance(given, Mapping):
        return {key: _text(value) for key, value in given.items()}
    return str(given) if isinstance(given, Path) else given


def _only_resuming(accept_changes: bool) -> None:
    if accept_changes:
        raise UserError("accept_changes", "it is for what is resumed", "give resume with it")


_TWICE = ("an argument of its own says it too", "give one of them")
Rows = Sequence[Mapping[str, Any]]


Source = str | Path | Rows | Mapping[str, Any]
"""A source as in a recipe; rows; or the whole table of settings, `source` (either) among them."""


@contextmanager
def config_of(
    recipe: str | Path | None,
    over: Mapping[str, Any],
    folder: Path,
    called: Mapping[str, str] = MappingProxyType({"eval": "eval_prompts=..."}),
) -> Iterator[Config]:
    """A config; rows given in Python are written next to the run, so that it can be repeated.

    If there is no run in the end, because something was wrong, the rows are removed.

    Args:
        called: What was given the rows of a section, for messages.
    """
    values: dict[str, Any] = _text(over)
    written: dict[Path, str] = {}
    given: dict[str, list[str]] = {}
    for section in ("prompts", "eval"):
        table = values.get(section)
        table = dict(table) if isinstance(table, Mapping) else {"source": table}
        rows = table.get("source")
        _refuse_other(rows, called.get(section, section).removesuffix("=..."))
        if isinstance(rows, Sequence) and not isinstance(rows, str):
            if not folder.name:
                refuse(folder)
            path = folder.with_name(f"{folder.name}{ROWS[section]}")
            given[section] = [_json_line(section, row) for row in rows]
            written[path] = "".join(given[section])
            values[section] = {**table, "source": str(path)}
    config = load(str(recipe), over=values) if recipe is not None else from_dict(values)
    for section, lines in given.items():
        _check_rows(lines, config, section, called.get(section, f"{section}=..."))
    refuse(folder)
    for path, text in written.items():
        if not (path.is_file() and path.read_text("utf-8", "replace") == text):  # of one killed
            refuse(path)
    own = [path for path in written if not path.exists()]  # others are another run's that begins
    try:
        for path in own:
            with disk(path):
                make_folder(path.parent)
            write_text(path, written[path])
        yield config
    finally:
        if not folder.exists():
            for path in own:
                path.unlink(missing_ok=True)


def _check_rows(lines: Sequence[str], config: Config, section: str, called: str) -> None:
    """Raise a `UserError` for rows that are no prompts, which names what was given them."""
    if not lines:
        raise UserError(
            called.removesuffix("=..."), "there is no row in it", "give it at least one"
        )
    rows = [json.loads(line) for line in lines]
    from_rows(rows, config.prompts, f"{section}.source", called=called)


def _refuse_other(rows: object, called: str) -> None:
    """Raise a `UserError` for a data set, a data frame or an iterator where rows are given."""
    if isinstance(rows, Iterable) and not isinstance(rows, str | Sequence | Mapping):
        problem = f"{type(rows).__name__} is no list of rows"
        raise UserError(called, problem, "make it one of dicts, like [{'prompt': ..., ...}, ...]")


def _json_line(section: str, row: object) -> str:
    if not isinstance(row, Mapping):
        raise UserError(
            section, "each row must be a dict", "write it like {'prompt': ..., 'answer': ...}"
        )
    try:
        return json.dumps(dict(row)) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(section, f"a row cannot be written as JSON: {error}") from error


def merge_section(over: dict[str, Any], section: str, values: Mapping[str, Any]) -> None:
    """Add settings to a section.

    Raises:
        UserError: what was given for it is no table, or has one of them.
    """
    given = over.get(section, {})
    if not isinstance(given, Mapping):
        raise UserError(section, "must be a table", "write it like {'size': 64}")
    for key in given.keys() & values.keys():
        raise UserError(f"{section}.{key}", *_TWICE)
    over[section] = {**given, **values}
