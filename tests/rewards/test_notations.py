"""Answers in other notations of the same: what `math` reads as equal, and what it does not."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.rewards import math_equivalence
from winnow.rewards.letter_products import is_product
from winnow.rewards.spelled_out import in_tex
from winnow.types import Prompt

EQUAL = [
    ("2ab", "2ba"), ("2ab", "2 b a"), ("2ab", r"2a \cdot b"), ("xy", "yx"), ("xy", r"x \cdot y"),
    ("xyz", "zyx"), ("mn", r"n \times m"), ("2mn", "2nm"), ("12AB", "12 AB"),
    ("2.5ab", r"\frac{5}{2}ab"), ("2ab^2", "2b^2a"), (r"\frac{2ab}{c}", "2ab/c"),
    (r"\frac12 bh", "bh/2"), ("5", "5mm"), ("5", r"5\text{pcs}"), ("18", "18 apples"),
    (r"6\pi", "6pi"), (r"6\pi", "6 pi"), (r"9\pi", "9*pi"), (r"\pi r^2", "pi*r**2"),
    (r"2\pi r", "2pir"), (r"\sqrt{3}", "sqrt3"), (r"3\sqrt{2}", "3 sqrt(2)"),
    (r"\sqrt{x+\sqrt{2}}", "sqrt(x + sqrt(2))"), (r"\sqrt[3]{2}", "cbrt(2)"),
    ("e^{-x^2}", "exp(-x^2)"), ("|x|", "abs(x)"), (r"\sin x", "sinx"), (r"\sin^2 x", "sin^2(x)"),
    (r"\sin\theta", "sin θ"), (r"3\ln 2", "3ln2"), (r"\log_2 3", "log_2(3)"),
    (r"\arctan 2", "arctan(2)"), (r"\arcsin x", "asin(x)"), (r"\theta", "theta"),
    (r"\alpha+\beta", "alpha+beta"), (r"(-\infty,3)", "(-oo, 3)"),
    (r"6\pi\text{ cm}^2", "6pi cm^2"), (r"\frac13", r"0.\overline{3}"),
    (r"\frac16", r"0.1\overline{6}"), (r"3\times10^8", "3x10^8"), ("0.001", "10^-3"),
    (r"\frac x2", "1/2 x"), ("y=2x+1", "2x+1=y"), ("(1,2)", "y=2, x=1"),
    (r"[3,\infty)", "x >= 3"), ("[3,5)", r"3 \le x < 5"), ("x<3", r"(-\infty,3)"),
    (r"(-\infty,-1]\cup[2,\infty)", "x<=-1 or x>=2"), ("(-3,5)", r"x>-3 \text{ and } x<5"),
    ("(2,3)", "m=2, b=3"), ("(1,2)", "B=2, A=1"),
    (r"(3,\frac{\pi}{2})", r"r=3, \theta=\frac{\pi}{2}"),
    ("(1,2)", "x_2=2, x_1=1"), (r"\frac{3\pi}{2}", "3/2 pi"), (r"\frac{4}{3}\pi r^3", "4/3 π r^3"),
    ("4ac", "4ca"), (r"\frac{1}{2}mv^2", r"\frac{mv^2}{2}"), (r"\frac{3}{4}x", "(3/4)x"),
    (r"k \ge -\frac{1}{4}", r"[-0.25, \infty)"), ("[0.5,1)", r"\frac12 \le x < 1"),
    (r"[\frac{1}{\sqrt3},\infty)", r"x \ge \frac{\sqrt3}{3}"), (r"\frac12", "1/2 of the cake"),
    (r"\frac12", "1/2 per day"), ("3/8", r"\frac{3}{8} of the pie"), ("2ab", r"2\,ab"),
    (r"\frac12 ab", "1/2 ab"), ("10", "10kΩ"), ("10", "10 μF"), (r"\text{infinity}", "infinity"),
    (r"\text{Gamma}", "Gamma"), ("5", "5wks"), ("5", r"\$5per hour"), ("9.8", "9.8 m/sec^2"),
    ("5", "5 cm^2"), (r"\sqrt{12.5}", "sqrt12.5"), (r"2\mu", "2μ"),
]  # fmt: skip
BELOW = [
    (r"\frac1e", "1/e"), (r"\frac{2}{e^2}", "2/e^2"), (r"\frac{3}{x^2}", "3/x²"),
    (r"\frac1R", "1/R"), (r"\frac1N", "1/N"), ("60", "60/h"), ("5", "5/m^3"),
]  # fmt: skip
SIGNS = [
    (r"\sqrt{x+1}", "√(x+1)"), (r"\sqrt2x", "√2x"), (r"\sqrt{2+\sqrt3}", "√(2+√3)"),
    (r"\frac{\sqrt2}{2}", "√½"), (r"\sqrt[3]{4}", "∛4"), (r"\sqrt{x+1}", r"√\left(x+1\right)"),
    (r"\sqrt{\pi}", "√π"), (r"\varphi", "φ"), (r"\varphi", "ϕ"), (r"\phi", r"\varphi"),
    (r"1-\varepsilon", "1-ε"), (r"\vartheta", "θ"), (r"\rho", r"\varrho"), (r"\alpha\beta", "αβ"),
    (r"\frac{2\pi}{3}", "2𝜋/3"), (r"\frac{\pi}{2}", "½π"), ("x^{-2}", "x⁻²"), ("2^{10}", "2¹⁰"),
    (r"\sin^2 x", "sin²x"), (r"\log_2 3", "log₂3"), ("1734_8", "1734₈"), ("1734_8", "(1734)_8"),
    (r"1011_2", r"1011_{\text{two}}"), (r"\lfloor x\rfloor", "⌊x⌋"), (r"\ln 2", r"\log_e 2"),
    ("10:45 a.m.", "10:45 AM"), (r"\infty", r"\text{infinity}"), (r"3\times10^8", "300,000,000"),
    ("ellipse", "an ellipse"),
]  # fmt: skip
ARGUMENTS = [
    (r"\binom{n}{k}", r"\binom nk"), (r"\binom{8}{3}", r"\tbinom83"),
    (r"\frac{x}{y}", r"\frac{x}y"),
    (r"\frac{\pi}{2}", r"\frac\pi2"), (r"\frac{\lambda}{\mu}", r"\frac\lambda\mu"),
    (r"\frac{1}{\binom{52}{5}}", r"\frac1{\binom{52}5}"), (r"\sqrt{\frac12}", r"\sqrt\frac12"),
    (r"\sqrt[3]{2}", r"\sqrt[3]2"), (r"x^{1/2}", r"x^\frac12"),
    (r"\sin\frac{\pi}{4}", r"\sin\frac\pi4"),
    ("(1,2)", r"\bigl(1, 2\bigr)"), ("(1,2,3)", r"\langle 1,2,3\rangle"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\[2pt]2\end{pmatrix}"),
]  # fmt: skip
IN_WORDS = [
    (r"\emptyset", "no solution"), (r"\emptyset", "none"), (r"\{\}", "no real solutions"),
    (r"\varnothing", "There are no solutions"), ("no solution", "none"), (r"\emptyset", r"\{ \}"),
    (r"\mathbb{R}", "all real numbers"), (r"(-\infty,\infty)", "all reals"),
    (r"\frac12", "one half"), (r"\frac12", "one-half"), (r"\frac12", "a half"),
    (r"\frac23", "two thirds"),
    (r"\frac34", r"\text{three quarters}"), (r"\frac23", "2 thirds"), ("0.3", "3 tenths"),
    ("2.5", "two and a half"), ("21", "twenty-one"),
    ("-7", "minus seven"), ("0", "zero"),
    ("2300205", "two million three hundred thousand two hundred and five"),
]  # fmt: skip
GOES_ON = [
    (r"\frac13", "0.333..."), (r"\frac13", r"0.33\ldots"), (r"\frac16", "0.1666…"),
    ("4/33", "0.1212..."),
    (r"-\frac13", "-0.333..."), (r"\frac13", r"0.\dot{3}"),
    (r"\frac17", r"0.\dot{1}4285\dot{7}"), ("1", "0.999..."),
]  # fmt: skip
FACTORS = [
    ("6", "2(3)"), ("6", "(2)(3)"), ("24", "(2)(3)(4)"), ("-6", "(-2)(3)"),
    ("6", r"2\left(3\right)"),
    ("9", "4.5 (2)"), ("9", "(4.5)(2)"), ("1", r"(2)\frac12"), ("3", r"2\frac{3}{2}"),
    ("2.5", r"2\frac12"),
    (r"\frac{5\pi}{2}", r"2\frac12\pi"), ("2f(3)", "f(3)(2)"), (r"\log_{2}(9)", r"2\log_2(3)"),
]  # fmt: skip
IMAGINARY = [
    ("-1", "i^2"), ("2i", r"\sqrt{-4}"), ("2", "(1+i)(1-i)"), ("z^2+1", "(z-i)(z+i)"),
    (r"-\frac12+\frac{\sqrt3}{2}i", r"e^{2\pi i/3}"),
]  # fmt: skip
SOLUTIONS = [
    (r"1\pm\sqrt2", r"\frac{2\pm\sqrt8}{2}"), (r"\pm1, \pm2", "1, -1, 2, -2"),
    (r"(1, \pm 2)", "(1,2), (1,-2)"), (r"y=\pm2x", "y=2x, y=-2x"),
    ("x>-3 and x<5", "-3<x<5"), ("x<-1 or x>3", r"x>3 \lor x<-1"), ("0<a<1", "1>a>0"),
    ("0<a<1", "a∈(0,1)"), ("x<2 or x>5", r"x\in(-\infty,2)\cup(5,\infty)"),
    ("[3,5)", r"\{x \mid 3\le x<5\}"), (r"x\ne2", r"\{x : x\ne 2\}"), ("[3,5)", "[3,5["),
    (r"(-\infty,1)\cup[2,3]", r"]-\infty,1[ U [2,3]"), (r"k\pi", r"k\pi, k \in \mathbb{Z}"),
    ("y=2x+1", "2x-y+1=0"), ("y=2x+1", "y-3=2(x-1)"), ("y=2x+1", r"x=\frac{y-1}{2}"),
]  # fmt: skip
NAMES = [
    ("f'(x)", r"f^{\prime}(x)"),
    ("y''+y=0", r"y + y^{\prime\prime} = 0"),
    ("y'=2x", "2x"),
    (r"4\pi r^2\frac{dr}{dt}", r"4\pi r^2 dr/dt"),
    (r"\frac{dy}{dx}", "dy/dx"),
    ("f^{-1}(x)", "f^-1(x)"),
    (r"x^{\gcd(m,n)}-1", r"x^{\gcd(n,m)}-1"),
    (r"\gcd(4,6)", "2"),
    ("a^{-2}", "a**(-2)"),
    (r"\cos A=\frac12", r"\cos A=0.5"),
    ("A=60", r"\angle A=60"),
    ("AB=5", "|AB|=5"),
    ("y=x", "f(x)=x"),
    ("x+y=1", "x+y-1=0"),
    ("xy=1", "y=1/x"),
]
DATES = [
    ("June 20", "20 June"), ("June 20", "the 20th of June"), ("July 04", r"\text{July 4}"),
    ("March 5, 2024", "5 Mar 2024"), ("March 2024", "march, 2024"),
]  # fmt: skip
TABLES = {
    "notation": EQUAL, "below a slash": BELOW, "signs": SIGNS, "arguments": ARGUMENTS,
    "words": IN_WORDS,
    "names": NAMES, "dates": DATES, "repeating": GOES_ON,
    "factors": FACTORS, "imaginary": IMAGINARY, "solutions": SOLUTIONS,
}  # fmt: skip
UNEQUAL = [
    ("2ab", "2cd"), ("2ab", "2"), ("2", "2ab"), ("3", "3pq"), ("no", "on"), ("bca", "abc"),
    ("AB", "BA"), ("if", "fi"), ("2ab", "2a"), ("2", "2 exp(3)"), ("2", "2 f(x)"),
    ("10", r"10\%x"), ("9", "9*pi"), ("3", "3 sin x"), ("2", "2 theta"), (r"2\pi", "2p"),
    (r"\theta", "alpha"), (r"\sqrt3", "sqrt(5)"), ("The alpha particle", "the beta particle"),
    (r"[3,\infty)", "x > 3"), ("[3,5)", "3<=x<=5"), ("(1,2)", "x=2, y=1"),
    (r"\frac13", "0.3"), ("(1,3)", "x<1 or x>3"),
    ("(2,3)", "m=3, b=2"), ("2.5", "sqrt12.5"), (r"\frac{3}{2\pi}", "3/2 pi"), ("4ac", "4"),
    (r"\frac{1}{2}mv^2", r"\frac12"), (r"\frac34", "(3/4)x"), (r"\frac12", "(1/2)mv^2"),
    ("5", "(5)x"), ("2AB", "2ab"), ("2mn", "2MN"), (r"\frac12", "1/2 xy"),
    ("1", "1/e"), ("1", "1/x²"), ("2", "2/e^2"), ("1", "1/R"), ("1", "1/ab"), ("1/23", r"\frac123"),
    (r"\sqrt{x+1}", "√x+1"), (r"\sqrt{2x}", "√2x"), ("x^2", "x³"), (r"\sqrt2", "∛2"),
    (r"\varpi", r"\pi"),
    (r"\phi+\varphi", r"2\phi"), (r"\varphi", r"\psi"), ("1734_8", "1734₉"),
    (r"\binom{n}{k}", r"\binom kn"),
    (r"\frac{x}{y}", r"\frac yx"), ("10:45 a.m.", "10:45 p.m."), (r"\ln 2", r"\log_{10} 2"),
    (r"\emptyset", "no"), (r"\emptyset", "0"), ("none", "0"), (r"\emptyset", "none of the above"),
    (r"\mathbb{R}", "all real numbers except 0"), (r"\frac12", "two"), (r"\frac13", "third"),
    (r"\frac23", "three halves"), ("5", "fifth"), ("25", "twenty fifth"), ("20", "twelve"),
    (r"\frac13", "0.3..."), (r"\frac16", "0.16..."), (r"\frac23", "0.666"), (r"\sqrt2", "1.414..."),
    ("5", "2(3)"), ("9", "(2)(3)(4)"), ("-5", "(-2)(3)"), ("3.5", r"2\frac{3}{2}"), ("9", "4.5(3)"),
    ("1", "i^2"), ("2i", "(1-i)^2"), ("z^2-1", "(z-i)(z+i)"),
    ("x<-1 or x>3", "x<-1 and x>3"), ("x>-3 and x<5", "x>-3 or x<5"), ("a>0 and b<3", "a>0 or b<3"),
    (r"x\ne2", r"x\ne3"), (r"x\ne2", "x=2"), (r"1\pm\sqrt2", r"1+\sqrt2"), (r"y=\pm2x", "y=-2x"),
    ("y=2x and y=-2x", "y=-2x"), (r"\{-2,5\}", "[-2,5]"), (r"\{-2,5\}", "(-2,5)"),
    ("(0,1)", "[0,1["),
    ("y=2x+1", "2x-y-1=0"), ("y=2x+1", "x=2y+1"), (r"(1,\pm2)", r"(\pm1,2)"), ("2<x<5", "2<y<5"),
    ("f'(x)", "f(x)"), ("y'", "y''"), ("x_1'", "x_1"), ("y''+y=0", "y'+y=0"), ("y''+y=0", "2y=0"),
    (r"4\pi r^2\frac{dr}{dt}", "0"), (r"\frac{dy}{dx}", r"\frac{dx}{dy}"), (r"\frac yx", "dy/dx"),
    ("f^{-1}(x)", "1/f(x)"), (r"\gcd(a,b)", "1"), (r"\gcd(a,b)", r"\gcd(a,c)"), ("-2", "a**(-2)"),
    ("x=5", r"\ln x=5"), ("x=5", r"\sqrt{x}=5"), ("x=5", "|x|=5"), ("x=5", "f(x)=5"),
    ("x+y=1", "xy=1"), ("x+y=1", "ab=1"), ("xy=1", "x+y=1"),
    ("June 20", "July 20"), ("June 20", "June 21"), ("March 5, 2024", "May 5, 2024"),
    ("March 5, 2024", "March 5, 2023"), ("3", "3 tenths"), ("2", "2 thirds"), ("0.002", "2"),
    ("A", "(A) or (B)"), ("A", "A. and B."),
    (r"\frac{\pi}{2}", r"90^\circ"), (r"\log x", r"\ln x"), (r"k\pi", r"2k\pi, k \in \mathbb{Z}"),
]  # fmt: skip


def verdict(gold: str, said: str) -> float:
    return math_equivalence.math(Prompt("p", "", gold), rf"The answer is \boxed{{{said}}}.")


@pytest.mark.parametrize(("gold", "said"), [pair for table in TABLES.values() for pair in table])
def test_another_notation_is_right(gold: str, said: str) -> None:
    assert verdict(gold, said) == 1.0
    assert verdict(said, gold) == 1.0


@pytest.mark.parametrize(("gold", "said"), UNEQUAL)
def test_what_only_looks_alike_is_wrong(gold: str, said: str) -> None:
    assert verdict(gold, said) == 0.0
    assert verdict(said, gold) == 0.0


@pytest.mark.parametrize(
    ("gold", "completion", "expected"),
    [
        (r"6\pi", "The answer is 6 pi square units.", 1.0),
        (r"6\pi", "#### 6pi", 1.0),
        (r"3\sqrt2", "#### 3sqrt(2)\nThat is it.", 1.0),
        (r"\frac{\pi}{6}", "The answer is pi/6.", 1.0),
        (r"\frac43\pi r^3", r"\boxed{(4/3)pi r^3}", 1.0),
        (r"x \in [0, \pi]", r"\boxed{[0, pi]}", 1.0),
        ("0", r"\boxed{[0,\pi]}", 0.0),
        (r"\frac43", r"\boxed{(4/3)\pi r^3}", 0.0),
        ("2", r"\boxed{(2, \pi)}", 0.0),
        ("100", r"\boxed{100^\circ - x}", 0.0),
        ("12", r"\boxed{12 \quad x}", 0.0),
        ("2ab", "So the area is 2ab.", 1.0),
        (r"\frac12", "The answer is 1/2 of the pizza.", 1.0),
        ("5", "So it is 5mm.", 1.0),
        ("3", "#### 3 or 4", 0.0),
        ("5", "The answer is 5 pi cm.", 0.0),
        (r"\frac23", "The answer is two thirds.", 1.0),
        (r"\frac23", "The answer is 0.666... .", 1.0),
        (r"\frac23", "The answer is 0.666...", 1.0),
        ("3", r"\boxed{3 quarters}", 1.0),
        (r"\frac1s", r"\boxed{1/s}", 1.0),
        (r"\frac{2}{s^3}", r"\boxed{F(s) = 2/s^3}", 1.0),
        (r"\frac1s", r"\boxed{2/s}", 0.0),
        ("60", r"\boxed{60/h}", 1.0),
        ("July 4", "It is July 4.", 1.0),
        ("July 4", "#### 4 July", 1.0),
        ("July 4", "The answer is June 4.", 0.0),
        ("July 4", "It is June 4.", 0.0),
        ("July 4", "#### June 4", 0.0),
        ("4", "It is July 4.", 1.0),
        ("1776", "It was on July 4, 1776.", 1.0),
        ("1/2", "The answer is 1 half.", 1.0),
        ("123456789/3", r"\boxed{1234567890 thirds}", 0.0),
        ("18", "#### 18 May be right", 1.0),
        (r"\pi", "The radius is 3.\n#### \\pi", 1.0),
        ("3", "The radius is 3.\n#### \\pi", 0.0),
        ("y=-2x+1", "#### y=-2x+1", 1.0),
        ("C", "It has 4 sides.\n#### C", 1.0),
        ("A", "(A) Red or blue", 1.0),
        (r"\frac{d}{dx} f(x)", r"\boxed{f(x)}", 0.0),
        (r"\emptyset", "There is no solution.", 1.0),
        ("C", "Option C", 1.0),
        ("C", "Option D", 0.0),
        ("9", r"\boxed{4.5(2)}", 1.0),
        (r"\frac{407}{90}", r"\boxed{4.5(2)}", 1.0),
        ("x<-1 or x>3", "It is $x<-1$ or $x>3$.", 1.0),
        ("x<-1 or x>3", "It is $x<-1$ and $x>3$.", 0.0),
        ("x<-1 or x>3", r"\boxed{x<-1} or \boxed{x>3}", 1.0),
        ("x<-1 or x>3", r"\boxed{x<-1} and \boxed{x>3}", 0.0),
        ("4, 5", r"\boxed{4} or \boxed{5}", 1.0),
    ],
)
def test_completions(gold: str, completion: str, expected: float) -> None:
    assert math_equivalence.math(Prompt("p", "", gold), completion) == expected


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        ("5", f"x<{'exp(' * 100}1{')' * 100}"),
        ("x<5", "[" * 900),
        ("5", f"x<a{'=a' * 400}"),
        ("5", f"x<{'1/2 ' * 220}"),
        (r"\{7, 1\}", r"x^{99} < |x| \approx 0 \ne 1 = x \le x"),
        ("[3,5)", r"x>\sin(10^{500000}) \text{ and } x<1"),
        ("[3,5)", r"x>\sqrt{1+\sqrt{7}} \text{ and } x<\sqrt{1+\sqrt{7.0}}"),
        ("5", r"(\sqrt2+i)^{3000}"),
        ("5", r"(\sqrt2+I)^{3000}"),
        ("5", r"\sqrt" * 150),
        ("5", r"\frac1" * 150),
        ("5", "√(" * 300),
        ("5", r"\gcd(10^{999999},7)"),
        ("5", r"\gcd(" * 150),
        ("5", "f'" * 300),
        ("5", "July " * 150),
        ("5", "2(3)" * 200),
        ("5", "0." + "1234567890" * 90 + "..."),
        ("5", "one " * 200),
    ],
)
def test_what_is_too_long_or_hard_to_order_is_wrong(gold: str, said: str) -> None:
    assert verdict(gold, said) == 0.0


@given(st.integers(2, 99), st.lists(st.sampled_from("abpqrxyz"), min_size=2, max_size=3))
def test_the_order_of_factors_changes_nothing_and_another_factor_does(
    number: int, letters: list[str]
) -> None:
    gold = f"{number}{''.join(letters)}"
    if not is_product(gold):  # 5 pa, 3 rad: a unit
        return
    for order in permutations(letters):
        assert verdict(gold, f"{number}{''.join(order)}") == 1.0
        assert verdict(gold, f"{number}{' '.join(order)}") == 1.0
    assert verdict(gold, f"{number}{''.join(letters[:-1])}k") == 0.0
    assert verdict(gold, f"{number + 1}{''.join(letters)}") == 0.0
    assert verdict(gold, str(number)) == 0.0


@given(st.integers(0, 99), st.integers(0, 3), st.integers(1, 999))
def test_repeating_decimals_are_fractions(whole: int, zeros: int, again: int) -> None:
    """w.0...0(again) = w + again / (10^zeros (10^d - 1)), the geometric series."""
    digits = str(again)
    above = whole * 10**zeros * (10 ** len(digits) - 1) + again
    below = 10**zeros * (10 ** len(digits) - 1)
    shared = math.gcd(above, below)
    gold = rf"\frac{{{above // shared}}}{{{below // shared}}}"
    assert verdict(gold, rf"{whole}.{'0' * zeros}\overline{{{digits}}}") == 1.0
    assert verdict(gold, f"{whole}.{'0' * zeros}({digits})") == 1.0


@given(
    st.integers(0, 99),
    st.text("0123456789", max_size=3),
    st.text("0123456789", min_size=1, max_size=4),
    st.integers(2, 4),
)
def test_digits_that_go_on_are_fractions(whole: int, once: str, again: str, times: int) -> None:
    """With o and a digits: w.once(again)... = w.once + again / (10^o (10^a - 1))."""
    below = 10 ** len(once) * (10 ** len(again) - 1)
    above = (whole * 10 ** len(once) + int(once or "0")) * (10 ** len(again) - 1) + int(again)
    said = f"{whole}.{once}{again * times}..."
    assert verdict(f"{above}/{below}", said) == 1.0
    assert verdict(f"{above + 1}/{below}", said) == 0.0


@given(st.integers(-99, 99), st.integers(0, 99), st.integers(0, 99))
def test_factors_in_brackets_are_multiplied(a: int, b: int, c: int) -> None:
    product = a * b * c
    for said in (f"({a})({b})({c})", f"{a}({b})({c})", rf"{a}\left({b}\right)\cdot {c}"):
        assert verdict(str(product), said) == 1.0
        assert verdict(str(product + 1), said) == 0.0


@given(st.text(max_size=40))
def test_any_text_is_written_in_tex_once(text: str) -> None:
    made = in_tex(text)
    assert in_tex(made) == made


@given(st.text(alphabet="sqrtabexpcb()[]{}\\^ 12", max_size=200))
def test_brackets_that_nobody_closes_end(text: str) -> None:
    in_tex(text)
