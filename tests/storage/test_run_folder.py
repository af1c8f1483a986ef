"""The run folder: what is written is read back, and a kill or a full disk loses nothing."""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.errors import DiskError, UserError, WinnowError
from winnow.storage import atomic as disk_module
from winnow.storage.run_folder import RunStore
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
"""Half a character: some tokenizers make such text of the pieces of an emoji."""


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore.create(tmp_path / "run", "steps = 1\n", {"python": "3"})


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, hidden files and empty folders included."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=0)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def samples(sample) -> Sample:
    tokens = sample(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5))
    same = {"min_size": len(tokens), "max_size": len(tokens)}
    version = sample(st.integers(0, 2**40))
    later = sample(
        st.sets(st.integers(1, max(1, len(tokens) - 1))) if len(tokens) > 1 else st.just([])
    )
    text = sample(TEXT)
    ends = st.lists(st.integers(0, len(text)), **same).map(sorted)
    return Sample(
        token_ids=tuple(tokens),
        logprobs=tuple(sample(st.lists(FLOAT32, **same))),
        text=text,
        token_ends=tuple(sample(ends | st.just([]))),
        finish_reason=sample(st.sampled_from(["eos", "stop", "length"])),
        policy_version=version,
        entropies=tuple(sample(st.lists(FLOAT32.map(abs), **same) | st.just([]))),
        version_spans=tuple((token, version + token) for token in sorted(later)),
    )


@st.composite
def groups(sample) -> Group:
    made = tuple(sample(st.lists(samples(), min_size=1, max_size=4)))
    number = len(made)
    rewards = st.floats(-LARGEST_REWARD, LARGEST_REWARD)
    scores = st.builds(Score, rewards) | st.builds(Score.failed, TEXT)

    def each(strategy, stage: bool):
        return tuple(sample(strategy) for _ in range(number)) if stage else ()

    judged = sample(st.booleans())
    numbers = [
        st.just(()) | st.tuples(*[st.floats(allow_nan=False)] * len(one.token_ids)) for one in made
    ]
    annotations = tuple(
        TokenAnnotations(*(sample(strategy) for _ in range(4))) for strategy in numbers
    )
    return Group(
        prompt=Prompt(
            sample(TEXT), sample(TEXT), sample(st.none() | TEXT), sample(st.none() | TEXT), {"a": 1}
        ),
        prompt_ids=tuple(sample(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4))),
        samples=made,
        scores=each(scores, True),
        outcomes=each(st.builds(Outcome, st.booleans(), TEXT), judged),
        advantages=each(st.floats(allow_nan=False), judged),
        annotations=annotations if any(one != TokenAnnotations() for one in annotations) else (),
        right_at=0.5,
        step=3,
    )


