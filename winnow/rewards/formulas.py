r"""Formulas in text: which one is the answer, and what it is made of, without computing anything.

Time is linear in the text; an answer of more than `MAX_FORMULA` characters is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from winnow.rewards import numbers
from winnow.rewards.answer_extraction import (
    after_marker,
    final_text,
    has_box,
    last_boxed,
    one_of_several,
)
from winnow.rewards.dates import date_at, date_of
from winnow.rewards.letter_products import has_variables, variables_at
from winnow.rewards.notation import CASED, plain
from winnow.rewards.one_form import both_signs

MAX_FORMULA = 1000
"""Characters that an answer may have."""

_STATEMENT = re.compile(
    r"(?:\b(?:answer|result|solution)(?:\s+is|\s*:|\s+=)|答案(?:是|为|為|：|:)|정답은|答えは)(?!\s+not\b)"
    r"[\s:*_]*+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[0-9]\.\.\.)(?=\s|$)|(?<![0-9]\.\.)[.!?](?=\s|$)|[。！？\n]|$")
_DELIMITED = re.compile(
    r"""\$\$(?P<a>[^$]++)\$\$ | \$(?=(\s)?)(?P<b>[^$\n]++)(?(2)(?<=\s)|(?<!\s))\$(?!\d)
      | \\\((?P<c>(?:[^\\]|\\(?!\)|\())*+)\\\) | \\\[(?P<d>(?:[^\\]|\\(?!\]|\[))*+)\\\]""",
    re.VERBOSE,
)
_JOINER = re.compile(r"\s*(?:,|;|,?\s*(?:and|or))\s*")
_RUN_BEFORE = re.compile(r"[-+*/^()0-9.,=:_!√π×·÷±²³ ]*$")
_RUN_AFTER = re.compile(r"[-+*/^()0-9.,=:_!√π×·÷±²³]*+")
_WRAPPING = re.compile(r"^(?:[\s$*]|\\[(\[])+|(?:[\s$*]|\\[)\]]|(?<=[^.])[.。])+$")

_JOINING_WORD = re.compile(
    r"\s*,?\s*(?:\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![\\A-Za-z])(?:and|or)(?![A-Za-z]))"
    r"(?:\\?\s)*"
)
_NAME = re.compile(r"\s*((?:[^0-9+*/^×÷<>=!√±-]|(?<=[_{(A-Za-z])[0-9])+?)\s*=(?!=)\s*")
_LONE_NAME = re.compile(r"[A-Za-z](?:_(?:\w|\{\w+\}))?(?:\([a-z]\))?")
_BRACKETS = {"(": ")", "[": "]", r"\{": r"\}", "{": "}"}
_ALPHA = "[^\\W\\d_π⁰¹²³⁴-⁹₀-₉]"
"""A letter of a word: small digits count as letters elsewhere."""
_BRACKET = re.compile(r"\\[{}]|[()\[\]{}]")
_WORD = re.compile(
    rf"(?!(?:pi|sqrt|frac|sin|cos|tan|cot|sec|csc|log|ln|exp|lim|max|min|gcd|lcm|mod|deg)(?!{_ALPHA}))"
    rf"(?<!{_ALPHA}){_ALPHA}{{2,}}",
    re.IGNORECASE,
)
# A word that stands alone, or any letter of a script without case: 答案是18 is no formula.
_PROSE = re.compile(
    rf"(?<![\\\w])(?!(?:pi|sqrt|sin|cos|tan|log|ln|exp)\b)[{CASED}]{{2,}}(?![\w(])|[^\W\d_{CASED}]"
)
_ARTICLE = re.compile(r"(?:an?|the) (?=\w)")
_LETTER = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice)\s+)?"
    r"(?:([A-Z])[.):]?|\(([A-Z])\)|(?:\(([A-Z])\)|([A-Z])[.):])\s(?!(?:and|n?or)\s+\W?[A-Z]\b).*)",
    re.DOTALL,
)
_SMALL = re.compile(r"\(?[a-z]\)?[.:]?")
# Notations that mathematics reads as something else: a time, a date, a base, "and so on"
_LITERAL = re.compile(
    r"\d\s*:\s*\d|\d{4}[-/]\d{1,2}[-/]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d_\{?\w|[₀-₉]|…|\.\.\."
)
_HALF_OF_DAY = re.compile(r"(?<=[0-9])([ap])\.?m\.?$")

_TEXT = (
    r"\\(?:text|textrm|textbf|textit|mathrm|mbox|hbox)\s*"
    r"\{[\s~.,]*[A-Za-z](?:[A-Za-z\s~./23-]|\\[, ]|\^\{?-?[123]\}?)*\}"
)
_POWER = r"(?:\s*\^\s*(?:-?[123]|\{\s*-?[123]\s*\})|[²³])?"
_UNIT = re.compile(
    rf"""(?<![\^_\\])
    (?: (?P<text> \\frac\s*\{{{_TEXT}\}}\s*\{{{_TEXT}{_POWER}\}}
          | {_TEXT}{_POWER} (?:(?:\\cdot|\\,|/|·|\s)*{_TEXT}{_POWER}){{0,3}} )
      | (?<=[\s)}}0-9π])
        (?P<plain> (?:(?:square|sq\.?|cubic|cu\.?)\s+)?
        (?: (?:centi|milli|kilo)?met(?:er|re)s? | cm | mm | km | kg | ft | f(?:oo|ee)t | inch(?:es)?
          | yards? | miles? | units? | dollars? | cents? | degrees? | radians? | rad | hours?
          | minutes? | seconds? | days? ) ){_POWER}
    )
    (?:\\text\{{\.\}})?[\s.]*$""",
    re.VERBOSE,
)
_IN_TEXT = re.compile(r"\\(?:text[a-z]*|mathrm|mbox|hbox)\s*\{([^{}]*)")
_SQUARED = re.compile(r"(?<=[A-Za-z]) (?:squared|cubed)\b")
_MORE_THAN_A_UNIT = re.compile(
    r"\b(?:and|or|if|for|not|no|at|than|less|more|to|mod|hundred|thousand|[mbtr]+illion|dozen|percent"
    r"|plus|minus|times|over|by|divided|multiplied|squared|cubed|half|is|are|was|were|where|when|only"
    r"|negative|of|with|equals?|does|cannot|undefined|wrong|one|two|three|four|five|six|ten)s?\b"
)


@dataclass(frozen=True)
class Parts:
    """A list, a set or a tuple.

    Attributes:
        items: Its formulas.
        names: What each is said to be (``x`` in ``x = 1``); empty where nothing is said.
        bracket: What encloses it; empty for a bare list.
    """

    items: tuple[str, ...]
    names: tuple[str, ...]
    bracket: str


def answer_formula(completion: str, *, bare_words: bool = True) -> str | None:
    r"""The formula, number or word that a completion answers; ``None`` if there is none.

    The last ``\boxed{...}``; without one, the number or formula after the first ``####``; a text
    that is one formula; what follows ``the answer is``; or the last formula (``$...$``,
    ``\(...\)``) or number, whichever comes last.

    Args:
        bare_words: Whether a short text without any of these is an answer: ``Yes``.
    """
    text = final_text(completion)
    if has_box(text):
        return _bounded(last_boxed(text) or "")
    text = text.strip()
    marked = after_marker(text) if "####" in text else None
    if marked is not None and marked.value is not None:
        after = plain(text).partition("####")[2]
        return date_at(after, len(after) - len(after.lstrip())) or str(marked.value)
    if marked is not None:
        line = text.partition("####")[2].strip().partition("\n")[0]
        return _bounded(line) if is_formula(line) else None
    line = text.rpartition("####")[2].strip().partition("\n")[0]
    if "####" in text and is_formula(line):
        return _bounded(line)
    if is_formula(text):
        return _bounded(text)
    stated = _stated(text)
    if stated is not None:
        return _bounded(stated)
    found = _last(text)
    if found is None and bare_words and "\n" not in text and len(text) <= 100:
        found = text
    return None if found is None else _bounded(found)


def gold_formula(answer: str) -> str | None:
    r"""The formula that a prompt's answer is: after ``####``, in ``\boxed{...}``, or all of it."""
    if has_box(answer):
        return _bounded(last_boxed(answer) or "")
    return _bounded(answer.rpartition("####")[2])


