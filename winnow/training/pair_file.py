"""A .jsonl file of preference pairs as samples: two of a prompt, one chosen over the other.

Read is what `winnow select --form preference` writes, and what TRL reads: `prompt`, `chosen` and
`rejected` as texts or as messages, the last of each the assistant's, and `tools`. Each line is a
prompt of its own, so that two pairs of one prompt stay two.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from winnow.errors import UserError
from winnow.prompts.answers import answer_text
from winnow.prompts.columns import Row, RowError
from winnow.prompts.rows import numbered_jsonl
from winnow.storage.messages import Message, TurnError, conversation, tools_of
from winnow.storage.sample_table import SampleTable
from winnow.storage.schema import SCHEMA
from winnow.theory.ties import all_equal

_FIELD = "samples_file"
_COLUMNS = ("prompt_id", "prompt", "messages", "answer", "data", "sample", "text", "reward")
_WHAT = "a .jsonl file of samples holds pairs, as winnow select --form preference writes them"


def read_pairs(path: str, right_at: float | None) -> SampleTable:
    """The pairs of a file, each a group of two: the chosen sample, then the rejected one.

    Rewards are `score_chosen` and `score_rejected` where a line has them, else 1 and 0.

    Raises:
        UserError: the file cannot be read, or a line (which is named) is no pair.
    """
    rows: list[dict[str, Any]] = []
    names: Counter[str] = Counter()
    for number, line in numbered_jsonl(path, _FIELD):
        try:
            asked, texts = _asked_and_said(line)
            scores = _scores(line)
            answer = answer_text(line.get("answer"), "answer")
        except RowError as error:
            raise UserError(_FIELD, f"{path} line {number} {error.what}", error.remedy) from error
        name = str(number if line.get("prompt_id") is None else line["prompt_id"])
        shared = {"prompt_id": _new(name, names), "answer": answer, **asked}
        rows += [
            {**shared, "sample": place, "text": text, "reward": score}
            for place, (text, score) in enumerate(zip(texts, scores, strict=True))
        ]
    if not rows:
        raise UserError(_FIELD, f"no pairs in {path}", _WHAT)
    schema = pa.schema([SCHEMA.field(name) for name in _COLUMNS])
    return SampleTable.of_rows(Path(path), pa.Table.from_pylist(rows, schema=schema), right_at)


def _new(name: str, names: Counter[str]) -> str:
    """A name that no pair has yet: `name`, or `name (pair 2)` and so on."""
    made = name
    while names[made]:
        names[name] += 1
        made = f"{name} (pair {names[name]})"
    names[made] += 1
    return made


def _asked_and_said(line: Row) -> tuple[dict[str, str | None], tuple[str, str]]:
    """The columns of the prompt, and the two completions."""
    for key in ("chosen", "rejected"):
        if line.get(key) is None:
            raise RowError("", f"has no {key!r}", f"{_WHAT}; others are read from .parquet")
    asked, talk = line.get("prompt"), isinstance(line.get("prompt"), list)
    (before, better), (other, worse) = _said(line, "chosen"), _said(line, "rejected")
    if before != other:
        problem = "has other turns before the last one of 'chosen' than of 'rejected'"
        raise RowError("", problem, "a pair is two completions of one prompt")
    if talk:
        turns = _turns(asked, "prompt")
        if before and before != turns:
            raise RowError("", "has another conversation in 'chosen' than in 'prompt'")
        before = turns
    elif asked is not None and not isinstance(asked, str):
        raise RowError("", f"has a prompt that is {asked!r:.60}", "it is a text or messages")
    elif not before and isinstance(line["chosen"], list):
        before = [{"role": "user", "content": asked}] if asked else []
    if not before:
        if not (asked or "").strip():
            raise RowError("", "has no prompt", "give it the key 'prompt'")
        return {"prompt": asked, "messages": None}, (better, worse)
    if before[-1]["role"] == "assistant":
        raise RowError("", "has a prompt that ends with the assistant's turn", "leave it out")
    return {
        "prompt": before[-1]["content"],
        "messages": json.dumps([*before], ensure_ascii=False),
        "data": _tools(line),
    }, (better, worse)


def _said(line: Row, key: str) -> tuple[list[Message], str]:
    """What stands before a completion in its own key, and the completion."""
    value = line[key]
    if isinstance(value, str):
        return [], value
    *before, last = _turns(value, key)
    if last["role"] != "assistant" or "tool_calls" in last:
        raise RowError("", f"has no text of the assistant's at the end of {key!r}")
    if more := sorted(last.keys() - {"role", "content"}):
        problem = f"has {', '.join(map(repr, more))} beside the content at the end of {key!r}"
        raise RowError("", problem, "only its content is learned, so put it there or leave it out")
    return before, last["content"]


def _tools(line: Row) -> str | None:
    """The row that the template finds a pair's tools in, as JSON; ``None`` without any."""
    try:
        tools = tools_of(line)
    except TurnError as error:
        raise RowError("", error.problem, error.remedy) from error
    return None if tools is None else json.dumps({"tools": tools}, ensure_ascii=False)


def _turns(value: object, key: str) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowError("", f"has {value!r:.60} as {key!r}", "it is a text or messages")
    try:
        return [*conversation(value)]
    except TurnError as error:
        raise RowError("", f"{error.problem} in {key!r}", error.remedy) from error


def _scores(line: Mapping[str, Any]) -> tuple[float, float]:
    """The rewards of the two, the first above the second."""
    better, worse = line.get("score_chosen"), line.get("score_rejected")
    if better is None and worse is None:
        return 1.0, 0.0
    better, worse = _number(better, "score_chosen"), _number(worse, "score_rejected")
    if better < worse or all_equal([better, worse]):
        problem = f"has a score_chosen of {better:g} that is not above its score_rejected {worse:g}"
        raise RowError("", problem, "leave the line out, or both scores")
    return better, worse


def _number(value: object, key: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):  # an int beyond any float
            if math.isfinite(float(value)):
                return float(value)
    raise RowError("", f"has {value!r:.40} as {key!r}", "give both scores, or neither")
