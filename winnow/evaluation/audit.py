"""How often a verifier is mistaken: on labelled completions, or on the answers of a data set.

With labels: what it calls right of the completions that are wrong, and the reverse. Without: each
answer must be right of itself, and wrong for another prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from winnow.algorithms.dedup import folded
from winnow.config.schema.prompts import PromptsConfig
from winnow.errors import UserError, nearest
from winnow.prompts.rows import from_rows, read_jsonl, read_parquet
from winnow.rewards.answer_extraction import label as number_in
from winnow.rewards.base import AnyReward, scores_of
from winnow.theory.intervals import clustered_interval
from winnow.types import FinishReason, Prompt, Sample, Score

Kind = Literal["false right", "false wrong", "error"]
FINISHED, CUT_OFF, GOLD, SHUFFLED = "finished", "cut off", "gold answers", "shuffled answers"
_RIGHT, _WRONG = ("right", "correct", "true", "yes"), ("wrong", "incorrect", "false", "no")
_TEXTS = ("completion", "text")
_FIELD = "--labels"


@dataclass(frozen=True)
class Labelled:
    """A completion that is known to be right or wrong.

    Attributes:
        part: What it is counted with: `finished` or `cut off`, `gold` or `shuffled answers`.
    """

    prompt: Prompt
    completion: str
    right: bool
    part: str


@dataclass(frozen=True)
class Rate:
    """How often a verifier is mistaken about completions of one label.

    Attributes:
        part, right: Which completions.
        mistaken: How many the verifier scores the other way.
        scored: How many it scores at all.
        errors: How many it fails on; they are in no rate.
        rate, low, high: mistaken / scored and its 95 % interval, completions of a prompt going
            together; ``None`` where there is too little for one.
    """

    part: str
    right: bool
    mistaken: int
    scored: int
    errors: int
    rate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Disagreement:
    """A completion that the verifier is mistaken about, or fails on."""

    kind: Kind
    labelled: Labelled
    score: Score

    def row(self) -> dict[str, Any]:
        """It as a line of JSON."""
        one = self.labelled
        return {
            "kind": self.kind,
            "part": one.part,
            "prompt_id": one.prompt.id,
            "prompt": one.prompt.text,
            "answer": one.prompt.answer,
            "completion": one.completion,
            "label": one.right,
            "reward": self.score.value,
            "error": self.score.error,
        }


@dataclass(frozen=True)
class Audit:
    """What came of it.

    Attributes:
        rates: For each part, of the right and of the wrong ones.
        disagreements: In the order of the completions.
    """

    completions: int
    prompts: int
    rates: list[Rate]
    disagreements: list[Disagreement]


def audit(labelled: Sequence[Labelled], reward: AnyReward, right_at: float = 1.0) -> Audit:
    """Score labelled completions and compare.

    Args:
        right_at: A reward of at least this is right.
    """
    scores = scores_of(reward, [(one.prompt, _sample(one)) for one in labelled])
    kinds = [_kind(one, score, right_at) for one, score in zip(labelled, scores, strict=True)]
    numbers: dict[tuple[str, str | None], int] = {}
    clusters = np.array(
        [numbers.setdefault((o.prompt.text, o.prompt.answer), len(numbers)) for o in labelled],
        dtype=np.int64,
    )
    rates = []
    for part, right in dict.fromkeys((one.part, one.right) for one in labelled):
        there = [i for i, one in enumerate(labelled) if (one.part, one.right) == (part, right)]
        scored = [i for i in there if kinds[i] != "error"]
        wrong = np.array([float(kinds[i] is not None) for i in scored])
        rate, low, high = clustered_interval(wrong, clusters[scored])
        mistaken, errors = int(wrong.sum()), len(there) - len(scored)
        rates.append(Rate(part, right, mistaken, len(scored), errors, rate, low, high))
    found = [
        Disagreement(kind, one, score)
        for one, score, kind in zip(labelled, scores, kinds, strict=True)
        if kind is not None
    ]
    order = {FINISHED: 0, GOLD: 0, CUT_OFF: 1, SHUFFLED: 1}
    rates.sort(key=lambda one: (order[one.part], not one.right))
    return Audit(len(labelled), len(numbers), rates, found)


def _sample(one: Labelled) -> Sample:
    ended: FinishReason = "length" if one.part == CUT_OFF else "eos"
    return Sample((), (), one.completion, ended, length=1)


def _kind(one: Labelled, score: Score, right_at: float) -> Kind | None:
    if score.value is None:
        return "error"
    right = score.right(right_at)
    return None if right == one.right else "false right" if right else "false wrong"


def gold(prompts: Iterable[Prompt], seed: int) -> tuple[list[Labelled], int]:
    """Each answer as a completion of its own prompt, right, and of another one, wrong.

    The others are one cycle through all prompts in random order (Sattolo 1986), so that none has
    its own. Where the two answers are equal, as text or by the number in them, the pair is left
    out: a verifier that calls it right is not mistaken.

    Returns:
        They, and how many pairs were left out.

    Raises:
        UserError: no prompt has an answer.
    """
    once = {(p.text, p.answer): p for p in prompts if p.answer is not None}
    found = list(once.values())
    if not found:
        remedy = "set prompts.answer_column, or give --labels"
        raise UserError("prompts", "no prompt has an answer to audit with", remedy)
    made = [Labelled(p, p.answer or "", True, GOLD) for p in found]
    order = np.random.default_rng(seed).permutation(len(found)).tolist()
    equal = 0
    for here, there in zip(order, [*order[1:], order[0]], strict=True):
        prompt, other = found[here], found[there].answer or ""
        if _same(prompt.answer or "", other):
            equal += 1
        else:
            made.append(Labelled(prompt, other, False, SHUFFLED))
    return made, equal


def _same(one: str, other: str) -> bool:
    number = number_in(one)
    return folded(one) == folded(other) or (number is not None and number == number_in(other))


def read_labelled(
    path: str, prompts: PromptsConfig, column: str = "label"
) -> tuple[list[Labelled], int]:
    """The labelled completions of a JSONL or Parquet file, as `winnow sample` writes it or simpler.

    Columns: `prompt` and `answer` (or those of `[prompts]`); `completion` or `text`; the label;
    perhaps `finish_reason` (`length`: cut off), `prompt_id`, `data`.

    Args:
        prompts: How a recipe names columns.
        column: With the label: a bool, 1 or 0, right or wrong, correct or incorrect.

    Returns:
        They, and how many rows have no label.

    Raises:
        UserError: the file cannot be read, lacks a column, or has something else in it.
    """
    if path.endswith(".jsonl"):
        rows = read_jsonl(path, _FIELD)
    elif path.endswith(".parquet"):
        rows = read_parquet(path, _FIELD)
    else:
        raise UserError(_FIELD, f"{path!r} is no .jsonl or .parquet file", "name one")
    there = list(dict.fromkeys(name for row in rows for name in row))
    text = next((name for name in _TEXTS if name in there), None)
    if text is None:
        problem = f"{path} has no column 'completion' or 'text'"
        raise UserError(_FIELD, problem, nearest("completion", there))
    if column not in there:
        hint = "right, as winnow records it, is one" if "right" in there else ""
        remedy = f"name it with --label-column ({hint or nearest(column, there)})"
        raise UserError(_FIELD, f"{path} has no column {column!r}", remedy)
    labels = [_label(row.get(column), f"row {n + 1} of {path}") for n, row in enumerate(rows)]
    kept = [row for row, label in zip(rows, labels, strict=True) if label is not None]
    known = [label for label in labels if label is not None]
    if not known:
        raise UserError(_FIELD, f"no row of {path} has a label in {column!r}", "label some")
    texts = [
        _text(row.get(text), text, f"row {n + 1} of {path}")
        for n, (row, label) in enumerate(zip(rows, labels, strict=True))
        if label is not None
    ]
    made = [
        Labelled(prompt, completion, right, _part(row))
        for prompt, completion, row, right in zip(
            _prompts(kept, prompts, path), texts, kept, known, strict=True
        )
    ]
    return made, len(rows) - len(kept)


def _prompts(rows: Sequence[Mapping[str, Any]], config: PromptsConfig, path: str) -> list[Prompt]:
    """The prompt of each row; what is written out as `prompt` needs no template."""
    first = rows[0]
    written = "prompt" in first
    changes: dict[str, Any] = {"source": path, "difficulty_column": None}
    if written:
        changes |= {"prompt_column": "prompt", "template": None}
    if config.answer_column.partition(".")[0] not in first:
        changes |= {"answer_column": "answer"}
    named = [{**row, "id": row.get("prompt_id", row.get("id"))} for row in rows]
    made = from_rows(named, config.model_copy(update=changes), _FIELD, padded=True)
    return [replace(prompt, data=_data(row)) for prompt, row in zip(made, rows, strict=True)]


def _data(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a verifier may read: the row that the prompt was made from, where the file has that."""
    told = row.get("data")
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except ValueError:
            told = None
    return told if isinstance(told, Mapping) else row


def _part(row: Mapping[str, Any]) -> str:
    return CUT_OFF if row.get("finish_reason") == "length" else FINISHED


def _text(value: object, column: str, where: str) -> str:
    if not isinstance(value, str | int | float):
        raise UserError(_FIELD, f"{where} has no text as {column!r}", "write one, or drop the row")
    return str(value)


def _label(value: object, where: str) -> bool | None:
    if value is None:
        return None
    word = value.strip().lower() if isinstance(value, str) else value
    if word in _RIGHT or (isinstance(value, int | float) and value == 1):
        return True
    if word in _WRONG or (isinstance(value, int | float) and value == 0):
        return False
    remedy = "write true or false, 1 or 0, right or wrong"
    raise UserError(_FIELD, f"{where} has the label {value!r:.60}", remedy)
