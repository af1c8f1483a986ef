r"""Many ways to write an answer, and many ways to nearly write it.

A rendering is made from its value, so what is right follows from how it was made and not from any
reader: a value, a notation, a sign, a unit, a wrapping, a sentence and a position. A near miss has
another value in the same clothes, or the right digits as part of something that is not the value.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from random import Random

ZEROS = ("0", "０", "٠", "०", "๐", "𝟎")  # the digit 0 of scripts whose digits follow each other


@dataclass(frozen=True)
class Case:
    """A completion for a gold answer, and the rewards that it is for.

    Attributes:
        answer: The gold answer.
        completion: What was said.
        rewards: Names of the rewards that must judge it.
    """

    answer: str
    completion: str
    rewards: tuple[str, ...]


def a_value(rng: Random) -> Fraction:
    kind = rng.randrange(4)
    if kind == 0:
        value = Fraction(rng.randrange(1, 100))
    elif kind == 1:
        value = Fraction(rng.randrange(1000, 10 ** rng.randrange(4, 10)))
    elif kind == 2:
        value = Fraction(rng.randrange(1, 10**5), 10 ** rng.randrange(1, 4))
    else:
        value = Fraction(rng.randrange(1, 30), rng.choice([2, 3, 4, 5, 7, 8, 12]))
    return -value if rng.random() < 0.3 else value


def gold(value: Fraction) -> str:
    return str(value)


def is_decimal(value: Fraction) -> bool:
    return 10**6 % value.denominator == 0


def decimal(value: Fraction, places: int = 0) -> str:
    """A positive decimal, exactly, in positional notation."""
    digits = places
    while 10**digits % value.denominator:
        digits += 1
    text = str(value.numerator * 10**digits // value.denominator).zfill(digits + 1)
    return f"{text[:-digits]}.{text[-digits:]}" if digits else text


def grouped(digits: str, separator: str) -> str:
    head = len(digits) % 3 or 3
    return separator.join(
        [digits[:head], *(digits[i : i + 3] for i in range(head, len(digits), 3))]
    )


def indian(digits: str) -> str:
    head, tail = digits[:-3], digits[-3:]
    first = len(head) % 2 or 2
    return ",".join([head[:first], *(head[i : i + 2] for i in range(first, len(head), 2)), tail])


def magnitude(rng: Random, value: Fraction, *, tex: bool) -> str:
    """A positive number in some notation."""
    ways = []
    if is_decimal(value):
        text = decimal(value)
        whole, point, rest = text.partition(".")
        ways += [text, text, decimal(value, rng.randrange(1, 7))]
        zero = rng.choice(ZEROS)
        ways.append(text.translate({48 + d: chr(ord(zero) + d) for d in range(10)}))
        exponent = rng.randrange(1, 5)
        ways.append(
            f"{decimal(value / 10**exponent)}{rng.choice('eE')}{rng.choice(['', '+'])}{exponent}"
        )
        ways.append(f"{decimal(value * 10**exponent)}e-{exponent}")
        if len(whole) > 3:
            separators = [",", " ", "\u00a0", "\u202f", "\u2009", "'"]
            separators += ["\\,", "{,}", ",\\!"] if tex else []
            ways += [grouped(whole, rng.choice(separators)) + point + rest for _ in range(4)]
        if len(whole) > 5:
            ways.append(indian(whole) + point + rest)
        if whole == "0":
            ways.append(point + rest)
    if value.denominator > 1:
        a, b = value.numerator, value.denominator
        ways += [f"{a}/{b}", f"{a} / {b}", f"{2 * a}/{2 * b}"]
        if tex:
            ways += [f"\\{rng.choice(['frac', 'dfrac', 'tfrac'])}{{{a}}}{{{b}}}"]
            ways += [f"\\frac{a}{b}"] if a < 10 and b < 10 else []
        whole, above = divmod(a, b)
        if whole:
            ways += [f"{whole} {above}/{b}"] + ([f"{whole}\\frac{{{above}}}{{{b}}}"] if tex else [])
        vulgar = {(1, 2): "½", (1, 4): "¼", (3, 4): "¾", (1, 3): "⅓", (2, 3): "⅔", (5, 8): "⅝"}
        if (above, b) in vulgar:
            ways.append(f"{whole or ''}{vulgar[above, b]}")
    return rng.choice(ways)


SIGNS = ("-", "−", "–", "－", "minus ", "negative ")


def written(rng: Random, value: Fraction, *, tex: bool, units: bool, apart: bool = True) -> str:
    """A number as one would write it, sign, currency and unit included.

    Args:
        apart: Whether a sign may stand apart (``- 5``): not where it could be a dash.
    """
    sign = rng.choice(SIGNS + (("- ", "− ") if apart else ())) if value < 0 else ""
    body = magnitude(rng, abs(value), tex=tex)
    if rng.random() < 0.2:
        currency = rng.choice(["€", "£", "€ ", "\\$" if tex else "$"])
        return f"{sign}{currency}{body}"
    unit = ""
    if units and rng.random() < 0.5:
        choices = [" dollars", " apples", "%", "°", " km", "元", "개", " miles per hour", " m"]
        choices += (
            ["\\text{ cm}", "\\%", " \\text{ m}^2", "\\text{ dollars}", "^\\circ"] if tex else []
        )
        choices += ["cm", "kg"] if not body.endswith(tuple("½¼¾⅓⅔⅝")) else []
        unit = rng.choice(choices)
    return sign + body + unit


BEFORE = (
    "",
    "",
    "There are 12 of them, and 7 are red.\n",
    "16 - 3 - 4 = <<16-3-4=9>>9 eggs a day.\nThen 9 * 2 = 18.\n",
    "First, $x = 4$. Second, \\(y = 5\\).\n\n",
    "<think>\nMaybe \\boxed{77}? #### 78\n</think>\n",
    "1. Count 30.\n2. Take 11 away.\n\n",
    "「12人」いる。",
    "#### Step 1\nCount 4 boxes.\n\n",
)
SENTENCES = (
    "The answer is {}.",
    "The answer is {}",
    "The answer is **{}**.",
    "Answer: {}",
    "A: {}",
    "So she has {}.",
    "Thus the total is: {}",
    "x = {}",
    "Total = {}.",
    "答案是{}。",
    "答案：{}",
    "정답은 {}",
    "答えは{}",
    "Ответ: {}.",
    "الجواب هو {}",
    "उत्तर: {}",
    "คำตอบคือ{}",
    "{}",
    "It is not 5 but {}.",
)
TEX_SENTENCES = (
    "The answer is \\boxed{{{}}}.",
    "$\\boxed{{{}}}$",
    "\\[\\boxed{{{}}}\\]",
    "\\fbox{{{}}}",
    "\\boxed{{x = {}}}",
    "\\boxed{{4}}, no: \\boxed{{{}}}",
    "So \\boxed {{{}}} it is.",
)
AFTER_BOX = ("", " That took 20 minutes.", "\n\nQuestion: 3 + 4?\nAnswer: 7")


def a_right_number(rng: Random) -> Case:
    value = a_value(rng)
    return said(rng, value, value)


def said(rng: Random, value: Fraction, answer: Fraction, spoil: str = "{}") -> Case:
    """A completion that says `value` where `answer` is asked for."""
    before, position = rng.choice(BEFORE), rng.randrange(4)
    rewards: tuple[str, ...] = ("gsm8k", "math")
    if position == 0:  # in a box
        number = spoil.format(written(rng, value, tex=True, units=True))
        text = rng.choice(TEX_SENTENCES).format(number) + rng.choice(AFTER_BOX)
    elif position == 1:  # after a marker
        number = spoil.format(written(rng, value, tex=False, units=True))
        text = f"####{rng.choice([' ', '', chr(10)])}{number}{rng.choice(AFTER_BOX)}"
        before = before.replace("#### Step 1\n", "")
        rewards = ("gsm8k",)
    else:
        sentence = rng.choice(SENTENCES)
        clear = sentence.endswith(("{}", "{}.", "{}。")) and sentence[:-3].rstrip()[-1:] in (
            "",
            ":",
            "=",
        )
        units = position == 2
        number = written(rng, value, tex=False, units=units, apart=clear and sentence != "{}")
        text = sentence.format(spoil.format(number))
        rewards = ("gsm8k", "math") if units else ("number", "gsm8k", "math")
    return Case(gold(answer), before + text, rewards)


def a_wrong_number(rng: Random) -> Case:
    """Another value in the same clothes, or the right one as part of something else."""
    value = a_value(rng)
    if rng.random() < 0.5:
        other = rng.choice(others(rng, value))
        return said(rng, other, value)
    return spoiled(rng, value)


def others(rng: Random, value: Fraction) -> list[Fraction]:
    digits = list(str(value.numerator))
    rng.shuffle(digits)
    shuffled = "".join(digits)
    made = [value + 1, value - 1, -value, value * 1000, value / 10, value + Fraction(1, 1000)]
    if shuffled.isdigit() and int(shuffled):
        made.append(Fraction(int(shuffled), value.denominator))
    return [other for other in made if other not in (value, value / 100, value * 100) and other]


SPOILED = (  # {} is the right number, N another one
    "{} or N", "N or {}", "{}, N", "N, {}", "N and {}", "either N or {}", "between N and {}",
    "N to {}", "{} ± N", "N ± {}", "√{}", "√({})", "{}!/2", "{}^2", "{}²", "{}π", "{}x", "N×{}",
    "N x {}", "{} - N", "N - {}", "N-{}", "N + {}", "{} + N", "{} + x", "x + {}", "x - {}",
    "N:{}", "{}:N", "x_{{{}}}", "x^{{{}}}", "≠ {}", "> {}", "≤ {}", "more than {}", "at N:{}",
    "not {}", "{}k", "{} million", "({}, N)", "{}.{}.N", "N^{}", "2024-11-{}", "log {}", "{}i",
    "{} x", "N {}", "{} N", "less than {}", "N * {}", "N/N/{}", "{}_N", "N divided by {}",
    "N minus {}", "{}...{}", "{{{}, N}}",
)  # fmt: skip
SPOILED_TEX = (
    "\\sqrt{{{}}}", "\\sqrt[3]{{{}}}", "{}\\pi", "{}\\sqrt{{2}}", "\\neq {}", "{}^{{N}}",
    "N^{{{}}}", "N \\pm {}", "{} \\pm N", "\\frac{{x}}{{{}}}", "\\frac{{{}}}{{N}}", "\\log_2 {}",
    "N \\cdot {}", "{} \\times N", "{}_{{N}}", "{}!", "{} \\text{{ or }} N", "N, {}", "x_{{{}}}",
    "\\binom{{N}}{{{}}}", "{}x + N", "\\geq {}", "{}\\%\\text{{ or }}N\\%", "\\sin {}", "({}, N)",
    "\\{{{}, N\\}}", "x > {}", "N{}x", "{}, \\ldots", "N \\equiv {} \\pmod{{9}}",
    "\\overline{{{}}}", "{}\\text{{ and }}N",
)  # fmt: skip


def spoiled(rng: Random, value: Fraction) -> Case:
    """The right digits, as part of an expression, a choice or another notation."""
    value = Fraction(abs(value.numerator) % 10**6 + 13)
    other = str(rng.choice([n for n in range(2, 99) if n != value]))
    digits = str(value)
    if rng.random() < 0.5:
        text = rng.choice(SPOILED_TEX).replace("N", other).format(*[digits] * 2)
        return Case(digits, rng.choice(TEX_SENTENCES[:4]).format(text), ("number", "gsm8k", "math"))
    text = rng.choice(SPOILED).replace("N", other).format(*[digits] * 2)
    sentences = ("The answer is {}.", "Answer: {}", "So the total is {}", "#### {}", "{}")
    sentence = rng.choice(sentences[:4] if text[0] == ">" else sentences)  # "> 5" is a quotation
    rewards: tuple[str, ...] = ("number", "gsm8k")
    return Case(
        digits, sentence.format(text), rewards + (("math",) if "####" not in sentence else ())
    )


def a_formula(rng: Random, *, right: bool) -> Case:
    """A formula in two writings of one value, or of two values that are close."""
    a, b, c = rng.randrange(2, 30), rng.choice([2, 3, 5, 6, 7, 10, 11]), rng.randrange(1, 30)
    d = c if right else c + rng.choice([-1, 1, 2, 10])
    e = a if right else a + rng.choice([1, 2, 10])
    made = rng.choice(FORMULAS)(rng, a, b, c, d, e)
    wrapped = rng.choice(
        ("\\boxed{{{}}}", "The answer is $\\boxed{{{}}}$.", "So \\(x\\) is $${}$$", "${}$")
    )
    return Case(made[0], wrapped.format(made[1]), ("math",))


def _root(rng: Random, a: int, b: int, c: int, d: int, e: int) -> tuple[str, str]:
    ways = (
        f"\\sqrt{{{e * e * b}}}",
        f"\\sqrt{{{b}}} \\cdot {e}",
        f"{e}√{b}",
        f"\\frac{{{e * b}}}{{\\sqrt{{{b}}}}}",
    )
    return f"{a}\\sqrt{{{b}}}", rng.choice(ways)


def _polynomial(rng: Random, a: int, b: int, c: int, d: int, e: int) -> tuple[str, str]:
    ways = (
        f"x^2 + {a + d}x + {a * d}",
        f"(x + {d})(x + {a})",
        f"{a * d} + x^{{2}} + {a + d} \\cdot x",
    )
    return f"(x+{a})(x+{c})", rng.choice(ways)


def _pi(rng: Random, a: int, b: int, c: int, d: int, e: int) -> tuple[str, str]:
    ways = (f"\\frac{{{e}}}{{{b}}}\\pi", f"{e}\\pi/{b}", f"\\frac{{{2 * e}π}}{{{2 * b}}}")
    return f"\\frac{{{a}\\pi}}{{{b}}}", rng.choice(ways)


def _tuple(rng: Random, a: int, b: int, c: int, d: int, e: int) -> tuple[str, str]:
    said = (
        f"({e}, {d}, -{b})",
        f"\\left({e}.0, \\frac{{{2 * d}}}{{2}}, -{b}\\right)",
        f"( {e},{d} , − {b} )",
    )
    return f"({a}, {c}, -{b})", rng.choice(said)


def _list(rng: Random, a: int, b: int, c: int, d: int, e: int) -> tuple[str, str]:
    words = (
        f"{a} and {c + 40}",
        f"{c + 40} \\text{{ or }} {a}",
        f"{a}, {c + 40}",
        f"x={a} \\text{{ or }} x={c + 40}",
    )
    said = (
        f"{e}, {d + 40}",
        f"{d + 40}, {e}",
        f"{e} \\text{{ and }} {d + 40}",
        f"x = {e}, x = {d + 40}",
        f"\\{{{e}, {d + 40}\\}}",
    )
    return rng.choice(words), rng.choice(said)


def _complex(rng: Random, a: int, b: int, c: int, d: int, e: int) -> tuple[str, str]:
    ways = (f"{e} + {d}i", f"{d}i + {e}", f"{e}.0 + {d}.0i", f"{e} - (-{d})i")
    return f"{a} + {c}i", rng.choice(ways)


def _science(rng: Random, a: int, b: int, c: int, d: int, e: int) -> tuple[str, str]:
    ways = (
        f"{e} \\times 10^{{-{c}}}",
        f"{e}e-{c}",
        f"0.{'0' * (c + 1)}{e:02d}" if c > 0 else "",
        f"{e} \\cdot 10^{{-{c}}}",
    )
    shifted = f"{e / 10:.1f} \\times 10^{{{1 - c}}}"
    return f"{a} \\times 10^{{-{c}}}", rng.choice((ways[0], ways[1], ways[3], shifted))


def _word(rng: Random, a: int, b: int, c: int, d: int, e: int) -> tuple[str, str]:
    words = ("Yes", "even", "Monday", "parabola", "Evelyn", "no solution")
    word = words[a % 6] if a == e else words[(a + 1) % 6]
    return words[a % 6], f"\\text{{{word}}}"


def _clock(rng: Random, a: int, b: int, c: int, d: int, e: int) -> tuple[str, str]:
    return rng.choice(
        (
            (f"{a}:{b:02d}", f"{e}:{b:02d}"),
            (f"{a}_{b + 1}", f"{e}_{{{b + 1}}}"),
            (f"2024-11-{a:02d}", f"2024-11-{e:02d}"),
        )
    )


def _interval(rng: Random, a: int, b: int, c: int, d: int, e: int) -> tuple[str, str]:
    return f"[-{a}, {c})", rng.choice((f"[-{e}, {d})", f"\\left[-{e}, {d}\\right)"))


FORMULAS = (_root, _polynomial, _pi, _tuple, _list, _complex, _science, _word, _clock, _interval)
