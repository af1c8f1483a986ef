"""Files of samples: what is written is read back, ours and others' alike, gathered by prompt."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.errors import UserError
from winnow.storage.run_folder import RunStore
from winnow.storage.sample_table import SampleTable, read_samples
from winnow.storage.schema import SCHEMA, write_groups
from winnow.types import (
    LARGEST_REWARD,
    Group,
    Origin,
    Outcome,
    Prompt,
    Sample,
    Score,
    TokenAnnotations,
)

HALF = "\ud83d"
"""Half a character; files hold U+FFFD in its place."""
ALL = ["prompt", "prompt_ids", "messages", "answer", "difficulty", "data", "text", "tokens"]
ALL += ["token_ids", "logprobs", "entropies", "finish_reason"]

WHOLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
TEXT = st.lists(WHOLE | st.just(HALF), max_size=3).map("".join)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
REWARD = st.floats(-LARGEST_REWARD, LARGEST_REWARD)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=0)
JSON = st.none() | st.booleans() | st.integers() | FLOAT | TEXT | st.lists(TEXT, max_size=2)


def stored(value: Any) -> Any:
    """What a file gives back: half a character is gone, all else is as it was."""
    if isinstance(value, str):
        return value.replace(HALF, "\ufffd")
    if isinstance(value, dict):
        return {stored(key): stored(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map(stored, value))
    if isinstance(value, (Prompt, Sample, Score, Outcome, Group, Origin)):
        return type(value)(*(stored(getattr(value, name)) for name in value.__slots__))
    return value


@st.composite
def samples(sample) -> Sample:
    length = sample(st.integers(1, 4))

    def each(strategy):
        return tuple(sample(st.lists(strategy, min_size=length, max_size=length)))

    return Sample(
        token_ids=each(st.integers(0, 2**31 - 1)) if sample(st.booleans()) else (),
        logprobs=each(FLOAT32 | st.just(-math.inf)) if sample(st.booleans()) else (),
        text=sample(TEXT),
        finish_reason=sample(st.sampled_from(["eos", "stop", "length"])),
        policy_version=sample(st.integers(0, 2**40)),
        entropies=each(FLOAT32.map(abs)) if sample(st.booleans()) else (),
        length=length,
    )


@st.composite
def groups(sample, name: str) -> Group:
    made = tuple(sample(st.lists(samples(), min_size=1, max_size=4)))

    def each(strategy):
        return tuple(sample(strategy) for _ in made) if sample(st.booleans()) else ()

    turn = st.fixed_dictionaries(
        {"role": TEXT.filter(bool), "content": TEXT}, optional={"name": TEXT, "weight": FLOAT}
    )
    prompt = Prompt(
        id=name + sample(TEXT),
        text=sample(TEXT),
        answer=sample(st.none() | TEXT),
        difficulty=sample(st.none() | TEXT),
        data=sample(st.dictionaries(TEXT.map(stored), JSON, max_size=2)),
        messages=sample(st.none() | st.lists(turn, min_size=1, max_size=2).map(tuple)),
    )
    return Group(
        prompt=prompt,
        prompt_ids=tuple(sample(st.lists(st.integers(0, 2**31 - 1), max_size=3))),
        samples=made,
        scores=each(st.builds(Score, REWARD) | st.builds(Score.failed, TEXT)),
        outcomes=each(st.builds(Outcome, st.booleans(), TEXT)),
        right_at=sample(FLOAT),
        origin=sample(st.none() | st.builds(Origin, TEXT, FLOAT, st.booleans())),
    )


@settings(max_examples=60)
@given(st.data())
def test_groups_are_read_back_as_they_were_written(tmp_path_factory, data) -> None:
    written = [data.draw(groups(f"{i}-")) for i in range(data.draw(st.integers(1, 3)))]
    path = tmp_path_factory.mktemp("samples") / "d.parquet"
    write_groups(path, "sample", 0, written)
    table = read_samples([path], ALL, why="the test")
    assert list(table) == [stored(group) for group in written]
    assert table.rows == sum(len(group.samples) for group in written)
    assert list(path.parent.iterdir()) == [path]


def test_rows_of_a_set_that_begins_later(tmp_path) -> None:
    """A folder's files hold sets of samples by the numbers of their prompt and first sample."""
    group = Group(Prompt("p", "x"), (1,), (Sample((2,), (-1.0,), "a", "eos"),) * 2)
    write_groups(tmp_path / "d.parquet", "sample", 0, [group, group], [(7, 0), (7, 40)])
    rows = pq.read_table(tmp_path / "d.parquet").to_pylist()
    assert [(row["group"], row["sample"]) for row in rows] == [(7, 0), (7, 1), (7, 40), (7, 41)]
    assert {(row["split"], row["step"], row["reason"], row["survived"]) for row in rows} == {
        ("sample", 0, None, None)
    }


