"""Prompts: too long, twice, in two sets, with two answers. Pure but for the tokenizer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from winnow.config.schema import Config
from winnow.engines.base import Engine
from winnow.engines.factory import longest_of_evaluation
from winnow.errors import number_of
from winnow.prompts.loading import PromptSet, clashes
from winnow.training.preflight.check import Check, failed, passed, skipped, warned
from winnow.types import Prompt

_SHOWN = 50
_FULL_STOP = re.compile(r"(?<!\d)\.|\.(?!\d)")
_NEEDLESS = re.compile(r" (?=\W)|(?<=\W) ")
"""Space that parts no two words."""
_OPERATORS = ".-*/%()[]{}"
"""Punctuation by Unicode, and part of what a number or formula says."""


class _Spaces(dict[int, int]):
    """For `str.translate`: a space for punctuation. Filled as characters are met."""

    def __missing__(self, code: int) -> int:
        character = chr(code)
        needless = character not in _OPERATORS and unicodedata.category(character).startswith("P")
        self[code] = ord(" ") if needless else code
        return self[code]


_SPACES = _Spaces()


def room_check(engine: Engine, config: Config, prompts: PromptSet, most: int) -> Check:
    """Whether each prompt and its completion fit the context of the model.

    Args:
        most: `sampling.max_tokens`, of phases the largest.
    """
    name = "context"
    sets = [
        (prompts.train, "sampling.max_tokens", most),
        (prompts.held_out + prompts.test, *longest_of_evaluation(config)),
    ]
    found = [
        (len(engine.encode(prompt)), limit, setting, prompt.id)
        for members, setting, limit in sets
        for prompt in {prompt.id: prompt for prompt in members}.values()
    ]
    if not found:
        return skipped(name, "no prompts: the samples are a file's")
    length, limit, setting, prompt = max(found, key=lambda one: one[0] + one[1])
    told = f"the longest prompt (id {prompt!r}) has {length} tokens, with {setting} = {limit}"
    context = engine.context
    if context is None:
        return passed(name, f"{told}; the model does not say how much it takes")
    many = sum(one[0] + one[1] > context for one in found)
    if many:
        text = f"{many} of {number_of(len(found), 'prompt')} do not fit {context} tokens; {told}"
        return failed(name, text, f"shorten or drop them, or lower {setting}")
    return passed(name, f"{told}, of {context}")


def data_checks(prompts: PromptSet) -> Iterator[Check]:
    """Duplicates in training, leaks into what is held out, answers that clash."""
    yield from repeats(prompts)
    yield answers([*prompts.train, *prompts.held_out, *prompts.test])


def repeats(prompts: PromptSet) -> Iterator[Check]:
    """Duplicates in training, and leaks into what is held out."""
    if not prompts.train:
        return
    folded = {_exact(prompt): plain(prompt) for prompt in prompts.train}  # what takes the time
    yield _duplicates(prompts.train, folded)
    if kept := [*prompts.held_out, *prompts.test]:
        yield _leaks(folded, kept)


def _duplicates(train: Sequence[Prompt], folded: Mapping[str, str]) -> Check:
    """Prompts that are others word for word; rows that a source repeats on purpose aside."""
    rows = list({prompt.id: prompt for prompt in train}.values())
    first: dict[str, Prompt] = {}
    again = [one for one in rows if first.setdefault(_exact(one), one) is not one]
    near = len(rows) - len({folded[_exact(prompt)] for prompt in rows}) - len(again)
    beside = f"; {near} more differ in case, space or punctuation alone" if near else ""
    if not again:
        return passed("duplicates", f"none among {number_of(len(rows), 'training prompt')}{beside}")
    share = len(again) / len(rows)
    text = (
        f"{len(again)} of {len(rows)} training prompts ({share:.1%}) are another one again, such "
        f"as {_shown(again[0])}{beside}"
    )
    return warned("duplicates", text, "drop them, unless they are to count so often")


def _leaks(folded: Mapping[str, str], kept: Sequence[Prompt]) -> Check:
    """Held-out and test prompts that are trained on, exactly or nearly: see `plain`."""
    near = set(folded.values())
    same = [one for one in kept if _exact(one) in folded]
    like = [one for one in kept if _exact(one) not in folded and plain(one) in near]
    if not same and not like:
        return passed("leaks", f"none of {len(kept)} held-out prompts is among those trained on")
    parts = [f"{len(same)} word for word"] * bool(same)
    parts += [f"{len(like)} but for case, space or punctuation"] * bool(like)
    text = (
        f"{len(same) + len(like)} of {len(kept)} held-out prompts are trained on "
        f"({', '.join(parts)}), such as {_shown([*same, *like][0])}: accuracy will be too high"
    )
    remedy = "drop them from training (prompts of one `family` are held out together)"
    return warned("leaks", text, remedy)


def answers(prompts: Sequence[Prompt]) -> Check:
    """Prompts that are one to the model and have several answers."""
    if found := clashes(prompts):
        return warned("answers", found[0], "drop the wrong ones, or correct prompts.template")
    return passed("answers", "no prompt has two of them")


def _exact(prompt: Prompt) -> str:
    return prompt.text if prompt.messages is None else repr(prompt.messages)


def plain(prompt: Prompt) -> str:
    """What a prompt says without case, space and punctuation.

    Operators, brackets and other symbols stay: they make two problems of 1 + 2 and 1 - 2.
    """
    turns = [str(turn.get("content", "")) for turn in prompt.messages or ()]
    text = unicodedata.normalize("NFKC", "\n".join(turns) if turns else prompt.text).casefold()
    text = _FULL_STOP.sub(" ", text)
    return _NEEDLESS.sub("", " ".join(text.translate(_SPACES).split()))


def _shown(prompt: Prompt) -> str:
    text = " ".join(prompt.text.split())
    return repr(text if len(text) <= _SHOWN else f"...{text[-_SHOWN:]}")
