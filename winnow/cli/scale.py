"""`winnow train --dry-run --device-model`: what a recipe takes on many GPUs, for a person."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from winnow.cli.options import print_json, say
from winnow.errors import UserError, number_of, printable
from winnow.storage.sizes import human

if TYPE_CHECKING:
    from winnow.training.scale.estimate import PhaseForecast, ScaleForecast

_LABEL = 11


@dataclass(frozen=True)
class Numbers:
    """What the options say that a recipe does not; ``None``: not given."""

    device: str | None
    ranks: int | None
    prompt: int | None
    completion: int | None

    def check(self, dry_run: bool) -> None:
        """Raise a `UserError` if something was given that nothing would read."""
        given = {
            "--ranks": self.ranks,
            "--prompt-tokens": self.prompt,
            "--completion-tokens": self.completion,
        }
        for name, value in given.items():
            if value is not None and self.device is None:
                raise UserError(name, "it is for --device-model", "give --device-model with it")
        if self.device is not None and not dry_run:
            raise UserError("--device-model", "it is for a dry run", "give --dry-run with it")


def calculated(
    recipe: str | None, sets: Sequence[str], out: Path | None, given: Numbers, as_json: bool
) -> None:
    """Print the forecast of a recipe."""
    from winnow.config.recipe import load
    from winnow.reporting.console import Console
    from winnow.training.scale.estimate import PROMPT_TOKENS, Asked, forecast

    if out is not None:
        raise UserError("--out", "what is calculated has no run folder", "leave it out")
    assert given.device is not None
    prompt = given.prompt or PROMPT_TOKENS
    asked = Asked(given.device, given.ranks or 1, prompt, given.completion)
    made = forecast(load(recipe, sets), asked)
    if as_json:
        print_json(as_json_table(made))
        return
    for line in scale_lines(made, Console().width):
        say(line)


def as_json_table(made: ScaleForecast) -> dict[str, Any]:
    """Everything, in bytes and seconds, with what follows from it."""
    table = asdict(made)
    table["spread"]["gpus"] = made.spread.gpus
    table["shape"]["parameters"] = made.shape.parameters
    table["disk"]["total"] = made.disk.total
    for row, phase in zip(table["phases"], made.phases, strict=True):
        row |= {"seconds": phase.seconds, "waits": phase.waits, "bound": phase.bound}
        row["tokens"] = phase.step.tokens(phase.lengths)
        row["stages"] |= {"update": phase.stages.update, "most": phase.stages.most}
    return table


def scale_lines(made: ScaleForecast, width: int) -> Iterator[str]:
    """The forecast, a fact a line."""
    spread, gpu = made.spread, made.gpu
    servers = "which sample too"
    if spread.servers:
        servers = f"{number_of(spread.servers, 'server')} of {number_of(spread.each, 'GPU')}"
    yield from _wrapped(
        "model",
        f"{made.model}, {made.shape.parameters:,} parameters, {made.shape.layers} layers",
        width,
    )
    yield from _wrapped(
        "GPUs",
        f"{spread.gpus} x {made.device} ({gpu.flops / 1e12:g} TFLOP/s, {gpu.bandwidth / 1e12:g} "
        f"TB/s, {human(gpu.memory)}; {gpu.source}): {number_of(spread.ranks, 'rank')}, {servers}",
        width,
    )
    for phase in made.phases:
        if phase.name:
            yield f"{phase.name}:"
        for label, text in _facts(phase, made):
            yield from _wrapped(label, text, width)
        for note in phase.notes:
            yield from _wrapped("note", note, width)
    yield from _wrapped("disk", f"{human(made.disk.total)} at most: {made.disk}", width)
    yield from _wrapped(
        "assumed",
        "every sample is learned from; shares of a GPU's numbers that are reached, evaluations and "
        "rewards as in docs/scale.md",
        width,
    )


def _wrapped(label: str, text: str, width: int) -> Iterator[str]:
    yield from textwrap.wrap(
        printable(text),
        width,
        initial_indent=f"{label + ':':<{_LABEL}}",
        subsequent_indent=" " * _LABEL,
        break_on_hyphens=False,
    )


def _facts(phase: PhaseForecast, made: ScaleForecast) -> Iterator[tuple[str, str]]:
    step, lengths, held, sampled = phase.step, phase.lengths, phase.stages, phase.sampling
    yield (
        "step",
        f"{step.prompts} prompts of {lengths.prompt} tokens, {step.samples} samples of "
        f"{lengths.completion} (at most {lengths.most}): {step.tokens(lengths):,} tokens; "
        f"{number_of(step.updates, 'update')} of {step.microbatches} micro-batches",
    )
    passing = held.passing
    yield (
        "a rank",
        f"{human(held.most)} at most. Held {human(held.held)}; in an update {human(held.update)}: "
        f"gradients {human(held.gradients)}, gathered {human(passing.gathered)}, activations "
        f"{human(passing.activations)}, one block again {human(passing.again)}, logits "
        f"{human(passing.head)}; while weights are sent or saved {human(held.sending)}",
    )
    if phase.server is not None:
        yield (
            "a server",
            f"weights {human(phase.server.weights)}, keys and values {human(phase.server.cache)}: "
            f"room for {phase.server.sequences} completions; at most {phase.slots} at a time",
        )
    seconds = ", ".join(f"{name} {value:.3g}" for name, value in phase.waits.items() if value)
    yield (
        "a step",
        f"{phase.seconds:.3g} s ({seconds}), {step.tokens(lengths) / phase.seconds:,.0f} tokens a "
        f"second; most by: {phase.bound}",
    )
    yield (
        "sampling",
        f"{sampled.total:.3g} s: {sampled.steps:,.0f} decode steps of {sampled.batch:.3g} "
        f"completions, prompts {sampled.prefill:.2g} s; the longest completion alone takes "
        f"{sampled.floor:.3g} s",
    )
    yield (
        "updates",
        f"computing {phase.update.compute:.3g} s, network {phase.update.network:.3g} s, which "
        "overlap",
    )
    sent = phase.traffic
    yield (
        "rank 0",
        f"answers {human(sent.answered)} ({sent.reading:.3g} s to read), requests "
        f"{human(sent.asked)}, groups to ranks {human(sent.handed)}, statistics back "
        f"{human(sent.returned)}, weights {human(sent.written)} ({sent.writing:.3g} s), which "
        f"servers fetch as {human(sent.fetched)}",
    )
    yield (
        "a day",
        f"{86400 / phase.seconds:,.0f} steps; samples {human(phase.daily.samples)}; checkpoints "
        f"{human(phase.daily.checkpoints)} written, {made.disk.checkpoints} kept",
    )