# gathered by prompt


COLUMNS = (
    "prompt_id",
    "prompt",
    "sample",
    "text",
    "reward",
    "error",
    "survived",
    "model",
    "logprobs",
)


@st.composite
def files(sample) -> list[list[dict[str, Any]]]:
    """Rows of some files, each with columns of its own; the text tells every row apart."""
    made, number = [], 0
    for _ in range(sample(st.integers(1, 3))):
        named = sample(st.sampled_from([("prompt_id",), ("prompt",), ("prompt_id", "prompt")]))
        other = sample(st.sets(st.sampled_from(COLUMNS[4:])))
        rows = []
        for _ in range(sample(st.integers(0, 6))):
            number += 1
            row = {
                "prompt_id": sample(st.sampled_from(["1", "2", "3"])),
                "prompt": sample(st.sampled_from(["a", "b"])),
                "sample": sample(st.integers(0, 3)),
                "text": str(number),
                "reward": sample(st.none() | st.integers(0, 2)),
                "error": sample(st.none() | st.just("broken")),
                "survived": sample(st.none() | st.booleans()),
                "model": sample(st.sampled_from([None, "m", "n"])),
                "logprobs": sample(st.sampled_from([None, [], [-1.0]])),
            }
            rows.append({name: row[name] for name in (*named, "sample", "text", *sorted(other))})
        made.append(rows)
    return made


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of another's making: only the columns there are, whole numbers as int64."""
    types = {"text": pa.string(), "logprobs": pa.list_(pa.float64()), "survived": pa.bool_()}
    types |= dict.fromkeys(("prompt_id", "prompt", "error", "model"), pa.string())
    types |= dict.fromkeys(("sample", "reward"), pa.int64())
    names = list(rows[0]) if rows else ["prompt", "text"]
    columns = {name: pa.array([row[name] for row in rows], types[name]) for name in names}
    pq.write_table(pa.table(columns), path)
    return path


@settings(max_examples=80)
@given(files())
def test_rows_are_gathered_by_prompt(tmp_path_factory, written) -> None:
    folder = tmp_path_factory.mktemp("files")
    paths = [write(folder / f"{i}.parquet", rows) for i, rows in enumerate(written)]
    rows = [row for part in written for row in part]
    if not rows:
        with pytest.raises(UserError, match="no samples in "):
            read_samples(paths, ["text"], why="the test")
        return
    there = {name for row in rows for name in row}
    optional = ["prompt", "logprobs"]
    table = read_samples(paths, ["text"], why="the test", optional=optional)

    expected: dict[Any, list[int]] = {}
    for number, row in enumerate(rows):
        expected.setdefault((row.get("prompt_id"), row.get("prompt")), []).append(number)
    for numbers in expected.values():
        numbers.sort(key=lambda i: rows[i]["sample"])
    assert [table.rows_of(i).tolist() for i in range(len(table))] == list(expected.values())
    assert [[int(sample.text) - 1 for sample in group.samples] for group in table] == list(
        expected.values()
    )
    names = [key[0] or key[1] for key in expected]
    assert [group.prompt.id for group in table] == names
    assert [(part.path, part.first, part.rows) for part in table.parts] == [
        (path, sum(map(len, written[:i])), len(written[i])) for i, path in enumerate(paths)
    ]
    assert table.rows == len(rows)
    assert table.unscored() == sum(
        row.get("reward") is None and row.get("error") is None for row in rows
    )
    for value in (True, False):
        assert table.count("survived", value) == sum(row.get("survived") is value for row in rows)
    for column in ("prompt_id", "prompt", "model", "reward", "sample"):
        known = {row.get(column) for row in rows} - {None}
        assert Counter(table.values(column)) == Counter(known)
    if "logprobs" in there:
        assert table.empty_lists("logprobs") == sum(not row.get("logprobs") for row in rows)
    models = {row.get("model") for row in rows}
    named = {model or "(no model named)" for model in models} if models - {None} else set()
    assert table.policies() == sorted(named)
    check_scores(table, rows)

    fewer = table.only(())
    assert "text" not in fewer
    assert "logprobs" not in fewer
    assert [group.prompt.id for group in fewer] == names
    assert [group.scores for group in fewer] == [group.scores for group in table]
    assert [fewer.rows_of(i).tolist() for i in range(len(fewer))] == list(expected.values())


