r"""Where the answer of a completion stands: after thinking, ``#### 18``, ``\boxed{18}``, the end.

What a reasoning model thinks (up to the last ``</think>``) is no part of the answer. Of a text of
more than `MAX_ANSWER` characters, the end is read. Time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from winnow.rewards import numbers
from winnow.rewards.notation import UNEQUAL, plain

MAX_ANSWER = 50_000
"""Characters after the thinking in which an answer is looked for: the last ones."""

MAX_LABEL = 1000
"""Characters of a box that tell one vote from another."""

_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*+(\{)|\\.|[{}]", re.DOTALL)
_ANY_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*+\{")
_MARKER = re.compile(r"####(?!#)[ \t*_]*+(?:\n[ \t*_]*+)?+")
_HEADING = re.compile(r"[.):]++[ \t]++\S")
_JOINER = re.compile(r"(?:[,;]|,?(?:and|or))(?:\w{1,6}=)?")
_NO_JOINER = re.compile(r"\\q?quad|\\(?:text|textrm|mathrm)(?![A-Za-z])|\\[()\[\],; ]|[\s${}]")

_JOINING = re.compile(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])")
_UNEQUAL = re.compile(UNEQUAL)


def after_thinking(completion: str) -> str:
    """The completion after its last ``</think>``; empty if it never stops thinking."""
    rest = completion.rpartition("</think>")[2]
    return rest.partition("<think>")[0]


def final_text(completion: str) -> str:
    """The end of a completion, after its thinking: where its answer is looked for."""
    return after_thinking(completion)[-MAX_ANSWER:]


def last_number(text: str) -> Fraction | None:
    """The last number in the text; ``None`` if there is none, or if it is unreadable."""
    number = numbers.last(plain(final_text(text)))
    return None if number is None else number.value


def final_number(text: str) -> Fraction | None:
    r"""The number that the text ends with; ``None`` if it ends otherwise.

    White space, closing punctuation and mark-up (``. ! ) ] } $ * _ " ' %``) may follow it; a word
    may not. A ``\boxed{...}`` at the end must hold one number.
    """
    text = final_text(text)
    if has_box(text):
        boxed = _boxes(text)
        if not boxed or not numbers.CLOSING.fullmatch(text, boxed[-1].stop):
            return None
        return _of_boxes(text, boxed)
    text = plain(text)
    number = numbers.last(text)
    if number is None or not numbers.CLOSING.fullmatch(text, number.end):
        return None
    return number.value


def label(text: str) -> Fraction | str | None:
    r"""What a text votes for: the number that it answers, or what else is in its last box.

    ``None`` where it answers nothing, or unreadable digits outside of a box.
    """
    text = final_text(text)
    value = marked_number(text)
    if value is not None or ("####" in text and after_marker(text)):
        return value
    boxed = last_boxed(text) if has_box(text) else None
    return None if boxed is None else "".join(boxed[:MAX_LABEL].split()) or None


def marked_number(text: str) -> Fraction | None:
    r"""The number that a text answers, as in GSM8K: the first of these, even if unreadable.

    - The number directly after the first ``####``, on its line or the next. A ``####`` that heads a
      section (``#### 2. Cost``) is skipped.
    - The one number within the last ``\boxed{...}``; a box that is not closed is no answer.
    - The last number of the text.
    """
    text = final_text(text)
    found = after_marker(text) if "####" in text else None
    if found is not None:
        return found.value
    if has_box(text):
        return _of_boxes(text, _boxes(text))
    number = numbers.last(plain(text))
    return None if number is None else number.value


def gold_number(answer: str) -> Fraction | None:
    r"""The number that a prompt's answer is: after ``####``, in ``\boxed{...}``, or all of it.

    ``None`` if it holds anything else: ``12:30``, ``3 or 4``, ``2\pi``.
    """
    found = after_marker(answer) if "####" in answer else None
    if found is not None:
        return found.value
    if has_box(answer):
        return _of_boxes(answer, _boxes(answer))
    return numbers.single(plain(answer))


def last_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}``; ``None`` if there is none, or it is not closed.

    Braces are matched, so ``\boxed{\frac{1}{2}}`` gives ``\frac{1}{2}``. Boxes that are joined by a
    comma, ``and`` or ``or`` are one answer of several parts.
    """
    boxes = _boxes(text)
    if not boxes:
        return None
    found = _joined(text, boxes)
    ends = [slice(one.stop + 1, other.start) for one, other in pairwise(found)]
    return one_of_several([text[box] for box in found], [text[end] for end in ends])


def one_of_several(parts: Sequence[str], between: Sequence[str]) -> str:
    """Parts as a list with commas; inequalities with the word that joins them, which matters."""
    made = parts[0]
    for part, joiner in zip(parts[1:], between, strict=True):
        word = _JOINING.search(joiner) if _UNEQUAL.search(made) else None
        made += (rf" \text{{ {word[0]} }} " if word else ", ") + part
    return made


def has_box(text: str) -> bool:
    r"""Whether a ``\boxed{`` is in it, closed or not."""
    return "box" in text and _ANY_BOX.search(text) is not None


def after_marker(text: str) -> numbers.Number | None:
    """The number directly after the first ``####`` that has one."""
    text = plain(text)
    for marker in _MARKER.finditer(text):
        number = numbers.leading(text, marker.end())
        if number and not _HEADING.match(text, number.end):
            return number
    return None


def _of_boxes(text: str, boxes: list[slice]) -> Fraction | None:
    joined = _joined(text, boxes)
    return numbers.single(plain(text[joined[0]])) if len(joined) == 1 else None


def _boxes(text: str) -> list[slice]:
    """The contents of outermost boxes, in order; empty if the last box is not closed."""
    opened: list[int | None] = []  # where each open brace's content starts, for the boxed ones
    found: list[slice] = []
    unclosed = 0  # how many boxes are open
    for token in _BOX_OR_BRACE.finditer(text):
        symbol = token.group()
        if symbol == "{":
            opened.append(None)
        elif token[1]:
            opened.append(token.end())
            unclosed += 1
        elif symbol == "}" and opened:
            start = opened.pop()
            if start is not None:
                unclosed -= 1
                inner = None
                while found and found[-1].start > start:  # a box within this one
                    inner = found.pop()
                around = slice(start, token.start())
                found.append(inner if inner and _only(text, inner, around) else around)
    return [] if unclosed else found


def _only(text: str, inner: slice, around: slice) -> bool:
    """Whether a box holds a box and nothing else."""
    before = text[around.start : inner.start]
    after = text[inner.stop + 1 : around.stop]
    return len(before) < 20 and not after.strip() and before.count("{") == 1


def _joined(text: str, boxes: list[slice]) -> list[slice]:
    """The last box, with those before it that are joined to it."""
    first = len(boxes) - 1
    while first > 0:
        between = text[boxes[first - 1].stop + 1 : boxes[first].start]
        between = between[: between.rfind("\\")]
        joined = len(between) <= 60 and _JOINER.fullmatch(_NO_JOINER.sub("", between))
        if between and not joined:
            break
        first -= 1
    return boxes[max(first, 0) :]
