"""Pairs as lines of JSON, as data to train on: what is read of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import winnow
from tests import kills
from tests.build import group
from winnow.errors import UserError
from winnow.storage.messages import tools_of
from winnow.storage.schema import write_groups
from winnow.training.pair_file import read_pairs
from winnow.types import Prompt

USER, SYSTEM = {"role": "user", "content": "2?"}, {"role": "system", "content": "Be brief."}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def says(text: str, role: str = "assistant") -> dict[str, str]:
    return {"role": role, "content": text}


def write(path: Path, *lines: object) -> str:
    path.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    )
    return str(path)


SAME = {"prompt": "2?", "chosen": "4", "rejected": "5"}
TALK = {"prompt": [SYSTEM, USER], "chosen": [says("4")], "rejected": [says("5")]}
SHAPES = {
    "texts": (SAME, "2?", None),
    "messages": (TALK, "2?", (SYSTEM, USER)),
    "a text, and messages": ({**TALK, "prompt": "2?"}, "2?", (USER,)),
    "the conversation in both": (
        {"chosen": [SYSTEM, USER, says("4")], "rejected": [SYSTEM, USER, says("5")]},
        "2?",
        (SYSTEM, USER),
    ),
    "the conversation in all": (
        {
            "prompt": [SYSTEM, USER],
            "chosen": [SYSTEM, USER, says("4")],
            "rejected": [SYSTEM, USER, says("5")],
        },
        "2?",
        (SYSTEM, USER),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_of_a_pair(tmp_path, shape) -> None:
    line, text, messages = SHAPES[shape]
    more = {"score_chosen": 3, "score_rejected": -0.5, "prompt_id": "x", "answer": 4, "other": [1]}
    path = write(tmp_path / "p.jsonl", "", line, {**line, **more}, {**line, **more})
    groups = list(read_pairs(path, None))
    assert [g.prompt.id for g in groups] == ["2", "x", "x (pair 2)"]  # a line without: its number
    for one in groups:
        assert (one.prompt.text, one.prompt.messages) == (text, messages)
        assert [sample.text for sample in one.samples] == ["4", "5"]
    assert [[score.value for score in one.scores] for one in groups] == [[1, 0]] + [[3, -0.5]] * 2
    assert [one.prompt.answer for one in groups] == [None, "4", "4"]


BAD = {
    "no chosen": (
        {"messages": [USER, says("4")]},
        "has no 'chosen'; a .jsonl file of samples holds",
    ),
    "null rejected": ({**SAME, "rejected": None}, "has no 'rejected'; a .jsonl file of samples h"),
    "no prompt": ({"chosen": "4", "rejected": "5"}, "has no prompt; give it the key 'prompt'"),
    "an empty prompt": ({**SAME, "prompt": " "}, "has no prompt; give it the key"),
    "a number": ({**SAME, "chosen": 4}, "has 4 as 'chosen'; it is a text or messages"),
    "a prompt that is a number": ({**SAME, "prompt": 4}, "has a prompt that is 4; it is a text"),
    "no list of messages": ({**TALK, "chosen": []}, "has [] as 'chosen'; it is a text or"),
    "no message": ({**TALK, "chosen": [5]}, "has a turn 1 that is 5, not an object with the keys"),
    "no role": (
        {**TALK, "prompt": [{"content": "x"}]},
        "has a turn 1 without the key 'role' in 'pr",
    ),
    "the user at the end": ({**TALK, "rejected": [USER]}, "has no text of the assistant's at the"),
    "more than a content": (
        {**TALK, "chosen": [{**says("4"), "reasoning_content": "2 + 2"}]},
        "has 'reasoning_content' beside the content at the end of 'chosen'; only its content is",
    ),
    "tools that are none": ({**TALK, "tools": [5]}, "has a conversation, and [5] in its column"),
    "another conversation": (
        {"chosen": [USER, says("4")], "rejected": [SYSTEM, says("5")]},
        "has other turns before the last one of 'chosen' than of 'rejected'; a pair is two",
    ),
    "another prompt": (
        {"prompt": [SYSTEM], "chosen": [USER, says("4")], "rejected": [USER, says("5")]},
        "has another conversation in 'chosen' than in 'prompt'",
    ),
    "the assistant asks": (
        {**TALK, "prompt": [USER, says("x")]},
        "has a prompt that ends with the assistant's turn; leave it out",
    ),
    "one score": (
        {**SAME, "score_chosen": 1},
        "has None as 'score_rejected'; give both scores, or",
    ),
    "a score that is none": (
        {**SAME, "score_chosen": True, "score_rejected": 0},
        "has True as 'score_chosen'; give both",
    ),
    "an endless score": (
        {**SAME, "score_chosen": 10**400, "score_rejected": 0},
        "as 'score_chosen'; give both",
    ),
    "the worse is chosen": (
        {**SAME, "score_chosen": 0.25, "score_rejected": 0.5},
        "has a score_chosen of 0.25 that is not above its score_rejected 0.5; leave the line out",
    ),
    "alike": ({**SAME, "score_chosen": 1, "score_rejected": 1}, "has a score_chosen of 1 that is"),
    "an answer that is none": ({**SAME, "answer": [1]}, "has a list in column 'answer': [1]"),
    "no JSON": ("{nonsense", "is not a JSON object: "),
    "two keys": (
        '{"prompt": "a", "prompt": "b"}',
        "is not a JSON object: it has two keys 'prompt'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_line_that_is_no_pair_is_named(tmp_path, case) -> None:
    line, said = BAD[case]
    path = write(tmp_path / "p.jsonl", SAME, "", line)
    with pytest.raises(UserError) as caught:
        read_pairs(path, None)
    assert str(caught.value).startswith(f"samples_file: {path} line 3 ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_pairs(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^samples_file: no file no\.jsonl in /"):
        read_pairs("no.jsonl", None)
    with pytest.raises(UserError, match=r"^samples_file: no pairs in .*p\.jsonl; a \.jsonl file"):
        read_pairs(write(tmp_path / "p.jsonl", ""), None)


def train(model: Path, samples: Path, out: Path, **settings):
    return winnow.train(
        model=str(model),
        samples_file=str(samples),
        algorithm=settings.pop("algorithm", "dpo"),
        reward="exact",
        prompts_per_step=4,
        minibatch_prompts=2,
        optimizer={"lr": 1e-3},
        sampling={"max_tokens": 4},
        eval={"size": 0},
        out=out,
        quiet=True,
        **settings,
    )


def test_exported_pairs_train_as_the_samples_they_are_of(tiny_model, tmp_path) -> None:
    """The same pairs in the same order, from texts: the same weights, to the bit."""
    groups = [
        group([1, 0, 0.5], texts=["4", "5", f"{i}"], name=f"2 + {i} =").with_(prompt_ids=())
        for i in range(6)
    ]
    for one in groups:
        for sample in one.samples:
            object.__setattr__(sample, "token_ids", ())
            object.__setattr__(sample, "logprobs", ())
            object.__setattr__(sample, "finish_reason", "eos")
    write_groups(tmp_path / "in.parquet", "sample", 0, groups)
    pairs, kept = tmp_path / "pairs.jsonl", tmp_path / "kept.parquet"
    winnow.select(tmp_path / "in.parquet", "best-worst", out=pairs, form="preference")
    winnow.select(tmp_path / "in.parquet", "best-worst", out=kept)
    by_pairs = train(tiny_model, pairs, tmp_path / "a")
    by_samples = train(tiny_model, kept, tmp_path / "b")
    assert kills.same(kills.weights(by_pairs.checkpoint), kills.weights(by_samples.checkpoint))
    assert not kills.same(kills.weights(by_pairs.checkpoint), kills.weights(tiny_model))
    rows = pq.read_table(tmp_path / "a/rollouts").to_pylist()
    assert {(row["text"], row["advantage"]) for row in rows} == {("4", 1.0), ("5", -1.0)}


def test_a_rule_that_reads_what_pairs_lack(tiny_model, tmp_path) -> None:
    path = write(tmp_path / "p.jsonl", SAME)
    row = {"name": "dpo", "select": ["finished", "best-worst"]}
    with pytest.raises(
        UserError, match=r"^samples_file: .*p\.jsonl holds pairs, which have no fin"
    ):
        train(tiny_model, path, tmp_path / "a", algorithm=row)
    with pytest.raises(
        UserError, match=r"^samples_file: .*p\.jsonl lacks the log-probs of its sam"
    ):
        train(tiny_model, path, tmp_path / "a", algorithm="grpo")


def test_each_line_is_a_prompt_of_its_own(tmp_path) -> None:
    """Also where a name looks like that of a second pair."""
    line = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}
    lines = [{**line, "prompt_id": name} for name in ("a (pair 2)", "a", "a")]
    text = "".join(json.dumps(one) + "\n" for one in lines)
    groups = list(read_pairs(write(tmp_path / "p.jsonl", text), None))
    assert [len(group.samples) for group in groups] == [2, 2, 2]


@pytest.mark.parametrize("given", [TOOLS, json.dumps(TOOLS)])
def test_the_template_is_given_the_tools_of_a_pair(tmp_path, given) -> None:
    """In both shapes of a conversation; a text goes through no template."""
    whole = {"chosen": [USER, says("4")], "rejected": [USER, says("5")]}
    lines = [{**line, "tools": given} for line in (TALK, whole, SAME)]
    groups = list(read_pairs(write(tmp_path / "p.jsonl", *lines, TALK), None))
    assert [tools_of(one.prompt.data) for one in groups] == [TOOLS, TOOLS, None, None]


def test_tools_survive_the_way_from_samples_to_pairs_and_back(tmp_path) -> None:
    asked = Prompt("t", "2?", data={"tools": TOOLS}, messages=(SYSTEM, USER))
    groups = [group([1, 0], texts=["4", "5"]).with_(prompt=asked), group([1, 0], name="plain")]
    write_groups(tmp_path / "in.parquet", "sample", 0, groups)
    out = tmp_path / "p.jsonl"
    winnow.select(tmp_path / "in.parquet", ["correct"], out=out, form="preference")
    one, other = read_pairs(str(out), None)
    assert (one.prompt.messages, tools_of(one.prompt.data)) == ((SYSTEM, USER), TOOLS)
    assert tools_of(other.prompt.data) is None
