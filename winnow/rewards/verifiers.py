"""Verifiers that look at text alone: ``(prompt, completion) -> 1.0 or 0.0``.

Each raises ``ValueError`` where it cannot score, such as for a prompt without the answer that it
needs. That is the sample's error, never a zero.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from fractions import Fraction

from winnow.rewards import answer_extraction
from winnow.types import Prompt


def number(prompt: Prompt, completion: str) -> float:
    """1 if the completion ends with the number that is the prompt's answer.

    The last number of the completion counts, and only white space, closing punctuation or mark-up
    may follow it: for the answer 19, `` 19``, ``8 + 11 = 19.`` and ``**19.0**`` are right; ``18 or
    19``, ``19 apples`` and ``nineteen`` are wrong. The comparison is exact.

    Raises:
        ValueError: The prompt has no answer, or it is not one number.
    """
    gold = _gold_number(prompt)
    return float(answer_extraction.final_number(completion) == gold)


def exact(prompt: Prompt, completion: str, *, ignore_case: bool = False) -> float:
    """1 if the completion, after its thinking, is the answer, white space around either aside.

    Raises:
        ValueError: The prompt has no answer.
    """
    gold = needed_answer(prompt).strip()
    said = answer_extraction.after_thinking(completion).strip()
    if ignore_case:
        gold, said = gold.casefold(), said.casefold()
    return float(said == gold)


def regex(prompt: Prompt, completion: str, *, pattern: str) -> float:
    """1 if the pattern is found in the completion, and its group 1 is the answer.

    The first place where the pattern matches counts (``re.search``):

    - ``{answer}`` in the pattern stands for the answer, taken literally: a match is right.
    - Else, where the pattern has a group and the prompt an answer, group 1 must equal the answer,
      white space around either aside.
    - Else a match is right.

    Raises:
        ValueError: The pattern holds ``{answer}`` and the prompt has no answer.
    """
    if "{answer}" in pattern:
        pattern = pattern.replace("{answer}", re.escape(needed_answer(prompt)))
        return float(re.search(pattern, completion) is not None)
    match = re.search(pattern, completion)
    if match is None or not match.re.groups or prompt.answer is None:
        return float(match is not None)
    return float((match[1] or "").strip() == prompt.answer.strip())


def gsm8k(prompt: Prompt, completion: str) -> float:
    r"""1 if the completion's answer is the same number as the prompt's, both read as in GSM8K.

    That is ``#### 18``, else ``\boxed{18}``, else the last number
    (:func:`winnow.rewards.answer_extraction.marked_number`). The comparison is exact.

    Raises:
        ValueError: The prompt has no answer, or it is not one number.
    """
    gold = _gold_number(prompt)
    return float(answer_extraction.marked_number(completion) == gold)


class Unreadable(ValueError):
    """A judge's answer that holds no score."""


def said(
    prompt: Prompt, answer: str, *, parse: str | None = None, scores: Mapping[str, float]
) -> float:
    """The score in a judge's answer, its thinking aside.

    Args:
        parse: A pattern with one group, the score; the last place where it matches counts. Default:
            all of the answer is the score.
        scores: The score of each word that may stand there, case, white space and the punctuation
            around it aside. Empty: a number stands there.

    Raises:
        Unreadable: the pattern does not match, or what stands there is not one of the words, or no
            number.
    """
    text = answer_extraction.after_thinking(answer)
    found = text
    if parse is not None:
        *_, last = [None, *re.finditer(parse, text)]
        if last is None:
            raise Unreadable(f"'{parse}' is not in the judge's answer {_shown(answer)}")
        found = last[1] or ""
    if not scores:
        try:
            return float(found)
        except ValueError:
            raise Unreadable(f"no number but {found!r:.80} in {_shown(answer)}") from None
    words = {_bare(word): score for word, score in scores.items()}
    if _bare(found) not in words:
        known = ", ".join(map(repr, scores))
        raise Unreadable(f"none of {known} is the judge's answer {_shown(found)}")
    return words[_bare(found)]


def _bare(word: str) -> str:
    return word.strip(" \t\r\n.,:;!?*_`'\"()[]").casefold()


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"...{text[-_SHOWN:]}")


_SHOWN = 200
"""Characters of a judge's answer, its last ones, in an error."""


def needed_answer(prompt: Prompt) -> str:
    """The prompt's answer.

    Raises:
        ValueError: It has none.
    """
    if prompt.answer is None:
        raise ValueError(f"prompt {prompt.id!r} has no answer to compare with")
    return prompt.answer


def _gold_number(prompt: Prompt) -> Fraction:
    value = _number_of(needed_answer(prompt))
    if value is None:
        raise ValueError(
            f"the answer of prompt {prompt.id!r} is not one number: {prompt.answer!r:.80}"
        )
    return value


@functools.lru_cache(maxsize=4096)
def _number_of(answer: str) -> Fraction | None:
    """Cached, as a prompt has many samples."""
    return answer_extraction.gold_number(answer)
