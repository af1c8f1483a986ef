r"""What is right and what is wrong by each reward: a table of completions, by what they are about.

Each verdict follows from what the texts say to a person, not from any reader of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from winnow.errors import UserError
from winnow.rewards.factory import Reward, check_suited, make_reward
from winnow.types import Prompt, Score

NUMBERS = ("number", "gsm8k")
ALL = ("number", "gsm8k", "math")
GSM8K = ("gsm8k",)
MATH = ("math",)
RIGHT, WRONG = 1.0, 0.0

Verdict = tuple[tuple[str, ...], str, str, float]
"""The rewards, the gold answer, the completion, its score."""

DIGITS_BEHIND_LETTERS: list[Verdict] = [
    (ALL, "42", "结果是42", RIGHT),
    (ALL, "42", "정답은42", RIGHT),
    (ALL, "42", "答えは42。", RIGHT),
    (ALL, "42", "คำตอบคือ42", RIGHT),
    (ALL, "42", "结果是４２", RIGHT),
    (ALL, "42", "结果是43", WRONG),
    (NUMBERS, "42", "Model42", WRONG),  # within a word
]
DIGIT_GROUPS: list[Verdict] = [
    (NUMBERS, "31400", "31 400", RIGHT),
    (NUMBERS, "31400", "31\u00a0400", RIGHT),
    (NUMBERS, "31400", "31\u202f400", RIGHT),
    (NUMBERS, "31400", "31'400", RIGHT),
    (NUMBERS, "400", "31 400", WRONG),
    (NUMBERS, "400", "31\u00a0400", WRONG),
    (NUMBERS, "400", "31'400", WRONG),
    (ALL, "31400", r"\boxed{31\,400}", RIGHT),
    (MATH, "431", r"\boxed{31\,400}", WRONG),
    (MATH, r"31\,400", r"\boxed{31400}", RIGHT),
    (MATH, "31 400", r"\boxed{31400}", RIGHT),
    (ALL, "1000000", r"\boxed{10,00,000}", RIGHT),
    (NUMBERS, "2500", "The price is 2,500.", RIGHT),
    (ALL, "2500", r"\boxed{$2{,}500}", RIGHT),
    (NUMBERS, "2500.5", "2.500,50", WRONG),
]
SIGNS: list[Verdict] = [
    *((NUMBERS, "-8", said, RIGHT) for said in (
        "result: - 8", r"\boxed{- 8}", "#### - 8", "result: –8", "－8", "−8", "minus 8", "y = - 8",
        "It is - 8", "- 8",
    )),
    *((NUMBERS, "8", said, WRONG) for said in (
        "result: - 8", r"\boxed{- 8}", "#### - 8", "minus 8", "negative 8", "It is - 8",
    )),
    (MATH, "-8", r"\boxed{–8}", RIGHT),
    (GSM8K, "8", "- 8 apples", RIGHT),  # a list
    (GSM8K, "8", "COVID-19 hit 8 towns, then COVID-20", RIGHT),
]  # fmt: skip
NO_SINGLE_NUMBER = ("10:45", "2:5", "(6, 7)", "6 or 7", r"3\pi", "y^2+7", "10^{-2}", "3, 4", "n")
PART_OF_SOMETHING_ELSE: list[Verdict] = [
    *((ALL, "7", said, WRONG) for said in (
        r"\boxed{\sqrt{7}}", "The result is √7", r"\boxed{6, 7}", r"\boxed{6 \text{ or } 7}",
        "6 ± 7", r"\boxed{7\pi}", r"\boxed{7!}", r"\boxed{7x}", r"\boxed{x_{7}}", r"\boxed{\neq 7}",
        r"\boxed{7^2}", r"\boxed{\frac{x}{7}}", "7²", "log 7", "3 or 7", "either 3 or 7", "4 to 7",
    )),
    (ALL, "12", "3×12", WRONG),
    (ALL, "14", "2023-08-14", WRONG),
    (ALL, "3", "3½", WRONG),
    (ALL, "3.5", "3½", RIGHT),
    (ALL, "-1/3", "There are 12 of them, and 7 are red.\n－⅓", RIGHT),
    (ALL, "-3.5", "There are 12 of them, and 7 are red.\n-3½", RIGHT),
    (ALL, "-1/2", "7 are red.\nso it is 5-½", WRONG),
    (ALL, "1/2", "7 are red.\nso it is 5-½", WRONG),
    (ALL, "2.5", "2.5 million", WRONG),
    (ALL, "2500000", "2.5 million", RIGHT),
    (ALL, "7", "7k", WRONG),
    (GSM8K, "40000", "the rest is $90,000 - $50,000 = $40,000.", RIGHT),
    (GSM8K, "36", "She sold 36 cakes, altogether.", RIGHT),
    (NUMBERS, "7", "It is 7!", RIGHT),  # an exclamation
    (GSM8K, "7", "<answer>7</answer>", RIGHT),
]  # fmt: skip
FRACTIONS: list[Verdict] = [
    (ALL, "0.75", r"\boxed{\frac34}", RIGHT),
    (ALL, "-0.75", r"\boxed{-\frac34}", RIGHT),
    (ALL, "0.75", "3/4", RIGHT),
    (ALL, "0.75", "¾", RIGHT),
    (ALL, "7/4", r"\boxed{1\frac34}", RIGHT),
]
WHICH_ANSWER: list[Verdict] = [
    (GSM8K, "30", "#### 30\n\nQuestion: another?\nAnswer: 4+4=8\n#### 8", RIGHT),
    (GSM8K, "30", "####\n30\nThat took 2 steps.", RIGHT),
    (GSM8K, "9", r"\boxed{9}. that is \boxed{", WRONG),
    (GSM8K, "9", r"\boxed{9} or rather \boxed{30", WRONG),
    (GSM8K, "30", r"\boxed{9} or rather \boxed{30", WRONG),
    (ALL, "30", "\\boxed{9}\n\n\\boxed{30}", RIGHT),
    (ALL, "30", r"\boxed{9} no, \boxed{30}", RIGHT),
    (MATH, "30", r"\boxed{9} or \boxed{30}", WRONG),
    (MATH, "30", r"<think> perhaps \boxed{30}</think> The answer is 9.", WRONG),
    (ALL, "30", "<think>\nperhaps \\boxed{9}\n</think>\nThe answer is **30**.", RIGHT),
    (ALL, "30", r"<think> perhaps \boxed{30}", WRONG),
    (ALL, "9", "the answer is not 4 but 9", RIGHT),
    (ALL, "4", "the answer is not 4 but 9", WRONG),
    (GSM8K, "9", "It is 9, not 4", RIGHT),
    (MATH, "6", "\\boxed{006}\n\n**So**\n\\boxed{006}", RIGHT),
    (MATH, "9", r"Write the result in \boxed", WRONG),
]
LISTS_AND_WORDS: list[Verdict] = [
    (MATH, "4 or 5", r"\boxed{5}", WRONG),
    (MATH, "4 or 5", r"\boxed{5 \text{ or } 4}", RIGHT),
    (MATH, "4 and 5", r"\boxed{4, 5}", RIGHT),
    (MATH, r"6 \text{ and } 7", r"$\boxed{6 \text{ and } 7}$", RIGHT),
    (MATH, r"\frac{5}{2}\text{ or }-3", r"\boxed{\frac52}", WRONG),
    (MATH, r"b=2 \text{ or } b=-4", r"\boxed{2, -4}", RIGHT),
    (MATH, r"b=2 \text{ or } b=-4", r"\boxed{2, 4}", WRONG),
    (MATH, "k=4, 5, 6", r"\boxed{k=3, 4, 5}", WRONG),
    (MATH, "x=1, y=2", r"\boxed{x=2, y=1}", WRONG),
    (MATH, "x=1, y=2", r"\boxed{y=2, x=1}", RIGHT),
    (MATH, r"(2,\frac{7}{2})", r"\boxed{(2,3.5)}", RIGHT),
    (MATH, "(2, 3)", r"\boxed{(3, 2)}", WRONG),
    (MATH, r"\text{27}", r"\boxed{27}", RIGHT),
    (MATH, "No", r"\boxed{\text{No}}", RIGHT),
    (MATH, "No", r"\boxed{\text{Yes}}", WRONG),
    (MATH, "no solution", r"\boxed{\text{No solution}}", RIGHT),
    (MATH, "D", "The answer is D.", RIGHT),
    (MATH, "D", "The answer is B.", WRONG),
    (MATH, r"\text{(D)}", r"\boxed{D}", RIGHT),
    (MATH, "D", "The answer is (D) 18.", RIGHT),
    (MATH, "D = (0, 1)", r"\boxed{D = (0, 2)}", WRONG),
    (MATH, "4, 5", r"\boxed{4} \quad \text{and} \quad \boxed{5}", RIGHT),
    (MATH, "a = 4, b = 5", r"$a = \boxed{4}$ and $b = \boxed{5}$", RIGHT),
    (MATH, "a = 4, b = 5", r"$a = \boxed{5}$ and $b = \boxed{4}$", WRONG),
    (MATH, r"\{4, 5\}", "${5, 4}$", RIGHT),
    (
        MATH,
        r"\begin{pmatrix}1 \\ 2\end{pmatrix}",
        r"It is $ \begin{bmatrix} 1 \\ \frac42 \end{bmatrix} $.",
        RIGHT,
    ),
    (
        MATH,
        r"\begin{pmatrix}1 \\ 2\end{pmatrix}",
        r"It is $ \begin{bmatrix} 2 \\ 1 \end{bmatrix} $.",
        WRONG,
    ),
]
PLAIN_NOTATION: list[Verdict] = [
    (MATH, "3 1/4", r"\boxed{\frac{13}4}", RIGHT),
    (MATH, "3 1/4", r"\boxed{3/4}", WRONG),
    (MATH, "2e-06", r"\boxed{0.000002}", RIGHT),
    (MATH, "3e+17", r"\boxed{300000000000000000}", RIGHT),
    (MATH, "0.0034", r"\boxed{3.4e-3}", RIGHT),
    (MATH, "9 - 2i", r"\boxed{9.0 + -2.0i}", RIGHT),
    (MATH, "9 - 2i", r"\boxed{9.0 + 2.0i}", WRONG),
    (MATH, "14", r"\boxed{2 \cdot 7}", RIGHT),
    (MATH, "7", r"\boxed{3 4}", WRONG),
    (MATH, "1024", r"\boxed{2**10}", RIGHT),
    (MATH, "1024", "The answer is 2**10.", RIGHT),
    (MATH, "1024", r"\boxed{2**11}", WRONG),
    (MATH, r"\frac{x^4}{2}", r"\boxed{x ** (1 + 3) * 2**-1}", RIGHT),
    (MATH, "5", r"\boxed{2 + 3 = 5}", RIGHT),
    (MATH, "x = 5", "$x = 2 + 3 = 5$", RIGHT),
    (MATH, r"\frac13", r"$x = \frac13 \approx 0.33$", RIGHT),
    (MATH, r"x \le 5", "Thus $x <= 5$.", RIGHT),
    (MATH, r"x \neq 5", "So $x != 5$.", RIGHT),
    (MATH, "5", "So $x != 5$.", WRONG),
    (MATH, "x > 5", r"\boxed{x \ge 5}", WRONG),
    (MATH, r"x = \sum_{k=0}^{n-1} a_k", r"\boxed{x = \sum_{k=0}^{n-2} a_k}", WRONG),
    (MATH, "5 = 2a + b", r"\boxed{2a + b}", WRONG),
    (ALL, "11222333", r"\boxed{11,\! 222,\! 333}", RIGHT),
    (MATH, "50%", r"\boxed{\frac12}", RIGHT),
    (MATH, "50%", r"\boxed{50}", RIGHT),
    (MATH, "50%", r"\boxed{5}", WRONG),
]
CLOSE_TO_EACH_OTHER: list[Verdict] = [
    (MATH, r"6.6 \times 10^{-34}", r"\boxed{1.4 \times 10^{-23}}", WRONG),
    (MATH, r"6.6 \times 10^{-34}", r"\boxed{66 \cdot 10^{-35}}", RIGHT),
    (MATH, "0.0000003", r"\boxed{0.0000004}", WRONG),
    (MATH, r"\frac{1}{1999!}", r"\boxed{\frac{1}{2001!}}", WRONG),
    (MATH, r"\frac{2^{1999}+1}{5 \cdot 2^{2001}}", r"\boxed{\frac{1}{5 \cdot 2^{2001}}}", WRONG),
    (MATH, "1734_8", r"\boxed{1734_9}", WRONG),
    (MATH, "1734_8", r"\boxed{1734_{8}}", RIGHT),
    (MATH, "2023-08-14", r"\boxed{2022-07-13}", WRONG),
    (MATH, "1, 3, 5, ...", r"\boxed{1, 3, 7, \ldots}", WRONG),
    (MATH, r"\frac13", r"\boxed{0.333333}", WRONG),  # both rational: exactly
    (MATH, r"\sqrt{2}", r"\boxed{1.414214}", RIGHT),  # to a millionth
    (MATH, r"\sqrt{2}", r"\boxed{1.4142}", WRONG),
    (MATH, r"1.5\pi", r"\boxed{1.5000001\pi}", WRONG),
    (MATH, r"10^{-50}\pi", r"\boxed{2 \cdot 10^{-50}\pi}", WRONG),
    (MATH, r"\frac{2^{1999}+1}{2^{1999}}", r"\boxed{1}", WRONG),
    (MATH, r"10^{-9}\pi", r"\boxed{0.000000003}", WRONG),  # relative to its size
    (MATH, r"x+\frac{1}{1999!}", r"\boxed{x+\frac{1}{2001!}}", WRONG),
    (MATH, r"\frac{x}{10^{30}}", r"\boxed{10^{-30}x}", RIGHT),
    (MATH, "x + 0.00000000000000000001", r"\boxed{x}", WRONG),
    (MATH, "2*x-3*y+7=0", "2x + 3y + 8=0", WRONG),
    (MATH, "6", r"\boxed{6\sqrt(2)}", WRONG),
    (MATH, "6", r"\boxed{k=6n}", WRONG),
    (MATH, r"\sqrt{2}+\sqrt{3}", r"\boxed{\sqrt{5+2\sqrt{6}}}", RIGHT),
]
NO_MATHEMATICS: list[Verdict] = [
    (MATH, "14:00", r"\boxed{2:00}", WRONG),
    (MATH, "14:00", r"\boxed{14:00}", RIGHT),
    (MATH, r"2 - \frac{1}{\mathrm{e}}", r"\boxed{2 - \frac{1}{e}}", RIGHT),
]
TOO_LARGE_TO_COMPUTE: list[Verdict] = [
    *((MATH, "7", rf"\boxed{{{said}}}", WRONG) for said in (
        "9^{9^{9^9}}", "9**9**9**9", "10^{10^{84598}}", r"\sqrt{2}^{999999999999}",
        "(-2)^{99999999}",
        "99999999999999! - 9999999999999!", "73!!!!!!!", "((99)!)!", r"\Gamma(99999999999999)",
        "(x+1)^{9!9!}", "2.5^{9!9!}", "17E999999999", "98E-999999999999999999", "49E+99999",
        r"\int_0^{9999} k^k dk", r"\int k! e^{k^2} \sin(k^3) dk",
        r"\prod_{k=1}^{\infty} \frac{1}{k^3 + k + 1}", "(a+b+c+d+f+g+h)^{41}",
        "(a+b+c+d)^{30}(f+g+h+j+k)^{49}", r"\sec(\arcsin(\arcsin(\tan(\sqrt{10^{99}}))))",
        r"\exp(\cos(\sin(\log(\sec(\cos(\ln(\arcsin(\sec(1)))))))))",
        r"\log_2{" * 60 + "1" + "}" * 60,
        "(" * 100 + "x" + ")" * 100, "3" + "\u2028" * 800 + "4", r"\{9 8 " + "7^2 " * 200 + ")",
        r"0 \cdot \infty + 0 \cdot \infty + 0^0", "≈".join("123456789"), "x" + "≈" * 600,
    )),
    # a large number makes the difference to a logarithm a larger one
    (MATH, "7301829465120097.5", r"\boxed{\log(\sqrt{\sqrt{\exp(i)}})}", WRONG),
    (MATH, "e^{7301829465120097}", r"\boxed{\sin x}", WRONG),
    (MATH, "e^{7301829465120097}", r"\boxed{e^{ 7301829465120097 }}", RIGHT),
    (MATH, r"\int_0^{\infty} e^{-x^2} dx", r"\boxed{\int_{0}^\infty e^{-x^2} dx}", RIGHT),
    (MATH, r"\int_0^{\infty} e^{-x^2} dx", r"\boxed{\frac{\sqrt{\pi}}{2}}", RIGHT),
    (MATH, "2", r"\boxed{\int_0^1 4x dx}", RIGHT),
    (MATH, "55", r"\boxed{\sum_{k=1}^{10} k}", RIGHT),
    (MATH, "120", r"\boxed{\prod_{k=1}^5 k}", RIGHT),
    (MATH, "(x+1)^{10}", r"\boxed{(1+x)^4(x^2+2x+1)^3}", RIGHT),
    (MATH, "(x+1)^{10}", r"\boxed{(1+x)^4(x^2+2x+2)^3}", WRONG),
    (MATH, r"\sqrt{2+\sqrt{2+\sqrt{2}}}", r"\boxed{\sqrt{\sqrt{\sqrt{2}+2}+2}}", RIGHT),
    (MATH, "256", r"\boxed{2^{2^3}}", RIGHT),
    (MATH, r"\frac{1}{2^{1999}}", r"\boxed{2^{-1999}}", RIGHT),
    (MATH, "720", r"\boxed{6!}", RIGHT),
]  # fmt: skip
LETTERS_AND_UNITS: list[Verdict] = [
    # a capital is another letter
    (MATH, r"\frac{R}{r}", r"\boxed{1}", WRONG),
    (MATH, "R-r", r"\boxed{0}", WRONG),
    (MATH, "R-r", r"\boxed{r-R}", WRONG),
    (MATH, r"\pi(R^2-r^2)", r"\boxed{\pi(R+r)(R-r)}", RIGHT),
    (MATH, "X+x", r"\boxed{2x}", WRONG),
    # the last letter of a product is no unit, the last word in text is one
    (MATH, r"\pi r^2 h", r"\boxed{\pi r^2}", WRONG),
    (MATH, r"\pi r^2 h", r"\boxed{\pi h r^2}", RIGHT),
    (MATH, r"\frac{1}{3}\pi r^2 h", r"\boxed{\frac{\pi r^2 h}{3}}", RIGHT),
    (MATH, r"\pi r^2", r"\boxed{\pi r^2 h}", WRONG),
    (MATH, "v t", r"\boxed{v}", WRONG),
    (MATH, r"\frac{\sqrt{3}}{2} d", r"\boxed{\frac{\sqrt{3}}{2}}", WRONG),
    *((MATH, r"36\pi", rf"\boxed{{36\pi{unit}}}", RIGHT) for unit in (
        r"\text{ cm}", r"\text{ cm}^2", r"\,\mathrm{cm}^3", r" \text{ square units}", " cm",
        r"~\text{m}", r"\,\mathrm{m/s}",
    )),
    *((MATH, r"2\sqrt{3}\text{ meters}", rf"\boxed{{2\sqrt{{3}}{unit}}}", RIGHT) for unit in (
        "", r"\text{ m}", " meters", r"\mathrm{~m}",
    )),
    (MATH, r"36\pi", r"\boxed{36\pi \text{ million}}", WRONG),
    (MATH, r"36\pi", r"\boxed{36\pi \text{ or less}}", WRONG),
    (MATH, r"2\pi e", r"\boxed{2\pi\mathrm{e}}", RIGHT),
    *((ALL, gold, said, RIGHT) for gold in ("12", r"12 \mathrm{~cm}") for said in (
        r"\boxed{12}", r"\boxed{12~\text{cm}}", r"\boxed{12\mathrm{~cm}}", r"\boxed{12 \text{ cm}}",
    )),
    *((MATH, gold, rf"\boxed{{{gold}{unit}}}", RIGHT) for gold, unit in (
        ("x+y", r"\text{ cm}"), (r"\frac{60}{7}", r"\,\frac{\text{km}}{\text{h}}"),
        ("10", r"\,\mathrm{m\,s^{-1}}"), (r"\sqrt2", r"\,\text{kg}\cdot\text{m}"),
        (r"4\sqrt{3}", r"\text{ cm}^2\text{.}"), ("300", r"\text{ K}"),
        (r"2\sqrt3", r"\text{ units squared}"),
    )),
    (MATH, r"a+b\text{ cm}", r"\boxed{a+b}", RIGHT),
    (MATH, r"\frac{60}{7}", r"\boxed{\mathbf{\frac{60}{7}}}", RIGHT),
    (MATH, r"\mathbf{a}+2\mathbf{b}", r"\boxed{2\mathbf{b}+\mathbf{a}}", RIGHT),
    (MATH, r"\mathbf{a}+2\mathbf{b}", r"\boxed{\mathbf{b}+2\mathbf{a}}", WRONG),
    *((MATH, r"\sqrt2", rf"\boxed{{\sqrt2\text{{ {more}}}}}", WRONG) for more in (
        "squared", "minus one", "over two", "squared plus one", "is wrong", "or its negative",
    )),
    (MATH, "6k", r"\boxed{6k\text{ where k is even}}", WRONG),
    (MATH, r"2\pi", r"\boxed{2\pi\text{ degrees}}", WRONG),
    (MATH, r"2\pi", r"\boxed{2\pi\text{ radians}}", RIGHT),
    # a choice is one in any case
    *((MATH, "C", said, RIGHT) for said in (r"\boxed{c}", "(c)", r"\boxed{\text{(c)}}", "C. 18")),
    (MATH, "C", r"\boxed{b}", WRONG),
    # letters apart are variables
    *((ALL, "2", rf"\boxed{{{said}}}", WRONG) for said in ("2 a b", "2 r", "2 m n", "2 a", "2 Q")),
    (MATH, "2 a b", r"\boxed{2 b a}", RIGHT),
    (MATH, "2 a b", r"\boxed{2}", WRONG),
    (MATH, "3 r", r"\boxed{3r}", RIGHT),
    (MATH, "4 R", r"\boxed{4R}", RIGHT),
    (MATH, "4 R", r"\boxed{4 a}", WRONG),
    *((("gsm8k", "math"), "5", said, RIGHT) for said in (
        "He walks 5 a day.", "It is 5 I think.", "At 5 a.m.", "At 5 p.m.", "At 5 o'clock",
        "At 5 a m", "At 5 p m", "She bought 5 T-shirts.", "It costs 5 U.S. dollars",
        "5 D batteries.", "So the total is 5 e-mails.", "Ответ: 5 в день",
        "La respuesta es 5 o más",
        "It is 5 p.", "Réponse : 5 à la fin", "It is 5 K.", "10 R&B albums, so 5 R&B albums",
    )),
    # small and Greek digits and letters are no words
    (MATH, "x^2", r"\boxed{x²}", RIGHT),
    (MATH, "m³", r"\boxed{m^3}", RIGHT),
    (MATH, r"2\pi a", r"\boxed{2a\pi}", RIGHT),
    (MATH, r"2\pi r", r"\boxed{2 r π}", RIGHT),
    # two signs are two values
    *((MATH, r"\pm 3", rf"\boxed{{{said}}}", RIGHT) for said in (
        "3, -3", r"-3 \text{ and } 3", r"\{3, -3\}", r"x = 3 \text{ or } x = -3",
    )),
    (MATH, r"\pm 3", r"\boxed{3, 4}", WRONG),
    (MATH, r"\pm 3", r"\boxed{3}", WRONG),
    (MATH, r"1\pm\sqrt2", r"\boxed{1-\sqrt2, 1+\sqrt2}", RIGHT),
    (MATH, r"\varnothing", r"\boxed{\emptyset}", RIGHT),
    (MATH, r"\emptyset", r"\boxed{∅}", RIGHT),
    # two numbers are no mixed one
    *((MATH, "7", rf"\boxed{{3{space}4}}", WRONG) for space in (
        r"\ ", r" \quad ", r"\;", r"\,", " ", "~",
    )),
    # a function that nobody has defined is no number, and no error
    (MATH, "5", r"\boxed{f(3)}", WRONG),
    (MATH, "f(x)", r"\boxed{g(x)}", WRONG),
    (MATH, "P(A)", r"\boxed{P(B)}", WRONG),
    (MATH, "P(A)", r"\boxed{P(A)}", RIGHT),
    (MATH, "f(x)+1", r"\boxed{1+f(x)}", RIGHT),
    # in a function a degree is an angle
    (MATH, r"\frac{\sqrt{2}}{2}", r"\boxed{\sin 45^\circ}", RIGHT),
    (MATH, r"\tan 45^\circ", r"\boxed{1}", RIGHT),
    (MATH, "45", r"\boxed{45^\circ}", RIGHT),
    (MATH, r"90^\circ - \sin^{-1} x", r"\boxed{90 - \sin^{-1} x}", RIGHT),
]  # fmt: skip

TABLES = {
    "letters and units": LETTERS_AND_UNITS,
    "too large to compute": TOO_LARGE_TO_COMPUTE,
    "digits behind letters": DIGITS_BEHIND_LETTERS,
    "digit groups": DIGIT_GROUPS,
    "signs": SIGNS,
    "part of something else": PART_OF_SOMETHING_ELSE,
    "fractions": FRACTIONS,
    "which answer": WHICH_ANSWER,
    "lists and words": LISTS_AND_WORDS,
    "plain notation": PLAIN_NOTATION,
    "close to each other": CLOSE_TO_EACH_OTHER,
    "no mathematics": NO_MATHEMATICS,
}


@pytest.fixture(scope="module")
def rewards() -> Iterator[dict[str, Reward]]:
    made = {name: make_reward(name, workers=1) for name in ALL}
    yield made
    for reward in made.values():
        reward.close()


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_verdicts(rewards: dict[str, Reward], table: list[Verdict]) -> None:
    wrong = []
    for name in ALL:
        rows = [row for row in table if name in row[0]]
        scores = rewards[name].score([(Prompt("p", "", row[1]), row[2]) for row in rows])
        wrong += [(name, row, s) for row, s in zip(rows, scores, strict=True) if s != Score(row[3])]
    assert not wrong


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("answer", NO_SINGLE_NUMBER)
def test_a_gold_that_is_no_single_number_is_an_error(
    rewards: dict[str, Reward], name: str, answer: str
) -> None:
    """Or its last digits would be rewarded: 9:45 for 10:45."""
    (score,) = rewards[name].score([(Prompt("p", "", answer), answer)])
    assert score.value is None
    assert "not one number" in str(score.error)


class TestCheckedWhenRead:
    def test_how_many_rows_and_what_to_do(self) -> None:
        prompts = [Prompt(str(i), "", a) for i, a in enumerate(["5", "10:45", "6 or 7", "10:45"])]
        with pytest.raises(UserError) as caught:
            check_suited("gsm8k", prompts)
        assert caught.value.problem == (
            "'gsm8k' cannot read the answers of 3 of 4 prompts as one number, such as "
            "'10:45' (prompt '1'), '6 or 7' (prompt '2'), '10:45' (prompt '3')"
        )
        assert "'math'" in caught.value.remedy

    @pytest.mark.parametrize("name", NUMBERS)
    @pytest.mark.parametrize(
        "answer", ["5", "-1,200", "$5", "5 dollars", "x = 5", "2 1/2", "答案是5"]
    )
    def test_one_number_is_read(self, name: str, answer: str) -> None:
        check_suited(name, [Prompt("p", "", answer)])

    def test_solutions_are_read(self) -> None:
        check_suited("gsm8k", [Prompt("p", "", "5 + 6 = 11, of 12\n#### 11")])
        check_suited("math", [Prompt("p", "", r"So $2 + 3$ is \boxed{5}, of 6.")])

    def test_formulas_are_asked_of_the_library(self) -> None:
        good = ["5", r"\sqrt{2}", "Yes", "14:00", r"[0, \infty)", "x + 1", r"1 \text{ or } \pi"]
        prompts = [Prompt(a, "", a) for a in good]
        check_suited("math", prompts)
        bad = [Prompt(a, "", a) for a in ("", r"\frac{1}{0}", "???", r"\frac{")]
        with pytest.raises(UserError, match="cannot read the answers of 4 of 11 prompts as math"):
            check_suited("math", [*prompts, *bad])

    def test_other_rewards_read_nothing(self) -> None:
        check_suited("exact", [Prompt("p", "", "10:45")])
        check_suited("my_module:f", [Prompt("p", "", None)])
