"""Samples as rows of Parquet files: the columns, and the way there and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from winnow.storage.atomic import sync, whole
from winnow.storage.format import METADATA
from winnow.storage.messages import conversation
from winnow.storage.parquet import opened, write_table
from winnow.types import (
    Group,
    Origin,
    Outcome,
    Prompt,
    Sample,
    Score,
    Split,
    TokenAnnotations,
    ends_fit,
)

_UNSELECTED: Mapping[Split, str | None] = {
    "train": None,
    "eval": "held out",
    "test": "held out",
    "final": "held out",
    "sample": None,
}
"""The reason that a sample without an outcome carries."""

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("split", pa.string()),
        ("group", pa.int32()),  # position of the prompt in the step
        ("sample", pa.int32()),  # position of the sample in its group
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("messages", pa.string()),  # the conversation, as JSON
        ("answer", pa.string()),
        ("difficulty", pa.string()),
        ("data", pa.string()),  # the row that the prompt was made from, as JSON
        ("text", pa.string()),
        ("tokens", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("token_ends", pa.list_(pa.int32())),  # characters of the text before each token's end
        ("logprobs", pa.list_(pa.float32())),
        ("entropies", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("model", pa.string()),
        ("policy_version", pa.int64()),
        ("version_spans", pa.list_(pa.list_(pa.int64()))),  # of later versions, where there are any
        ("temperature", pa.float64()),
        ("truncated", pa.bool_()),
        ("reward", pa.float64()),
        ("error", pa.string()),
        ("reward_parts", pa.map_(pa.string(), pa.float64())),  # of several rewards, before weights
        ("right_by", pa.float64()),  # the part that decides what is right, where one does
        ("right_at", pa.float64()),
        ("right", pa.bool_()),
        ("survived", pa.bool_()),
        ("reason", pa.string()),
        ("advantage", pa.float64()),
        (
            "ref_logprobs",
            pa.list_(pa.float64()),
        ),  # from here one a token, if the algorithm reads it
        ("values", pa.list_(pa.float64())),
        ("returns", pa.list_(pa.float64())),
        ("token_advantages", pa.list_(pa.float64())),
    ],
    metadata=dict(METADATA),
)

PROMPT_KEY = ("prompt_id", "prompt", "messages")
"""What tells prompts apart, and must not change while samples are being made. An id alone is often
a row's number in some file."""


def write_groups(
    path: Path,
    split: Split,
    step: int,
    groups: Sequence[Group],
    places: Sequence[tuple[int, int]] | None = None,
) -> None:
    """Write groups as one Parquet file.

    Args:
        places: For each group the number of its prompt and of its first sample; default: groups are
            counted from 0, and each begins with sample 0.
    """
    places = places or [(place, 0) for place in range(len(groups))]
    rows = [
        row
        for (place, first), group in zip(places, groups, strict=True)
        for row in _rows(split, step, place, first, group)
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)

    def write(partial: Path) -> None:
        if not partial.parent.is_dir():  # only this one: a whole folder that is gone stays gone
            partial.parent.mkdir()
            sync(partial.parent.parent)
        write_table(table, partial)

    whole(path, write)


def read_written(
    path: Path, columns: Sequence[str] | None = None, read_dictionary: Sequence[str] = ()
) -> pa.Table:
    """What `write_groups` wrote; nulls in columns that an earlier version did not write.

    Pages have checksums; the names and types of columns, which have none, must be as written.

    Raises:
        parquet.UNREADABLE: the file is damaged.
    """
    asked = SCHEMA.names if columns is None else list(columns)
    with opened(path) as file:
        there = file.schema_arrow
    for field in there:
        if field.name not in SCHEMA.names or field.type != SCHEMA.field(field.name).type:
            raise pa.ArrowInvalid(f"column {field.name}: {field.type}")
    with opened(path, read_dictionary) as file:
        table = file.read(columns=[name for name in asked if name in there.names])
    for name in asked:
        if name not in there.names:
            nulls = pa.nulls(table.num_rows, SCHEMA.field(name).type)
            table = table.append_column(SCHEMA.field(name), nulls)
    return table


def _rows(
    split: Split, step: int, place: int, first: int, group: Group
) -> Iterator[dict[str, Any]]:
    shared = {
        "step": step,
        "split": split,
        "group": place,
        "prompt_ids": group.prompt_ids,
        "right_at": group.right_at,
        **prompt_columns(group.prompt),
    }
    if group.origin is not None:
        shared["model"] = clean(group.origin.model)
        shared["temperature"] = group.origin.temperature
        shared["truncated"] = group.origin.truncated
    right = group.right
    for number, sample in enumerate(group.samples):
        score = group.scores[number] if group.scores else None
        outcome = group.outcomes[number] if group.outcomes else None
        yield {
            **shared,
            "sample": first + number,
            **sample_columns(sample),
            "reward": score.value if score else None,
            "error": clean(score.error) if score else None,
            "reward_parts": [*score.parts] if score and score.parts else None,
            "right_by": score.right_by if score else None,
            "right": right[number] if score and score.value is not None else None,
            "survived": outcome.survived if outcome else None,
            "reason": clean(outcome.reason) if outcome else _UNSELECTED[split],
            "advantage": group.advantages[number] if group.advantages else None,
            **_annotation_columns(group.annotation(number)),
        }


_ANNOTATIONS = [field.name for field in fields(TokenAnnotations)]


def _annotation_columns(own: TokenAnnotations) -> dict[str, Sequence[float] | None]:
    return {
        "ref_logprobs": own.ref_logprobs or None,
        "values": own.values or None,
        "returns": own.returns or None,
        "token_advantages": own.token_advantages or None,
    }