class TestSamples:
    @settings(max_examples=40)
    @given(st.lists(groups(), min_size=1, max_size=3))
    def test_they_are_read_back_exactly(self, tmp_path_factory, written) -> None:
        store = RunStore.create(tmp_path_factory.mktemp("samples") / "run", "", {})
        prompts = [group.prompt for group in written]
        assert store.read_samples("train", 3, prompts, 0.5) is None
        store.write_samples("train", 3, written)
        assert store.read_samples("train", 3, prompts, 0.5) == written
        assert store.read_samples("eval", 3, prompts, 0.5) is None
        assert store.read_samples("train", 4, prompts, 0.5) is None

    def test_a_file_of_before_there_were_spans_is_read(self, store) -> None:
        group = Group(Prompt("a", "a"), (1,), (Sample((1, 2), (-1.0, -2.0), "b", "eos", 3),))
        spanned = replace(group.samples[0], version_spans=((1, 5),))
        store.write_samples("train", 1, [group.with_(samples=(spanned,))])
        assert store.groups("train", 1)[0].samples == (spanned,)
        path = store.folder / "rollouts/train-000001.parquet"
        pq.write_table(pq.read_table(path).drop_columns(["version_spans"]), path)
        assert store.groups("train", 1)[0].samples == group.samples

    def test_samples_that_cannot_be_set_aside(self, store) -> None:
        store.write_samples("train", 2, [one_group()])
        (store.folder / "superseded").touch()
        with pytest.raises(WinnowError, match=r"^cannot write .*superseded: File exists; "):
            store.set_aside(1)
        assert store.groups_sampled("train", 2) == 1

    def test_samples_that_are_set_aside_again_are_kept_too(self, store) -> None:
        group = Group(Prompt("a", "a"), (1,), (Sample((1,), (-1.0,), "b", "eos", 3),))
        for version in range(3):
            sample = replace(group.samples[0], policy_version=version)
            store.write_samples("train", 2, [group.with_(samples=(sample,))])
            store.set_aside(1)
        aside = sorted((store.folder / "superseded").iterdir())
        assert [path.name for path in aside] == [
            f"train-000002-before-1{number}.parquet" for number in (".1", ".2", "")
        ]
        found = [pq.read_table(path)["policy_version"].to_pylist() for path in aside]
        assert found == [[1], [2], [0]]

    def test_the_columns_say_what_happened(self, store) -> None:
        third = float(np.float32(1) / 3)
        group = Group(
            Prompt("p", "2 + 2", "4", "easy", {"question": "2 + 2", "day": date(2026, 11, 21)}),
            (5, 6),
            (
                Sample(
                    (7, 8), (-third, -math.inf), " 4", "eos", 2, (third, 0.0), token_ends=(1, 2)
                ),
                Sample((9,), (-1e-30,), "", "length"),
            ),
            (
                Score(0.1 + 0.2, None, (("math", 1.0), ("style", -0.5)), 1.0),
                Score.failed("it broke\nhere"),
            ),
            (Outcome(True, "survived"), Outcome(False, "verifier error: it broke\nhere")),
            (-1.5, 0.0),
            (
                TokenAnnotations((-2.0, -0.1), (0.25, 1 / 3), (0.5, 0.75), (-1.0, -2.0)),
                TokenAnnotations(),
            ),
            right_at=0.3,
            origin=Origin("m", 0.7, truncated=True),
        )
        store.write_samples("train", 12, [group])
        first, second = pq.read_table(store.folder / "rollouts/train-000012.parquet").to_pylist()
        assert first == {
            "step": 12,
            "split": "train",
            "group": 0,
            "sample": 0,
            "prompt_id": "p",
            "prompt": "2 + 2",
            "prompt_ids": [5, 6],
            "messages": None,
            "answer": "4",
            "difficulty": "easy",
            "data": '{"question": "2 + 2", "day": "2026-11-21"}',
            "text": " 4",
            "tokens": 2,
            "token_ids": [7, 8],
            "logprobs": [-third, -math.inf],
            "entropies": [third, 0.0],
            "finish_reason": "eos",
            "model": "m",
            "policy_version": 2,
            "temperature": 0.7,
            "truncated": True,
            "reward": 0.1 + 0.2,
            "error": None,
            "reward_parts": [("math", 1.0), ("style", -0.5)],
            "right_by": 1.0,
            "right_at": 0.3,
            "right": True,
            "survived": True,
            "reason": "survived",
            "advantage": -1.5,
            "ref_logprobs": [-2.0, -0.1],
            "values": [0.25, 1 / 3],
            "returns": [0.5, 0.75],
            "token_advantages": [-1.0, -2.0],
            "version_spans": None,
            "token_ends": [1, 2],
        }
        assert second["ref_logprobs"] is second["token_advantages"] is None
        assert (second["reward"], second["error"], second["right"]) == (
            None,
            "it broke\nhere",
            None,
        )
        assert (second["survived"], second["reason"]) == (False, "verifier error: it broke\nhere")
        assert second["entropies"] == []

    @pytest.mark.parametrize(
        ("text", "stored"),
        [
            ("a" + HALF, "a\ufffd"),
            (HALF + "\ude00!", "😀!"),  # the other half beside it
            ("\ude00" + HALF, "\ufffd\ufffd"),
            ("naïve 😀 \x00 \ufffd", "naïve 😀 \x00 \ufffd"),
        ],
    )
    def test_half_a_character_can_be_stored(self, store, text, stored) -> None:
        group = Group(
            Prompt(text, text, text, text),
            (1,),
            (Sample((2,), (-1.0,), text, "stop"),),
            (Score.failed(text),),
            (Outcome(False, text),),
            (0.0,),
        )
        store.write_samples("eval", 0, [group])
        (found,) = store.read_samples("eval", 0, [group.prompt], 1.0)
        sample = found.samples[0]
        assert (sample.text, sample.token_ids) == (stored, (2,))
        assert (found.scores[0].error, found.outcomes[0].reason) == (stored, stored)

    def test_prompts_that_have_changed(self, store) -> None:
        group = Group(
            Prompt("p", "old"), (1,), (Sample((2,), (-1.0,), "x", "stop"),), (Score(1.0),)
        )
        store.write_samples("train", 1, [group])
        for prompts in ([Prompt("p", "new")], [], [group.prompt] * 2):
            with pytest.raises(UserError, match=r"^resume: the prompts have changed since .*rest"):
                store.read_samples("train", 1, prompts, 1.0)

    def test_a_damaged_file(self, store) -> None:
        path = store.folder / "rollouts/train-000001.parquet"
        path.write_bytes(b"PAR1 no")
        with pytest.raises(UserError, match=r"^resume: .*train-000001\.parquet is damaged; remove"):
            store.read_samples("train", 1, [Prompt("p", "x")], 1.0)