def check_scores(table: SampleTable, rows: list[dict[str, Any]]) -> None:
    """A group has scores if each of its rows has one; an error is never a number."""
    for number, group in enumerate(table):
        own = [rows[i] for i in table.rows_of(number)]
        said = [(row.get("reward"), row.get("error")) for row in own]
        if (None, None) in said:
            assert group.scores == ()
        else:
            assert group.scores == tuple(Score(None, e) if e else Score(r) for r, e in said)
        kept = [row.get("survived") for row in own]
        judged = any(one is not None for one in kept)  # what nobody rejected has survived
        assert [v.survived for v in group.outcomes] == [one is not False for one in kept if judged]


def test_one_id_for_two_prompts(tmp_path) -> None:
    """Ids are often row numbers: two sources of samples may use one for different prompts."""
    first = [{"prompt_id": "0", "prompt": "2 + 2", "sample": i, "text": f"a{i}"} for i in (1, 0)]
    second = [{"prompt_id": "0", "prompt": "3 + 3", "sample": i, "text": f"b{i}"} for i in (0, 1)]
    paths = [write(tmp_path / "a.parquet", first), write(tmp_path / "b.parquet", second)]
    table = read_samples(paths, ["prompt", "text"], why="the test")
    found = [(group.prompt.text, [sample.text for sample in group.samples]) for group in table]
    assert found == [("2 + 2", ["a0", "a1"]), ("3 + 3", ["b0", "b1"])]
    assert "prompt" not in read_samples(paths, ["text"], why="the test").columns


def test_one_question_under_two_system_prompts(tmp_path) -> None:
    sample = Sample((1,), (-1.0,), "x", "eos")
    for system in ("short", "long"):
        turns = ({"role": "system", "content": system}, {"role": "user", "content": "q"})
        group = Group(Prompt("0", "q", messages=turns), (1,), (sample,))
        write_groups(tmp_path / f"{system}.parquet", "sample", 0, [group])
    table = read_samples([tmp_path], ["text"], why="the test", optional=["messages"])
    assert [g.prompt.messages[0]["content"] for g in table] == ["long", "short"]


def test_policies_in_words(tmp_path) -> None:
    sample = Sample((1,), (-1.0,), "x", "eos")
    group = Group(Prompt("p", "x"), (1,), (sample, replace(sample, policy_version=3)))
    made = [group.with_(origin=Origin("m", 0.7, truncated=True)), group.with_(origin=Origin("n"))]
    write_groups(tmp_path / "a.parquet", "train", 1, [made[0]])
    write_groups(tmp_path / "b.parquet", "train", 1, [made[1]] * 2, [(0, 0), (0, 2)])
    assert read_samples([tmp_path], [], why="the test").policies() == [
        "m at temperature 0.7, truncated",
        "m after 3 updates at temperature 0.7, truncated",
        "n at temperature 1",
        "n after 3 updates at temperature 1",
    ]


