r"""Completions made to break whoever reads an answer in them, from a seed.

A hostile one never holds the right answer, by how it is made. The gold answers are built from
`PRIME`, of 16 digits, and from `WORD`:

- The texts of `FAMILIES` do not hold `PRIME`'s digits in their order, in any script and whatever
  stands between them (`made` asserts it). So no number in them is it; no product, power, root,
  factorial or quotient of other numbers is a prime; and their sums are of small numbers, far below
  it, or of enormous ones, far above. They do not hold `WORD`.
- A near miss (`near_misses`) holds `PRIME`, and is another value: the operation that is applied to
  it changes it, or it is one of several answers, or not the answer (denied, thought, cut off).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from tests.rewards import renderings

PRIME = 7301829465120097
WORD = "quagga"
ZEROS = "0٠۰०০๐０𝟎𝟘𝟬𝟶"
LARGE = 0.05
"""The part of the texts that are as long as texts get."""


@dataclass(frozen=True)
class Case:
    """A completion for a gold answer.

    Attributes:
        answer: The gold answer.
        completion: What was said.
        family: How it was made.
        pattern: The pattern of `regex` that is asked.
    """

    answer: str
    completion: str
    family: str
    pattern: str = ""


def some(rng: Random, small: int, large: int) -> int:
    """How many: mostly few, at times very many."""
    if rng.random() < LARGE:
        return rng.randrange(small, large)
    return rng.randrange(1, small)


def cut(rng: Random, text: str) -> str:
    return text[: rng.randrange(1, len(text) + 1)]


# ---- depth


def nested(rng: Random) -> str:
    opening, closing = rng.choice(
        [
            *[("(", ")"), ("[", "]"), ("{", "}"), (r"\{", r"\}"), (r"\left(", r"\right)")],
            *[(r"\boxed{", "}"), (r"\fbox {", "}"), (r"\sqrt{", "}"), (r"\sqrt[3]{", "}")],
            *[(r"\frac{1}{", "}"), (r"\frac{", "}{2}"), ("2^{", "}"), ("x_{", "}"), ("1+(", ")")],
            *[(r"\text{", "}"), (r"\sin(", ")"), (r"\log_{2}{", "}"), ("|", "|"), ("-(", ")")],
            *[(r"\overline{", "}"), (r"\left\{", r"\right\}"), (r"\binom{5}{", "}"), ("f(", ")")],
            *[(r"\lfloor ", r"\rfloor "), ("<think>", "</think>"), (r"\begin{a}", r"\end{a}")],
            *[("**", "**"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("#### ", "")],
        ]
    )
    depth = some(rng, 120, 20_000)
    closed = rng.choice([depth, depth, 0, depth - 1, depth + 1, rng.randrange(depth + 1)])
    return opening * depth + rng.choice(["1", "x", "", "3, 4", "-"]) + closing * closed


def unbalanced(rng: Random) -> str:
    pieces = ["(", ")", "[", "]", "{", "}", r"\{", r"\}", "$", "$$", r"\(", r"\)", r"\[", r"\]"]
    pieces += [r"\boxed{", r"\frac{", r"\sqrt", r"\left(", r"\right]", "#### ", "1", ",", "|", "\\"]
    return "".join(rng.choices(pieces, k=some(rng, 80, 20_000)))


# ---- size


def tower(rng: Random) -> str:
    base = [str(rng.randrange(2, 10)) for _ in range(rng.randrange(2, 7))]
    how = rng.randrange(6)
    if how == 0:
        return "**".join(base)
    if how == 1:
        return "^".join(base)
    if how == 2:
        return "^{".join(base) + "}" * (len(base) - 1)
    if how == 3:
        return f"10^{{10^{{{rng.randrange(2, 10**6)}}}}}"
    if how == 4:
        return f"{rng.choice('23579')}^{{{'9' * rng.randrange(3, 40)}}}"
    exponent = f"{rng.choice(['', '-', '+'])}{'9' * rng.randrange(3, 40)}"
    return f"{rng.randrange(1, 99)}{rng.choice('eE')}{exponent}"


def huge_power(rng: Random) -> str:
    """Of what a power may be: roots, fractions, sums, variables, functions, i, pi, e."""
    base = rng.choice(
        [r"\sqrt{2}", r"\frac{3}{7}", "(1+i)", r"\pi", "e", "x", r"(x+1)", r"(1+\sqrt{2})", "0.3",
         r"\sin(1)", "(-2)", "(x+y+z)", r"\left(\frac{1}{2}\right)", "i", "2.5"]
    )  # fmt: skip
    exponent = rng.choice(
        ["9" * rng.randrange(2, 30), r"\frac{1}{" + "9" * rng.randrange(2, 20) + "}",
         "-" + "9" * rng.randrange(2, 20), "9!" * rng.randrange(1, 3), "x^{99999}", "10^{9}",
         "0." + "3" * rng.randrange(2, 20)]
    )  # fmt: skip
    return f"{base}^{{{exponent}}}" + rng.choice(["", "", " + 1", r" \cdot 3", " - x", "!"])


def factorial(rng: Random) -> str:
    number = "9" * rng.randrange(2, 25)
    return rng.choice(
        [f"{number}!", f"{rng.randrange(3, 99)}{'!' * rng.randrange(2, 60)}", f"(({number})!)!",
         rf"\binom{{{number}}}{{{number[: len(number) // 2] or '3'}}}",
         rf"\frac{{{number}!}}{{3!}}",
         rf"\Gamma({number})", rf"\sqrt{{{number}!}}", f"{number}! - {number[1:] or '3'}!"]
    )  # fmt: skip


def endless_operator(rng: Random) -> str:
    """Sums, products, integrals and limits without an end in reach."""
    top = rng.choice(["9" * rng.randrange(3, 20), r"\infty", "10^{10}", "n", r"2^{2^{99}}"])
    what = rng.choice(
        ["k", "k^k", r"\frac{1}{k}", "k!", r"\sin(k)", r"\frac{1}{k^3 + k + 1}", r"2^{-k^2}"]
    )
    return rng.choice(
        [rf"\sum_{{k=1}}^{{{top}}} {what}", rf"\prod_{{k=1}}^{{{top}}} {what}",
         rf"\int_{{0}}^{{{top}}} {what} dk", rf"\lim_{{k \to \infty}} {what}",
         rf"\int {what} e^{{k^2}} \sin(k^3) dk", rf"\frac{{d}}{{dk}} {what}",
         rf"\sum_{{k=1}}^{{{top}}} \sum_{{j=1}}^{{{top}}} \frac{{{what}}}{{j}}"]
    )  # fmt: skip


def functions_of_functions(rng: Random) -> str:
    names = [r"\sin", r"\cos", r"\tan", r"\log", r"\ln", r"\exp", r"\arcsin", r"\sec", r"\sqrt"]
    text = rng.choice(["1", "x", r"\frac{1}{3}", r"\pi", "10^{99}", "i"])
    for _ in range(rng.randrange(2, 14)):
        name = rng.choice(names)
        text = f"{name}{{{text}}}" if name == r"\sqrt" else f"{name}({text})"
    return text


def digits(rng: Random) -> str:
    count = some(rng, 2000, 100_000)
    zero = rng.choice(ZEROS)
    one = rng.choice("123456789")
    text = rng.choice([one * count, "0" * count + one, "".join(rng.choices("0123456789", k=count))])
    text = rng.choice(
        [text, f"0.{text}", f"{text}.{text[:99]}", f"1/{text}", f"-{text}", text + "e9"]
    )
    return text.translate({48 + d: chr(ord(zero) + d) for d in range(10)})


def mixed_scripts(rng: Random) -> str:
    """Digits of several scripts in one number, exponents above and below the line."""
    pool = [chr(ord(zero) + d) for zero in ZEROS for d in range(10)]
    pool += [*"⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉½⅓¼⅕⅞↉①②⑳㉑Ⅷ⅒一二三万億兆Ⅿↂↈ௰፼𒐀", ".", ",", "٫", "٬", "-", "−"]
    return "".join(rng.choices(pool, k=some(rng, 60, 20_000)))


def unicode_exponents(rng: Random) -> str:
    high = "".join(rng.choices("⁰¹²³⁴⁵⁶⁷⁸⁹", k=some(rng, 40, 20_000)))
    return rng.choice(["2", "9", "x", "10", "π", "√2", "½", "²"]) + high


def large_polynomial(rng: Random) -> str:
    """Products that have a million terms, equations of a high degree."""
    names = "abcdefghjkmnpqrstuvwxyz"
    factors = [
        f"({'+'.join(rng.sample(names, rng.randrange(2, 9)))})^{{{rng.randrange(2, 60)}}}"
        for _ in range(rng.randrange(1, 8))
    ]
    return "".join(factors) + rng.choice(["", " = 0", " = x", " > 1", r" \neq 0"])


# ---- many


def elements(rng: Random) -> str:
    count = some(rng, 150, 10_000)
    kind = rng.choice(["{}", "x_{}", "\\sqrt{{{}}}", "{}=x", "({}, 1)", "[{}, 9)", "{}^2", "1/{}"])
    joiner = rng.choice([", ", ",", " and ", " or ", r" \cup ", "; ", r" \text{ or } ", "、", " "])
    inside = joiner.join(kind.format(rng.randrange(1, 10**4)) for _ in range(count))
    opening, closing = rng.choice([(r"\{", r"\}"), ("(", ")"), ("[", "]"), ("", ""), ("{", "}")])
    return opening + inside + closing


def candidates(rng: Random) -> str:
    """Thousands of answers, of which none is right."""
    sentence = rng.choice(
        ["The answer is {}. ", r"\boxed{{{}}} ", "#### {}\n", "${}$ ", "Answer: {}\n", "{} or ",
         r"\boxed{{{}}} and ", "not {} but ", r"\({}\), ", "no, {}; ", "<answer>{}</answer>",
         "<think>{}</think>", "</think>{}", "<think>{}"]
    )  # fmt: skip
    count = some(rng, 60, 6000)
    return "".join(sentence.format(rng.randrange(10**6)) for _ in range(count))


def repeats(rng: Random) -> str:
    """What makes a careless pattern try every way: each of the readers' patterns has one here."""
    piece = rng.choice(
        [" ", "\t", "\n", "\u00a0", "1 ", "1,", "1.", "1/", "1 / ", "1'", "1,000", " 000", "- ",
         "-",
         "minus ", "$", "$ ", "$-", "#### ", "####\n", "#####", "####*", "\\", "\\\\", "\\ ", "\\,",
         "\\!", "{,}", "~", "1~", "{", "}", "\\text{", "\\text {a", "\\frac", "\\frac 1",
         "\\frac{1",
         "1\\frac", "^ ", "^{ ", "^{°", "the answer is ", "the answer is: ", "result = ", "answer:",
         "$$", "$ a", "\\( ", "\\(a", "\\[", "and ", ", and ", " or ", "or1", "x=", "x_1=", "f(x)",
         "a ", "aa", "(a)", "A)", "(A", "x", "é", "是", "…", "...", "0.33...", "1:", "1 : ", "e1",
         "1e", "E+", "log ", "log_{a}", "sqrt(", "√ ", "√[", "√[a", "x*", "1 * ", "1x", "than ",
         "not ", "not the ", "instead of the ", "!", "1!", "%", "°", "</a>", "<a>", "<a", "|>", "’",
         "<think>", "</think>", "\\boxed", "\\boxed ", "\\boxed{", "\\boxed{}", "\\boxed{1}",
         "\\boxed{1},", "\\quad", "≈", "\\approx", "=", "==", "<=", "!=", "≠", ":", "_", "*", "**",
         "`", "_1", "1_", "1_{", "million ", "1 million", "万", "2024-11-", "\\left", "\\right\\",
         "\\operatorname{e", "\\mathrm { e ", "+ -", "1i", ")i", "\\{", "\\}", "[", "(", "(1", "1)"]
    )  # fmt: skip
    after = rng.choice(["", "", "1", "x", "}", "\n", "$", " 1", "!", "=", "\\", "a 1 a"])
    return rng.choice(["", "", "1", "x"]) + piece * some(rng, 400, 60_000 // len(piece)) + after


def blanks(rng: Random) -> str:
    blank = rng.choice(
        [" ", "\n", "\t", "\u3000", "\u200b", "\r\n", "\v", "\x1c", "\u2028", "\x85"]
    )
    count = some(rng, 3000, 1_000_000)
    return (
        rng.choice(["", "3", "#### ", r"\boxed{"]) + blank * count + rng.choice(["", "4", "}", "."])
    )


# ---- code


def injection(rng: Random, canary: str = "/nowhere") -> str:
    """Code that would write a file if any reader ran it."""
    command = rng.choice([f"touch {canary}", f"echo x > {canary}", f"cp /dev/null {canary}"])
    return rng.choice(
        [f"__import__('os').system('{command}')", f"exec(\"open('{canary}','w').write('x')\")",
         f"eval('open(\"{canary}\", \"w\")')", f"open('{canary}', 'w')",
         f"(lambda: __import__('os').system('{command}'))()",
         f"().__class__.__base__.__subclasses__()[132].__init__.__globals__['system']('{command}')",
         f"Symbol('x').__class__.__mro__[-1].__subclasses__(), open('{canary}','w')",
         f"sympify(\"__import__('pathlib').Path('{canary}').touch()\")",
         f"[c for c in ().__class__.__base__.__subclasses__()] or open('{canary}','w')",
         f"{{}}.__class__({{'a': open('{canary}', 'w')}})", f"`{command}`", f"$({command})",
         f"; {command} #", f"\\write18{{{command}}}", f"\\input{{|{command}}}",
         f"\\immediate\\write18{{{command}}}", f"\\openout1={canary} \\write1{{x}}",
         f"S(\"open('{canary}','w')\")", f"%(x)s {{0.__class__}} {{{{open('{canary}','w')}}}}",
         f"cos\nsystem\n(S'{command}'\ntR.", f"!!python/object/apply:os.system ['{command}']",
         f"lambdify(x, \"open('{canary}','w')\")(1)", f"x.subs(x, open('{canary}','w'))"]
    )  # fmt: skip


def no_number(rng: Random) -> str:
    words = ["nan", "NaN", "inf", "-inf", "Infinity", "None", "null", "True", "1j", "1+2j", "zoo"]
    words += [
        r"\infty",
        r"-\infty",
        r"\frac{1}{0}",
        r"\frac{0}{0}",
        r"0^0",
        r"\log 0",
        "∞",
        "i",
        "e",
    ]
    words += [r"\text{undefined}", r"\emptyset", r"\varnothing", "oo", "N/A", "()", "{}", r"\{\}"]
    words += [
        r"\infty - \infty",
        r"0 \cdot \infty",
        r"\frac{\infty}{\infty}",
        "1/0",
        "0/0",
        "-0",
        "",
    ]
    return rng.choice([" ", "", " + ", ", "]).join(rng.choices(words, k=rng.randrange(1, 4)))


# ---- characters


def characters(rng: Random) -> str:
    pools = [
        [chr(c) for c in range(32)] + ["\x7f", "\x80", "\x9b"],  # controls, NUL
        ["\x1b[31m", "\x1b]0;x\x07", "\x1b[2J", "\x9b1m", "\x1b[8m", "\x1bP", "\x1b\\"],
        ["\u202e", "\u202d", "\u2066", "\u2067", "\u2069", "\u200f", "\u061c", "ا", "1"],  # bidi
        ["\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u180e", "\u034f"],
        ["\u0301", "\u0338", "\u20dd", "\u20e3", "\ufe0f", "a", "1", "\U000e0031", "\u1160"],
        ["\ud800", "\udfff", "\udc80", "\ud83d", "\ude00", "1"],  # lone surrogates
        ["\ufffd", "\uffff", "\U0010ffff", "\ue000", "\ufdd0", "\U000f0000"],
        ["😀", "👨‍👩‍👧‍👦", "🇩🇪", "1️⃣", "ﷺ", "ﬀ", "ẞ", "İ", "ı", "ǅ", "\u1e9e"],
    ]
    pool = rng.choice([*pools, [c for pool in pools for c in pool]])
    text = "".join(rng.choices(pool, k=some(rng, 200, 30_000)))
    number = str(rng.randrange(1000))
    return rng.choice([text, number + text, text + number, f"{number[:1]}{text}{number[1:]}"])


def random_bytes(rng: Random) -> str:
    data = rng.randbytes(some(rng, 500, 50_000))
    return (
        data.decode(rng.choice(["latin-1", "cp437", "utf-16-le"]), "replace")
        if (rng.random() < 0.5)
        else data.decode("utf-8", rng.choice(["replace", "surrogateescape", "ignore"]))
    )


def any_characters(rng: Random) -> str:
    return "".join(chr(rng.randrange(0x110000)) for _ in range(some(rng, 100, 5000)))


# ---- TeX


def macros(rng: Random) -> str:
    name = "".join(rng.choices("abcdefghijklmnopqrstuvwxyzABC@", k=rng.randrange(1, 12)))
    return rng.choice(
        [rf"\def\{name}{{\{name}\{name}}}\{name}", rf"\{name}{{1}}",
         rf"\newcommand{{\{name}}}{{1}}",
         rf"\loop\{name}\repeat", rf"\let\{name}=\boxed \{name}{{1}}", rf"\csname {name}\endcsname",
         rf"\expandafter\{name}", rf"\catcode`\{{=12 \{name}", rf"\begin{{{name}}}1\end{{{name}}}",
         rf"\begin{{{name}}}", rf"\end{{{name}}}", rf"\operatorname{{{name}}}(1)", r"\verb|1|",
         rf"\input{{{name}}}", rf"\href{{x}}{{{name}}}", rf"\color{{red}}{{\{name}}}", "\\", r"\1",
         rf"\left\{name} 1 \right\{name}", rf"\{name}_{{1}}^{{2}}", rf"\sqrt[{name}",
         rf"\frac\{name}"]
    )  # fmt: skip


def matrix(rng: Random) -> str:
    rows, columns = rng.randrange(1, 12), rng.randrange(1, 12)
    body = r" \\ ".join(
        " & ".join(rng.choice(["1", "x", r"\frac{1}{2}", "", "9" * 9]) for _ in range(columns))
        for _ in range(rows)
    )
    kind = rng.choice(["pmatrix", "bmatrix", "vmatrix", "array", "cases", "aligned"])
    power = rng.choice(["", "", f"^{{{'9' * rng.randrange(1, 12)}}}", "^{-1}", "^T", "!", "^{x}"])
    return cut_or_whole(rng, rf"\begin{{{kind}}} {body} \end{{{kind}}}{power}")


def interval(rng: Random) -> str:
    ends = [
        "1",
        r"\infty",
        r"-\infty",
        "x",
        r"\sqrt{2}",
        "10^{99}",
        r"\frac{1}{0}",
        "",
        "9^{9^{9}}",
    ]
    several = [
        rng.choice("([") + rng.choice(ends) + ", " + rng.choice(ends) + rng.choice(")]")
        for _ in range(rng.randrange(1, 20))
    ]
    return rng.choice([r" \cup ", r" \cap ", ", ", r" \setminus ", r" \times "]).join(several)


def equation(rng: Random) -> str:
    sides = ["x", "x^2", "y", "0", "1", "2x+3y", r"\sin x", "x^{99}", "x^x", "9^{9^9}", "|x|", ""]
    signs = ["=", "<", ">", r"\le", r"\ne", r"\approx", "==", ":=", r"\equiv", r"\iff", r"\in"]
    text = rng.choice(sides)
    for _ in range(rng.randrange(1, 9)):
        text += f" {rng.choice(signs)} {rng.choice(sides)}"
    return text


def salad(rng: Random) -> str:
    """Tokens of mathematics at random: what no grammar was tried with."""
    tokens = [*"{}()[]^_+-*/=,.!%°0129xyie|&'R", r"\frac", r"\sqrt", r"\pi", r"\infty", r"\sin"]
    tokens += [r"\log", r"\lim", r"\int", r"\sum", r"\prod", "dx", r"\to", r"\cdot", r"\times"]
    tokens += [r"\pm", r"\le", r"\cup", r"\in", r"\{", r"\}", r"\left", r"\right", r"\text"]
    tokens += [r"\binom", r"\%", r"\$", r"\mod", r"\pmod", r"\lfloor", r"\rfloor", r"\|", r"\\"]
    tokens += [r"\prime", r"\vec", r"\hat", r"\overline", r"\circ", r"\angle", r"\mathbb"]
    return rng.choice([" ", ""]).join(rng.choices(tokens, k=rng.randrange(2, 40)))


def cut_or_whole(rng: Random, text: str) -> str:
    return cut(rng, text) if rng.random() < 0.2 else text


FAMILIES: Mapping[str, Callable[[Random], str]] = {
    made.__name__: made
    for made in (
        *(nested, unbalanced, tower, huge_power, factorial, endless_operator),
        *(functions_of_functions, digits, mixed_scripts, unicode_exponents, large_polynomial),
        *(elements, candidates, repeats, blanks, no_number, characters, random_bytes),
        *(any_characters, macros, matrix, interval, equation, salad),
    )
}

WRAPPINGS = (
    *(
        "{}",
        "{}",
        r"\boxed{{{}}}",
        r"\boxed{{{}}}",
        "The answer is {}.",
        "#### {}",
        "${}$",
        "$${}$$",
    ),
    *(r"\[{}\]", r"\({}\)", "x = {}", "<think>5</think>{}", r"\boxed{{\text{{{}}}}}", "**{}**"),
    *(
        r"\boxed{{1}} or \boxed{{{}}}",
        "<answer>{}</answer>",
        r"So $x = \boxed{{{}}}$. That is all.",
    ),
    *("answer: {}", "```python\n{}\n```", "{} = 5", "5 = {}", r"{} \approx 1", r"\frac{{{}}}{{3}}"),
)
"""(`{} = 5` says 5, which is not right either.)"""


def holds_prime(text: str) -> bool:
    """Whether `PRIME`'s digits are in it, in their order, whatever stands between them."""
    if not text.isascii():
        text = "".join(str(unicodedata.digit(c, "")) for c in text)
    return str(PRIME) in re.sub(r"[^0-9]", "", text)


def hostile_text(rng: Random, canary: str) -> tuple[str, str]:
    """A text of some family that is no answer of any gold, and the family."""
    if rng.random() < 0.06:
        family, text = "injection", injection(rng, canary)
    else:
        family = rng.choice(list(FAMILIES))
        text = FAMILIES[family](rng)
        if rng.random() < 0.1:
            other = rng.choice(list(FAMILIES))
            text += rng.choice(["", " ", " + ", ", ", "\n", "^"]) + FAMILIES[other](rng)
            family += f" and {other}"
    if rng.random() < 0.8:
        text = rng.choice(WRAPPINGS).format(text)
    if rng.random() < 0.1:
        text = cut(rng, text)
    assert not holds_prime(text)
    assert WORD not in text.casefold()
    return family, text


# ---- golds and near misses

NUMBERS = (str(PRIME), f"-{PRIME}", f"{PRIME}.5", f"{PRIME}/7", f"{PRIME:,}")
FORMULAS = (
    *NUMBERS,
    *(rf"{PRIME}\sqrt{{2}}", rf"\frac{{{PRIME}\pi}}{{7}}", f"({PRIME}, 2)", rf"\{{{PRIME}, 1\}}"),
    *(f"x + {PRIME}", rf"[{PRIME}, \infty)", rf"\text{{{WORD}}}", f"{PRIME} + 2i", f"x > {PRIME}"),
    *(f"{PRIME} and 3", f"x = {PRIME}", f"e^{{{PRIME}}}"),
    rf"\begin{{pmatrix}} {PRIME} \\ 1 \end{{pmatrix}}",
)
TEXTS = (WORD, f"{WORD} {PRIME}", f"The {WORD}, at last.", f"{PRIME}", f"Straße {WORD}")
"""(`Straße` is `strasse` where case is ignored.)"""
PATTERNS = (
    *(r"answer: (\w+)", r"\\boxed\{([^{}]*)\}", r"answer is {answer}\b", r"####\s*(\S{1,40})$"),
    *(r"(?s)<answer>(.*?)</answer>", r"^{answer}$", r"(?m)^{answer}\s*$", r"(?i)\b{answer}\b"),
    r"(?:^|\s)({answer})(?:\s|$)",
)
"""Of `regex`: such as people write, which no text here makes slow."""


def near_misses(rng: Random) -> str:
    """A text about `PRIME` in which the answer is something else; the gold is `PRIME`."""
    p, n = str(PRIME), str(rng.randrange(2, 99))
    place = rng.randrange(len(p) - 1)
    other = rng.choice([str(d) for d in range(1, 10) if str(d) != p[place]])
    value = rng.choice(  # another number
        [p[:place] + other + p[place + 1 :], p[:place] + p[place + 1 :],
         p[:place] + other + p[place:],
         f"-{p}", f"{p}.{n}", f"{p}0", f"{n}{p}", f"{PRIME + int(n)}", f"{p}e{n}", f"{p}/{n}",
         f"{p}.0000000000000000001", f"0.{p}", f"{p} million", f"{p[:8]}.{p[8:]}", f"{p[::-1]}"]
    )  # fmt: skip
    about = rng.choice(  # something else than a number, or several
        [f"{p} or {n}", f"{n}, {p}", f"{p}!", f"{p}^{{{n}}}", f"{n}^{{{p}}}", rf"\sqrt{{{p}}}",
         f"{p}x", f"x_{{{p}}}", f"{p}:{n}", rf"{p} \pm {n}", rf"\{{{p}, {n}\}}", f"({n}, {p})",
         f"{p}^{{9^{{9^{{9}}}}}}", f"{p}!!", rf"\frac{{{p}}}{{0}}", rf"{p} \cdot \infty",
         rf"\sin({p})", rf"\neq {p}", f"{p}²", f"{p}i", f"[{p}, {n}]", rf"\log {p}", f"{p} - {n}",
         rf"\int_0^{{{p}}} x dx", rf"\sum_{{k=1}}^{{{p}}} k", rf"\binom{{{p}}}{{{n}}}", f"{p}_{n}"]
    )  # fmt: skip
    if rng.random() < 0.4:
        said = rng.choice([value, about])
        return rng.choice(
            [r"\boxed{{{}}}", r"The answer is \boxed{{{}}}.", r"$\boxed{{{}}}$"]
        ).format(said)
    if rng.random() < 0.5:
        return rng.choice(["The answer is {}.", "#### {}", "{}", "= {}"]).format(value)
    return rng.choice(
        [f"<think>{p}", f"<think>{p}</think>", rf"\boxed{{{p}", rf"\boxed{{{p}}} or \boxed{{{n}}}",
         rf"\boxed{{{p}}} no, \boxed{{{n}}}", rf"\boxed{{{p}}} or \boxed{{{n}",
         rf"<think>\boxed{{{p}}}</think> {n}",
         rf"\boxed{{{p[:-1]}", f"not {p}", f"more than {p}",
         f"The answer is not {p}.", f"{p} + {n} =", f"{p}{p}", f"{p}k",
         f"<think>{p}</think><think>", f"</think>{p}<think></think>", f"{p}</think>{n}"]
    )  # fmt: skip


def near_texts(rng: Random, gold: str) -> str:
    """A text that differs from the gold answer by more than case and the white space around it."""
    place = rng.randrange(1, len(gold))
    strange = rng.choice(
        ["\u200b", "\0", "\u0301", "\u00ad", "\u202e", "\ud800", "\x1b[0m", "x", "\ufeff"]
    )
    homoglyph = gold.translate({97: "а", 101: "е", 48: "O", 49: "l", 113: "ԛ"})
    return rng.choice(
        [gold[:place] + strange + gold[place:], gold + strange, strange + gold, gold[place:],
         gold[:place],
         gold[::-1], homoglyph if homoglyph != gold else gold + gold, gold * 2, f"<think>{gold}",
         f"<think>{gold}</think>", f"{gold}</think>", f"</think>{gold[1:]}", f"`{gold}`",
         f'"{gold}"',
         f"{gold} {gold}", gold + "\n" * 9 + ".", f"{gold[:place]} {gold[place:]} "]
    )  # fmt: skip


# ---- cases


def hostile(name: str, seed: int, canary: str) -> Case:
    """A completion that is wrong by the reward of that name."""
    rng = Random(f"torture hostile {name} {seed}")
    near = rng.random() < 0.15
    if name == "regex":
        pattern, gold = rng.choice(PATTERNS), rng.choice(TEXTS)
        if near:
            pattern = "^{answer}$"
            return Case(gold, near_texts(rng, gold), "near", pattern)
        family, text = hostile_text(rng, canary)
        return Case(gold, text, family, pattern)
    if near:
        gold = rng.choice(TEXTS) if name == "exact" else str(PRIME)
        return Case(gold, near_texts(rng, gold) if name == "exact" else near_misses(rng), "near")
    family, text = hostile_text(rng, canary)
    golds = {"exact": TEXTS, "math": FORMULAS}.get(name, NUMBERS)
    return Case(rng.choice(golds), text, family)


_AROUND = ("", " ", "\n", "\t", "\u00a0", "\u3000", "\r\n", "\u2028", "\n\n  ")
_THOUGHT = ("", "", f"<think>\n{WORD}? 5!\n</think>", "a</think>b</think>")
_FILLED = {
    r"answer: (\w+)": "So the answer: {}.",
    r"\\boxed\{([^{}]*)\}": r"$\boxed{{ {} }}$, as \boxed{{5}} is not.",
    r"answer is {answer}\b": "Then the answer is {}, of 5.",
    r"####\s*(\S{1,40})$": "5 + 3 = 8\n####\n {}",
    r"(?s)<answer>(.*?)</answer>": "<answer>\n{}\n</answer><answer>5</answer>",
    "^{answer}$": "{}",
    r"(?m)^{answer}\s*$": "So:\n{} \nThat is all.",
    r"(?i)\b{answer}\b": "it is '{}'!",
    r"(?:^|\s)({answer})(?:\s|$)": "no, {} then",
}


def right(name: str, seed: int) -> Case | None:
    """A completion that is right by the reward of that name; none if the seed has none for it."""
    rng = Random(f"torture right {name} {seed}")
    if name == "exact":
        gold = rng.choice(TEXTS)
        said = rng.choice([gold, gold.upper(), gold.lower(), gold.swapcase()])
        return Case(
            gold, rng.choice(_THOUGHT) + rng.choice(_AROUND) + said + rng.choice(_AROUND), ""
        )
    if name == "regex":
        pattern, gold = rng.choice(PATTERNS), rng.choice([WORD, str(PRIME)])
        return Case(gold, _FILLED[pattern].format(gold), "", pattern)
    numbers = name != "math" or rng.random() < 0.6
    made = renderings.a_right_number(rng) if numbers else renderings.a_formula(rng, right=True)
    return Case(made.answer, made.completion, "") if name in made.rewards else None
