r"""Numbers in text, exactly: which digits are a number, and which are part of something else.

A number is what a person would write: ``1,234,567``, ``12 500``, ``-3``, ``- 3``, ``minus 3``,
``$18``, ``18 dollars``, ``50%``, ``3.0``, ``3/4``, ``1 1/2``, ``2½``, ``\frac34``, ``2e5``, ``1.5
million``. Values are fractions, so that nothing is rounded: ``3.0 == 3`` and ``0.1 !=
0.1000000001``. Currency, percent and units carry no meaning: ``50%`` is 50.

Digits are *unreadable*, of value ``None``, where they are part of an expression (``5 - 3``,
``2\sqrt{3}``, ``3!``, ``10²``, ``18x``), of another notation (``12:30``, ``1.2.3``, ``1,23``,
``0.33...``) or of a choice (``3 or 4``, ``3, 4``). So such an answer is never taken for some other
number in the text. Digits within a word, an index or an exponent of a unit (``H2O``, ``x_2``,
``m^2``), and those that are denied or compared with (``not 5``, ``more than 5``), are skipped.

Every pattern here looks at a bounded stretch around a number, so time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from winnow.rewards.notation import CASED

MAX_CHARACTERS = 1000
"""A longer number is unreadable: Python's conversion of digits is quadratic, and limited."""

_AROUND = 48
"""How many characters before and after a number decide what it is part of."""

_CURRENCY = "$€£¥₹₽₩₪฿"

# Quantifiers are possessive (++) so that no text, however odd, takes more than linear time.
_NUMBER = re.compile(
    rf"""
    (?P<sign> [-+][ ]*+ | (?<![{CASED}])(?:[Mm]inus|[Nn]egative)[ ]++ )?+
    (?: [{_CURRENCY}][ ]?+ (?P<inner> -[ ]?+ )?+ )?+
    (?<! [{CASED}] ) (?<! [{CASED}]_ ) (?<! [0-9][.,/] ) (?<! [0-9] )
    (?P<body>
        [0-9]++ [ ]++ [0-9]++/[0-9]++ (?! [.,/]?[0-9] )
      | [1-9][0-9]{{0,2}} (?: [ ][0-9]{{3}}(?![0-9]) )++ (?: \.[0-9]++ )?
      | [1-9][0-9]{{0,2}} (?: '[0-9]{{3}}(?![0-9]) )++ (?: \.[0-9]++ )?
      | (?: [0-9]++ | (?<!\.)\.[0-9]++ ) (?: (?:[.,]|[ ]?+/[ ]?+)[0-9]++ )*+
        (?: [eE][+-]?+[0-9]++ (?!_) )?
    )
    """,
    re.VERBOSE,
)
_DECIMAL = re.compile(
    r"""(?: [1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?:[ ][0-9]{3})+|(?:'[0-9]{3})+)
      | [1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3} | [0-9]+ )? (?:\.[0-9]+)? (?:[eE][+-]?[0-9]{1,3})?""",
    re.VERBOSE,
)
_FRACTION = re.compile(r"(?:([0-9]+)[ ]+)?([0-9]+)[ ]?/[ ]?([0-9]+)")
# What may follow a number that ends a text: closing punctuation, mark-up, a percent sign.
CLOSING = re.compile(r"(?:[\s.!)\]}$*_\"'`’”%\\。！」』）】]|</[a-z]{1,20}>)*+")

