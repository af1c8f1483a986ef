"""Survivors on the disk: every column as it was, the lines that others read, or nothing at all."""

from __future__ import annotations

import datetime
import errno
import json
import math
import os
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import group
from winnow.errors import UserError, WinnowError
from winnow.rollouts import export as export_module
from winnow.rollouts.export import check_output
from winnow.rollouts.select import select
from winnow.storage.sample_table import read_samples
from winnow.storage.schema import SCHEMA, write_groups
from winnow.types import Outcome, Prompt

HALF = "\ud83d"
"""Half a character, as some tokenizers make of an emoji."""

OTHERS = {
    "note": pa.array(["naïve", None, "😀\u2028", "", "a\nb", "x"]),
    "large": pa.array([b"\x00\xff", b"", None, b"a", b"b", b"c"], pa.large_binary()),
    "vector": pa.array([[1.5, None], [], None, [math.inf], [2.0], [3.0]], pa.list_(pa.float32())),
    "struct": pa.array([{"a": 1, "b": ["x"]}, None, {"a": None}, *[{"a": 2, "b": []}] * 3]),
    "when": pa.array([datetime.datetime(2026, 11, 22, 3, 4, 5, 6)] * 6, pa.timestamp("us", "UTC")),
    "price": pa.array([Decimal("1.10"), None, *[Decimal("0.01")] * 4], pa.decimal128(9, 2)),
    "label": pa.array(["a", "b", None, "a", "b", "a"]).dictionary_encode(),
    "nan": pa.array([math.nan, -0.0, 5e-324, None, 1.0, 2.0]),
    "advantage": pa.array([0.1 + 0.2, None, -0.0, math.inf, 1.0, 2.0]),
    "logprobs": pa.array([[-1e-30], None, [], [-math.inf, -1], [0], [1]], pa.list_(pa.float32())),
}  # fmt: skip
"""Columns that selection neither reads nor knows, and two that it knows and leaves alone."""


def foreign(path: Path, **columns: object) -> pa.Table:
    """Two prompts, their samples mixed and out of order, with columns of all kinds."""
    made = {
        "prompt": ["p", "q", "p", "q", "p", "p"],
        "sample": [1, 0, 0, 1, 3, 2],
        "text": ["b", "q0", "a", "q1", "d", "c"],
        "reward": [1.0, 0.0, 0.0, 1.0, 1.0, None],
        "error": [None, None, None, None, None, "broken"],
    }
    table = pa.table({**made, **OTHERS, **columns})
    pq.write_table(table, path)
    return table


