"""The named rewards, and how a reward is asked for."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from winnow.errors import UserError
from winnow.rewards.factory import REWARDS, Reward, make_reward
from winnow.types import Prompt, Score


def prompt(answer: str | None = None, **data: Any) -> Prompt:
    return Prompt("p1", "question", answer, data=data)


def score(name: str, answer: str | None, completion: str, **options: object) -> Score:
    reward = make_reward(name, options=options, workers=1)
    try:
        return reward.score([(prompt(answer), completion)])[0]
    finally:
        reward.close()


@pytest.mark.parametrize(
    ("answer", "completion", "value"),
    [
        ("19", " 19", 1),
        ("19", " 8 + 11 = 19.\n", 1),
        ("19", " 19.0", 1),
        ("1234", " 1,234", 1),
        ("1,234", " 1234", 1),
        ("0.5", " 1/2", 1),
        ("-3", " -3", 1),
        ("19", " 19 or 20", 0),
        ("19", " 20 or 19 apples", 0),
        ("19", " 119", 0),
        ("19", " 1.9", 0),
        ("19", " -19", 0),
        ("19", " nineteen", 0),
        ("19", "", 0),
        ("0.1", "0.1000000000000000000001", 0),
        ("19", "9" * 100_000, 0),
    ],
)
def test_number(answer: str, completion: str, value: float) -> None:
    assert score("number", answer, completion) == Score(value)


@pytest.mark.parametrize(
    ("answer", "completion", "ignore_case", "value"),
    [
        ("Paris", " Paris\n", False, 1),
        ("Paris", "paris", False, 0),
        ("Paris", "pARIS", True, 1),
        ("straße", "STRASSE", True, 1),
        ("Paris", "Paris.", True, 0),
        ("19", "19.0", False, 0),
        ("", "  ", False, 1),
    ],
)
def test_exact(answer: str, completion: str, ignore_case: bool, value: float) -> None:
    assert score("exact", answer, completion, ignore_case=ignore_case) == Score(value)


@pytest.mark.parametrize(
    ("pattern", "cases"),
    [
        (
            r"Answer: (\d+)",
            [
                ("19", "Answer: 19", 1),
                ("19", "Answer: 20, or Answer: 19", 0),
                ("19", "19", 0),
                (" 19 ", "Answer: 19", 1),
                (None, "Answer: 20", 1),
                (None, "19", 0),
            ],
        ),
        (r"^\s*yes\b", [("no", "yes, and", 1), (None, " yes", 1), (None, "oh yes", 0)]),
        (r"x(y)?", [("y", "xy", 1), ("y", "x", 0), ("", "x", 1)]),
        (r"= {answer}$", [("1.5", "= 1.5", 1), ("1.5", "= 125", 0), ("1.5", "1.5", 0)]),
        (r"(so|thus) {answer}$", [("3", "thus 3", 1), ("so", "so 3", 0)]),
    ],
)
def test_regex(pattern: str, cases: list[tuple[str | None, str, float]]) -> None:
    reward = make_reward("regex", options={"pattern": pattern}, workers=1)
    scores = reward.score([(prompt(answer), completion) for answer, completion, _ in cases])
    reward.close()
    assert scores == [Score(value) for _, _, value in cases]


@pytest.mark.parametrize(
    ("answer", "completion", "value"),
    [
        ("2 * 9 = <<2*9=18>>18 dollars\n#### 18", "2 * 9 = 18\n#### 18", 1),
        ("The sum\n#### 1,080", "So she has $1,080.", 1),
        ("1080", r"It costs \boxed{\$1{,}080.00} in 12 months", 1),
        ("18 dollars", "18", 1),
        ("#### 18", "#### 18 dollars, 2 a day", 1),
        ("#### 18", r"\boxed{20}, not 18", 0),
        ("#### 18", "18, or rather\n#### 20", 0),
        ("#### 18", "18 or 1,8", 0),
        ("#### 18", "eighteen", 0),
        ("#### 18", "", 0),
    ],
)
def test_gsm8k(answer: str, completion: str, value: float) -> None:
    assert score("gsm8k", answer, completion) == Score(value)


@pytest.mark.parametrize(
    ("name", "options", "answer"),
    [
        ("number", {}, None),
        ("number", {}, "nineteen"),
        ("number", {}, "1" * 5000),
        ("exact", {}, None),
        ("gsm8k", {}, None),
        ("gsm8k", {}, "#### none"),
        ("regex", {"pattern": "{answer}"}, None),
    ],
)
def test_a_prompt_that_cannot_be_judged_is_an_error_and_no_zero(
    name: str, options: Mapping[str, object], answer: str | None
) -> None:
    reward = make_reward(name, options=options, workers=1)
    judged = prompt("19")
    bad, good = reward.score([(prompt(answer), "19"), (judged, "19")])
    reward.close()
    assert bad.value is None
    assert bad.error is not None
    assert bad.error.startswith("ValueError: ")
    assert "'p1'" in bad.error
    assert good == Score(1.0)  # the next sample is judged all the same


class TestMath:
    @pytest.fixture(scope="class")
    def reward(self) -> Iterator[Reward]:
        reward = make_reward("math", time_limit=1.5, workers=1)
        yield reward
        reward.close()

    @pytest.mark.parametrize(
        ("answer", "completion", "value"),
        [
            ("18", "The answer is 18.", 1),
            ("18", "The answer is 19.", 0),
            ("1,234", r"$1234$", 1),
            ("0.5", r"\boxed{\frac12}", 1),
            (r"\frac{1}{2}", "It is 0.5", 1),
            (r"2\sqrt{3}", r"So $x = \sqrt{12}$", 1),
            (r"2\sqrt{3}", "2", 0),
            ("2", r"2\sqrt{3}", 0),
            ("x^2+1", "1 + x^2", 1),
            ("(x+1)^2", r"\boxed{x^2 + 2x + 1}", 1),
            (r"\{1, 2\}", r"$\{2, 1\}$", 1),
            ("(1, 2)", r"\boxed{(2, 1)}", 0),
            ("18 dollars", r"\boxed{18}", 1),
            ("18", r"First 20, then \boxed{18}, in $7$ days", 1),
            ("5", r"\boxed{\frac{1}{0}}", 0),
            ("5", r"\boxed{5", 0),
            ("5", "no idea", 0),
            ("5", "", 0),
            ("5", "9" * 100_000, 0),
            ("5", "It is " + "9" * 5000, 0),  # where math-verify raises
            # a gold that is an equation wants an equation, and an equation is no number
            ("2x + z = 1", r"\boxed{1}", 0),
            ("1", r"\boxed{2x + z = 1}", 0),
            ("1", r"\boxed{z = 1}", 1),
        ],
    )
    def test_equality(self, reward: Reward, answer: str, completion: str, value: float) -> None:
        assert reward.score([(prompt(answer), completion)]) == [Score(value)]

    @pytest.mark.parametrize("answer", [None, "", "???", r"\frac{1}{0}"])
    def test_an_answer_that_is_no_mathematics_is_an_error(
        self, reward: Reward, answer: str | None
    ) -> None:
        (bad,) = reward.score([(prompt(answer), "5")])
        assert bad.value is None
        assert str(bad.error).startswith("ValueError: ")

    def test_a_formula_that_nothing_can_compute_is_wrong(self, reward: Reward) -> None:
        said = ("5", r"\boxed{99^{99^{9}}}")
        scores = reward.score([(prompt("5"), completion) for completion in said])
        assert scores == [Score(1.0), Score(0.0)]


class TestGym:
    @pytest.fixture(scope="class")
    def reward(self) -> Iterator[Reward]:
        if importlib.util.find_spec("reasoning_gym") is None:  # importing it takes a second
            pytest.skip("needs reasoning_gym")
        reward = make_reward("gym", workers=1)
        yield reward
        reward.close()

    @staticmethod
    def made() -> Prompt:
        entry = {"question": "How many legs have 13 spiders?", "answer": "104", "metadata": {}}
        return prompt("104", gym="leg_counting", entry=entry)

    def test_its_own_verifier_judges(self, reward: Reward) -> None:
        question = self.made()
        answer = str(question.answer)
        said = [answer, f" {answer}\n", f"<answer>{answer}</answer>", "<answer>-1</answer>", ""]
        said += [f"<answer>-1</answer> no, <answer> {answer} </answer>."]
        scores = reward.score([(question, completion) for completion in said])
        assert [s.value for s in scores] == [1.0, 1.0, 1.0, 0.0, 0.0, 1.0]

    def test_part_of_the_score_for_part_of_the_answer(self, reward: Reward) -> None:
        question = self.made()
        (partly,) = reward.score([(question, f"I say {question.answer}")])
        assert partly.value is not None
        assert 0 < partly.value < 1

    def test_the_settings_of_the_data_set_count(self, reward: Reward) -> None:
        entry = {"question": "", "answer": "0.50", "metadata": {}}
        asked = []
        for places in (3, 1):  # it forgives one unit in the last of these places
            config = {"min_num_decimal_places": 1, "max_num_decimal_places": places}
            asked.append(prompt("0.50", gym="decimal_arithmetic", entry=entry, config=config))
        assert [s.value for s in reward.score([(p, "0.55") for p in asked])] == [0.0, 1.0]

    @pytest.mark.parametrize(
        ("question", "error"),
        [
            (prompt("5"), "not from Reasoning Gym"),
            (prompt("5", gym="nowhere", entry={"answer": "5"}), "nowhere"),
        ],
    )
    def test_other_prompts_are_errors(self, reward: Reward, question: Prompt, error: str) -> None:
        (bad,) = reward.score([(question, "5")])
        assert bad.value is None
        assert error in str(bad.error)

    def test_without_the_library_it_says_how_to_get_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install '\.\[gym\]' in your clone"):
            make_reward("gym")


def test_every_named_reward_can_be_made_and_has_a_line() -> None:
    elsewhere = ["length", "judge"]  # rollouts.rewards makes them
    assert list(REWARDS) == ["number", "exact", "regex", "gsm8k", "math", "gym", *elsewhere]
    for name, line in REWARDS.items():
        assert line
        assert "\n" not in line
        if name not in ("math", "gym", *elsewhere):  # slow to load, and made above
            reward = make_reward(name, options={"pattern": "x"} if name == "regex" else {})
            assert reward.name == name
            reward.close()


def test_a_ready_made_reward_is_returned_as_it_is() -> None:
    reward = make_reward("number")
    assert make_reward(reward) is reward


@pytest.mark.parametrize(
    ("reward", "kwargs", "message"),
    [
        ("gms8k", {}, "reward: unknown reward 'gms8k'; did you mean 'gsm8k'? (or mod"),
        ("frobnicate", {}, "'frobnicate'; available: number, exact, regex, gsm8k, math, gym, len"),
        (":score", {}, "module:function"),
        ("module:", {}, "module:function"),
        ("my_rewards.py:score", {}, "reward: no file my_rewards.py"),
        ("no_such_module:score", {}, "No module named 'no_such_module'"),
        ("os.path:jion", {}, "'os.path' has no 'jion': did you mean 'join'?"),
        ("os.path:sep", {}, "os.path:sep is not callable: it is a str"),
        ("os:getcwd", {}, "called with (prompt, completion)"),
        (lambda completions, **kwargs: [0.0], {}, "called with (prompt, completion)"),
        (threading.Lock().__exit__, {}, "cannot be sent to a process: TypeError"),
        (7, {}, "reward: must be a name or a function (got 7)"),
        (
            "exact",
            {"options": {"ignore_csae": True}},
            "reward.options: unknown option 'ignore_csae' of exact; did",
        ),
        ("exact", {"options": {"ignore_csae": True}}, "did you mean 'ignore_case'?"),
        (
            "exact",
            {"options": {"ignore_case": "no"}},
            "reward.options.ignore_case: must be a bool, true or false",
        ),
        (
            "number",
            {"options": {"pattern": "x"}},
            "reward.options: unknown option 'pattern' of number",
        ),
        ("os.path:join", {"options": {"x": 1}}, "reward.options.x: 'os.path:join' takes no"),
        ("regex", {}, "reward.options.pattern: regex needs this option"),
        ("regex", {"options": {"pattern": "(x"}}, "reward.options.pattern: '(x' is not a regular"),
        ("regex", {"options": {"pattern": 5}}, "reward.options.pattern: must be a str (got 5)"),
        ("length", {}, "reward: 'length' is made from the settings of a run"),
        ("number", {"time_limit": 0}, "reward.time_limit"),
        ("number", {"time_limit": float("nan")}, "reward.time_limit"),
        ("number", {"workers": 0}, "reward.workers"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    reward: Any, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        make_reward(reward, **kwargs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def score(prompt, completion) return 1", "SyntaxError"),
        ("import no_such_library", "No module named 'no_such_library'"),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("import os; os._exit(3)", "exit code 3 while it was loaded"),
    ],
)
def test_a_module_that_cannot_be_loaded(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_rewards.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        make_reward("broken_rewards:score")
    assert message in str(caught.value)


def test_a_function_of_a_module_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "class Judge:\n    @staticmethod\n    def score(prompt, completion):\n        return {}"
    )
    (tmp_path / "local_rewards.py").write_text(source.format("len(completion)"))
    (tmp_path / "json.py").write_text("raise RuntimeError('this is not the json you want')")
    monkeypatch.chdir(tmp_path)
    reward = make_reward("local_rewards:Judge.score", workers=1)
    monkeypatch.chdir(os.path.dirname(tmp_path))  # a later worker still looks where this was made
    reward.score([(prompt(), "x")])
    assert reward.name == "local_rewards:Judge.score"
    assert reward.score([(prompt(), "four")]) == [Score(4.0)]
    reward.close()
