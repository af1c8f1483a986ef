"""Numbers in text. Each table says in words what it is after."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.rewards.answer_extraction import (
    MAX_ANSWER,
    final_number,
    label,
    last_boxed,
    last_number,
    marked_number,
)
from winnow.rewards.formulas import answer_formula

UNREADABLE = None

LAST = {
    "plain": (" 19", 19),
    "sentence": ("The answer is 19.", 19),
    "last of several": ("8 + 11 = 19", 19),
    "thousands": ("1,234,567", 1234567),
    "thousands, comma after": ("1,234, so", 1234),
    "leading zeros": ("007", 7),
    "decimal": ("3.25", Fraction(13, 4)),
    "whole decimal": ("3.0", 3),
    "no whole part": ("=.5", Fraction(1, 2)),
    "thousands and decimal": ("$1,234.50", Fraction(2469, 2)),
    "fraction": ("3/4", Fraction(3, 4)),
    "mixed fraction": ("1 1/2 cups", Fraction(3, 2)),
    "TeX fraction": (r"\frac{3}{4}", Fraction(3, 4)),
    "negative TeX fraction": (r"-\dfrac{3}{4}", Fraction(-3, 4)),
    "TeX mixed fraction": (r"1\frac{1}{2}", Fraction(3, 2)),
    "TeX thousands": (r"1{,}234", 1234),
    "TeX thin spaces": (r"12,\!345", 12345),
    "scientific": ("2e5", 200000),
    "scientific, small": ("1.5e-3", Fraction(3, 2000)),
    "currency": ("$18", 18),
    "currency in TeX": (r"\$18", 18),
    "currency, space": ("€ 18", 18),
    "percent is a unit": ("50%", 50),
    "unit": ("18 dollars", 18),
    "unit, glued": ("18cm", 18),
    "unit with an exponent": (r"18 \text{ m}^2", 18),
    "formula after": ("18 g of H2O", 18),
    "index after": ("5 = x_2", 5),
    "a version's name": ("5 in v1.5", 5),
    "thousands in a name": ("5 of K1,234", 5),
    "emphasis": ("**18** (pounds)", 18),
    "underscores": ("_18_", 18),
    "TeX inline": ("$18$", 18),
    "negative": ("= -3", -3),
    "negative, real minus sign": ("\u22127", -7),
    "negative, apart from the sign": ("5 - 8 = - 3", -3),
    "negative money": ("-$5", -5),
    "negative money, other order": ("$-5", -5),
    "minus between numbers": ("5-3", UNREADABLE),
    "minus after a name": ("x-3", UNREADABLE),
    "minus after a bracket": ("(5)-3", UNREADABLE),
    "minus with spaces": ("5 - 3", UNREADABLE),
    "minus after a word": ("ten minus 3", UNREADABLE),
    "a dash or a minus": ("Total - 3", UNREADABLE),
    "minus after a verb": ("it is - 3", -3),
    "in a list of lines": ("So:\n- 5\n- 3", UNREADABLE),
    "after an arrow": ("x = 9 / 3 => 3", 3),
    "a range": ("5–10", UNREADABLE),
    "a product's sign": ("5 * 3", UNREADABLE),
    "emphasis is no product": ("it is 5 *3*", UNREADABLE),
    "Markdown's quote": ("> 18", 18),
    "more than": ("She has 5, more than 3", 5),
    "two in a row": ("4 5", UNREADABLE),
    "on two lines": ("4\n5", 5),
    "a full-width comma": ("第1,第18", 18),
    "bullet": ("- 3 apples", 3),
    "exclamation": ("It is 5!", 5),
    "no number": ("nineteen", None),
    "empty": ("", None),
    "a version": ("5 or 1.2.3", UNREADABLE),
    "wrong thousands": ("5 or 1,23", UNREADABLE),
    "too many digits before the comma": ("5 or 1234,567", UNREADABLE),
    "a list": ("5 or 1,2,3", UNREADABLE),
    "a date": ("5 or 10/12/2020", UNREADABLE),
    "a power": ("5 or 2^10", UNREADABLE),
    "a power in braces": ("5 or 10^{3}", UNREADABLE),
    "a power in Python": ("5 or 2**10", UNREADABLE),
    "underscores within": ("5 or 1_000", UNREADABLE),
    "division by zero": ("5 or 1/0", UNREADABLE),
    "improper mixed fraction": ("5 or 1 5/4", UNREADABLE),
    "absurd exponent": ("5 or 2e9999", UNREADABLE),
    "too long": ("5 or " + "9" * 1001, UNREADABLE),
}


@pytest.mark.parametrize(("text", "value"), LAST.values(), ids=LAST)
def test_last_number(text: str, value: Fraction | int | None) -> None:
    assert last_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 19", 19),
        ("8 + 11 = 19.\n", 19),
        ("**19**", 19),
        (r"\( 19 \)", 19),
        ('"19%"', 19),
        ("19 or 20", None),
        ("</b>19</b>", 19),
        ("19 apples", None),
        ("19?", None),
        ("19 =", None),
        ("18cm", None),
        ("19 and", None),
        ("", None),
    ],
)
def test_final_number_has_only_closing_marks_after_it(text: str, value: int | None) -> None:
    assert final_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16 - 3 = 13\n#### 18", 18),
        ("#### $1,250 in all, over 3 days", 1250),
        ("#### 18\nThat took 20 minutes", 18),
        ("####18", 18),
        ("#### **18**", 18),
        ("#### 3\n#### 4", 3),
        ("#### 3 or 4", None),
        ("#### 3 + 4", None),
        (r"\boxed{5} but #### 6", 6),
        ("#### 1. Cost\n2 * 9 dollars\n#### 2. Sum\nSo 18", 18),
        ("#### Step 1\n4 + 5 = 9", 9),
        ("so 9\n#### 1,23", None),
        (r"It is \boxed{18} after 20 minutes", 18),
        (r"\boxed{3} then \boxed{x = 4 \text{ m}^2} of 7", 4),
        (r"\boxed{\frac{3}{4}} of 12", Fraction(3, 4)),
        (r"\boxed{18} and \boxed{20", None),
        (r"\boxed{18} and \boxed{20}", None),
        (r"\boxed{18}, \boxed{20} and then \boxed{21}", 21),
        (r"\boxed{\boxed{18}}", 18),
        (r"so 9, \boxed{none}", None),
        ("She makes $18 a day.", 18),
        ("nothing", None),
    ],
)
def test_marked_number_prefers_marker_then_box_then_last(
    text: str, value: Fraction | int | None
) -> None:
    assert marked_number(text) == value


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{18}", "18"),
        (r"\boxed {18}", "18"),
        (r"\fbox{18}", "18"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{1} or \boxed{2}", "1, 2"),
        (r"} \boxed{1} {", "1"),
        (r"\boxed{{1}", None),
        (r"\boxed{1} \boxed{2", None),
        (r"\boxed{1", None),
        ("boxed{1}", None),
        (r"\boxed{}", ""),
    ],
)
def test_last_boxed_matches_braces(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


INTEGERS = st.integers(-(10**12), 10**12)


@given(
    value=INTEGERS,
    thousands=st.booleans(),
    template=st.sampled_from(
        ["{}", " {}", "= {}.", "{} dollars", "{}%", "{}cm", "(7 of them) {}", "**{}**", "{}.0"]
    ),
)
def test_an_integer_reads_back_however_it_is_written(
    value: int, thousands: bool, template: str
) -> None:
    text = template.format(f"{value:,}" if thousands else str(value))
    assert last_number(text) == value
    if "them" not in text:
        assert marked_number(f"1 and 2\n#### {text}") == value
        assert marked_number(rf"\boxed{{{text}}} in 30 days") == value


@given(value=INTEGERS)
def test_money_reads_back_with_either_order_of_sign(value: int) -> None:
    sign = "-" if value < 0 else ""
    assert last_number(f"{sign}${abs(value):,}") == last_number(f"${sign}{abs(value)}") == value


@given(st.decimals(-(10**9), 10**9, allow_nan=False, places=9))
def test_decimals_are_exact(value: Decimal) -> None:
    assert last_number(f"{value:f}") == Fraction(value)
    assert last_number(f"{value:f}1") != Fraction(value)


@given(st.integers(-999, 999), st.integers(1, 999))
def test_fractions_are_exact(above: int, below: int) -> None:
    assert last_number(f"{above}/{below}") == Fraction(above, below)


ODD = st.text(alphabet="0123456789.,/^-−$\\{}#_* eEx=\n%", max_size=40)
BOXED = st.lists(st.sampled_from([r"\boxed{", r"\frac{", "{", "}", "1", "####", "/", " "]))


@settings(max_examples=300)
@given(ODD | st.text(max_size=40) | BOXED.map("".join))
def test_no_text_raises(text: str) -> None:
    for read in (last_number, final_number, marked_number):
        assert read(text) is None or isinstance(read(text), Fraction)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 100_000,
        "1 1/" + "2" * 100_000 + "/4",
        "1," * 50_000,
        "a" * 100_000,
        "1" + " " * 100_000 + "x",
        "1" + "." * 100_000 + "x",
        "#### " * 20_000,
        "####" + " " * 100_000,
        r"\boxed{" * 10_000 + "1" + "}" * 10_000,
        "{" * 100_000,
        r"\frac{" + "1" * 100_000,
        "-" * 100_000,
        "= " * 50_000,
        "1 234 " * 100_000,
        r"\frac{1}{2}" * 100_000,
        "####" * 275_000,
        "#### " * 220_000,
        "x_1 " * 275_000,
        "1 or " * 200_000,
        r"\boxed{1} or " * 100_000,
        "answer is " * 100_000,
        "$1" * 500_000,
        r"\(" * 500_000,
        "</think>" * 100_000,
        "是１" * 500_000,
    ],
    ids=lambda text: f"{text[:8]}...",
)
def test_absurd_lengths_neither_hang_nor_raise(text: str) -> None:
    start = time.perf_counter()
    for read in (last_number, final_number, marked_number, label, answer_formula):
        for end in ("", "x", " 5", "}"):
            read(text + end)
    assert time.perf_counter() - start < 30  # linear: some 0.1 s; quadratic: minutes


def test_of_a_long_text_the_end_is_read() -> None:
    start, end = "#### 18\n", "so 5"
    assert marked_number(start + "." * (MAX_ANSWER - len(start + end)) + end) == 18
    assert marked_number(start + "." * (MAX_ANSWER - len(end)) + end) == 5
    thought = "<think>" + "1 " * MAX_ANSWER + "</think>"  # the thinking does not count
    assert marked_number(thought + start + "." * 40_000 + end) == 18
