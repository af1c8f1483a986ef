"""How much the check-up may sample and learn from, so that it ends in time whatever the model."""

from __future__ import annotations

from dataclasses import dataclass

PROMPTS, SAMPLES = 16, 16
"""Most prompts of the first sample, and most samples of each."""
PROBE = 9
"""Tokens of a completion, where nothing is known yet of the model's speed."""
SAMPLING, LEARNING = 20.0, 8.0
"""Seconds that the first sample, and passes and a step of the learner, are planned to take."""
WHOLE = 60.0
"""Seconds that one prompt's samples may take, so that they are whole: rewards of what was cut off
say nothing."""
_SHORTEST = 8
_SIBLINGS = 2


@dataclass(frozen=True)
class Plan:
    """A first sample.

    Attributes:
        samples: Of a prompt.
        max_tokens: Of a completion.
        capped: What of it is less than was meant, in words; empty where nothing is.
    """

    prompts: int
    samples: int
    max_tokens: int
    capped: str = ""


def first_sample(prompts: int, samples: int, max_tokens: int, prefill: float, step: float) -> Plan:
    """Whole completions, of as many prompts as fit `SAMPLING` seconds; one fits `WHOLE`.

    Decoding k prompts side by side is taken to cost k times as much for encoding them, and the
    square root of k times as much a token: weights are read once for all of them.

    Args:
        prompts, samples, max_tokens: What there is, what a run asks of each, and its limit.
        prefill: Seconds that one prompt takes before its first token.
        step: Seconds that one more token of each of its samples takes.
    """
    several = min(samples, SAMPLES)
    longest = min(max_tokens, max(_SHORTEST, int((WHOLE - prefill) / max(step, 1e-9))))
    most = min(prompts, PROMPTS)
    fits = [k for k in range(1, most + 1) if k * prefill + longest * step * k**0.5 <= SAMPLING]
    count = max(fits, default=1)
    told = [f"completions at {longest} of {max_tokens} tokens"] * (longest < max_tokens)
    told += [f"samples at {several} of {samples} a prompt"] * (several < samples)
    told += [f"prompts at {count}"] * (count < most)
    return Plan(count, several, longest, ", ".join(told))


def that_fit(lengths: list[list[int]], prompt: list[int], tokens: int) -> list[int]:
    """How many samples of each group fit in so many tokens, prompts counted once; 0: left out.

    The first group has at least two, so that there is something to compare.

    Args:
        lengths: Of the samples of each group.
        prompt: Length of each group's prompt.
    """
    found: list[int] = []
    left = tokens
    for own, first in zip(lengths, prompt, strict=True):
        taken, rest = 0, left - first
        for length in own:
            if rest < length and (found or taken >= _SIBLINGS):
                break
            rest, taken = rest - length, taken + 1
        if taken < min(_SIBLINGS, len(own)) and found:
            taken = 0
        found.append(taken)
        left = rest if taken else left
    return found