# --- what stands before -------------------------------------------------------------------------
_INDEX = re.compile(r"(?P<base>[^\s_*])[_^][({]?[-+]?$", re.DOTALL)
_COMMAND_ARGUMENT = re.compile(
    r"(?:\\(?!f?boxed|\()[A-Za-z]+\s*|\})\{\s*$|√\s*(?:\[\w*\])?\s*[({]?\s*$"
)
_FUNCTION = re.compile(
    r"(?:^|[^A-Za-z])(?:a?(?:sin|cos|tan)|arc(?:sin|cos|tan)|log|ln|lg|exp|sqrt|cot|sec|csc|gcd|lcm)"
    r"(?:_\{?\w{1,4}\}?)?[ ]?[({]?[ ]?$"
)
_PRODUCT = re.compile(rf"(?:[0-9)\]}}!%]|(?<![{CASED}])[{CASED}])[({{]$")  # 4(3), f(3)
_OPERATOR = re.compile(
    rf"""(?: [+×·÷/±∓^≠≤≥<] | (?<![>=-])> | [0-9)\]}}][ ]?\*+ | (?<![{CASED}])[{CASED}][ ]?\*
      | [0-9)][ ]*[xX] | \b(?:times|plus|minus|modulo|mod|divided\ by|multiplied\ by)
      | [<>!]= | \\(?!f?boxed|item)[A-Za-z]+ ) [ ]*$""",
    re.VERBOSE,
)
_NO_OPERATOR = re.compile(r"(?:^|\n)[ \t]*>+[ ]*$|<\|?/?[A-Za-z_]+\|?>[ ]*$")  # > 18, <answer>18
_SKIPPED = re.compile(
    r"(?:\bnot|n't|\bthan|\binstead of|\bnever)(?:[ ]+(?:the|by|be|equal to|just))?[ ]+[*_$(\\]*$",
    re.IGNORECASE,
)
_CHOICE = re.compile(
    rf"""[0-9%][ )}}\]*_$(]*(?: (?:[{CASED}]+[ ]){{0,2}}(?:and/)?\bor | (?:and|to|through|until|&)
      | [,;、]?[ ]?(?:and|or) | ,?[ ]?(?:\.\.\.|…),? | 或|和|또는 )
    [ ]*[*_$({{\[\\]*(?:[{CASED}]\w{{0,2}}[ ]?=[ ]?\$?)?$""",
    re.VERBOSE,
)
_LIST = re.compile(r"[0-9%)}\]][*_$]*[,;、][ ]*[*_$({\[\\]*$")
_RATIO = re.compile(r"[0-9](?::|[ ]:[ ])$")
_NEIGHBOUR = re.compile(r"[0-9%][ ]+$")
_NAMES = re.compile(r"[^\W\d_]+$")
_ASIDE = re.compile(r"[^\W\d_]{2}\)$")
_SIGN_AFTER = re.compile(
    "is|are|was|were|be|has|have|had|equals?|gives?|gets?|to|of|makes?|at|becomes|answer|result|"
    "yields|ist|but|only|just|exactly|about|roughly|or|and|than"
)

# --- what stands after --------------------------------------------------------------------------
UNITS = "mgshlLdAVWJNCFw"  # letters that are units where they touch a number; 5k, 18x have none
_FUNCTION_AFTER = re.compile("pi|sqrt|sin|cos|tan|log|ln|exp|bn|mn|mil|mln|mio|mrd|tn|mod")
_SCALES = {
    **dict.fromkeys(("hundred", "百", "백"), 10**2),
    **dict.fromkeys(("thousand", "천", "千"), 10**3),
    **dict.fromkeys(("million", "millions"), 10**6),
    **dict.fromkeys(("billion", "billions"), 10**9),
    **dict.fromkeys(("trillion", "trillions"), 10**12),
    **dict.fromkeys(("万", "萬", "만"), 10**4),
    **dict.fromkeys(("億", "亿", "억"), 10**8),
}
_SCALE = re.compile(
    r"[ ]?(thousand|millions?|billions?|trillions?|hundred)\b|[ ]?([千百천백万萬만億亿억])(?![0-9])"
)
_WORD = re.compile(rf"[{CASED}]+")
_EXPRESSION_AFTER = re.compile(
    rf"""[ ]*(?: \^ | [⁰¹²³⁴-⁹⁻₀-₉] | [×·÷±∓√π∞≠≤≥∈∪] | [<>](?![<>/|]|[a-z]+>) | \+
      | (?<=[ ])[0-9] | (?:\.\.\.|…)[ ]?[0-9] | \*\*?[0-9(π√]
      | \*(?:pi\b|\\[a-z])
      | (?<=[ ])\*\*?[ ] | \*[{CASED}(\\](?!\w) | ![ ]*[-+*/×=] | :[0-9] | [ ]:[ ]?[0-9]
      | -[ ]?[0-9(\\$] | -[ ]*(?![aIA]\b)[{CASED}]\b(?!-) | [ ]?/[ ]?[0-9(\\√π]
      | /[ ]?(?![{UNITS}](?!\w))[A-Za-z](?![A-Za-z])
      | =[ ]?-?[0-9] | '[0-9] | _\{{?[^\W_] | \.[0-9] | ,[0-9] | e[-+]?[0-9]
      | \((?![^\W\d_]{{2}}|\$) (?<![ ]\()
      | \\(?![\\)\]n]|begin|end|hspace|tag|label|f?boxed|in\b|textdollar) )""",
    re.VERBOSE,
)
_ENDS = r"[\s*_`]*(?:$|[,)}\]$=+*/^π√]|\.(?!\w))"
# Letters that are no unit, and stand for no word: 5 p, 5 c and 5 t are money and mass, 300 K is hot
_VARIABLE_AFTER = re.compile(
    rf"""[ ]{{1,4}}(?![ap][ ]?\.?[ ]?m\b)
    (?: (?:bn|mn|mil|pi|[xyznkMBπ])(?!\w) | i(?=\s*(?:$|[.,)}}$=+-]))
      | (?![{UNITS}pctKeo])[A-Za-z](?={_ENDS}) | [A-Za-z](?:[ ][A-Za-z])+(?={_ENDS})
      | e\^ | [A-Za-z]\([A-Za-z]\) )""",
    re.VERBOSE,
)
_ELLIPSIS = re.compile(r"\.\.|…|\\overline")
_CHOICE_AFTER = re.compile(
    rf"""[ ]*[%)}}\]*_$]*[ ]*(?:(?:[{CASED}]+[ ])?or[ ]|(?:and|to|&)[ ]|或|和)[ ]*[-$({{\\*]*[0-9]
      | [%)}}\]*_$]*[,;、][ ]?(?:and[ ]|or[ ])?[-$({{\\]*[0-9][0-9.,/]*[ ]*(?:$|[\n).\]}}])""",
    re.VERBOSE,
)
_OPENING = re.compile(r"[\s*_\"'`({\[$]*+")
_NAME = re.compile(r"(?:[^0-9+*/^×÷<>=√±-]|(?<=[_{(A-Za-z])[0-9])*+")  # x, x_1, f(2), Total cost
_WORDS = re.compile(
    r"[\s*_\"'`({\[$]*+(?:\([A-Z]\))?(?:(?:[^\W\d_]{2,}|[aAI]\b(?![*(]))[\s:'’*(\[{$]*)*+"
)
_RIGHT_OF_SINGLE = re.compile(
    rf"""[ ]? (?: [{CASED}°%'’.,\-/()$\s*_}}\]"!\\{_CURRENCY}。]
      | (?<=\w)\^(?:[23]|\{{[23]\}}) | (?<=\w)[²³] | (?<=[{CASED}])[0-9] | [^\W\d_{CASED}π] )*+""",
    re.VERBOSE,
)
_JOINS = re.compile(r"\b(?:or|and|and/or|to|plus|minus|times|by)\b|或|和")