def test_what_is_right_is_said_once(tmp_path) -> None:
    """By the caller, else by the file, else 1."""
    sample = Sample((1,), (-1.0,), "x", "eos")
    group = Group(Prompt("p", "x"), (1,), (sample,) * 2, (Score(0.5), Score(1.0)), right_at=0.4)
    write_groups(tmp_path / "ours.parquet", "sample", 0, [group])
    rows = [{"prompt": "x", "text": "a", "reward": reward} for reward in (0, 1)]
    theirs = write(tmp_path / "theirs.parquet", rows)
    for path, right_at, right in [
        (tmp_path / "ours.parquet", None, (True, True)),
        (tmp_path / "ours.parquet", 0.6, (False, True)),
        (theirs, None, (False, True)),
        (theirs, 0.0, (True, True)),
    ]:
        (found,) = read_samples([path], [], why="the test", right_at=right_at)
        assert found.right == right


# files of others


THREE = {"prompt": ["a", "b", "a"], "text": ["x", "y", "z"], "reward": [1.0, 0.5, 0.0]}
IDS = ["7", "8", "7"]
FOREIGN: dict[str, dict[str, Any]] = {
    "only prompt, text and reward": {},
    "whole numbers for ids": {"prompt_id": pa.array([7, 8, 7])},
    "large strings": {
        "prompt_id": pa.array(IDS, pa.large_string()),
        "prompt": pa.array(THREE["prompt"], pa.large_string()),
        "text": pa.array(THREE["text"], pa.large_string()),
    },
    "string views": {"prompt_id": pa.array(IDS, pa.string_view())},
    "dictionaries": {
        "prompt_id": pa.array(IDS).cast(pa.dictionary(pa.int8(), pa.string())),
        "prompt": pa.array(THREE["prompt"]).dictionary_encode(),
        "text": pa.array(THREE["text"]).dictionary_encode(),
    },
    "dictionary of numbers": {"prompt_id": pa.array([7, 8, 7]).dictionary_encode()},
    "bytes": {"prompt_id": pa.array([i.encode() for i in IDS])},
    "rewards as text": {"reward": ["1", "0.5", "0"]},
    "rewards of half the width": {"reward": pa.array([1, 0.5, 0], pa.float32())},
    "other columns beside": {"usage": [{"tokens": 1}] * 3, "prompt_id": IDS},
}


def foreign(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({**THREE, **columns}), path)
    return path


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_others(kind, beside, tmp_path) -> None:
    path = foreign(tmp_path / "theirs.parquet", **FOREIGN[kind])
    ours = tmp_path / "ours.parquet"
    group = Group(Prompt("9", "c"), (1,), (Sample((1,), (-1.0,), "w", "eos"),), (Score(0.25),))
    write_groups(ours, "sample", 0, [group])
    paths = [ours, path] if beside else [path]
    found = read_samples(paths, ["prompt", "text", "reward"], why="the test")
    texts = [(g.prompt.text, [d.text for d in g.samples], g.values) for g in found]
    expected = [("a", ["x", "z"], (1.0, 0.0)), ("b", ["y"], (0.5,))]
    assert texts == ([("c", ["w"], (0.25,))] if beside else []) + expected
    named = ["7", "8"] if "prompt_id" in FOREIGN[kind] else ["a", "b"]
    assert [g.prompt.id for g in found][beside:] == named
    assert [d.length for g in found for d in g.samples] == [1] * (3 + beside)


def test_rewards_that_are_yes_or_no(tmp_path) -> None:
    path = foreign(tmp_path / "d.parquet", reward=[True, False, None])
    table = read_samples([path], ["reward"], why="the test")
    assert (table.unscored(), table.values("reward")) == (1, [1.0, 0.0])


def test_a_reward_that_is_no_number_is_an_error(tmp_path) -> None:
    path = foreign(tmp_path / "d.parquet", reward=[math.nan, 1.0, math.inf])
    first, _ = read_samples([path], ["reward"], why="the test")
    assert [score.value for score in first.scores] == [None, None]
    assert "not a finite number" in first.scores[0].error


