"""The data of the pipeline: a prompt, its samples, their scores and outcomes.

    prompts -> groups of samples -> scores -> outcomes -> advantages -> one update

Everything here is plain data, immutable but for `Sums`. This module imports nothing else of Winnow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

FinishReason = Literal["eos", "stop", "length"]
"""Why a sample ended: an end-of-sequence token, a stop string, or the token limit."""

Split = Literal["train", "eval", "test", "final", "sample"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question.

    Attributes:
        id: Stable name of the prompt within its data set.
        text: What the model is given, after the template (and the chat template, if any).
        answer: What a verifier compares with; ``None`` where the reward needs no reference.
        difficulty: A label to break success down by; ``None`` where there is none.
        data: The row that the prompt was made from, for verifiers that need more.
        messages: The conversation, where the model's chat template is to be applied: each message
            with `role`, `content` and its other keys; ``text`` is then the last one's content.
        family: Prompts of one family are one problem in other words (such as operands swapped); a
            family is held out as a whole. Default: the text.
    """

    id: str
    text: str
    answer: str | None = None
    difficulty: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] | None = None
    family: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled completion.

    Attributes:
        token_ids: Every token that was sampled, the end-of-sequence token included. Empty where
            only the text is known: from a server, or a file that is read for its texts alone.
        logprobs: log pi(token | prefix) of each token, under the full softmax at the sampling
            temperature (at 1 where that is 0), in nats. Empty where they are not known.
        text: The completion, without special tokens and without the stop string.
        finish_reason: Why it ended. Masks follow from this and from lengths, never from token ids.
        policy_version: Number of updates the policy had seen when it sampled this.
        version_spans: Where the policy changed on the way: the number of the first token that a
            later version sampled, and that version, for each that did.
        entropies: Entropy of the next-token distribution at each position, in nats, if known.
        length: Number of tokens, at least 1. Default: that of ``token_ids``.
        token_ends: Where each token ends in ``text``: how many of its characters (code points) the
            tokens up to and with this one complete. A token with a part of a character ends where
            that begins, the token that completes it behind it; what is not in the text (a stop
            string, special tokens at its end) ends with it. Empty where it is not known.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    policy_version: int = 0
    entropies: tuple[float, ...] = ()
    length: int = 0
    version_spans: tuple[tuple[int, int], ...] = ()
    token_ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        length = self.length or len(self.token_ids)
        if length < 1:
            raise ValueError("a sample has at least one token")
        for name, values in (("token ids", self.token_ids), ("log-probs", self.logprobs)):
            if values and len(values) != length:
                raise ValueError(f"{length} tokens but {len(values)} {name}")
        if not ends_fit(self.token_ends, length, self.text):
            raise ValueError(f"these are no ends of {length} tokens in {len(self.text)} characters")
        begin = [(0, self.policy_version), *self.version_spans]
        if any(a[0] >= b[0] or a[1] >= b[1] for a, b in pairwise(begin)) or begin[-1][0] >= length:
            raise ValueError(f"version spans do not rise within {length} tokens: {begin}")
        object.__setattr__(self, "length", length)


def ends_fit(ends: Sequence[int], length: int, text: str) -> bool:
    """Whether tokens of a text may end there, or it is not said where they do."""
    rising = all(a <= b for a, b in pairwise((0, *ends, len(text))))
    return not ends or (len(ends) == length and rising)


