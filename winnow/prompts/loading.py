"""Loads prompts: those to train on, and held-out ones that are never trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice

import numpy as np

from winnow.config.schema.eval import EvalConfig
from winnow.config.schema.prompts import PromptsConfig
from winnow.errors import UserError
from winnow.prompts.arithmetic import arithmetic
from winnow.prompts.reasoning_gym import gym
from winnow.prompts.rows import check_template, from_rows, read_hub, read_jsonl, read_parquet
from winnow.types import Prompt


@dataclass(frozen=True)
class PromptSet:
    """Training prompts, held-out prompts and test prompts, with no family in two of them.

    Attributes:
        test: Those that the chosen checkpoint is tested on, which have no part in choosing it.
        left_out: How many of `prompts.source` are not trained on, as `eval.source` has them too.
    """

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    test: tuple[Prompt, ...] = ()
    left_out: int = 0

    @property
    def every(self) -> tuple[Prompt, ...]:
        """All of them."""
        return self.train + self.held_out + self.test

    def between(self, start: int, stop: int, seed: int) -> list[Prompt]:
        """The training prompts from one place to another: pass after pass, each in its own order.

        A function of its arguments alone, so that a resumed run has the same prompts.
        """
        taken = []
        for position in range(start, stop):
            epoch, place = divmod(position, len(self.train))
            taken.append(self.train[_order(len(self.train), seed, epoch)[place]])
        return taken


def load_prompts(config: PromptsConfig, evaluation: EvalConfig, seed: int) -> PromptSet:
    """Read or make the prompts, and hold some out.

    Held-out prompts come from `eval.source` where it is set, and nothing of that source is trained
    on; else whole families are held out of the training source, chosen by a hash of the family, so
    that the choice depends neither on the order of the file nor on its size. Test prompts are the
    next in the same order, as many as there are up to `eval.test_size`.

    Raises:
        UserError: an unreadable source, a missing column, an empty set, nothing left to train on.
    """
    prompts = read(config, seed)
    others = prompts if evaluation.source is None else _own_held_out(config, evaluation, seed)
    held_out, test = _apart(others, evaluation)
    unseen = [*held_out, *test] if evaluation.source is None else others
    excluded = {family(prompt) for prompt in unseen}
    train = [prompt for prompt in prompts if family(prompt) not in excluded]
    left_out = 0 if evaluation.source is None else len(prompts) - len(train)
    if not train and evaluation.source is not None:
        problem = f"every prompt of {config.source!r} is in it too, so none is left to train on"
        raise UserError("eval.source", problem, "leave it out to hold some out instead")
    if not train:
        raise _none_left(prompts, evaluation, len(held_out), len(test))
    train = train[: config.limit]
    if config.source == "arithmetic":
        train = evenly(train)
    return PromptSet(tuple(train), tuple(held_out), tuple(test), left_out)


def _none_left(
    prompts: Sequence[Prompt], evaluation: EvalConfig, held_out: int, test: int
) -> UserError:
    """Why all prompts are held out."""
    if len(prompts) > 1 and len({family(prompt) for prompt in prompts}) == 1:
        problem = (
            f"all {len(prompts)} rows have the same prompt ({prompts[0].text[-60:]!r}), so none is "
            "left to train on where it is held out"
        )
        return UserError("prompts", problem, "give it others, or set eval.size = 0")
    asked = "" if evaluation.size is None else f" ({evaluation.size} are asked for)"
    number = f"{held_out + test} of {len(prompts)} prompts{asked}"
    field, what = ("eval.test_size", "eval.size and it hold") if test else ("eval.size", "it holds")
    return UserError(field, f"{what} out {number} and leaves none to train on", "lower it")


def evenly(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with those of rarer difficulties repeated, so that all come up equally often.

    There are ninety one-digit additions and thousands of longer ones.
    """
    kinds: dict[str | None, list[Prompt]] = {}
    for prompt in prompts:
        kinds.setdefault(prompt.difficulty, []).append(prompt)
    most = max(map(len, kinds.values()))
    return [prompt for kind in kinds.values() for prompt in islice(cycle(kind), most)]


def load_held_out(
    config: PromptsConfig, evaluation: EvalConfig, seed: int, trained_on: Collection[str] = ()
) -> PromptSet:
    """The held-out and the test prompts alone: those that training with these settings never sees.

    Args:
        trained_on: Prompts, as texts, that are no test prompts, as a file has samples of them.

    Raises:
        UserError: as `load_prompts`, or `eval.size = 0`.
    """
    if evaluation.size == 0:
        raise UserError(
            "eval.size", "it is 0, so there is nothing to evaluate", "set it to a number of prompts"
        )
    if evaluation.source is not None:
        others = _own_held_out(config, evaluation, seed)
    else:
        others = read(config, seed)
    held_out, test = _apart(others, evaluation, trained_on)
    return PromptSet((), tuple(held_out), tuple(test))


