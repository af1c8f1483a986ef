"""Rules that are a function of one sample: `lambda sample: len(sample.text) < 200`. Pure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from winnow.algorithms.selection import Reasons, Rule
from winnow.algorithms.spec import Function, Own, show
from winnow.errors import OwnCodeError
from winnow.types import FinishReason, Group, Prompt


@dataclass(frozen=True, slots=True)
class SampleView:
    """What a function of one sample is given: nothing in it can be changed.

    Attributes:
        prompt: What was asked.
        text: The completion.
        reward: The verifier's score, as it is.
        right: Whether the reward is at least `reward.right_at`.
        length: Number of tokens, at least 1.
        finish_reason: Why it ended: `eos`, `stop` or `length` (cut off).
    """

    prompt: Prompt
    text: str
    reward: float
    right: bool
    length: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class Predicate(Own, Rule):
    """A user's function of one sample: those survive for which it returns True.

    It is asked only of samples that are still alive, so each has a reward.
    """

    reads = frozenset({"text", "tokens", "finish_reason", "prompt"})

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        right = group.right
        reasons: Reasons = [None] * len(alive)
        for number, sample in enumerate(group.samples):
            reward = group.scores[number].value
            if not alive[number] or reward is None:
                continue
            text, ended = sample.text, sample.finish_reason
            view = SampleView(group.prompt, text, reward, right[number], sample.length, ended)
            kept = self.function(view)
            if not isinstance(kept, bool | np.bool_):
                problem = f"the rule returned {kept!r:.60}, not True or False"
                raise OwnCodeError(show(self), problem, "return a bool")
            if not kept:
                reasons[number] = f"rejected by {_name(self.function)}"
        return reasons

    def __reduce__(self) -> Any:
        return type(self), (self.function,)


def _name(function: Function) -> str:
    """The name of a function; of a lambda its file and line."""
    name = str(getattr(function, "__name__", type(function).__name__))
    code = getattr(function, "__code__", None)
    if name != "<lambda>" or code is None:
        return name
    return f"lambda in {os.path.basename(code.co_filename)}:{code.co_firstlineno}"
