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
print(result.before, result.after, result.checkpoint)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.algorithms.algorithm import Algorithm
from winnow.config.recipe import dumps, load
from winnow.config.schema import Config
from winnow.engines.factory import environment, reward_for, sampler_for
from winnow.errors import Stopped, UserError
from winnow.evaluation.held_out import evaluate as evaluate_prompts
from winnow.given import Rows, Source, config_of, merge_section
from winnow.prompts.loading import load_held_out
from winnow.reporting.console import ConsoleReporter, opening, reporter
from winnow.reporting.metrics import Evaluation, Metrics
from winnow.reporting.observer import Reporter
from winnow.rewards.factory import RewardFunction, reward_name
from winnow.storage.run_folder import FINAL, RunStore, next_folder
from winnow.training.early_stopping import standing
from winnow.training.loop import train as run_loop
from winnow.training.setup import Plan, assemble, plan


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        folder: The run folder, with every draw.
        checkpoint: The model it ends with; loads with `AutoModelForCausalLM.from_pretrained`. The
            best of a run that stops early, the final one where weights were averaged or merged.
        metrics: The rows of metrics.jsonl.
        before, after: Accuracy on the held-out prompts, of the start and of that model; ``None``
            where none were held out.
    """

    folder: Path
    checkpoint: Path
    metrics: list[Metrics]
    before: float | None
    after: float | None


def train(
    *,
    model: str | None = None,
    prompts: Source | None = None,
    reward: str | RewardFunction | None = None,
    algorithm: str | Algorithm | None = None,
    steps: int | None = None,
    eval_prompts: str | Rows | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
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
        resume: A run folder to go on with. Only `reward` and `algorithm` may be given beside it,
            where they are objects that no config can name.
        settings: Any other key of the config; sections as dicts.

    Raises:
        UserError: something that the caller can mend.
        WinnowError: the run had to stop.
    """
    own = algorithm if isinstance(algorithm, Algorithm) else None
    given: dict[str, Any] = {
        "model": model,
        "prompts": prompts,
        "algorithm": None if own else algorithm,
        "steps": steps,
        "reward": reward_name(reward),
    }
    over = {key: value for key, value in given.items() if value is not None} | settings
    if eval_prompts is not None:
        merge_section(over, "eval", {"source": eval_prompts})
    with reporter(quiet) as listener:
        if resume is not None:
            if over.keys() - {"reward"} or isinstance(reward, str) or recipe or out:
                raise UserError("resume: a run goes on with its own settings; give none beside it")
            return run(resume=Path(resume), reporter=listener, reward=reward, algorithm=own)
        folder = Path(out) if out is not None else next_folder(own.name if own else "run")
        with config_of(recipe, over, folder) as config:
            return run(config, out=folder, reporter=listener, reward=reward, algorithm=own)


def run(
    config: Config | None = None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    reporter: Reporter,
    reward: str | RewardFunction | None = None,
    algorithm: Algorithm | None = None,
) -> Result:
    """Run a config to its end, or go on with a run folder."""
    if resume is not None:
        out = RunStore.open(resume).folder
        config = load(str(out / "config.toml"))
    assert config is not None
    assert out is not None
    if resume is None:
        RunStore.refuse(out)
    checked = plan(config, algorithm)
    callable_reward = None if isinstance(reward, str) else reward
    with reward_for(config, callable_reward) as verifier:
        _announce(reporter, checked, out)
        try:
            workshop = assemble(checked, verifier, reporter, out=out, resume=resume is not None)
            for made in workshop.runs():
                run_loop(made)
            workshop.finish()
        except KeyboardInterrupt as stop:
            begun = (out / "config.toml").is_file()
            hint = f"; go on with: winnow train --resume {out}" if begun else " before it began"
            raise Stopped(f"stopped{hint}") from stop
    return result_of(out)


def evaluate(
    *,
    model: str | None = None,
    prompts: str | Rows | None = None,
    reward: str | RewardFunction | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Evaluation:
    """Sampled accuracy of a model on prompts, all of them if `prompts` is given.

    Raises:
        UserError: something that the caller can mend.
    """
    given = {"model": model, "reward": reward_name(reward)}
    over = {key: value for key, value in given.items() if value is not None} | settings
    if prompts is not None:
        merge_section(over, "eval", {"source": prompts})
        if not isinstance(prompts, str):
            merge_section(over, "eval", {"size": max(1, len(prompts))})
    folder = Path(out) if out is not None else next_folder("eval")
    with config_of(recipe, over, folder) as config, reporter(quiet) as listener:
        return run_evaluation(config, out=folder, reporter=listener, reward=reward)


def run_evaluation(
    config: Config,
    *,
    out: Path,
    reporter: Reporter,
    reward: str | RewardFunction | None = None,
) -> Evaluation:
    """Evaluate a config's held-out prompts; the draws go to a run folder of their own."""
    RunStore.refuse(out)
    if not config.algorithm.made_in_python:
        config.algorithm.build()  # not needed here, but a mistake in it is one all the same
    held_out = load_held_out(config.prompts, config.eval, config.seed)
    with reward_for(config, None if isinstance(reward, str) else reward) as verifier:
        sampler = sampler_for(config, held_out, reporter)
        store = RunStore.create(out, dumps(config), environment(config), checkpoints=False)
        return evaluate_prompts(config, sampler, held_out, verifier, store, reporter, step=0)


def result_of(folder: Path) -> Result:
    """What a run folder holds."""
    store = RunStore.open(folder)
    evals = store.lines("evals.jsonl")
    final = folder / FINAL
    patience = load(str(folder / "config.toml")).eval.patience
    best = standing(evals).step if patience and not final.is_dir() else None
    ends = [row for row in evals if best in (None, row["step"])]
    return Result(
        folder=folder,
        checkpoint=final if final.is_dir() else store.chosen_checkpoint(patience)[0],
        metrics=store.lines("metrics.jsonl"),
        before=evals[0]["accuracy"] if evals else None,
        after=ends[-1]["accuracy"] if ends else None,
    )


def _announce(reporter: Reporter, checked: Plan, out: Path) -> None:
    if isinstance(reporter, ConsoleReporter):
        train, held_out = len(checked.prompts.train), len(checked.prompts.held_out)
        reporter.console.print(
            opening(checked.config, checked.phases, train, held_out), soft_wrap=True
        )
        reporter.console.print(f"run folder: {out}\n", soft_wrap=True)
