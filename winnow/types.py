"""What travels down the pipeline: a prompt, its draws, their scores and verdicts.

    prompts -> groups of draws -> scores -> verdicts -> weights -> one update

Everything here is plain immutable data. This module imports nothing else of Winnow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

FinishReason = Literal["eos", "stop", "length"]
"""Why a draw ended: an end-of-sequence token, a stop string, or the token limit."""

Split = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question.

    Attributes:
        id: Stable name of the prompt within its data set.
        text: What the model is given, after the template (and the chat template, if any).
        answer: What a verifier compares with; ``None`` where the reward needs no reference.
        difficulty: A label to break success down by; ``None`` where there is none.
        data: The row that the prompt was made from, for verifiers that need more.
        messages: The conversation, where the model's chat template is to be applied; ``text`` is
            then its last message.
        family: Prompts of one family are one problem in other words (operands swapped, say): a
            family is held out as a whole. Default: the text.
    """

    id: str
    text: str
    answer: str | None = None
    difficulty: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] | None = None
    family: str = ""


@dataclass(frozen=True, slots=True)
class Draw:
    """One sampled answer.

    Attributes:
        token_ids: Every token that was drawn, the end-of-sequence token included. Never empty.
        logprobs: log pi(token | prefix) of each token, under the full softmax at the sampling
            temperature, in nats. Same length as ``token_ids``.
        text: The answer as text, without special tokens and without the stop string.
        finish_reason: Why it ended. Masks follow from this and from lengths, never from token ids.
        policy_version: Number of updates the policy had seen when it drew this.
        entropies: Entropy of the next-token distribution at each position, in nats, if gauged.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    policy_version: int = 0
    entropies: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise ValueError("a draw has at least one token")
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.logprobs)} log-probs")


@dataclass(frozen=True, slots=True)
class Score:
    """What a verifier said: a finite number or an error, never one made of the other."""

    value: float | None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.error is None):
            raise ValueError("a score is a number or an error, exactly one of them")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score is finite, not {self.value}")

    @classmethod
    def of(cls, value: object) -> Score:
        """The score that a verifier's return value stands for; an error if it is not finite."""
        number = getattr(value, "item", lambda: value)()  # a NumPy or torch scalar
        if isinstance(number, (bool, int, float)):
            number = float(number)
            if math.isfinite(number):
                return cls(number)
            return cls.failed(f"the verifier returned {number}, not a finite number")
        return cls.failed(f"the verifier returned {value!r:.80}, not a number")

    @classmethod
    def failed(cls, message: str) -> Score:
        return cls(None, message or "the verifier failed without a message")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a draw survives selection, and why (or why not)."""

    kept: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt, encoded once, and the n draws that hang off it.

    The stages fill it from left to right; each returns a new group. ``scores``, ``verdicts`` and
    ``weights`` are empty until their stage has run, and then as long as ``draws``.

    Attributes:
        prompt_ids: Token ids of the prompt, as the model saw them.
        weights: What each draw weighs in the update; 0 for a draw that does not survive.
        right_at: A score of at least this counts as right.
        step: The training step that these draws were made for.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    draws: tuple[Draw, ...]
    scores: tuple[Score, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    weights: tuple[float, ...] = ()
    right_at: float = 1.0
    step: int = 0

    @property
    def valid(self) -> tuple[bool, ...]:
        """Draws whose verdict is a number: only these enter any statistic or denominator."""
        return tuple(score.value is not None for score in self.scores)

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers among the scores, in the order of the draws."""
        return tuple(score.value for score in self.scores if score.value is not None)

    @property
    def right(self) -> tuple[bool, ...]:
        """Draws that a verifier found right."""
        return tuple(s.value is not None and s.value >= self.right_at for s in self.scores)

    @property
    def kind(self) -> Literal["all-wrong", "mixed", "all-right", "no-verdict"]:
        """What the valid draws of this prompt have in common."""
        number = sum(self.valid)
        if number == 0:
            return "no-verdict"
        right = sum(self.right)
        return "all-wrong" if right == 0 else "all-right" if right == number else "mixed"

    def with_(self, **changes: Any) -> Group:
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one update measured, from the passes it made anyway.

    Attributes:
        applied: False if loss or gradient were not finite and the weights were left alone.
        loss: Value of the loss.
        grad_norm: L2 norm of the gradient before it was scaled down.
        lr: Learning rate used.
        draws: Draws that went through the model.
        tokens: Their answer tokens.
        positions: Tokens that went through the model for them: prompts and answers, what several
            begin with counted once, padding counted.
        clipped: Tokens whose gradient the clip zeroed.
        ratio_tokens: Tokens that had a ratio s = pi / pi_old; the next three run over them.
        ratio_sum: Sum of ratios.
        ratio_max: Largest distance of a ratio from 1.
        kl_sum: Sum of s - 1 - log s, which estimates KL(pi_old || pi) (k3).
        influence: For each group, for each of its draws: |coefficient x weight| summed over its
            tokens. What a draw could move if nothing were clipped.
    """

    applied: bool
    loss: float
    grad_norm: float
    lr: float
    draws: int
    tokens: int
    positions: int
    clipped: int
    ratio_tokens: int
    ratio_sum: float
    ratio_max: float
    kl_sum: float
    influence: list[list[float]]