def unwrapped(text: str) -> str:
    """The text without delimiters, emphasis and a final period."""
    return _WRAPPING.sub("", text.strip())


def is_formula(text: str) -> bool:
    """Whether it is one bare formula: one line, no delimiter, no word (``18 dollars`` has one)."""
    line = text.strip()
    if not line or len(line) > MAX_FORMULA or "\n" in line or "**" in line or _delimited(line):
        return False
    return not _PROSE.search(line)


def number_of(formula: str) -> tuple[Fraction, bool] | None:
    """The exact number that a formula is, and whether it is a percentage; ``None`` for others."""
    text = plain(formula)
    value = None if has_variables(formula, text) else numbers.single(text)
    return None if value is None else (value, text.rstrip(" .$)}").endswith("%"))


def literal_of(formula: str) -> str | None:
    """A notation that mathematics would misread, as it is compared; ``None`` if it is none.

    Such as ``12:30``, ``2024-11-26``, ``25_8``, ``1, 2, ...``.
    """
    text = plain(without_name(unwrapped(formula)))
    if not _LITERAL.search(text):
        return None
    text = "".join(text.split()).translate({123: None, 125: None}).replace("...", "…").lower()
    return _HALF_OF_DAY.sub(r"\1m", text)


def word_of(formula: str) -> str | None:
    r"""Words that are no mathematics, as they are compared: ``\text{Yes}`` is ``yes``."""
    text = plain(unwrapped(formula))
    if re.search(r"[\\=+*/^<>$π√·×]", text):
        return None
    words = " ".join(text.strip("()\"' .").lower().split())
    return _ARTICLE.sub("", words, count=1) if _WORD.search(text) else None