class Killed(BaseException):
    """Stands for a kill."""


def one_group() -> Group:
    sample = Sample((2,), (-1.0,), "y", "stop")
    return Group(Prompt("p", "x"), (1,), (sample,), (Score(1.0),), step=1)


class TestWholeFiles:
    """A file appears under its name when it is whole, not before."""

    @pytest.mark.parametrize("stage", ["write", "sync", "rename"])
    def test_a_write_that_is_broken_off(self, store, monkeypatch, stage) -> None:
        before = contents(store.folder)
        real = pq.write_table

        def killed(*args, **_):
            if stage == "write":
                real(*args)  # half of it, say
            raise Killed

        if stage == "write":
            monkeypatch.setattr(pq, "write_table", killed)
        elif stage == "sync":
            monkeypatch.setattr(os, "fsync", killed)
        else:
            monkeypatch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            store.write_samples("train", 1, [one_group()])
        monkeypatch.undo()
        assert contents(store.folder) == before
        store.write_samples("train", 1, [one_group()])
        assert store.read_samples("train", 1, [one_group().prompt], 1.0) == [one_group()]

    def test_what_a_kill_left_is_written_over(self, store) -> None:
        (store.folder / "rollouts/.train-000001.parquet.partial").write_bytes(b"half")
        assert store.read_samples("train", 1, [one_group().prompt], 1.0) is None
        store.write_samples("train", 1, [one_group()])
        assert [p.name for p in (store.folder / "rollouts").iterdir()] == ["train-000001.parquet"]

    def test_a_second_write_takes_the_place_of_the_first(self, store) -> None:
        store.write_samples("train", 1, [one_group()])
        judged = one_group().with_(outcomes=(Outcome(True, "survived"),), advantages=(1.0,))
        store.write_samples("train", 1, [judged])
        assert store.read_samples("train", 1, [judged.prompt], 1.0) == [judged]

    def test_a_full_disk_is_one_line(self, store, monkeypatch) -> None:
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        store.append("metrics.jsonl", {"step": 1})
        before = contents(store.folder)
        monkeypatch.setattr(os, "fsync", full)
        attempts = (
            lambda: store.write_samples("train", 1, [one_group()]),
            lambda: store.rewind(0),
            lambda: store.keep_skipped(1, 0, [one_group()]),
            lambda: store.checkpoint(1, lambda folder: (folder / "w").write_text("w"), {}, 1),
        )
        for attempt in attempts:
            with pytest.raises(
                WinnowError, match=r"^cannot write .*: No space left .*; make room, or give perm"
            ) as e:
                attempt()
            assert "\n" not in str(e.value)
            assert e.value.exit_code == 74
        monkeypatch.undo()
        after = contents(store.folder)
        assert {k: v for k, v in after.items() if k in before} == before
        assert store.latest_checkpoint() is None