def sample_columns(sample: Sample) -> dict[str, Any]:
    """The columns of a sample; `sample_of` reads them back."""
    return {
        "text": clean(sample.text),
        "tokens": sample.length,
        "token_ids": sample.token_ids,
        "token_ends": sample.token_ends or None,
        "logprobs": sample.logprobs,
        "entropies": sample.entropies,
        "finish_reason": sample.finish_reason,
        "policy_version": sample.policy_version,
        "version_spans": [list(span) for span in sample.version_spans] or None,
    }


def prompt_columns(prompt: Prompt) -> dict[str, str | None]:
    """The columns of a prompt; `prompt_of` reads them back."""
    messages = prompt.messages
    return {
        "prompt_id": clean(prompt.id),
        "prompt": clean(prompt.text),
        "messages": None if messages is None else clean(_json([dict(m) for m in messages])),
        "answer": clean(prompt.answer),
        "difficulty": clean(prompt.difficulty),
        "data": clean(_json(dict(prompt.data))) if prompt.data else None,
    }


def prompt_of(row: Mapping[str, Any]) -> Prompt:
    """The prompt of a row, as far as its columns tell.

    Raises:
        ValueError: `messages` is no conversation, or `data` not what `prompt_columns` writes.
    """
    messages, data = _parsed(row, "messages", list), _parsed(row, "data", dict)
    chat = None if messages is None else conversation(messages)
    text = row.get("prompt")
    if text is None:
        text = chat[-1]["content"] if chat else ""
    return Prompt(
        id=row.get("prompt_id") or text,
        text=text,
        answer=row.get("answer"),
        difficulty=row.get("difficulty"),
        data=data or {},
        messages=chat,
    )


def _parsed(row: Mapping[str, Any], column: str, kind: type) -> Any:
    if not (text := row.get(column)):
        return None
    try:
        value = json.loads(text)
    except (TypeError, ValueError):  # a file of others may hold no text there
        value = None
    if not isinstance(value, kind):
        raise ValueError(
            f"{column} is not a JSON {'object' if kind is dict else 'list'}: {text!r:.60}"
        )
    return value


def origin_of(row: Mapping[str, Any]) -> Origin | None:
    """The origin of a row's sample; ``None`` where no model is named."""
    if row.get("model") is None:
        return None
    heat = row.get("temperature")
    return Origin(row["model"], 1.0 if heat is None else heat, bool(row.get("truncated")))


def group_of(
    rows: Sequence[Mapping[str, Any]], prompt: Prompt | None = None, right_at: float | None = None
) -> Group:
    """The group of the rows of one prompt, in the order of their samples.

    Columns may be missing. A group has scores only if every row has.

    Args:
        prompt: Default: that of the rows.
        right_at: Default: that of the rows, else 1.

    Raises:
        ValueError: rows that no samples can be made of.
    """
    rows = sorted(rows, key=lambda row: row.get("sample") or 0)
    first = rows[0]
    bound = first.get("right_at") if right_at is None else right_at
    return Group(
        prompt=prompt_of(first) if prompt is None else prompt,
        prompt_ids=tuple(first.get("prompt_ids") or ()),
        samples=tuple(map(sample_of, rows)),
        scores=_scores(rows),
        outcomes=_outcomes(rows),
        advantages=()
        if first.get("advantage") is None
        else tuple(row["advantage"] for row in rows),
        annotations=_annotations(rows),
        right_at=1.0 if bound is None else bound,
        step=first.get("step") or 0,
        origin=origin_of(first),
    )


def _scores(rows: Sequence[Mapping[str, Any]]) -> tuple[Score, ...]:
    if any(row.get("reward") is None and row.get("error") is None for row in rows):
        return ()
    return tuple(map(score_of, rows))


def score_of(row: Mapping[str, Any]) -> Score:
    """The score of a row that has one."""
    value, error = row.get("reward"), row.get("error")
    plain = Score.of(value) if error is None else Score.failed(error)
    parts = tuple((name, part) for name, part in row.get("reward_parts") or ())
    right_by = row.get("right_by")
    if not parts and right_by is None:
        return plain
    return replace(plain, parts=parts, right_by=right_by)


def _annotations(rows: Sequence[Mapping[str, Any]]) -> tuple[TokenAnnotations, ...]:
    there = [column for column in _ANNOTATIONS if column in rows[0]]
    if not any(row[column] for row in rows for column in there):
        return ()
    return tuple(
        TokenAnnotations(**{name: tuple(row.get(name) or ()) for name in _ANNOTATIONS})
        for row in rows
    )


def _outcomes(rows: Sequence[Mapping[str, Any]]) -> tuple[Outcome, ...]:
    if all(row.get("survived") is None for row in rows):
        return ()
    return tuple(Outcome(row.get("survived") is not False, row.get("reason") or "") for row in rows)


def sample_of(row: Mapping[str, Any]) -> Sample:
    """The sample of a row.

    Ends of tokens that cannot be those of its text, which was edited since, are left out.
    """
    token_ids = tuple(row.get("token_ids") or ())
    length = row.get("tokens") or len(token_ids) or 1
    text, ends = row.get("text") or "", tuple(row.get("token_ends") or ())
    return Sample(
        token_ids=token_ids,
        logprobs=tuple(row.get("logprobs") or ()),
        text=text,
        finish_reason=row.get("finish_reason") or "eos",
        policy_version=row.get("policy_version") or 0,
        version_spans=tuple((token, version) for token, version in row.get("version_spans") or ()),
        entropies=tuple(row.get("entropies") or ()),
        length=length,
        token_ends=ends if ends_fit(ends, length, text) else (),
    )


def clean(text: str | None) -> str | None:
    """Text that a file can hold: a lone surrogate becomes U+FFFD."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
