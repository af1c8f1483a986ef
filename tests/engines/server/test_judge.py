"""A judge behind a server that misbehaves: alone, and as one of two rewards in a run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.fake_server import FakeServer, Reply, answer, choice, cut, prompt_of, says, status
from tests.kills import KillAt, Killed
from tests.training.faked import settings
from winnow.config.schema import from_dict
from winnow.config.schema.judge import judge_config
from winnow.engines.factory import judge_for
from winnow.engines.server.judge import Judge
from winnow.errors import UserError
from winnow.rewards.factory import judge_reader
from winnow.rewards.verifiers import said
from winnow.storage.answers import Answers
from winnow.training.run import run
from winnow.types import Prompt

pytest.importorskip("openai")

TEMPLATE = "Q: {prompt}\nA: {completion}\nRight: {answer}"
WORDS = {"good": 1.0, "poor": 0.25}
PROMPT = Prompt("p", "1 + 1?", "2")


def good(server: FakeServer, body: dict[str, Any]) -> Reply:
    return answer(body, ["**Good.**"])


def says_text(text: str, **changes: Any) -> Any:
    return lambda server, body: Reply({"choices": [choice(body, text, **changes)]})


async def at_once(seconds: float) -> None:
    """No test waits."""


def judge(server: FakeServer, path: Path | None = None, **options: Any) -> Judge:
    given = {"url": server.url, "model": "m", "template": TEMPLATE, "scores": WORDS, **options}
    how = judge_config(given, "reward")
    reader = judge_reader(how.parse, how.scores)
    return Judge(how, "reward", reader, Answers(path), sleep=at_once)


# What it is asked, and what it says


def test_what_it_is_asked() -> None:
    """Holes in a completion are text; several turns are shown with who said them."""
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"})
    with FakeServer(default=good) as server:
        scores = judge(server, max_tokens=9).score(
            [(PROMPT, "{answer}"), (Prompt("q", "1 + 1?", "2", messages=turns), "2")]
        )
        first, second = sorted(server.asked, key=prompt_of)
    assert [score.value for score in scores] == [1.0, 1.0]
    assert prompt_of(first) == "Q: 1 + 1?\nA: {answer}\nRight: 2"
    assert prompt_of(second) == "Q: system: Be brief.\n\nuser: 1 + 1?\nA: 2\nRight: 2"
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("m", 0.0, 9)
    assert server.paths == ["/v1/chat/completions"] * 2


@pytest.mark.parametrize(
    ("parse", "scores", "text", "value"),
    [
        (r"Score: (\d+)", {}, "Score: 3? No. Score: 8", 8.0),
        (r"Score: (\d+)", {}, "<think>Score: 3</think> Score: 4", 4.0),
        (r"Verdict: (\w+)", WORDS, "I say\nVerdict: POOR", 0.25),
        (None, WORDS, " 'good!' ", 1.0),
        (None, {}, "0.5\n", 0.5),
        (r"Score: (\d+)", {}, "eight", r"Unreadable: 'Score: (\d+)' is not in the judge's answ"),
        (None, WORDS, "fine", "Unreadable: none of 'good', 'poor' is the judge's answer 'fine'"),
        (r"Score: (.*)", {}, "Score: 8/10", "Unreadable: no number but '8/10' in 'Score: 8/10'"),
        (None, {}, "nan", "the verifier returned nan, not a finite number"),
    ],
)
def test_how_its_answer_is_read(parse, scores, text, value) -> None:
    reader = judge_reader(parse, scores)
    (score,) = reader.score([(PROMPT, text)])
    reader.close()
    if isinstance(value, str):
        assert (score.error or "").startswith(value)
    else:
        assert score.value == value == said(PROMPT, text, parse=parse, scores=scores)


def test_a_question_is_asked_once(tmp_path) -> None:
    """Also after a kill in the middle of a line; what could not be read is asked again."""
    path = tmp_path / "judge.jsonl"
    with FakeServer([good, says_text("hm")], default=good) as server:
        first = judge(server, path, concurrency=1)
        scores = first.score([(PROMPT, "2"), (PROMPT, "2"), (PROMPT, "3")])
        assert [score.value for score in scores] == [1.0, 1.0, None]
        assert len(server.asked) == 2
        body = {key: server.asked[0][key] for key in server.asked[0]}
        (line,) = path.read_text().splitlines()
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        assert json.loads(line)["request"] == digest
        assert json.loads(line)["answer"] == "**Good.**"
        with path.open("a") as file:
            file.write('{"request": "ab')
        again = judge(server, path, url=server.url.replace("127.0.0.1", "localhost"))
        assert [score.value for score in again.score([(PROMPT, "2"), (PROMPT, "3")])] == [1.0, 1.0]
        assert len(server.asked) == 3
    assert len(path.read_text().splitlines()) == 2
    with FakeServer() as other:  # and is read by other rules without being asked again
        (score,) = judge(other, path, scores={"good": 7.0}).score([(PROMPT, "2")])
        assert (score.value, other.asked) == (7.0, [])


# What goes wrong


@pytest.mark.parametrize(
    ("behaviours", "said"),
    [
        ([status(429, Retry_After="1"), good], None),
        ([status(500), cut, says(Reply("no JSON")), good], None),
        ([status(500, "boom")] * 9, r"failed 4 times in a row, the last time with: 500 boom"),
        ([says(Reply({"choices": []}))] * 9, "the last time with: its answer holds no choices"),
        ([status(400, "too long")] * 9, "400 too long"),
        ([says_text("Go", finish_reason="length")], "was cut off at max_tokens = 256: 'Go'"),
        ([says_text("maybe")], "none of 'good', 'poor' is the judge's answer 'maybe'"),
    ],
)
def test_a_failure_is_one_samples_error(behaviours, said) -> None:
    with FakeServer([*behaviours], default=good) as server:
        (score,) = judge(server, retries=3).score([(PROMPT, "2")])
    assert (score.value == 1.0) if said is None else re.search(said, score.error or "")


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (status(503), r"none of 2 questions to the judge was answered: .* 503 no; start the"),
        (status(401), r"refuses the key \(401\); name the environment variable that holds one in"),
        (status(307, location="http://x"), r"redirects to http://x \(307\); set reward\.options\."),
        (status(404), r"404 no; fix reward\.options\.url .* or reward\.options\.model"),
        (status(429, Retry_After="9999"), r"asks to come back in 9999 seconds"),
    ],
)
def test_a_server_that_takes_nothing_is_no_samples_error(behaviour, message) -> None:
    with FakeServer(default=behaviour) as server, pytest.raises(UserError, match=message) as caught:
        judge(server, retries=1).score([(PROMPT, "2"), (PROMPT, "3")])
    assert caught.value.setting == "reward.options.url"


def test_nobody_is_there(tmp_path) -> None:
    options = {"url": "http://127.0.0.1:9/v1", "model": "m", "template": TEMPLATE, "scores": WORDS}
    with pytest.raises(UserError, match=r"^reward\.parts\.2\.options\.url: .* no connection"):
        judge_for(options, "reward.parts.2", Answers(None), check=True)


def test_a_prompt_without_an_answer_is_an_error_where_one_is_asked_for() -> None:
    with FakeServer(default=good) as server:
        scores = judge(server).score([(Prompt("q", "?"), "2"), (PROMPT, "2")])
        assert (len(server.asked), scores[1].value) == (1, 1.0)
    assert "has no answer" in (scores[0].error or "")


KEY = "sk-proj-Zq7Wv1Nx4Rb9Tc2Ky6"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://u:p@x/v1"}, "reward.options.url: it holds a password or a query"),
        ({"key_env": KEY}, "reward.options.key_env: must be the name of an environment variable"),
        ({"template": "{prompt}"}, "reward.options.template: it does not show the completion"),
        ({"parse": "(", "scores": {}}, "reward.options.parse: is not a regular expression"),
        ({"parse": "x"}, "reward.options.parse: must have one group, and it has 0"),
        ({"scores": {}}, "reward.options.scores: is missing, as is parse"),
        ({"modle": "m"}, "reward.options: unknown option 'modle' of judge; did you mean 'model'?"),
        ({"retries": -1}, "reward.options.retries: must be from 0 to 100 (got -1)"),
    ],
)
def test_options_that_are_wrong(options, message) -> None:
    given = {"url": "http://x/v1", "model": "m", "template": TEMPLATE, "scores": WORDS, **options}
    with pytest.raises(UserError) as caught:
        judge_config(given, "reward")
    assert str(caught.value).startswith(message)
    assert KEY not in str(caught.value)
    assert "u:p" not in str(caught.value)


def test_the_key_is_sent_and_kept_nowhere(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with FakeServer([status(400, f"bad {KEY}")] * 2, default=good) as server:
        made = judge(server, tmp_path / "judge.jsonl", key_env="MY_KEY")
        scores = made.score([(PROMPT, "2")]) + made.score([(PROMPT, "2")])
        assert server.keys == [f"Bearer {KEY}"] * 3  # refused, then without a seed
    assert "bad (key)" in (scores[0].error or "")
    assert KEY not in (tmp_path / "judge.jsonl").read_text()


# A run: two rewards with weights, one of them a judge


@pytest.fixture
def moody() -> Iterator[FakeServer]:
    """Of odd digits it says good, of even ones poor; 4 breaks it, 5 confuses it, 6 is too long.

    Before it says anything it is busy, then broken, and hangs up in the middle of an answer.
    """

    def behave(server: FakeServer, body: dict[str, Any]) -> Reply:
        digit = int(prompt_of(body).split("A: ")[1][0])
        if digit == 4:
            return Reply({"error": {"message": "boom"}}, 500)
        if digit == 5:
            return answer(body, ["it depends"])
        if digit == 6:
            return Reply({"choices": [choice(body, "Goo", finish_reason="length")]})
        return answer(body, ["good" if digit % 2 else "poor"])

    script = [status(429, Retry_After="0"), status(500), cut]
    with FakeServer(script, default=behave) as server:
        yield server


def two(server: FakeServer) -> list[dict[str, Any]]:
    options = {"url": server.url, "model": "m", "template": TEMPLATE, "scores": WORDS, "retries": 5}
    return [{"name": "exact"}, {"name": "judge", "weight": 0.5, "options": options}]


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("winnow.engines.server.client._LONGEST_BACK_OFF", 0.0)
    made = {**settings(tmp_path, monkeypatch), "steps": 2, "checkpoint": {"every": 1, "keep": 1}}
    return {**made, "optimizer": {"lr": 0.1}, "algorithm": "rloo", "eval": {"size": 2}}


ERRORS = {"4": "boom", "5": "it depends", "6": "was cut off at max_tokens = 256: 'Goo'"}


def test_two_rewards_in_a_run(given, moody, tmp_path) -> None:
    given["reward"] = two(moody)
    folder = run(from_dict(given), out=tmp_path / "run", observers=KillAt()).folder
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seen = set()
    for step, line in enumerate(metrics, start=1):
        rows = pq.read_table(folder / f"rollouts/train-{step:06d}.parquet").to_pylist()
        for row in rows:
            text = row["text"]
            right, liked = float(text == "7"), 1.0 if int(text) % 2 else 0.25
            if text in ERRORS:
                assert (row["reward"], row["reward_parts"]) == (None, [("exact", right)])
                assert row["error"].startswith("part 'judge': ")
                assert ERRORS[text] in row["error"]
            else:
                assert row["reward_parts"] == [("exact", right), ("judge", liked)]
                assert row["reward"] == right + 0.5 * liked
                assert row["right"] == (text == "7")
            seen.add(text)
        valid = [row for row in rows if row["reward"] is not None]
        assert line["errors"] == len(rows) - len(valid) == sum(r["text"] in ERRORS for r in rows)
        for label in ("exact", "judge"):
            mean = sum(dict(row["reward_parts"])[label] for row in valid) / len(valid)
            assert line["reward_parts"][label] == pytest.approx(mean)
    assert seen == set("0123456789")
    kept = [json.loads(line) for line in (folder / "judge.jsonl").read_text().splitlines()]
    assert len({row["request"] for row in kept}) == len(kept)
    assert {row["answer"] for row in kept} == {"good", "poor"}  # no error is kept
    asked = [prompt_of(body) for body in moody.asked]
    fine = [text for text in asked if text.split("A: ")[1][0] not in ERRORS]
    assert len(fine) <= len(set(fine)) + 3  # the three that were refused at first


def test_what_was_answered_before_a_kill_is_not_asked_again(given, moody, tmp_path) -> None:
    given["reward"] = two(moody)
    whole = run(from_dict(given), out=tmp_path / "whole", observers=KillAt()).folder
    with pytest.raises(Killed):
        run(from_dict(given), out=tmp_path / "cut", observers=KillAt(16))
    lines = (tmp_path / "cut" / "judge.jsonl").read_text().splitlines()
    assert lines
    moody.asked.clear()
    resumed = run(resume=tmp_path / "cut", observers=KillAt()).folder
    known = {json.loads(line)["request"] for line in lines}
    asked = {
        hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        for body in moody.asked
    }
    assert not asked & known
    for path in sorted((whole / "rollouts").iterdir()):
        assert pq.read_table(resumed / "rollouts" / path.name).equals(pq.read_table(path))


def test_a_judge_that_dies_stops_the_run_and_says_how_to_resume(given, moody, tmp_path) -> None:
    given["reward"] = two(moody)
    moody.script.clear()
    alive = moody.default
    moody.default = lambda server, body: (
        alive(server, body) if len(server.asked) < 40 else Reply({"error": "down"}, 503)
    )
    with pytest.raises(UserError, match="to the judge was answered") as caught:
        run(from_dict(given), out=tmp_path / "run", observers=KillAt())
    assert any("resume: winnow train --resume" in note for note in caught.value.__notes__)
    moody.default = alive
    assert run(resume=tmp_path / "run", observers=KillAt()).metrics[-1]["step"] == 2