class TestLines:
    def test_rows_are_appended(self, store) -> None:
        assert store.lines("metrics.jsonl") == []
        rows = [{"step": 1, "x": 0.1 + 0.2, "y": None}, {"step": 2, "name": "😀\u2028" + HALF}]
        for row in rows:
            store.append("metrics.jsonl", row)
        assert store.lines("metrics.jsonl") == rows
        assert (store.folder / "metrics.jsonl").read_bytes().count(b"\n") == 2

    @pytest.mark.parametrize("torn", ['{"step": 3', '{"step": 3}', '{"name": "\\u00', "\0\0", "é"])
    def test_a_last_line_that_was_cut_short_is_no_row(self, store, torn) -> None:
        store.append("metrics.jsonl", {"step": 1})
        path = store.folder / "metrics.jsonl"
        path.write_bytes(path.read_bytes() + torn.encode()[:-1])
        assert store.lines("metrics.jsonl") == [{"step": 1}]
        store.rewind(1)
        store.append("metrics.jsonl", {"step": 2})
        assert store.lines("metrics.jsonl") == [{"step": 1}, {"step": 2}]

    def test_another_line_that_is_no_row_is_named(self, store) -> None:
        (store.folder / "evals.jsonl").write_text('{"step": 1}\noops\n{"step": 2}\n')
        with pytest.raises(UserError, match=r"evals\.jsonl line 2 is not JSON; fix or remove it$"):
            store.lines("evals.jsonl")

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("nested", [False, True])
    def test_what_is_not_finite_is_refused_by_name(self, store, value, nested) -> None:
        store.append("metrics.jsonl", {"step": 1})
        before = contents(store.folder)
        row = {"step": 2, "loss": {"a": value} if nested else value, "lr": 0.1}
        with pytest.raises(ValueError, match=r"^metrics\.jsonl: not finite: loss$"):
            store.append("metrics.jsonl", row)
        with pytest.raises(ValueError, match="not finite"):
            store.append("evals.jsonl", row)
        assert contents(store.folder) == before

    @pytest.mark.parametrize(("step", "left"), [(0, []), (1, [1]), (2, [1, 2]), (9, [1, 2, 3])])
    def test_rewind(self, store, step, left) -> None:
        store.append("evals.jsonl", {"step": 0})
        for number in (1, 2, 3):
            store.append("metrics.jsonl", {"step": number})
        store.append("evals.jsonl", {"step": 3})
        store.write_samples("train", 3, [one_group()])
        store.rewind(step)
        assert [row["step"] for row in store.lines("metrics.jsonl")] == left
        evals = [row["step"] for row in store.lines("evals.jsonl")]
        assert evals == ([] if step == 0 else [0, 3] if step == 9 else [0])
        assert store.read_samples("train", 3, [one_group().prompt], 1.0) is not None


def save(folder: Path) -> None:
    (folder / "weights").write_text("w")
    (folder / "inner").mkdir()
    (folder / "inner" / "more").write_text("m")