# what cannot be read


def cut(path: Path) -> Path:
    whole = foreign(path / "d.parquet").read_bytes()
    (path / "d.parquet").write_bytes(whole[: len(whole) // 2])
    return path / "d.parquet"


def bad_page(path: Path) -> Path:
    file = foreign(path / "d.parquet", text=["x" * 999, "y" * 999, "z" * 999])
    whole = bytearray(file.read_bytes())
    whole[4:40] = b"\xff" * 36  # the first column's first page; the footer is whole
    file.write_bytes(bytes(whole))
    return file


def json_file(path: Path) -> Path:
    (path / "d.parquet").write_text(json.dumps(THREE))
    return path / "d.parquet"


def unfinished(path: Path) -> Path:
    foreign(path / "d.parquet")
    (path / "config.toml").touch()
    (path / "journal.jsonl").write_text("\n")
    return path


def unfinished_after_a_file(path: Path) -> Path:
    (path / "samples").mkdir()
    foreign(path / "samples" / "part-00001.parquet")
    return unfinished(path)


def twice(path: Path) -> Path:
    foreign(path / "d.parquet")
    columns = [pa.array(["x"])] * 3
    table = pa.Table.from_arrays(columns, names=["prompt", "text", "text"])
    pq.write_table(table, path / "d.parquet")
    return path / "d.parquet"


def empty(path: Path) -> Path:
    table = pa.table({name: pa.array([], pa.string()) for name in ("prompt", "text")})
    pq.write_table(table, path / "d.parquet")
    return path / "d.parquet"


def no_name(path: Path) -> Path:
    pq.write_table(pa.table({"text": ["x"], "answer": ["y"]}), path / "d.parquet")
    return path / "d.parquet"


def no_statistics(path: Path) -> Path:
    table = pa.table({**THREE, "text": [None, "y", None]})
    pq.write_table(table, path / "d.parquet", write_statistics=False)
    return path / "d.parquet"


def preferences(path: Path) -> Path:
    pq.write_table(
        pa.table({key: ["a"] for key in ("prompt", "chosen", "rejected")}), path / "d.parquet"
    )
    return path / "d.parquet"


CONVERSATION = [[{"role": "user", "content": "a"}]] * 3
BAD = {
    "no such file": (lambda path: path / "no.parquet", "no file or folder {path}/no.parquet"),
    "a file cut in half": (cut, "{path}/d.parquet is half-written or not Parquet: "),
    "a damaged page": (bad_page, "{path}/d.parquet is half-written or not Parquet: "),
    "JSON": (
        json_file,
        "{path}/d.parquet is JSON, and samples are read from Parquet; give the .parquet file or",
    ),
    "a sample that failed": (
        lambda path: foreign(path / "d.parquet", text=["x", None, "z"]),
        "{path}/d.parquet: row 2 has a null in column text; leave out samples that failed",
    ),
    "samples that failed, without statistics": (
        no_statistics,
        "{path}/d.parquet: row 1 and 1 more have a null in column text",
    ),
    "preferences": (
        preferences,
        "{path}/d.parquet has no column text, which the test needs; it has prompt, chosen, "
        "rejected: write pairs to a .jsonl file, or a pair as two rows of one prompt, chosen as",
    ),
    "a folder without samples": (lambda path: path, "folder {path} has no .parquet file"),
    "an unfinished sample": (
        unfinished,
        "{path} is not complete; finish it with winnow sample --resume {path}",
    ),
    "an unfinished sample with a closed file": (
        unfinished_after_a_file,
        "{path} is not complete; finish it with winnow sample --resume {path}, or read {path}/samp",
    ),
    "no rows": (empty, "no samples in {path}/d.parquet"),
    "two columns of one name": (twice, "{path}/d.parquet has two columns 'text'; rename one"),
    "neither id nor prompt": (
        no_name,
        "{path}/d.parquet has no column prompt_id (or prompt), which the test needs; it has tex",
    ),
    "a missing column": (
        lambda path: foreign(path / "d.parquet").rename(path / "e.parquet"),
        "{path}/e.parquet has no column logprobs, which the test needs; it has prompt, text, rew",
    ),
    "words for rewards": (
        lambda path: foreign(path / "d.parquet", reward=["good", "bad", "ugly"]),
        "column reward of {path}/d.parquet is string, which does not convert to double; convert",
    ),
    "lists for texts": (
        lambda path: foreign(path / "d.parquet", text=[["x"], ["y"], ["z"]]),
        "column text of {path}/d.parquet is list<element: string>, which does not convert to str",
    ),
    "conversations for prompts": (
        lambda path: foreign(path / "d.parquet", prompt=CONVERSATION),
        "column prompt of {path}/d.parquet is list<element: struct<",
    ),
    "numbers of samples that are none": (
        lambda path: foreign(path / "d.parquet", sample=["first", "second", "third"]),
        "column sample of {path}/d.parquet is string, which does not convert to int32",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_read_is_one_line(what, tmp_path) -> None:
    make, says = BAD[what]
    wanted = ["text", "logprobs"] if what == "a missing column" else ["text"]
    path = make(tmp_path)
    with pytest.raises(UserError) as caught:
        read_samples([path], wanted, why="the test")
    line = str(caught.value)
    assert line.startswith("samples: " + says.format(path=tmp_path))
    assert "\n" not in line
    assert (f"or read {tmp_path}/samples" in line) == ("or read" in says)


CANNOT_BE_DRAWS = {
    "fewer tokens than ids": ({"tokens": [1] * 3, "token_ids": [[1, 2]] * 3}, "1 tokens but 2 tok"),
    "spans past the end": (
        {"tokens": [2] * 3, "version_spans": [[[2, 1]]] * 3},
        "version spans do not rise within 2 tokens: [(0, 0), (2, 1)]",
    ),
    "data that is no table": ({"data": ["[1]"] * 3}, "data is not a JSON object: '[1]'"),
    "messages that are no turns": (
        {"messages": ['[{"role": "user", "content": 7}]'] * 3},
        "has a turn 1 whose key 'content' is 7, not a text",
    ),
    "messages that are no JSON": ({"messages": ["hi"] * 3}, "messages is not a JSON list: 'hi'"),
}


@pytest.mark.parametrize("what", CANNOT_BE_DRAWS)
def test_rows_that_no_samples_can_be_made_of(what, tmp_path) -> None:
    columns, says = CANNOT_BE_DRAWS[what]
    paths = [foreign(tmp_path / "a.parquet"), foreign(tmp_path / "b.parquet", **columns)]
    paths[0].write_bytes(foreign(tmp_path / "c.parquet", prompt=["c", "d", "c"]).read_bytes())
    table = read_samples(paths, ["text"], why="the test", optional=[*columns, "prompt"])
    with pytest.raises(
        UserError, match=r"^samples: \S+b\.parquet row 1: cannot use its prompt's samples"
    ):
        list(table)
    with pytest.raises(UserError) as caught:
        table.group(2)
    assert says in str(caught.value)


def test_columns_that_differ_in_kind(tmp_path) -> None:
    """A column that is none of Winnow's, wanted by a rule, say."""
    first = foreign(tmp_path / "a.parquet", level=[1, 2, 3])
    second = foreign(tmp_path / "b.parquet", level=[[1], [2], [3]])
    with pytest.raises(
        UserError, match=r"^samples: the files' columns differ: .*level.*"
    ) as caught:
        read_samples([first, second], ["level"], why="the test")
    assert "\n" not in str(caught.value)
    number = foreign(tmp_path / "c.parquet", level=[1.5, 2.5, 3.5])
    levels = read_samples([first, number], ["level"], why="the test").values("level")
    assert sorted(levels) == [1, 1.5, 2, 2.5, 3, 3.5]


def test_nothing_is_read_twice(tmp_path) -> None:
    path = foreign(tmp_path / "d.parquet")
    for again in ([path, path], [tmp_path, path], [path, tmp_path / ".." / tmp_path.name]):
        with pytest.raises(UserError, match=r"d\.parquet is given twice; name each"):
            read_samples(again, ["text"], why="the test")


def test_which_files_of_a_folder(tmp_path) -> None:
    """Closed files of a sample, else training samples, else evaluations, else any."""
    kinds = ["x.parquet", "rollouts/eval-000000.parquet", "rollouts/train-000001.parquet"]
    kinds.append("samples/part-00001.parquet")
    for kind in kinds:
        (tmp_path / kind).parent.mkdir(exist_ok=True)
        path = foreign(tmp_path / kind)
        (path.parent / f".{path.name}.partial").write_bytes(b"half")
        assert [p.path for p in read_samples([tmp_path], [], why="the test").parts] == [path]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), min_size=1, max_size=9))
def test_gaps(tmp_path_factory, numbers) -> None:
    rows = [{"prompt": prompt, "sample": sample, "text": "x"} for prompt, sample in numbers]
    path = write(tmp_path_factory.mktemp("gaps") / "d.parquet", rows)
    broken = 0
    for prompt in {name for name, _ in numbers}:
        have = {sample for name, sample in numbers if name == prompt}
        broken += have != set(range(min(have), max(have) + 1))
    assert read_samples([path], [], why="the test").gaps() == broken


@settings(max_examples=40)
@given(st.data())
def test_a_run_folder_and_a_table_of_samples_read_the_same_groups(tmp_path_factory, data) -> None:
    store = RunStore(tmp_path_factory.mktemp("run"))
    (store.folder / "rollouts").mkdir()
    annotations = st.builds(TokenAnnotations, ref_logprobs=st.lists(FLOAT, max_size=2).map(tuple))
    written = []
    for number in range(data.draw(st.integers(1, 3))):
        one = data.draw(groups(f"{number}-"))
        weights = data.draw(st.sampled_from([(), (0.5,) * len(one.samples)]))
        known = tuple(data.draw(annotations) for _ in one.samples)
        written.append(one.with_(step=4, advantages=weights, annotations=known))
    store.write_samples("train", 4, written)
    (path,) = (store.folder / "rollouts").iterdir()
    found = list(read_samples([path], SCHEMA.names, why="the test"))
    assert found == store.groups("train", 4)
    for one, old in zip(found, written, strict=True):
        assert (one.advantages, one.step) == (old.advantages, 4)
        assert all(one.annotation(i) == old.annotation(i) for i in range(len(one.samples)))


def test_a_score_is_never_another_samples(tmp_path) -> None:
    """Of a group of which somebody took a score away, none is left, whoever reads it."""
    sample = Sample((2,), (-1.0,), "a", "eos")
    group = Group(Prompt("p", "x"), (1,), (sample,) * 2, (Score(0.5), Score(1.0)))
    store = RunStore(tmp_path)
    (tmp_path / "rollouts").mkdir()
    store.write_samples("train", 1, [group])
    (path,) = (tmp_path / "rollouts").iterdir()
    rows = pq.read_table(path).to_pylist()
    rows[0]["reward"] = None
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    assert store.groups("train", 1)[0].scores == ()
    assert read_samples([path], [], why="the test").group(0).scores == ()


@pytest.mark.parametrize(
    ("samples", "how"),
    [
        ((), ""),
        (Path("a/b"), "winnow select a/b --rule everything --out scored.parquet "),
        (["a", "b"], "winnow select a b --rule everything --out scored.parquet "),
    ],
)
def test_samples_without_a_score(tmp_path, samples, how) -> None:
    rows = [{"prompt": "p", "reward": None}, {"prompt": "p", "reward": 1.0}]
    table = read_samples([write(tmp_path / "d.parquet", rows)], [], why="the test")
    with pytest.raises(UserError) as error:
        table.need_scores(samples)
    told = f"samples: 1 of 2 samples have no score; score them with {how}--rescore REWARD"
    assert str(error.value) == told
    read_samples([write(tmp_path / "d.parquet", rows[1:])], [], why="the test").need_scores(samples)
