"""`winnow audit-reward`: how often a verifier is mistaken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from winnow.cli.options import Json, Recipe, Set, print_json, say
from winnow.errors import UserError, number_of

if TYPE_CHECKING:
    from winnow.evaluation.audit import Audit, Disagreement, Rate

_SHOWN = 160
"""Characters of a completion, its last ones, and of an answer."""


def audit_reward(
    recipe: Recipe = None,
    sets: Set = None,
    labels: Annotated[
        str | None,
        typer.Option(help="A .jsonl or .parquet file of completions that are labelled."),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="Its column with the label: true or false, right or wrong. Default: label."
        ),
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="Audit this reward instead of the recipe's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A .jsonl file for all completions that it is mistaken about."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Examples of each kind to print.")] = 3,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Without --labels: how answers are shuffled."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count the false rights and false wrongs of a verifier.

    On labeled completions; those that were cut off (finish_reason length) apart. Without --labels
    each answer of the recipe's prompts must be right of itself and wrong for another prompt, and
    the exit code is 2 if some is not.
    """
    from dataclasses import asdict

    from winnow.config.recipe import load
    from winnow.evaluation.audit import audit, gold, read_labelled
    from winnow.prompts.loading import load_prompts
    from winnow.rollouts.rewards import counts_tokens, reward_for
    from winnow.storage.atomic import refuse, write_text

    if labels is None and label_column is not None:
        raise UserError("--label-column", "it is for --labels", "give --labels with it")
    if labels is not None and seed is not None:
        raise UserError("--seed", "labels leave no answers to shuffle", "leave it out")
    config = load(recipe, [*([f"reward={reward}"] if reward else []), *(sets or ())])
    if out is not None:
        refuse(out)
    if labels is None:
        prompts = load_prompts(config.prompts, config.eval, config.seed).every
        items, left = gold(prompts, seed or 0)
        note = f"{left} shuffled answers are left out: equal to the prompt's own" if left else ""
    else:
        items, left = read_labelled(labels, config.prompts, label_column or "label")
        note = f"{number_of(left, 'row')} without a label left out" if left else ""
    name = ", ".join(table.name for _, table in config.reward.each)
    if counts_tokens(config):
        problem = "'length' counts tokens, which labeled texts do not have"
        raise UserError("reward", problem, "audit the part that says what is right: --reward NAME")
    right_at = 1.0 if config.reward.right_at is None else config.reward.right_at
    with reward_for(config) as verifier:
        found = audit(items, verifier, right_at)
    if out is not None:
        lines = (json.dumps(one.row()) + "\n" for one in found.disagreements)
        write_text(out, "".join(lines))
    if as_json:
        print_json(
            {
                "reward": name,
                "completions": found.completions,
                "prompts": found.prompts,
                "left_out": left,
                "rates": [asdict(one) for one in found.rates],
            }
        )
    else:
        _report(name, found, note, examples)
        if out is not None:
            say(f"written:  {out}")
    bad = len(found.disagreements)
    if labels is None and bad:
        problem = (
            f"{name!r} is mistaken about {bad} of {found.completions} answers "
            "(gold answers must be right, shuffled ones wrong)"
        )
        raise UserError("reward", problem, "use another reward, or correct these answers")


def _report(reward: str, found: Audit, note: str, examples: int) -> None:
    counted = f"{number_of(found.completions, 'completion')} of {found.prompts} prompts"
    say(f"{reward}: {counted}")
    say(f"{note}\n" if note else "")
    wide = max(len(one.part) for one in found.rates)
    heading = f"{'label':5}  {'scored':>7}  {'mistaken':>14}  {'rate, 95 % interval':23}"
    say(f"{'':{wide}}  {heading} errors")
    for one in found.rates:
        say(_line(one, wide))
    kinds = {one.kind: None for one in found.disagreements}
    for kind in kinds if examples else ():
        some = [one for one in found.disagreements if one.kind == kind]
        more = f", {min(examples, len(some))} of {len(some)}" if len(some) > examples else ""
        say(f"\n{kind}{more}:")
        for each in some[:examples]:
            say(_example(each))


def _line(one: Rate, wide: int) -> str:
    label, other = ("right", "wrong") if one.right else ("wrong", "right")
    told = f"{one.mistaken} {other}"
    rate = "" if one.rate is None else f"{one.rate:.2%}"
    if one.low is not None and one.high is not None:
        rate += f" [{one.low:.2%}, {one.high:.2%}]"
    return f"{one.part:{wide}}  {label}  {one.scored:>7}  {told:>14}  {rate:23} {one.errors:>6}"


def _example(one: Disagreement) -> str:
    answer, text = one.labelled.prompt.answer or "", one.labelled.completion
    error = f"\n    {_short(one.score.error)}" if one.score.error else ""
    name = f"{one.labelled.prompt.id}, {one.labelled.part}"
    return f"  prompt {name}: answer {_short(answer)!r}\n    {_short(text)!r}{error}"


def _short(text: str) -> str:
    """The end of a text on one line: there the answer is."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"...{line[-_SHOWN:]}"


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "audit-reward": (
        audit_reward,
        "Example: winnow audit-reward gsm8k --labels labelled.jsonl --reward math",
    )
}
