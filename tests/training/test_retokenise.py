"""Tokens made of a text again may be others than those that were sampled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import pytest

from tests.build import group
from winnow.engines.base import Engine
from winnow.training.retokenise import Retokeniser
from winnow.types import Group, Prompt, Sample

WORDS = ("", "a", "b", "ab", "c", "?")


class Longest:
    """Takes the longest of its words at each place, and knows no capital letters; 0 is the end."""

    context = None
    gives_ends = True

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        return (1,)

    def encode_completion(self, text: str, *, ended: bool) -> tuple[int, ...]:
        ids, text = [], text.lower()
        while text:
            word = max((w for w in WORDS[1:] if text.startswith(w)), key=len)
            ids.append(WORDS.index(word))
            text = text[len(word) :]
        return (*ids, 0) if ended else tuple(ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(WORDS[i] or "<end>" for i in tokens)

    def token_ends(self, tokens: Sequence[int], text: str) -> tuple[int, ...]:
        ends = accumulate(len(WORDS[i]) for i in tokens)
        return tuple(min(end, len(text)) for end in ends) if self.gives_ends else ()


def rate(samples: Sequence[Sample], *, anew: bool = False, **how: Any) -> float | None:
    engine = Longest()
    engine.gives_ends = how.pop("gives_ends", True)
    own = Retokeniser(cast(Engine, engine), anew=anew, **how)
    recorded: list[Group] = [group([1] * len(samples)).with_(samples=tuple(samples))]
    return own.rate(recorded, [own(one) for one in recorded])


def sampled(text: str, *ends: int, reason: str = "eos") -> Sample:
    """From a server, which lists its tokens, with the end token or without it."""
    n = len(ends)
    return Sample((), (-1.0,) * n, text, reason, length=n or 3, token_ends=ends)  # type: ignore[arg-type]


def test_the_share_of_samples_that_were_sampled_in_other_tokens() -> None:
    as_made = sampled("abc", 2, 3, 3), sampled("abc", 2, 3), sampled("abc", 2, 3, reason="length")
    other = sampled("abc", 1, 2, 3, 3), sampled("ab", 1, 2)
    assert rate(as_made) == 0
    assert rate(other) == 1
    assert rate([*as_made, *other]) == 0.4


def test_a_stop_string_may_be_part_of_the_last_token_or_a_token_of_its_own() -> None:
    one = sampled("c", 1, 1, reason="stop")  # "?" was sampled by itself
    two = sampled("a", 1, reason="stop")  # "ab" was sampled, and cut before the "b"
    assert rate([one], stop=["?"]) == 0
    assert rate([two], stop=["b"]) == 0


def test_a_text_that_does_not_come_back_was_sampled_in_other_tokens() -> None:
    assert rate([sampled("Ab"), sampled("ab")]) == 0.5  # nothing else is known of the second
    assert rate([sampled("ab")]) is None
    assert rate([sampled("ab", 1, 2)], gives_ends=False) is None


def test_tokens_that_were_recorded_are_not_made_again() -> None:
    known = Sample((1, 2), (-1.0, -1.0), "ab", "length", token_ends=(1, 2))
    assert rate([known]) is None
    assert rate([known], anew=True) == 1  # another vocabulary's: the text becomes "ab", one token
    assert rate([known, sampled("ab", 1, 2)]) == 1


@pytest.mark.parametrize("text", ["abc", "cab"])
def test_a_sampler_of_the_same_tokens_never_differs(text: str) -> None:
    ids = Longest().encode_completion(text, ended=True)
    ends = Longest().token_ends(ids, text)
    assert rate([Sample((), (0.0,) * len(ids), text, "eos", length=len(ids), token_ends=ends)]) == 0