def exact(value: object) -> object:
    """A value of a column, its floats such that NaN equals NaN and -0.0 is not 0.0."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, list):
        return [exact(item) for item in value]
    return value


def same(one: pa.Table, other: pa.Table, columns: list[str]) -> bool:
    return all(
        one.schema.field(name).type == other.schema.field(name).type
        and exact(one[name].to_pylist()) == exact(other[name].to_pylist())
        for name in columns
    )


class TestParquet:
    def test_survivors_keep_every_column_to_the_bit(self, tmp_path) -> None:
        source = foreign(tmp_path / "in.parquet")
        out = tmp_path / "kept.parquet"
        selected = select(tmp_path / "in.parquet", ["correct"], out=out)
        kept = pq.read_table(out)
        assert kept["text"].to_pylist() == ["b", "q1", "d"]  # in the order of the file
        wanted = source.take([0, 3, 4])
        for name in (*OTHERS, "prompt", "text", "reward", "error"):
            assert same(kept, wanted, [name]), name
        assert kept["survived"].to_pylist() == [True] * 3
        assert kept["reason"].to_pylist() == ["survived"] * 3
        assert selected.survived.tolist() == [True, False, False, True, True, False]
        added = {"right", "right_at", "survived", "reason"}
        assert set(kept.column_names) == {*source.column_names, *added}
        assert kept.column_names[: len(source.column_names)] == source.column_names

    def test_all_samples_with_their_reasons(self, tmp_path) -> None:
        source = foreign(tmp_path / "in.parquet")
        out = tmp_path / "all.parquet"
        select(tmp_path / "in.parquet", ["correct", "best"], out=out, rejected=True, seed=3)
        written = pq.read_table(out)
        assert same(written, source, [*OTHERS, "prompt", "text", "reward", "error"])
        best = "not among the best 1"
        said = written["reason"].to_pylist()
        assert said[1:4] == ["wrong", "wrong", "survived"]
        assert {said[0], said[4]} == {"survived", best}
        assert said[5] == "verifier error: broken"
        assert written["survived"].to_pylist() == [reason == "survived" for reason in said]

    def test_earlier_outcomes_are_written_over_where_they_stood(self, tmp_path) -> None:
        old = {"survived": [False] * 6, "reason": ["of old"] * 6, "right": [False] * 6}
        source = foreign(tmp_path / "in.parquet", **old)
        select(tmp_path / "in.parquet", ["correct"], out=tmp_path / "kept.parquet")
        kept = pq.read_table(tmp_path / "kept.parquet")
        assert kept.column_names[: len(source.column_names)] == source.column_names
        assert kept["reason"].to_pylist() == ["survived"] * 3
        assert kept["right"].to_pylist() == [False] * 3  # as recorded: nothing was scored

    def test_what_winnow_wrote_is_read_back_as_it_was(self, tmp_path) -> None:
        made = group([1, 0, 1, None], texts=["a" + HALF, "b", "c😀", "d"], lengths=[1, 2, 3, 4])
        write_groups(tmp_path / "in.parquet", "sample", 0, [made])
        out = tmp_path / "all.parquet"
        select(tmp_path / "in.parquet", ["correct"], out=out, rejected=True)
        before, after = pq.read_table(tmp_path / "in.parquet"), pq.read_table(out)
        assert after.schema == SCHEMA
        assert after.drop(["survived", "reason"]) == before.drop(["survived", "reason"])
        (read,) = read_samples([out], ["text", "tokens", "token_ids", "logprobs"], why="here")
        assert [d.token_ids for d in read.samples] == [d.token_ids for d in made.samples]
        assert read.outcomes[1] == Outcome(False, "wrong")

    def test_several_files_with_different_columns(self, tmp_path) -> None:
        """A column that one file lacks is empty there; whole numbers become floats."""
        foreign(tmp_path / "1.parquet", mine=pa.array([1, 2, 3, 4, 5, 6]))
        table = {"prompt": ["p", "z"], "sample": [9, 0], "text": ["i", "z0"], "reward": [1, 1]}
        pq.write_table(pa.table({**table, "mine": [0.5, 1.5]}), tmp_path / "2.parquet")
        out = tmp_path / "kept.parquet"
        select([tmp_path / f"{i}.parquet" for i in (1, 2)], ["correct"], out=out)
        kept = pq.read_table(out)
        assert kept["text"].to_pylist() == ["b", "q1", "d", "i", "z0"]
        assert kept["mine"].to_pylist() == [1, 4, 5, 0.5, 1.5]
        assert kept["reward"].to_pylist() == [1.0] * 5
        assert kept["note"].to_pylist() == ["naïve", "", "a\nb", None, None]
        assert kept["label"].to_pylist() == ["a", "a", "b", None, None]

    def test_columns_that_cannot_be_one(self, tmp_path) -> None:
        foreign(tmp_path / "1.parquet", mine=["a"] * 6)
        foreign(tmp_path / "2.parquet", mine=[[1]] * 6)
        files, before = [tmp_path / f"{i}.parquet" for i in (1, 2)], sorted(tmp_path.iterdir())
        out = [tmp_path / "kept.jsonl", tmp_path / "kept.parquet"]
        with pytest.raises(
            UserError, match=r"^samples: column mine is list<.*> in .*2\.parquet and string els"
        ):
            select(files, ["correct"], out=out)
        assert sorted(tmp_path.iterdir()) == before

    def test_a_known_column_that_does_not_convert(self, tmp_path) -> None:
        foreign(tmp_path / "in.parquet", finish_reason=[[1]] * 6)
        with pytest.raises(
            UserError, match=r"^samples: column finish_reason of .*in\.parquet is li"
        ):
            select(tmp_path / "in.parquet", ["correct"], out=tmp_path / "kept.parquet")
        assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]

    @settings(max_examples=25)
    @given(
        sizes=st.lists(st.integers(0, 9), min_size=1, max_size=3).filter(any),
        rejected=st.booleans(),
        data=st.data(),
    )
    def test_rows_follow_their_outcomes_over_batches_and_files(
        self, tmp_path_factory, sizes, rejected, data
    ) -> None:
        """Batches of 4 rows; prompts spread over files; each row with its own outcome."""
        folder = tmp_path_factory.mktemp("rows")
        rows, number = [], 0
        for place, size in enumerate(sizes):
            prompts = data.draw(st.lists(st.sampled_from("pqr"), min_size=size, max_size=size))
            rewards = data.draw(st.lists(st.sampled_from([0, 1]), min_size=size, max_size=size))
            own = [
                {"prompt": p, "reward": r, "row": number + i}
                for i, (p, r) in enumerate(zip(prompts, rewards, strict=True))
            ]
            schema = pa.schema(
                [("prompt", pa.string()), ("reward", pa.float64()), ("row", pa.int64())]
            )
            pq.write_table(pa.Table.from_pylist(own, schema=schema), folder / f"{place}.parquet")
            rows += own
            number += size
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export_module, "_ROWS", 4)
            how = {"out": folder / "out.parquet", "rejected": rejected}
            if not rejected and not any(row["reward"] for row in rows):
                with pytest.raises(UserError, match=rf"^out: none of {len(rows)} samples survives"):
                    select(folder, ["correct", "at-most(1)"], **how)
                return
            selected = select(folder, ["correct", "at-most(1)"], **how)
        written = pq.read_table(folder / "out.parquet").to_pylist()
        assert [row["row"] for row in written] == [
            i for i, kept in enumerate(selected.survived.tolist()) if kept or rejected
        ]
        for row in written:
            source = rows[row["row"]]
            assert (row["prompt"], row["reward"]) == (source["prompt"], source["reward"])
            assert row["survived"] == bool(selected.survived[row["row"]])
            assert row["reason"] in (["survived"] if row["survived"] else ["wrong", "more than 1"])
            assert (row["reason"] == "wrong") == (source["reward"] == 0)


SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]


PLAIN = {"prompt_id": "What is 2 + 2?\n", "answer": None, "reward": 1.0}
TALK = {"prompt_id": "t", "answer": "4", "reward": 1.0}
"""What lines carry beside what was asked for."""


class TestLines:
    @pytest.fixture
    def samples(self, tmp_path) -> Path:
        """A plain prompt and a conversation; half a character, a line separator, an empty text."""
        texts = ["4\u2028 😀\n", "no", "", "five" + HALF]
        plain = group([1, 0, 1, None], texts=texts, name="What is 2 + 2?\n")
        talk = group([1], texts=["Four."]).with_(
            prompt=Prompt("t", "2 + 2?", "4", messages=tuple(SYSTEM))
        )
        write_groups(tmp_path / "in.parquet", "sample", 0, [plain, talk])
        return tmp_path / "in.parquet"

    def lines(self, samples: Path, **how: object) -> list[object]:
        out = samples.with_name("kept.jsonl")
        select(samples, ["correct"], out=out, **how)
        assert out.read_bytes().count(b"\n") == 3
        return [json.loads(line) for line in out.read_bytes().split(b"\n")[:-1]]

    @pytest.mark.parametrize("form", ["messages", "auto"])
    def test_conversations(self, samples, form) -> None:
        """Without a form too, where some prompt was one."""
        asked = {"role": "user", "content": "What is 2 + 2?\n"}
        assert self.lines(samples, form=form) == [
            {"messages": [asked, {"role": "assistant", "content": "4\u2028 😀\n"}], **PLAIN},
            {"messages": [asked, {"role": "assistant", "content": ""}], **PLAIN},
            {"messages": [*SYSTEM, {"role": "assistant", "content": "Four."}], **TALK},
        ]

    def test_prompts_and_completions(self, samples) -> None:
        """All as messages where one prompt was a conversation: a column has one type."""
        asked = [{"role": "user", "content": "What is 2 + 2?\n"}]
        said = [[{"role": "assistant", "content": text}] for text in ("4\u2028 😀\n", "", "Four.")]
        assert self.lines(samples, form="prompt-completion") == [
            {"prompt": asked, "completion": said[0], **PLAIN},
            {"prompt": asked, "completion": said[1], **PLAIN},
            {"prompt": SYSTEM, "completion": said[2], **TALK},
        ]

    def test_prompts_and_completions_as_texts(self, samples) -> None:
        table = pq.read_table(samples).slice(0, 4)
        for name, plain in (("none", table), ("lacking", table.drop(["messages"]))):
            pq.write_table(plain, samples.with_name(f"{name}.parquet"))
            for form in ("prompt-completion", "auto"):
                out = samples.with_name(f"{name}-{form}.jsonl")
                select(samples.with_name(f"{name}.parquet"), ["correct"], out=out, form=form)
                assert [json.loads(line) for line in out.read_bytes().splitlines()] == [
                    {"prompt": "What is 2 + 2?\n", "completion": "4\u2028 😀\n", **PLAIN},
                    {"prompt": "What is 2 + 2?\n", "completion": "", **PLAIN},
                ]

    def test_new_scores_are_those_that_lines_carry(self, tmp_path) -> None:
        write_groups(tmp_path / "in.parquet", "sample", 0, [group([0, 1], texts=["aa", "b"])])
        out = tmp_path / "kept.jsonl"
        select(tmp_path / "in.parquet", ["best"], out=out, rescore_with=lambda _, text: len(text))
        (line,) = out.read_text().splitlines()
        assert json.loads(line)["reward"] == 2
        assert json.loads(line)["completion"] == "aa"

    def test_they_are_in_utf_8_and_not_escaped(self, samples) -> None:
        self.lines(samples)
        assert "😀" in samples.with_name("kept.jsonl").read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("columns", "says"),
        [
            ({"text": [None]}, r"in\.parquet: row 1 has a null in column text; leave out"),
            (
                {"prompt": [None], "prompt_id": ["7"]},
                "in\\.parquet, prompt None: the prompt is null",
            ),
            ({"messages": ["{}"]}, "prompt 'p': messages is not a JSON list: '{}'; fix the file"),
            ({"messages": ["[5]"]}, "prompt 'p': has a turn 1 that is 5, not an object"),
        ],
    )
    def test_a_null_is_no_text(self, tmp_path, columns, says) -> None:
        """A prompt or a completion that is not there, and a conversation that is none."""
        columns = {"prompt": ["p"], "text": ["x"], "reward": [1.0], **columns}
        kinds = {name: pa.array(c, pa.string()) for name, c in columns.items() if name != "reward"}
        pq.write_table(pa.table({**columns, **kinds}), tmp_path / "in.parquet")
        for form in ("messages", "prompt-completion"):
            out = tmp_path / f"{form}.jsonl"
            with pytest.raises(UserError, match=rf"^samples: .*{says}"):
                select(tmp_path / "in.parquet", ["correct"], out=out, form=form)
            assert not out.exists()

    def test_tool_calls_come_back_out(self, tmp_path) -> None:
        call = {"type": "function", "function": {"name": "f", "arguments": {"city": "X"}}}
        turns = (
            {"role": "user", "content": "Warm?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "12 C", "name": "f"},
        )
        talk = group([1], texts=["No."]).with_(prompt=Prompt("t", "12 C", messages=turns))
        write_groups(tmp_path / "in.parquet", "sample", 0, [talk])
        select(tmp_path / "in.parquet", ["correct"], out=tmp_path / "kept.jsonl")
        (line,) = (tmp_path / "kept.jsonl").read_text().splitlines()
        assert json.loads(line)["messages"] == [*turns, {"role": "assistant", "content": "No."}]

    @pytest.mark.parametrize("form", ["messages", "prompt-completion"])
    def test_tools_stand_beside_the_conversation_that_has_them(self, tmp_path, form) -> None:
        """As its source has them, which may be JSON; a text went through no template."""
        tools = [{"type": "function", "function": {"name": "f"}}]
        turns = ({"role": "user", "content": "Warm?"},)
        prompts = [
            Prompt("a", "Warm?", data={"tools": tools}, messages=turns),
            Prompt("b", "Warm?", data={"tools": json.dumps(tools)}, messages=turns),
            Prompt("c", "Warm?", data={"tools": []}, messages=turns),
            Prompt("d", "Warm?", data={"tools": tools}),
        ]
        groups = [group([1], texts=["No."]).with_(prompt=prompt) for prompt in prompts]
        write_groups(tmp_path / "in.parquet", "sample", 0, groups)
        select(tmp_path / "in.parquet", ["correct"], out=tmp_path / "kept.jsonl", form=form)
        lines = map(json.loads, (tmp_path / "kept.jsonl").read_text().splitlines())
        assert [one.get("tools") for one in lines] == [tools, json.dumps(tools), None, None]

    @pytest.mark.parametrize("data", ["hello", 1, {"a": 1}])
    def test_a_column_of_another_meaning_called_data_matters_to_conversations_alone(
        self, tmp_path, data
    ) -> None:
        """In a file of others: tools are looked for where there is a template to read them."""
        rows = {"prompt": ["2?"], "text": ["4"], "reward": [1.0], "data": [data]}
        pq.write_table(pa.table(rows), tmp_path / "in.parquet")
        select(tmp_path / "in.parquet", ["correct"], out=tmp_path / "kept.jsonl")
        line = json.loads((tmp_path / "kept.jsonl").read_text())
        assert (line["prompt"], line["completion"], line["reward"]) == ("2?", "4", 1.0)
        rows["messages"] = [json.dumps([{"role": "user", "content": "2?"}])]
        pq.write_table(pa.table(rows), tmp_path / "in.parquet")
        with pytest.raises(UserError, match=r"prompt '2\?': data is not a JSON object"):
            select(tmp_path / "in.parquet", ["correct"], out=tmp_path / "more.jsonl")

    def test_a_file_without_texts_writes_nothing_at_all(self, tmp_path) -> None:
        pq.write_table(pa.table({"prompt_id": ["p"], "reward": [1.0]}), tmp_path / "in.parquet")
        out = [tmp_path / "a.parquet", tmp_path / "b.jsonl"]
        with pytest.raises(
            UserError, match=r"^samples: .*in\.parquet has no column prompt, text, which .*b\.jsonl"
        ):
            select(tmp_path / "in.parquet", ["correct"], out=out)
        assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]
        select(tmp_path / "in.parquet", ["correct"], out=out[0])
        assert pc.sum(pq.read_table(out[0])["survived"]).as_py() == 1


class TestWholeFiles:
    @pytest.fixture
    def samples(self, tmp_path) -> Path:
        write_groups(tmp_path / "in.parquet", "sample", 0, [group([1, 0])])
        return tmp_path / "in.parquet"

    @pytest.mark.parametrize("name", ["kept.parquet", "kept.jsonl"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
    @pytest.mark.parametrize("stage", ["write", "sync", "rename"])
    def test_nothing_is_left_of_a_write_that_fails(
        self, samples, monkeypatch, name, error, stage
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error(errno.ENOSPC, "No space left on device")

        if stage == "write":
            monkeypatch.setattr(export_module, "_shaped", fail)
            monkeypatch.setattr(export_module, "line", fail)
        elif stage == "sync":
            monkeypatch.setattr(os, "fsync", fail)
        else:
            monkeypatch.setattr(Path, "rename", fail)
        wanted = KeyboardInterrupt if error is KeyboardInterrupt else WinnowError
        with pytest.raises(wanted):
            select(samples, ["correct"], out=samples.with_name(name))
        assert list(samples.parent.iterdir()) == [samples]

    @pytest.mark.parametrize("name", ["kept.parquet", "kept.jsonl"])
    def test_what_is_there_is_not_touched(self, samples, name) -> None:
        path = samples.with_name(name)
        path.write_text("mine")
        new = samples.with_name("new.parquet")
        with pytest.raises(UserError, match=r"^out: .*kept\.\w+ exists already; choose another"):
            select(samples, ["correct"], out=[new, path])
        assert path.read_text() == "mine"
        assert not new.exists()

    def test_a_kind_of_file_that_is_not_known(self, samples) -> None:
        with pytest.raises(
            UserError, match=r"^out: unknown kind of file 'kept\.csv'; use \.parquet or \.jsonl$"
        ):
            select(samples, ["correct"], out="kept.csv")

    def test_folders_are_made(self, samples) -> None:
        out = [samples.parent / "new" / "deep" / name for name in ("k.parquet", "k.jsonl")]
        select(samples, ["correct"], out=out)
        assert pq.read_metadata(out[0]).num_rows == len(out[1].read_text().splitlines()) == 1

    def test_no_survivor_is_an_error_that_says_why(self, samples) -> None:
        out = [samples.with_name("k.parquet"), samples.with_name("k.jsonl")]
        with pytest.raises(
            UserError,
            match=r"^out: none of 2 samples survives \(correct rejected 1, length\(low=5, high=6\) "
            r"rejected 1\), so .*k\.parquet is not made; loosen a rule, or write no file to see",
        ):
            select(samples, ["correct", "length(5, 6)"], out=out)
        assert list(samples.parent.iterdir()) == [samples]
        assert select(samples, ["length(5, 6)"]).survivors == 0  # a report

    def test_rejected_samples_with_their_reasons_are_something(self, samples) -> None:
        out = samples.with_name("all.parquet")
        select(samples, ["length(5, 6)"], out=out, rejected=True)
        assert pq.read_table(out)["reason"].to_pylist() == ["too short"] * 2


@pytest.mark.parametrize("inside", ["samples", "rollouts"])
def test_nothing_is_written_among_the_samples_of_a_folder(tmp_path: Path, inside: str) -> None:
    """The next that reads the folder would count what was kept twice."""
    (tmp_path / inside).mkdir()
    (tmp_path / "config.toml").touch()
    check_output(tmp_path / "kept.parquet")
    for name in ("kept.parquet", "kept.jsonl"):
        with pytest.raises(UserError, match=f"^out: .*{inside} holds what was sampled"):
            check_output(tmp_path / inside / name)