def read(
    config: PromptsConfig, seed: int, field: str = "prompts.source", *, completions: bool = False
) -> list[Prompt]:
    """All prompts of a source.

    Args:
        completions: Whether answers are completions: one that is a list of messages is in the
            prompt's `data` alone.
    """
    source = config.source
    check_template(config.template)
    if source == "arithmetic":
        prompts = arithmetic(config, seed)
    elif source.startswith("gym:"):
        prompts = gym(config, seed, field)
    elif source.startswith("hub:"):
        rows = read_hub(source, config.split, field)
        prompts = from_rows(rows, config, field, padded=True, completions=completions)
    elif source.endswith(".jsonl"):
        prompts = from_rows(read_jsonl(source, field), config, field, completions=completions)
    elif source.endswith(".parquet"):
        rows = read_parquet(source, field)
        prompts = from_rows(rows, config, field, padded=True, completions=completions)
    else:
        remedy = "use 'arithmetic', a .jsonl or .parquet file, 'hub:NAME' or 'gym:TASK'"
        raise UserError(field, f"unknown source {source!r}", remedy)
    if not prompts:
        raise UserError(field, f"{source!r} holds no prompts")
    return prompts


def clashes(prompts: Sequence[Prompt]) -> list[str]:
    """Sentences on prompts that are one to the model but have different answers.

    No completion can be right for all of them. A template that leaves a column out makes such.
    """
    same: dict[tuple[str, str], dict[str, Prompt]] = {}
    for prompt in prompts:
        turns = "" if prompt.messages is None else repr(prompt.messages)
        same.setdefault((prompt.text, turns), {}).setdefault(prompt.id, prompt)
    found = [of for of in same.values() if len({p.answer for p in of.values()} - {None}) > 1]
    if not found:
        return []
    answers = {p.answer: p for p in found[0].values() if p.answer is not None}
    first, second = list(answers.values())[:2]
    return [
        f"{sum(map(len, found))} prompts are only {len(found)} to the model, with different "
        f"answers: {first.id!r} ({first.answer!r:.20}) and {second.id!r} ({second.answer!r:.20}) "
        f"are both {first.text[-60:]!r}; does the template leave out a column?"
    ]


def family(prompt: Prompt) -> str:
    """The key that wordings of one problem share."""
    return prompt.family or " ".join(prompt.text.split())


def _own_held_out(config: PromptsConfig, evaluation: EvalConfig, seed: int) -> list[Prompt]:
    """All prompts of `eval.source`, in an order that their text alone decides."""
    other = config.model_copy(update={"source": evaluation.source})
    return sorted(read(other, seed, "eval.source"), key=_place)


def _apart(
    prompts: Sequence[Prompt], evaluation: EvalConfig, trained_on: Collection[str] = ()
) -> tuple[list[Prompt], list[Prompt]]:
    """Held-out prompts, and test prompts of other families; of `eval.source` or of all prompts."""
    size, test_size = evaluation.sizes(len({family(prompt) for prompt in prompts}))
    own = evaluation.source is not None
    held_out = list(prompts[:size]) if own else _hold_out(prompts, size)
    taken = {family(prompt) for prompt in held_out}
    taken |= {family(prompt) for prompt in prompts if prompt.text in trained_on}
    left = [prompt for prompt in prompts if family(prompt) not in taken]
    return held_out, _hold_out(left, test_size)


def _hold_out(prompts: Sequence[Prompt], size: int) -> list[Prompt]:
    """One prompt of each of `size` families; the other members are kept out of training too."""
    first: dict[str, Prompt] = {}
    for prompt in sorted(prompts, key=_place):
        first.setdefault(family(prompt), prompt)
    return list(first.values())[:size]


def _place(prompt: Prompt) -> tuple[bytes, str, str]:
    """A sort key: a hash of a prompt's family, then its text."""
    return _hash(family(prompt)), prompt.text, prompt.answer or ""


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


@lru_cache(maxsize=2)  # a step may straddle two passes
def _order(size: int, seed: int, epoch: int) -> list[int]:
    order: list[int] = np.random.default_rng([seed, epoch, size]).permutation(size).tolist()
    return order