def without_unit(formula: str) -> str:
    r"""A formula without the unit at its end: ``6\pi\text{ cm}^2`` is ``6\pi``.

    Letters of mathematics are none: the h of ``\pi r^2 h``.
    """
    match = _UNIT.search(formula)
    if match is None:
        return formula
    said = " ".join(_IN_TEXT.findall(match["text"] or "") or [match["plain"] or ""]).strip(" ~.,")
    rest = formula[: match.start()].rstrip(" ~\\,;:")
    words = _SQUARED.sub(" ", said).split()
    letter = len(said) == 1 and said not in numbers.UNITS + "K"
    if letter or len(words) > 3 or _MORE_THAN_A_UNIT.search(" ".join(words)):
        return formula
    if said.startswith("deg") and re.search(r"π|\\pi", rest):  # 2 pi degrees are not 2 pi
        return formula
    return rest if rest and not word_of(rest) else formula


def last_side(formula: str) -> str:
    """The last of more than two sides, ``c`` of ``a = b = c``; else all of it."""
    sides = _split(formula, "=")
    return sides[-1] if len(sides) > 2 else formula


def letter_of(formula: str) -> str | None:
    """The choice that a formula is: C for ``C``, ``(C)``, ``C. 18``; ``None`` for others."""
    match = _LETTER.fullmatch(plain(unwrapped(formula)).strip())
    return None if match is None else match[match.lastindex or 0]


def choice_of(formula: str) -> str | None:
    """`letter_of`, also of a small letter that stands alone: C for ``c``, ``(c)``."""
    text = plain(unwrapped(formula)).strip()
    return letter_of(text.upper() if _SMALL.fullmatch(text) else text)


def depth(formula: str) -> int:
    """How deep its brackets stand in each other."""
    now = deepest = 0
    for token in _BRACKET.finditer(formula):
        now = now + 1 if token.group()[-1] in "([{" else max(0, now - 1)
        deepest = max(deepest, now)
    return deepest


def is_plain(formula: str) -> bool:
    """Whether it is a number, a text or a choice, or a list of those: nothing to compute."""
    if any(read(formula) for read in (number_of, literal_of, word_of, letter_of, date_of)):
        return True
    several = parts(formula)
    return several is not None and all(map(is_plain, several.items))


def without_name(formula: str) -> str:
    """What a formula says about a name (``x = 5``, ``5 = x``) or as a sum (``2 + 3 = 5``)."""
    several = len(_split(_JOINING_WORD.sub(",", formula))) > 1
    sides = [] if several else _split(formula, "=")
    if len(sides) == 2 and _LONE_NAME.fullmatch(sides[1]) and not _NAME.match(formula):
        return sides[0]
    if len(sides) > 1 and (_NAME.match(formula) or not re.search("[A-Za-z]", formula)):
        return sides[-1]
    return formula


def is_equation(formula: str) -> bool:
    r"""Whether it has two sides: not ``\sum_{k=1}``."""
    return len(_split(formula, "=")) > 1


