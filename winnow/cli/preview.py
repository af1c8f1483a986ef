"""`winnow train --dry-run` as text and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from winnow.errors import number_of, printable
from winnow.storage.paths import shown
from winnow.storage.sizes import human

if TYPE_CHECKING:
    from winnow.training.preview import Preview, Tried

_LABEL = 10


def as_json_table(made: Preview) -> dict[str, Any]:
    """Everything, sizes in bytes."""
    totals = {"disk": {"total": made.disk.total}, "memory": {"total": made.memory.total}}
    table = {**asdict(made), "folder": str(made.folder)}
    return table | {key: {**table[key], **total} for key, total in totals.items()}


def preview_lines(made: Preview, width: int) -> Iterator[str]:
    """What a run would do, see and need, for a person."""
    yield "settings that are not at their defaults, and where they are from:"
    for setting in made.settings:
        value = json.dumps(setting.value, ensure_ascii=False)
        value = value if len(value) <= 60 else f"{value[:57]}..."
        yield printable(f"  {f'{setting.key} = {value}':<44}  {setting.source}")
    yield ""
    for line in printable(made.summary).splitlines():
        yield from textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
    yield f"run folder: {shown(made.folder)} (a dry run makes none)"
    yield ""
    yield from _prompt(made)
    for label, text in _facts(made):
        yield from textwrap.wrap(
            printable(text),
            width,
            initial_indent=f"{label + ':':<{_LABEL}}",
            subsequent_indent=" " * _LABEL,
            break_on_hyphens=False,
        )
    for note in made.notes:
        yield from textwrap.wrap(
            printable(f"note:     {note}"), width, subsequent_indent=" " * _LABEL
        )


def _prompt(made: Preview) -> Iterator[str]:
    prompt = made.prompt
    if prompt is None:
        return
    yield printable(f"prompt {prompt.id!r} as the model sees it, {prompt.tokens} tokens:")
    for line in printable(prompt.text).split("\n"):
        yield f"  | {line}"
    yield f"answer:   {printable(repr(prompt.answer)) if prompt.answer is not None else 'none'}"


def _facts(made: Preview) -> Iterator[tuple[str, str]]:
    work, disk, memory, lengths = made.work, made.disk, made.memory, made.lengths
    test = f", {made.test} to test the best with" if made.test else ""
    training = "those of the file" if made.recorded and not made.training else made.training
    yield "prompts", f"{training} to train on, {made.held_out} held out{test}"
    if lengths is not None:
        fit = "the model does not say how many it takes"
        if lengths.context is not None:
            fit = f"all fit the context of {lengths.context} with their completions"
            if lengths.too_long:
                fit = (
                    f"{number_of(lengths.too_long, 'prompt')} of {lengths.prompts} do not fit the "
                    f"context of {lengths.context} with a completion, and the run would refuse to "
                    "begin"
                )
        yield (
            "tokens",
            f"{lengths.shortest} to {lengths.longest} a prompt, median {lengths.median:g}; {fit}",
        )
    yield "reward", f"{made.reward}: {_scores(made)}"
    yield "steps", f"{work.steps}, with up to {number_of(work.updates, 'update')}"
    times = number_of(work.evaluations, "evaluation")
    evaluated = f" and {work.evaluated:,} for {times}" if work.evaluations else ""
    told = [f"{work.samples:,} for training"] if work.samples or not made.recorded else []
    told += [f"{made.recorded:,} of a file to train on"] if made.recorded else []
    yield "samples", f"{', '.join(told)}{evaluated}"
    beside = f", other models {human(disk.models)}" if disk.models else ""
    samples = f", all samples up to {human(disk.samples)}" if disk.samples else ""
    checkpoints = number_of(disk.checkpoints, "checkpoint")
    yield (
        "disk",
        f"{human(disk.total)} at most: {checkpoints} of {human(disk.checkpoint)} at a time"
        f"{beside}{samples}",
    )
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "copies of the weights": memory.copies,
        "other models": memory.others,
        "KV cache of sampling": memory.cache,
    }
    held = ", ".join(f"{name} {human(value)}" for name, value in parts.items() if value)
    trained = "" if made.trained == made.parameters else f", {made.trained:,} of them trained"
    yield (
        "memory",
        f"{human(memory.total)} on {made.device}, and activations: {held} "
        f"({made.parameters:,} parameters{trained})",
    )


def _scores(made: Preview) -> str:
    if not made.tried:
        return "not tried before a run"
    return ", ".join(map(_score, made.tried))


def _score(tried: Tried) -> str:
    if tried.score is None:
        return f"{tried.completion!r:.40} is an error ({tried.error:.80})"
    return f"{tried.completion!r:.40} scores {tried.score:g}"
