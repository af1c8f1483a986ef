"""Accuracy on held-out prompts, sampled. Its draws are kept like all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from winnow.config.schema import Config
from winnow.engines.base import Sampler, SamplingParams
from winnow.reporting.metrics import Evaluation, evaluation
from winnow.reporting.observer import Reporter
from winnow.reporting.timing import Stopwatch
from winnow.rewards.base import Reward
from winnow.rollouts.rollout import draw, score
from winnow.storage.run_folder import RunStore
from winnow.types import Prompt, Split


def sampling_params(config: Config, temperature: float | None = None) -> SamplingParams:
    """The sampling section as engines take it."""
    sampling = config.sampling
    return SamplingParams(
        temperature=temperature or sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        stop=tuple(sampling.stop),
    )


def evaluate(
    config: Config,
    sampler: Sampler,
    prompts: Sequence[Prompt],
    reward: Reward,
    store: RunStore,
    reporter: Reporter,
    *,
    step: int,
    split: Split = "eval",
) -> Evaluation:
    """Draw, score, store and measure; draws that are on the disk already are not made again.

    Of those only verdicts that were errors are asked for anew.

    Args:
        split: `final` for the final model, where that is another than the last step's.
    """
    watch = Stopwatch()
    with watch("evaluate"):
        drawn = store.read_draws(split, step, prompts, config.reward.right_at)
        if drawn is None:
            drawn = draw(
                sampler,
                prompts,
                n=config.eval.samples,
                params=sampling_params(config, config.eval.temperature),
                model=config.model,
                seed=config.seed,
                split="eval",  # the same lots as at that step, so that weights alone differ
                step=step,
                progress=lambda _, done, total: reporter.progress("evaluate", done, total),
            )
            store.write_draws(split, step, drawn)
        groups = score(drawn, reward, config.reward.right_at)
        if groups != drawn:
            store.write_draws(split, step, groups)
    result = evaluation(step, groups, round(watch.seconds["evaluate"], 3), split)
    store.append("evals.jsonl", asdict(result))
    reporter.evaluation(result)
    return result
