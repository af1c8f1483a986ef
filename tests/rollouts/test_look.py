"""What `winnow show` finds, against the same filters written out over plain rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from winnow.errors import UserError
from winnow.rollouts.look import Look
from winnow.rollouts.look_filters import Filters
from winnow.rollouts.prompt_text import PromptTexts
from winnow.storage.schema import write_groups
from winnow.types import Group, Origin, Outcome, Prompt, Sample, Score

REASONS = ("wrong", "survived", "same path as sample 0", "too long")


def made(step: int, rng: np.random.Generator, prompts: int = 6, each: int = 4) -> list[Group]:
    """Groups of the same prompts at every step; prompts 0 and 1 are never right."""
    groups = []
    for place in rng.permutation(prompts).tolist():
        values = [None if rng.random() < 0.1 else float(rng.random() < 0.4) for _ in range(each)]
        if place < 2:
            values = [None if value is None else 0.0 for value in values]
        reasons = [str(rng.choice(REASONS)) for _ in values]
        groups.append(
            Group(
                Prompt(f"p{place}", f"What is {place} + {place}?", str(2 * place)),
                (1, 2),
                tuple(
                    Sample((7,), (-1.0,), f"step {step} prompt {place} sample {i}", "eos")
                    for i in range(each)
                ),
                tuple(Score.failed("broken") if v is None else Score(v) for v in values),
                tuple(Outcome(reason == "survived", reason) for reason in reasons),
                step=step,
                origin=Origin("m"),
            )
        )
    return groups


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "rollouts").mkdir()
    rng = np.random.default_rng(3)
    for step in range(1, 6):
        write_groups(folder / f"rollouts/train-{step:06d}.parquet", "train", step, made(step, rng))
    write_groups(folder / "rollouts/eval-000000.parquet", "eval", 0, made(0, rng))
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / "rollouts").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def texts(look: Look) -> list[str]:
    return [row["text"] for _, rows in look.rows(look.groups) for row in rows]


def in_order(rows: list[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in sorted(rows, key=lambda r: (r["step"], r["group"], r["sample"]))]


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        (Filters(), lambda r: r["split"] == "train"),
        (Filters(split="eval"), lambda r: r["split"] == "eval"),
        (Filters(split="all"), lambda r: True),
        (Filters(steps=(3, 3)), lambda r: r["split"] == "train" and r["step"] == 3),
        (Filters(steps=(2, 9), split="all"), lambda r: 2 <= r["step"] <= 9),
        (Filters(prompt="p4"), lambda r: r["split"] == "train" and r["prompt_id"] == "p4"),
        (Filters(prompt="IS 3 +"), lambda r: r["split"] == "train" and r["prompt_id"] == "p3"),
        (Filters(errors=True), lambda r: r["split"] == "train" and r["error"] is not None),
        (
            Filters(reason="same PATH", steps=(1, 2)),
            lambda r: r["split"] == "train" and r["step"] <= 2 and "same path" in r["reason"],
        ),
        (
            Filters(never_solved=True),
            lambda r: r["split"] == "train" and r["prompt_id"] in ("p0", "p1"),
        ),
    ],
)
def test_filters_are_what_they_say(run, filters, holds) -> None:
    expected = in_order([row for row in rows_of(run) if holds(row)])
    assert texts(look := Look(run, filters)) == expected
    assert expected
    assert look.samples == len(expected)
    assert sorted(row["text"] for row in look.each_row(look.groups)) == sorted(expected)


def test_never_solved_is_of_the_steps_that_are_looked_at(run) -> None:
    """A prompt that is solved at another step is not solved here."""
    rows = [r for r in rows_of(run) if r["split"] == "train" and r["step"] == 2]
    solved = {r["prompt_id"] for r in rows if r["right"]}
    scored = {r["prompt_id"] for r in rows if r["reward"] is not None}
    look = Look(run, Filters(steps=(2, 2), never_solved=True))
    found = {rows[0]["prompt_id"] for _, rows in look.rows(look.groups)}
    assert found == scored - solved > {"p0", "p1"}


def test_a_group_counts_all_of_its_samples(run) -> None:
    look = Look(run, Filters(errors=True))
    for group, rows in look.rows(look.groups):
        same = [
            r
            for r in rows_of(run)
            if (r["split"], r["step"], r["prompt_id"])
            == ("train", rows[0]["step"], rows[0]["prompt_id"])
        ]
        assert group.samples == len(same) == 4
        assert group.right == sum(bool(r["right"]) for r in same)
        assert group.survived == sum(r["survived"] for r in same)
        assert group.errors == sum(r["error"] is not None for r in same)


def test_an_id_goes_before_a_text(tmp_path) -> None:
    """Ids are often the numbers of rows, and numbers are in many texts."""
    sample = Sample((1,), (-1.0,), "x", "eos")
    for number, (name, text) in enumerate({"2": "one", "3": "2 + 2", "4": "12"}.items()):
        path = tmp_path / f"{number}.parquet"
        write_groups(path, "sample", 0, [Group(Prompt(name, text), (1,), (sample,))])

    def found(prompt: str) -> list[str]:
        look = Look(tmp_path, Filters(prompt=prompt))
        return [row["prompt_id"] for _, rows in look.rows(look.groups) for row in rows]

    assert found("2") == ["2"]
    assert found("2 ") == ["3"]
    assert found("1") == ["4"]


def graded(folder: Path) -> Path:
    rewards = {"a": (0.2, 0.9, 0.4), "b": (0.1, 0.3, 0.3), "c": (0.95, 0.5, None), "d": (None,)}
    groups = [
        Group(
            Prompt(name, name),
            (1,),
            tuple(Sample((1,), (-1.0,), f"{name}{i}", "eos") for i in range(len(values))),
            tuple(Score.failed("no") if v is None else Score(v) for v in values),
        )
        for name, values in rewards.items()
    ]
    write_groups(folder / "graded.parquet", "sample", 0, groups)
    return folder / "graded.parquet"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(best=True), ["c0", "a1", "b1"]),
        (Filters(worst=True), ["b0", "a0", "c1"]),
        (Filters(best=True, worst=True), ["a0", "a1", "c0", "c1", "b0", "b1"]),  # 0.7, 0.45, 0.2
    ],
)
def test_the_best_and_the_worst(tmp_path, filters, expected) -> None:
    assert texts(Look(graded(tmp_path), filters)) == expected


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (Filters(steps=(7, 8)), "no samples of these steps; there are steps 1 to 5"),
        (Filters(split="test"), "no samples of split test; there are: train (5 files), eval (1"),
        (Filters(prompt="p77"), "no prompt with that id or text; there are 6 prompts, such as 'p"),
        (Filters(prompt="p4", never_solved=True), "no prompt without a right sample: 1 prompt"),
        (Filters(reason="too short"), "no reason has 'too short' in it; there are: "),
    ],
    ids=str,
)
def test_where_nothing_is_left_it_says_what_there_is(run, filters, said) -> None:
    look = Look(run, filters)
    assert look.nothing.startswith(said)
    assert look.groups == []
    if filters.reason:
        for kind in REASONS:
            kind = kind.removesuffix(" as sample 0")
            count = sum(
                (row["reason"] or "").removesuffix(" as sample 0") == kind
                for row in rows_of(run)
                if row["split"] == "train"
            )
            assert f"{kind} ({count})" in look.nothing


def test_no_error(tmp_path) -> None:
    write_groups(
        tmp_path / "a.parquet",
        "sample",
        0,
        [Group(Prompt("a", "a"), (1,), (Sample((1,), (-1.0,), "x", "eos"),), (Score(1.0),))],
    )
    assert Look(tmp_path, Filters(errors=True)).nothing == "no error: 1 sample"


class TestFiles:
    def test_damage_is_told_and_the_rest_is_shown(self, run, tmp_path) -> None:
        """As a kill of another program, or a disk, may leave the newest file."""
        (tmp_path / "rollouts").mkdir()
        for path in (run / "rollouts").glob("train-*.parquet"):
            data = path.read_bytes()
            cut = len(data) // 2 if path.name == "train-000005.parquet" else len(data)
            (tmp_path / "rollouts" / path.name).write_bytes(data[:cut])
        look = Look(tmp_path, Filters())
        assert {row["step"] for _, rows in look.rows(look.groups) for row in rows} == {1, 2, 3, 4}
        (note,) = look.notes
        assert "rollouts/train-000005.parquet is half-written or not Parquet" in note
        with pytest.raises(UserError, match=r"^samples: .*train-000005\.parquet is half-written"):
            Look(tmp_path / "rollouts/train-000005.parquet", Filters())

    def test_damage_of_the_texts_alone(self, run, tmp_path) -> None:
        path = tmp_path / "a.parquet"
        table = pq.read_table(run / "rollouts/train-000001.parquet")
        pq.write_table(
            table, path, write_page_checksum=True, compression="none", use_dictionary=False
        )
        at = path.read_bytes().index(b"step 1 prompt 3 sample 2")
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"X")
        look = Look(path, Filters())
        assert look.samples == 24
        assert texts(look) == []
        (note,) = look.notes
        assert "its texts are left out" in note

    def test_a_folder_that_is_being_sampled(self, run, tmp_path) -> None:
        (tmp_path / "journal.jsonl").write_text('\n{"prompt": 0}\n')
        with pytest.raises(UserError, match=r"no \.parquet file yet.*winnow sample --resume"):
            Look(tmp_path, Filters())
        (tmp_path / "samples").mkdir()
        source = (run / "rollouts/train-000001.parquet").read_bytes()
        (tmp_path / "samples/part-00001.parquet").write_bytes(source)
        look = Look(tmp_path, Filters())
        assert look.samples == 24
        assert "is not complete" in look.notes[0]

    def test_files_of_others(self, tmp_path) -> None:
        pq.write_table(
            pa.table({"prompt": ["a", "a"], "text": ["x", "y"], "reward": [1.0, 0.0]}),
            tmp_path / "theirs.parquet",
        )
        (group,) = Look(tmp_path, Filters()).groups
        assert (group.samples, group.right, group.survived) == (2, 1, 0)

    def test_groups_of_two_runs_stay_apart(self, run, tmp_path) -> None:
        (tmp_path / "rollouts").mkdir()
        source = (run / "rollouts/train-000001.parquet").read_bytes()
        (tmp_path / "rollouts/train-000001.parquet").write_bytes(source)
        look = Look([run, tmp_path], Filters(steps=(1, 1)))
        assert [group.samples for group in look.groups] == [4] * 12

    def test_a_prompt_whose_samples_are_in_two_files(self, tmp_path) -> None:
        """As in a folder of samples, whose files close when they are full."""
        for number in (0, 1):
            group = Group(Prompt("a", "a"), (1,), (Sample((1,), (-1.0,), str(number), "eos"),))
            path = tmp_path / f"part-{number}.parquet"
            write_groups(path, "sample", 0, [group], [(0, number)])
        look = Look(tmp_path, Filters())
        assert texts(look) == ["0", "1"]
        assert [group.samples for group in look.groups] == [2]

    def test_what_is_wrong(self, tmp_path) -> None:
        with pytest.raises(UserError, match="no file or folder"):
            Look(tmp_path / "none", Filters())
        with pytest.raises(UserError, match=r"no \.parquet file, so it holds no samples"):
            Look(tmp_path, Filters())
        with pytest.raises(UserError, match="--split: unknown split 'dev'; use train, eval"):
            Look(tmp_path, Filters(split="dev"))
        pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
        missing = r"has no column prompt_id \(or prompt\), which show needs; it has a$"
        with pytest.raises(UserError, match=missing):
            Look(tmp_path, Filters())


def test_completions_are_read_where_they_are_shown_alone(tmp_path) -> None:
    """40 MB of them, in row groups as in a large file."""
    text = "y" * 20_000
    table = pa.table(
        {
            "prompt_id": [f"p{i // 4}" for i in range(2000)],
            "text": [text] * 2000,
            "reward": [1.0] * 2000,
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100, use_dictionary=False)
    del table
    before = pa.total_allocated_bytes()
    look = Look(tmp_path, Filters())
    assert pa.total_allocated_bytes() - before < 2_000_000
    seen = [pa.total_allocated_bytes() - before for _ in look.each_row(look.groups)]
    assert len(seen) == 2000
    assert max(seen) < 12_000_000


class TestPrompts:
    """What the model was given."""

    CHAT = '[{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+2?"}]'

    def test_a_text(self) -> None:
        row = {"prompt": "2 + 2 =", "prompt_ids": [1, 2, 3]}
        assert PromptTexts().of(row) == ("prompt (3 tokens):", "2 + 2 =")
        assert PromptTexts().of({"prompt_id": "p7"}) == (
            "prompt: its text is not in the file", "p7",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("row", "why"),
        [
            ({"model": "m"}, "its tokens are not in the file"),
            ({"prompt_ids": [1]}, "the file names no model to read its tokens with"),
            (
                {"prompt_ids": [1], "model": "/no/such/folder"},
                "the tokenizer of /no/such/folder is not on this machine",
            ),
        ],
    )
    def test_a_conversation_without_a_tokenizer(self, row, why) -> None:
        how, text = PromptTexts().of({"prompt": "2+2?", "messages": self.CHAT, **row})
        assert how.endswith(f", as messages ({why}):")
        assert text == "[system]\nBe short.\n[user]\n2+2?"

    def test_a_conversation_as_its_template_made_it(self, monkeypatch) -> None:
        def decoder(model: str) -> Any:
            assert model == "m"
            return lambda ids: "".join(map(chr, ids))

        monkeypatch.setattr("winnow.rollouts.prompt_text.decoder", decoder)
        row = {"messages": self.CHAT, "prompt_ids": list(map(ord, "<u>2+2?</u>")), "model": "m"}
        assert PromptTexts().of(row) == (
            "prompt (11 tokens), through the chat template:", "<u>2+2?</u>",
        )  # fmt: skip


def test_of_several_rewards_one_says_what_is_right(tmp_path: Path) -> None:
    """A sum of 0.9 whose deciding part is 1 is right; one of 1.2 whose part is 0 is not."""
    groups = [
        Group(
            Prompt(name, name),
            (1,),
            (Sample((7,), (-1.0,), name, "eos"),),
            (Score(total, parts=(("number", part),), right_by=part),),
            step=1,
        )
        for name, total, part in (("solved", 0.9, 1.0), ("never", 1.2, 0.0))
    ]
    (tmp_path / "rollouts").mkdir()
    write_groups(tmp_path / "rollouts/train-000001.parquet", "train", 1, groups)
    assert texts(Look([str(tmp_path)], Filters(never_solved=True))) == ["never"]