class TestCheckpoints:
    def kept(self, store) -> list[str]:
        return sorted(path.name for path in (store.folder / "checkpoints").iterdir())

    def test_the_newest_are_kept(self, store) -> None:
        assert store.latest_checkpoint() is None
        for step in (2, 4, 10, 100):  # 10 after 4: by number, not by name
            path = store.checkpoint(step, save, {"policy_version": step * 3}, keep=2)
            assert path == store.folder / "checkpoints" / f"step-{step}"
        assert self.kept(store) == ["step-10", "step-100"]
        assert store.latest_checkpoint() == (path, {"step": 100, "policy_version": 300})
        assert (path / "weights").read_text() == "w"
        assert (path / "inner/more").read_text() == "m"

    def test_one_that_was_broken_off_is_none(self, store) -> None:
        store.checkpoint(1, save, {}, keep=1)

        def killed(folder: Path) -> None:
            save(folder)
            raise Killed

        with pytest.raises(Killed):
            store.checkpoint(2, killed, {}, keep=1)
        assert len(self.kept(store)) == 2
        assert store.latest_checkpoint()[1] == {"step": 1}
        assert self.kept(store) == ["step-1"]  # a full disk needs the room
        store.checkpoint(3, save, {}, keep=1)
        assert self.kept(store) == ["step-3"]  # what was left behind is gone

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_kill_while_an_old_one_is_removed(self, store, monkeypatch, when) -> None:
        store.checkpoint(1, save, {}, keep=1)
        real = disk_module.shutil.rmtree

        def killed(path, *args, **kwargs):
            if when == "after":
                (Path(path) / "state.json").unlink()
            raise Killed

        monkeypatch.setattr(disk_module.shutil, "rmtree", killed)
        with pytest.raises(Killed):
            store.checkpoint(2, save, {}, keep=1)
        monkeypatch.setattr(disk_module.shutil, "rmtree", real)
        assert store.latest_checkpoint()[1] == {"step": 2}
        store.checkpoint(3, save, {}, keep=2)
        assert self.kept(store) == ["step-2", "step-3"]

    def test_a_folder_without_a_state_is_no_checkpoint(self, store) -> None:
        (store.folder / "checkpoints" / "step-7").mkdir()
        (store.folder / "checkpoints" / "step-x").mkdir()
        assert store.latest_checkpoint() is None
        store.checkpoint(7, save, {}, keep=1)
        assert store.latest_checkpoint()[1] == {"step": 7}

    @pytest.mark.parametrize("newest", ["linked", "dangling", "a file"])
    def test_what_is_no_folder_is_removed_as_one(self, store, tmp_path, newest) -> None:
        """A checkpoint may be moved to another disk and linked; what is there stays."""
        inside = store.folder / "checkpoints"
        for step in (1, 2):
            path, away = store.checkpoint(step, save, {}, keep=2), tmp_path / f"away-{step}"
            path.rename(away)
            path.symlink_to(away)
        if newest == "dangling":
            away.rename(tmp_path / "moved again")
        elif newest == "a file":
            path.unlink()
            path.touch()
        (inside / ".step-0.gone").symlink_to(tmp_path / "away-1")  # as an earlier version left it
        said: list[str] = []
        expected = 2 if newest == "linked" else 1
        assert store.latest_checkpoint(note=said.append)[1] == {"step": expected}
        assert ["state.json is missing" in note for note in said] == [True] * (2 - expected)
        for step in (2, 3) if newest != "linked" else (3,):
            store.checkpoint(step, save, {}, keep=1)
        assert self.kept(store) == ["step-3"]
        assert (tmp_path / "away-1" / "weights").read_text() == "w"

    def test_everything_is_on_the_disk_before_it_has_its_name(self, store, monkeypatch) -> None:
        synced: list[str] = []
        real = disk_module.sync
        monkeypatch.setattr(
            disk_module, "sync", lambda path: (synced.append(path.name), real(path))
        )
        store.checkpoint(1, save, {}, keep=1)
        end = synced.index("checkpoints")
        assert {"weights", "inner", "more", "state.json", ".step-1.partial"} <= set(synced[:end])

    @pytest.mark.parametrize("stage", ["fsync", "rename"])
    def test_a_folder_that_is_there_is_never_lost(self, tmp_path, monkeypatch, stage) -> None:
        """What cannot be written takes the place of nothing."""

        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        (tmp_path / "a").mkdir()
        (tmp_path / "a/mine").write_text("old")
        monkeypatch.setattr(*((os, "fsync") if stage == "fsync" else (Path, "rename")), full)
        with pytest.raises(WinnowError, match=r"^cannot write .*a: No space left on device; "):
            disk_module.whole_folder(tmp_path / "a", save)
        monkeypatch.undo()
        with pytest.raises(WinnowError, match=r"^cannot write .*a: .*; it is whole in .*partial$"):
            disk_module.whole_folder(tmp_path / "a", save)
        assert contents(tmp_path / "a") == {"mine": b"old"}

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
            (Exception("No space left on device (os error 28)"), "No space left on device"),
            (RuntimeError("I/O error: File too large (os error 27)"), "File too large"),
            (RuntimeError("unexpected pos 64 vs 0"), "Disk quota exceeded"),
            (RuntimeError("two shapes differ"), None),
        ],
    )
    def test_whatever_a_library_makes_of_a_full_disk(self, store, error, reason) -> None:
        """As safetensors, tokenizers and torch do; an error of another kind stays what it is."""

        def full(folder: Path) -> None:
            save(folder)
            try:
                raise OSError(errno.EDQUOT, "Disk quota exceeded")
            except OSError as first:
                error.__context__ = first if "pos" in str(error) else None
            raise error

        store.checkpoint(1, save, {}, keep=1)
        kind = type(error) if reason is None else DiskError
        with pytest.raises(kind) as caught:
            store.checkpoint(2, full, {}, keep=1)
        assert str(caught.value).startswith(
            "two shapes" if reason is None else f"cannot write {store.folder}/checkpoints/step-2: "
        )
        assert reason is None or f"step-2: {reason}; make room, or give per" in str(caught.value)
        assert self.kept(store) == ["step-1"]

    def test_an_old_one_is_away_for_good_before_anything_of_it_goes(
        self, tmp_path, monkeypatch
    ) -> None:
        told: list[str] = []
        (tmp_path / "a").mkdir()
        (tmp_path / ".a.gone/half").mkdir(parents=True)  # of a removal that was killed
        real = disk_module.shutil.rmtree
        monkeypatch.setattr(disk_module, "sync", lambda path: told.append(f"sync {path.name}"))
        monkeypatch.setattr(
            disk_module.shutil, "rmtree", lambda path, **_: (told.append(path.name), real(path))
        )
        disk_module.drop_folder(tmp_path / "a")
        assert told == [".a.gone", f"sync {tmp_path.name}", ".a.gone"]
        assert not list(tmp_path.iterdir())