@dataclass(frozen=True)
class Number:
    """Digits in a text.

    Attributes:
        value: ``None`` where they are unreadable.
        start: Where sign, currency and digits start.
        end: Where they end, with a scale (``million``).
    """

    value: Fraction | None
    start: int
    end: int


def last(text: str) -> Number | None:
    """The last number of a text in plain notation, digits that are skipped aside."""
    return next(_backwards(text), None)


def leading(text: str, start: int) -> Number | None:
    """The number that stands at a place of a text, white space aside; none if a word does."""
    match = _NUMBER.match(text, start)
    return None if match is None else _judged(text, match, begins=start)


def single(text: str) -> Fraction | None:
    """The value of a text that is one number, whatever its currency, unit or name (``x = 5``).

    ``None`` if it holds anything else: another number, an operator, a variable.
    """
    text = text.strip()
    if len(text) > 2 * MAX_CHARACTERS:
        return None
    found = _backwards(text, begins=0)
    number = next(found, None)
    if number is None or number.value is None:
        return None
    name, equals, space = text[: number.start].replace("≈", "=").rpartition("=")
    if equals:
        sums = not re.search(r"[^\W\d_]", name)  # 5 + 3 = 8
        if not ((sums or _NAME.fullmatch(name)) and _OPENING.fullmatch(space)):
            return None
    elif not _WORDS.fullmatch(space):
        return None
    right = text[number.end :]
    if not _RIGHT_OF_SINGLE.fullmatch(text, number.end) or _JOINS.search(right):
        return None
    return number.value


def _backwards(text: str, begins: int | None = None) -> Iterator[Number]:
    """Numbers from the last to the first; skipped ones left out."""
    for match in reversed(list(_NUMBER.finditer(text))):
        number = _judged(text, match, begins)
        if number is not None:
            yield number


def _judged(text: str, match: re.Match[str], begins: int | None = None) -> Number | None:
    """The number at a match, in its context; ``None`` if it is skipped.

    Args:
        begins: Where the answer starts, if that is known: a sign there is no bullet.
    """
    start, end = match.span()
    first = max(start - _AROUND, 0 if begins is None else begins)
    left, right = text[first:start], text[end : end + _AROUND]
    negative = "-" in (match["inner"] or "")
    sign = match["sign"] or ""
    before = _before(left, sign, match)
    if before == "skip":
        return None
    if before == "list item" and begins is None:
        before = _bullet(text, start, end)
    scale = _SCALE.match(text, end)
    if scale:
        end = scale.end()
        right = text[end : end + _AROUND]
    wrong = before == "unreadable" or _part_of_more(left, match["body"], right)
    value = None if wrong else _value(match["body"])
    if value is None:
        return Number(None, start, end)
    if scale:
        value *= _SCALES[scale[1] or scale[2]]
    if before == "bullet":
        return Number(value, match.start("body"), end)
    if negative != (sign[:1] in "-mMnN" and sign != ""):
        value = -value
    return Number(value, start, end)