def parts(formula: str) -> Parts | None:
    """The parts of a list, set or tuple; ``None`` if it is none."""
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])|\\[,;!]|\\ ", "", unwrapped(formula))
    text = _JOINING_WORD.sub(" , ", text).replace(";", ",").replace("、", ",")
    text = text.replace(r"\lbrace", r"\{").replace(r"\rbrace", r"\}")
    whole = _NAME.match(text)
    if whole and _enclosed(text[whole.end() :].strip()):
        text = text[whole.end() :]
    text = text.strip()
    bracket = _enclosed(text)
    if bracket in ("(", "[") and len(both_signs(text)) > 1:
        bracket, items = "", both_signs(text)
    else:
        text = text[len(bracket) : -len(_BRACKETS[bracket])] if bracket else text
        items = [signed for item in _split(text) for signed in both_signs(item)]
    if len(items) < 2 and bracket != r"\{":
        return None
    named = [_NAME.match(item) for item in items]
    names = tuple(match[1] if match else "" for match in named)
    if names[0] and not any(names[1:]):  # n = 1, 2, 3
        names = (names[0],) * len(names)
    bare = tuple(i[m.end() :] if m else i for i, m in zip(items, named, strict=True))
    return Parts(bare, names if all(names) else (), bracket)


def _bounded(text: str) -> str | None:
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")
    text = " ".join(unwrapped(text).split()) if len(text) <= 2 * MAX_FORMULA else ""
    return text if 0 < len(text) <= MAX_FORMULA else None


def _delimited(text: str) -> re.Match[str] | None:
    found = None
    for found in _DELIMITED.finditer(text):  # noqa: B007 (we want the last one)
        pass
    return found


def _content(match: re.Match[str]) -> str:
    return next(match[name] for name in "abcd" if match[name] is not None)


def _stated(text: str) -> str | None:
    """What follows the last "the answer is", to the end of its sentence."""
    statement = None
    for statement in _STATEMENT.finditer(text):  # noqa: B007 (we want the last one)
        pass
    if statement is None:
        return None
    sentence = text[statement.end() : statement.end() + 2 * MAX_FORMULA]
    first = _DELIMITED.match(sentence)
    if first:
        return _group(sentence, first)
    end = _SENTENCE_END.search(sentence)
    said = unwrapped(sentence[: end.start()] if end else sentence)
    if not said:
        return None
    if number_of(said) or is_formula(without_unit(said)) or letter_of(said):
        return said
    return said if len(said) <= 60 and not re.search(r"\d", said) else None


def _group(text: str, first: re.Match[str]) -> str:
    """A delimited formula, with those that are joined to it by a comma, "and" or "or"."""
    found, between, place = [_content(first)], [], first.end()
    while joiner := _JOINER.match(text, place):
        following = _DELIMITED.match(text, joiner.end())
        if following is None:
            break
        found.append(_content(following))
        between.append(joiner[0])
        place = following.end()
    return one_of_several(found, between)


def _last(text: str) -> str | None:
    """The last formula or number."""
    formulas = list(_DELIMITED.finditer(text))
    end = formulas[-1].end() if formulas else 0
    rest = plain(text[end:])
    number = numbers.last(rest)
    if number is not None:
        if date := date_at(rest, number.start):
            return date
        if letters := variables_at(rest, number.end):
            return f"{rest[number.start : number.end]}{letters}"
        if number.value is not None:
            return str(number.value)
        return _run(rest, number)
    if not formulas:
        return None
    first = len(formulas) - 1
    while first and _JOINER.fullmatch(text[formulas[first - 1].end() : formulas[first].start()]):
        first -= 1
    return _group(text, formulas[first])


def _run(text: str, number: numbers.Number) -> str | None:
    """The arithmetic around an unreadable number; ``None`` if it is a word that makes it so."""
    before = _RUN_BEFORE.search(text, max(0, number.start - MAX_FORMULA), number.start)
    after = _RUN_AFTER.match(text, number.end)
    run = text[before.start() if before else number.start : after.end() if after else number.end]
    return None if numbers.single(run) is not None else run


def _enclosed(text: str) -> str:
    """The bracket that encloses the whole text; empty if none does."""
    for opening, closing in _BRACKETS.items():
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening):
            depth = 0
            for token in _BRACKET.finditer(text):
                depth += 1 if token.group()[-1] in "([{" else -1
                if depth == 0 and token.end() < len(text):
                    return ""
            return opening if depth == 0 else ""
    return ""


def _split(text: str, at: str = ",") -> list[str]:
    """At the commas outside of brackets; the whole where a part is empty."""
    items, depth, start = [], 0, 0
    for token in re.finditer(rf"\\[{{}}]|[()\[\]{{}}{at}]", text):
        symbol = token.group()
        if symbol != at:
            depth += 1 if symbol[-1] in "([{" else -1
        elif depth == 0:
            items.append(text[start : token.start()].strip())
            start = token.end()
    items.append(text[start:].strip())
    return items if all(items) else [text]
