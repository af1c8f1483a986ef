"""An evaluation as a line of text. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from winnow.errors import number_of
from winnow.reporting.step_table import formatted

if TYPE_CHECKING:
    from winnow.reporting.metrics import Evaluation


def evaluation_line(result: Evaluation) -> str:
    """Held-out or test accuracy with its interval, and the mean reward."""
    kind = "test" if result.split == "test" else "held-out"
    if result.accuracy is None:
        return f"{kind} accuracy: none, the verifier failed on all {result.errors} samples"
    interval = "" if result.low is None else f" [{result.low:.1%}, {result.high:.1%}]"
    errors = f", {number_of(result.errors, 'verifier error')}" if result.errors else ""
    shown = [f"{label} {rate:.1%}" for label, rate in result.by_difficulty.items()]
    detail = f"  ({', '.join(shown)})" if len(shown) > 1 else ""
    if result.pass_at_k:
        most = result.pass_at_k[-1]
        errors = f", pass@{most.k} {most.value:.1%}{errors}"
    if result.kl is not None and result.kl.value:
        errors += f", KL to the start {formatted(result.kl.value, '.2f')} nats"
    what = "of the final model" if result.split == "final" else f"at step {result.step}"
    return (
        f"{kind} accuracy {what}: {result.accuracy:.1%}{interval}, "
        f"mean reward {formatted(result.reward, '.3f')}, "
        f"{number_of(result.samples, 'sample')} of {number_of(result.prompts, 'prompt')}{errors}, "
        f"{result.seconds:.0f} s{detail}"
    )


def accuracy_of(row: Mapping[str, Any]) -> str:
    """The accuracy in a row of evals.jsonl, with its interval where it has one."""
    low, high = row.get("low"), row.get("high")
    interval = "" if low is None or high is None else f" [{low:.1%}, {high:.1%}]"
    return f"{row['accuracy']:.1%}{interval}"