def _before(left: str, sign: str, match: re.Match[str]) -> str:
    """What the text before makes of a number: nothing (""), "unreadable", "skip", "list item"."""
    index = _INDEX.search(left + sign) or _INDEX.search(left)
    if index:  # m^2 and x_2 are skipped, 2^10 is one expression
        return "unreadable" if index["base"] in "0123456789)}]" else "skip"
    tail = left.rstrip(" \t")
    if _SKIPPED.search(left):
        return "skip"
    if _COMMAND_ARGUMENT.search(left) or _FUNCTION.search(left) or _PRODUCT.search(left):
        return "unreadable"
    if _RATIO.search(left) or _CHOICE.search(left) or _NEIGHBOUR.search(left):
        return "unreadable"
    if _OPERATOR.search(left) and not _NO_OPERATOR.search(left):
        return "unreadable"
    if not sign:
        return ""
    return _signed(left, tail.rstrip("*_`"), sign)


def _signed(left: str, tail: str, sign: str) -> str:
    """Whether a sign is one: it stands between two operands in ``5 - 3``, for a dash in ``is - 3``.

    Args:
        tail: What is left of it, without space and emphasis.
    """
    apart = left != left.rstrip(" \t")
    spaced = sign.endswith(" ")
    if not tail or tail[-1] == "\n":
        return "list item" if spaced and sign[0] in "-+" else ""
    if sign[0] in "nN":
        return ""
    if tail[-1] in "0123456789)]}!%°²³π'$":
        aside = apart and not spaced and _ASIDE.search(tail)  # (7 of them) -5
        return "" if aside else "unreadable"
    word = _NAMES.search(tail)
    if word is None or not re.match(f"[{CASED}]", word.group()):
        return ""
    name = word.group().lower()
    if _SIGN_AFTER.fullmatch(name) and apart:
        return ""
    if len(name) < 2:
        return "unreadable"
    if not apart:  # COVID-19
        return "skip"
    return "unreadable" if spaced else ""


def _bullet(text: str, start: int, end: int) -> str:
    """A spaced sign at the start of a line: of a bullet if words follow the number on it."""
    stop = text.find("\n", end)
    line = text[end : min(len(text) if stop < 0 else stop, end + _AROUND)]
    if not CLOSING.fullmatch(line):
        return "bullet"
    alone = CLOSING.fullmatch(text, end) and not text[:start].strip()
    return "" if alone else "unreadable"


def _part_of_more(left: str, body: str, right: str) -> bool:
    """Whether what follows belongs to the number: an operator, a variable, another choice."""
    if right[:1] == "!" and not re.search(r"[^\W\d_][ *_$]*$", left):
        return True  # "It is 5!" is an exclamation, "= 5!" a factorial
    glued = _WORD.match(right)
    if glued:
        word = glued.group()
        if (len(word) == 1 and word not in UNITS) or _FUNCTION_AFTER.fullmatch(word):
            return True
    if _ELLIPSIS.match(right) and "." in body:
        return True
    if body.isdigit() and re.match(r"\.\\", right):
        return True
    after = re.match(r"[%°][*_`%]*", right)
    rest = right[after.end() :] if after else right
    if after and right[0] == "%" and re.match(r"[A-Za-z](?![A-Za-z])", rest):
        return True
    if _EXPRESSION_AFTER.match(rest) or _VARIABLE_AFTER.match(rest) or _CHOICE_AFTER.match(right):
        return True
    return bool(_LIST.search(left)) and not re.match(r"[ ]?[^\W\d_]", right)


def _value(body: str) -> Fraction | None:
    if len(body) > MAX_CHARACTERS:
        return None
    return _fraction(body) if "/" in body else _decimal(body)


def _decimal(body: str) -> Fraction | None:
    if not _DECIMAL.fullmatch(body):
        return None
    return Fraction(body.translate({ord(c): None for c in ", '"}))


def _fraction(body: str) -> Fraction | None:
    match = _FRACTION.fullmatch(body)
    if match is None:
        return None
    whole, above, below = (int(part or 0) for part in match.groups())
    if below == 0 or (match[1] and above >= below):
        return None
    return whole + Fraction(above, below)