LARGEST_REWARD = 1e100
"""In size: of larger ones no mean and no spread can be computed."""


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a sample: a finite number or an error, never one made of the other.

    Attributes:
        parts: What each part of a reward of several gave, by its label and before its weight; those
            that failed are missing.
        right_by: What `right_at` is compared with, where it is not ``value``.
    """

    value: float | None
    error: str | None = None
    parts: tuple[tuple[str, float], ...] = ()
    right_by: float | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.error is None):
            raise ValueError("a score is a number or an error, exactly one of them")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score is finite, not {self.value}")

    @classmethod
    def of(cls, value: object) -> Score:
        """The score of a verifier's return value; an error if it is no finite number."""
        number = getattr(value, "item", lambda: value)()  # a NumPy or torch scalar
        if isinstance(number, (bool, int, float)):
            try:
                number = float(number)
            except OverflowError:  # an int of hundreds of digits
                number = math.inf
            if abs(number) <= LARGEST_REWARD:
                return cls(number)
            what = "too large a number" if math.isfinite(number) else "not a finite number"
            return cls.failed(f"the verifier returned {number}, {what}")
        return cls.failed(f"the verifier returned {value!r:.80}, not a number")

    def right(self, right_at: float) -> bool:
        """Whether it is that of a right sample; an error is not."""
        decides = self.value if self.right_by is None else self.right_by
        return self.value is not None and decides is not None and decides >= right_at

    @classmethod
    def failed(cls, message: str) -> Score:
        return cls(None, message or "the verifier failed without a message")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a sample survives selection, and why (or why not)."""

    survived: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Origin:
    """The distribution that samples were made from.

    Attributes:
        model: Name of the model, as in the settings.
        temperature: Of the softmax; 0 where the likeliest token was taken.
        truncated: Whether by top-k or top-p.
    """

    model: str
    temperature: float = 1.0
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class TokenAnnotations:
    """Numbers for each token of a sample that updates read; empty where they were not asked for.

    Attributes:
        ref_logprobs: log pi_ref of each token, nats.
        values: The return that the critic expected before each token.
        returns: The return that the critic learns to expect there.
        token_advantages: The advantage of each token, where those of a sample differ.
    """

    ref_logprobs: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    returns: tuple[float, ...] = ()
    token_advantages: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt, encoded once, and its n samples.

    The stages fill it from left to right; each returns a new group. ``scores``, ``outcomes`` and
    ``advantages`` are empty until their stage has run, and then as long as ``samples``.

    Attributes:
        prompt_ids: Token ids of the prompt, as the model saw them.
        advantages: What each sample counts for in the update, on average over its tokens; 0 for a
            rejected sample.
        annotations: Token annotations of each sample; empty where there are none.
        right_at: A score of at least this counts as right; of several rewards, one part's
            (`Score.right_by`).
        step: The training step that these samples were made for.
        origin: What they were sampled from, where it is known.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    samples: tuple[Sample, ...]
    scores: tuple[Score, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    advantages: tuple[float, ...] = ()
    annotations: tuple[TokenAnnotations, ...] = ()
    right_at: float = 1.0
    step: int = 0
    origin: Origin | None = None

    @property
    def valid(self) -> tuple[bool, ...]:
        """Whether each score is a number: only such samples enter a statistic or denominator."""
        return tuple(score.value is not None for score in self.scores)

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers among the scores, in the order of the samples."""
        return tuple(score.value for score in self.scores if score.value is not None)

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether each sample is right."""
        return tuple(score.right(self.right_at) for score in self.scores)

    @property
    def survivors(self) -> tuple[int, ...]:
        """Numbers of the samples that survived selection."""
        return tuple(i for i, outcome in enumerate(self.outcomes) if outcome.survived)

    @property
    def kind(self) -> Literal["all-wrong", "mixed", "all-right", "no-score"]:
        """What the valid samples of this prompt have in common."""
        number = sum(self.valid)
        if number == 0:
            return "no-score"
        right = sum(self.right)
        return "all-wrong" if right == 0 else "all-right" if right == number else "mixed"

    def annotation(self, number: int) -> TokenAnnotations:
        """The token annotations of a sample."""
        return self.annotations[number] if self.annotations else _NOTHING

    def token_advantages(self, number: int) -> tuple[float, ...]:
        """The advantage of each token of a sample."""
        sample = self.samples[number]
        return self.annotation(number).token_advantages or (self.advantages[number],) * len(
            sample.token_ids
        )

    def has_advantage(self, number: int) -> bool:
        """Whether any token of a sample has an advantage other than 0."""
        return self.advantages[number] != 0 or any(self.annotation(number).token_advantages)

    def with_(self, **changes: Any) -> Group:
        return replace(self, **changes)


_NOTHING = TokenAnnotations()


@dataclass(kw_only=True)
class Sums:
    """Sums over the micro-batches of one mini-batch, filled as they go through the model.

    Attributes:
        loss: Value of the loss.
        samples: Samples that went through the model.
        tokens: Their completion tokens.
        positions: Tokens that went through the model for them: prompts and completions, a shared
            prefix counted once, padding counted.
        clipped: Tokens whose gradient the clip zeroed.
        ratio_tokens: Tokens that had a ratio s = pi / pi_old; the next three run over them.
        ratio_sum: Sum of ratios.
        ratio_max: Largest distance of a ratio from 1.
        kl_sum: Sum of s - 1 - log s, which estimates KL(pi_old || pi) (k3).
        token_ratios: The ratios themselves, of every token that had one.
        log_weights: For each sample that had ratios the log-ratio of the whole sample.
        gap_sum: Sum of |log pi - log pi_sampler|, nats, over the tokens of samples that these very
            weights sampled: two computations of one number.
        gap_tokens: How many tokens that is.
        gap_kl_sum: Sum of s - 1 - log s over them, with s = pi / pi_sampler, which estimates
            KL(pi_sampler || pi) (k3).
        gap_tv_sum: Sum of |s - 1| / 2 over them, which estimates the total variation.
        influence: For each group, for each of its samples: |coefficient x advantage| summed over
            its tokens, as if nothing were clipped.
        measures: Other measures of the terms, by name: the sum, and of how many.
    """

    loss: float = 0.0
    samples: int = 0
    tokens: int = 0
    positions: int = 0
    clipped: int = 0
    ratio_tokens: int = 0
    ratio_sum: float = 0.0
    ratio_max: float = 0.0
    kl_sum: float = 0.0
    token_ratios: list[float] = field(default_factory=list)
    log_weights: list[float] = field(default_factory=list)
    gap_sum: float = 0.0
    gap_tokens: int = 0
    gap_kl_sum: float = 0.0
    gap_tv_sum: float = 0.0
    influence: list[list[float]] = field(default_factory=list)
    measures: dict[str, tuple[float, int]] = field(default_factory=dict)


@dataclass(kw_only=True)
class StepStats(Sums):
    """Statistics of one update, from the passes it made anyway.

    Attributes:
        applied: False if loss or gradient were not finite and the weights were left alone.
        grad_norm: L2 norm of the gradient before clipping.
        lr: Learning rate used.
        grad_clipped: Whether that gradient was scaled down to `optimizer.max_grad_norm`.
    """

    applied: bool
    grad_norm: float
    lr: float
    grad_clipped: bool = False


@dataclass(frozen=True)
class Batch:
    """What a step trains on.

    Attributes:
        groups: Every group of the step, with advantages, also those that are not trained on.
        fresh: Whether this is the first pass over these samples.
        trained: Positions of the groups that mini-batches are cut from; ``None``: all.
        merged: How many of the groups, the last ones, are of earlier rounds.
        measures: Values of metrics that sampling gave.
    """

    groups: list[Group]
    fresh: bool
    trained: Sequence[int] | None = None
    merged: int = 0
    measures: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def positions(self) -> Sequence[int]:
        """Positions of the groups that are trained on."""
        return range(len(self.groups)) if self.trained is None else self.trained