class TestFolders:
    def test_a_new_one(self, tmp_path) -> None:
        folder = tmp_path / "a" / "b" / "run"
        RunStore.refuse(folder)
        assert not (tmp_path / "a").exists()
        RunStore.create(folder, "steps = 1\n", {"python": "3"})
        assert sorted(contents(folder)) == [
            "checkpoints",
            "config.toml",
            "environment.json",
            "rollouts",
        ]
        assert json.loads((folder / "environment.json").read_text()) == {"format": 1, "python": "3"}
        assert RunStore.open(folder).folder == folder

    def test_one_that_exists_is_not_touched(self, store, tmp_path) -> None:
        (tmp_path / "file").write_text("mine")
        (tmp_path / "empty").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        before = contents(tmp_path)
        for name in ("run", "file", "empty", "link"):
            with pytest.raises(UserError) as caught:
                RunStore.create(tmp_path / name, "", {})
            said = str(caught.value)
            assert said.startswith(f"out: {tmp_path / name} exists already; choose another --out")
            assert ("--resume" in said) is (name == "run")
        assert contents(tmp_path) == before

    def test_where_none_can_be_made(self, tmp_path, monkeypatch) -> None:
        (tmp_path / "file").write_text("mine")
        for folder, why in (
            (tmp_path / "file" / "run", "file is not a folder; choose another --out"),
            (tmp_path / "file" / "a" / "run", "file is not a folder"),
            (tmp_path / ("x" * 300), "File name too long"),
        ):
            with pytest.raises(UserError, match=r"^out: cannot make ") as caught:
                RunStore.refuse(folder)
            assert why in str(caught.value)
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(UserError, match=r"^out: cannot make .* cannot be written to; choose"):
            RunStore.refuse(tmp_path / "run")
        monkeypatch.undo()
        assert list(contents(tmp_path)) == ["file"]

    def test_what_is_no_run_folder_cannot_be_gone_on_with(self, tmp_path) -> None:
        for folder in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(
                UserError, match=r"^resume: .* is not a run folder \(it has no config"
            ):
                RunStore.open(folder)
        RunStore.create(tmp_path / "eval", "", {}, checkpoints=False)
        with pytest.raises(UserError, match=r"^resume: .* holds an evaluation, which cannot be"):
            RunStore.open(tmp_path / "eval")

    def test_a_batch_kept_for_inspection(self, store) -> None:
        path = store.keep_skipped(3, 1, [one_group()])
        assert path == store.folder / "skipped" / "step-000003-update-1.parquet"
        assert pq.read_table(path).num_rows == 1
