"""`winnow select`: scoring anew, several models, what is printed, mistakes in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import winnow
from tests.build import group
from winnow.cli import main
from winnow.errors import UserError
from winnow.evaluation.best_of import best_of
from winnow.rollouts.select import select
from winnow.storage.schema import write_groups
from winnow.types import Group, Origin, Prompt, Score


def write(folder: Path, groups: Sequence[Group], name: str = "samples.parquet") -> Path:
    path = folder / name
    write_groups(path, "sample", 0, groups)
    return path


def some(number: int = 3, model: str = "m") -> list[Group]:
    """Prompts with right, wrong and doubled answers, an error among those of each."""
    texts = ["1+1=2", "so 1 + 1 = 2", "2", "two", "4"]
    return [
        group([1, 1, 0, None, i % 2], texts=texts, lengths=[1, 2, 3, 4, 5], name=f"p{i}").with_(
            origin=Origin(model)
        )
        for i in range(number)
    ]


def length(prompt: Prompt, text: str) -> float:
    """A verifier: how long the text is, and an error where it is four."""
    if text == "4":
        raise ValueError("I do not like four")
    return float(len(text))


class Counting:
    """A ready-made reward that remembers what it was asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def score(self, items):
        self.asked += [(prompt.id, text) for prompt, text in items]
        return [Score.failed("no") if text == "4" else Score(len(text) / 2) for _, text in items]

    def close(self) -> None: ...

    def __call__(self, prompt, text):
        raise AssertionError


class TestRescoring:
    def test_it_asks_once_a_sample_and_samples_nothing(self, tmp_path, monkeypatch) -> None:
        def nobody(*_):
            raise AssertionError("something was to be sampled")

        monkeypatch.setattr("winnow.engines.factory.sampler_for", nobody)
        groups, counting, out = some(600), Counting(), tmp_path / "all.parquet"
        path = write(tmp_path, groups)
        selected = select(
            path, ["correct"], rescore_with=counting, right_at=2.0, out=out, rejected=True
        )
        asked = [(one.prompt.id, sample.text) for one in groups for sample in one.samples]
        assert counting.asked == asked  # 3,000: more than a verifier is given at a time
        before, after = (pq.read_table(p).to_pylist() for p in (path, out))
        changed = {"reward", "error", "right", "right_at", "survived", "reason"}
        for old, new in zip(before, after, strict=True):
            assert {k: v for k, v in new.items() if k not in changed} == {
                k: v for k, v in old.items() if k not in changed
            }
            failed = old["text"] == "4"
            value = None if failed else len(old["text"]) / 2
            right = None if failed else value >= 2
            assert (new["reward"], new["right"], new["right_at"]) == (value, right, 2.0)
            assert new["error"] == ("no" if failed else None)
            assert new["survived"] == bool(right)
        assert selected.survived.tolist() == [bool(row["survived"]) for row in after]
        assert selected.tallies[0].reasons == {"verifier error: no": 600}
        assert pq.read_table(path).to_pylist() == before

    def test_a_function_of_ones_own(self, tmp_path) -> None:
        """In a process of its own; what it raises stays an error."""
        path = write(tmp_path, some(2))
        selected = select(path, ["everything"], rescore_with=length)
        assert selected.scores is not None
        values = [float(len(d.text)) for one in some(2) for d in one.samples]
        values[4] = values[9] = np.nan
        np.testing.assert_array_equal(selected.scores.rewards, values)
        assert set(selected.scores.errors) == {4, 9}
        assert "I do not like four" in selected.scores.errors[4]
        assert selected.survived.tolist() == ([True] * 4 + [False]) * 2

    def test_what_was_unscored_can_be_scored(self, tmp_path) -> None:
        bare = [one.with_(scores=()) for one in some(2)]
        path, out = write(tmp_path, bare), tmp_path / "scored.parquet"
        with pytest.raises(
            UserError, match=r"^samples: 10 of 10 samples have no score; score them w"
        ):
            select(path, ["everything"])
        select(path, ["correct"], rescore_with=Counting(), right_at=0.5, out=out)
        assert pq.read_table(out)["reward"].to_pylist() == [2.5, 6, 0.5, 1.5] * 2

    def test_nothing_but_errors_is_a_mistake(self, tmp_path) -> None:
        path = write(tmp_path, [group([1], texts=["4"])])
        with pytest.raises(
            UserError, match=r"^reward: no: the reward failed on (\d+) of \1 samples$"
        ):
            select(path, ["everything"], rescore_with=Counting(), out=tmp_path / "a.jsonl")
        assert not (tmp_path / "a.jsonl").exists()

    def test_another_bound_of_what_is_right(self, tmp_path) -> None:
        made = [group([0.2, 0.5, 1, None])]
        path, out = write(tmp_path, made), tmp_path / "all.parquet"
        selected = select(path, ["correct"], right_at=0.5, out=out, rejected=True)
        assert selected.survived.tolist() == [False, True, True, False]
        written = pq.read_table(out)
        assert written["right"].to_pylist() == [False, True, True, None]
        assert written["right_at"].to_pylist() == [0.5] * 4
        assert written["reward"].to_pylist() == [0.2, 0.5, 1, None]


# Several policies

RANDOM = ["gibbs(1, 1)", "gibbs(1)", "rso(1)"]


class TestPolicies:
    @pytest.fixture
    def two(self, tmp_path) -> list[Path]:
        return [write(tmp_path, some(1, model), f"{model}.parquet") for model in ("m", "n")]

    def test_they_are_taken_as_one_only_where_asked(self, two) -> None:
        with pytest.raises(
            UserError,
            match=r"^samples: samples of 2 policies \(m at temperature 1; n at temp.*\); give",
        ):
            select(two, ["correct"])
        pooled = select(two, ["correct"], pool=True)
        assert pooled.survivors == 4
        assert pooled.notes == [
            "samples of 2 policies (m at temperature 1; n at temperature 1) are taken as one set"
        ]

    @pytest.mark.parametrize("pool", [False, True])
    @pytest.mark.parametrize("rule", RANDOM)
    def test_and_never_where_a_rule_needs_one(self, two, rule, pool) -> None:
        with pytest.raises(UserError, match=r"^samples: samples of 2 policies .* is for one; give"):
            select(two, ["everything", rule], pool=pool)

    @pytest.mark.parametrize("origin", [Origin("m", 0.5), Origin("m", truncated=True)])
    def test_a_policy_is_a_model_at_a_temperature(self, tmp_path, origin) -> None:
        groups = [*some(1), group([1], name="y").with_(origin=origin)]
        with pytest.raises(UserError, match=r"^samples: samples of 2 policies"):
            select(write(tmp_path, groups), ["correct"])


class TestOneRun:
    """The policies of a run, after each of its updates, are one set unless a rule needs one."""

    @pytest.fixture
    def run_folder(self, tmp_path) -> Path:
        (tmp_path / "run/rollouts").mkdir(parents=True)
        (tmp_path / "run/config.toml").touch()
        for step in range(1, 13):
            made = [
                group.with_(
                    step=step,
                    samples=tuple(replace(s, policy_version=step - 1) for s in group.samples),
                )
                for group in some(2)
            ]
            path = tmp_path / f"run/rollouts/train-{step:06d}.parquet"
            write_groups(path, "train", step, made)
        return tmp_path / "run"

    def test_it_is_one_set_and_a_note_says_so(self, run_folder, monkeypatch) -> None:
        monkeypatch.chdir(run_folder.parent)
        selected = select(run_folder, ["correct"])
        assert (selected.samples, selected.prompts) == (120, 2)
        assert selected.survivors == 12 * (2 + 3)
        assert selected.notes == [
            "samples of 12 policies (m at temperature 1; m after 1 update at temperature 1; "
            "m after 2 updates at temperature 1 and others) of run are taken as one set"
        ]
        files = sorted((run_folder / "rollouts").glob("*.parquet"))
        assert select(files, ["correct"]).notes == selected.notes
        assert select(files[:1], ["correct"]).notes == []

    def test_two_runs_are_not(self, run_folder, tmp_path) -> None:
        shutil.copytree(run_folder, tmp_path / "other")
        both = [run_folder, tmp_path / "other"]
        with pytest.raises(UserError, match=r"^samples: samples of 12 policies .*--pool to take"):
            select(both, ["correct"])
        (note,) = select(both, ["correct"], pool=True).notes
        assert note.endswith("and others) are taken as one set")

    def test_parquet_files_of_some_folder_are_not(self, run_folder) -> None:
        (run_folder / "config.toml").unlink()
        with pytest.raises(UserError, match="--pool to take them as one set"):
            select(run_folder, ["correct"])

    @pytest.mark.parametrize("rule", RANDOM)
    def test_nor_where_exactness_needs_one(self, run_folder, rule) -> None:
        with pytest.raises(UserError, match=r"of 12 policies .* and others\), and .* is for one;"):
            select(run_folder, [rule])

    def test_nor_where_a_curve_does(self, run_folder) -> None:
        with pytest.raises(UserError, match=r"12 policies .* do not say what n samples of one buy"):
            best_of(run_folder, 2)


# The command


def run(monkeypatch, capsys, *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["winnow", "select", *args])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        main.main()
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


MISTAKES = {
    "rule": (
        ["--rule", "corect"],
        "rule: unknown selection rule 'corect'; did you mean 'correct'?",
    ),
    "beta": (
        ["--rule", "gibbs(0)"],
        "rule: wrong value in 'gibbs(0)': beta must be above 0 and finite",
    ),
    "no beta": (["--rule", "rso"], "rule: 'rso' has the wrong arguments; rso takes (beta, k=8)"),
    "bound": (["--rule", "gibbs(1, 0.5)"], "reward 1 of prompt 'p0' is above r_max = 0.5"),
    "form": (["--form", "chat"], "--form: unknown form 'chat'; use auto, messages,"),
    "no JSON": (["--reward-options", "{a"], "--reward-options: '{a' is not JSON: "),
    "no object": (["--reward-options", "[1]"], "--reward-options: '[1]' is not a JSON object; try"),
    "no reward for them": (["--reward-options", '{"a": 1}'], "reward_options: there is no reward"),
    "unknown option": (
        ["--rescore", "exact", "--reward-options", '{"x": 1}'],
        "reward.options: unknown option 'x' of exact",
    ),
    "option that is nothing": (
        ["--rescore", "exact", "--reward-options", '{"x": null}'],
        "reward.options: must be what TOML can hold",
    ),
    "reward": (["--rescore", "nummber"], "reward: unknown reward 'nummber'; did you mean 'nu"),
    "no TOML": (
        ["--rescore", '["exact", length]'],
        "--rescore: '[\"exact\", length]' is not TOML: ",
    ),
    "one of several": (
        ["--rescore", '["exact", {name = "length"}]'],
        "reward.parts.2.options.max: length needs this option where samples are there already; set",
    ),
    "options of several": (
        ["--rescore", '["exact"]', "--reward-options", '{"x": 1}'],
        "reward_options: several rewards have options of their own; write them in each",
    ),
    "suffix": (["--out", "kept.csv"], "out: unknown kind of file 'kept.csv'; use"),
    "exists": (["--out", "there.jsonl"], "out: there.jsonl exists already; choose another --out"),
    "second exists": (
        ["--out", "new.parquet", "--out", "there.jsonl"],
        "out: there.jsonl exists already",
    ),
    "twice": (["--out", "a.jsonl", "--out", "a.jsonl"], "out: one file is named twice"),
    "below a file": (["--out", "there.jsonl/a.jsonl"], "out: cannot make there.jsonl/a.jsonl: "),
    "rejected": (
        ["--out", "a.jsonl", "--rejected"],
        "rejected: only a .parquet file holds rejected samples",
    ),
    "samples": (["no.parquet"], "samples: no file or folder no.parquet"),
    "samples before outputs": (
        ["no.parquet", "--out", "there.jsonl"],
        "samples: no file or folder no.parquet",
    ),
    "nothing kept": (
        ["--rule", "length(9, 9)", "--out", "a.jsonl", "--out", "b.parquet"],
        "out: none of 15 samples survives ((no score) rejected 3, length(low=9, high=9) rejected "
        "12), so a.jsonl is not made; loosen a rule, or",
    ),
    "no prompt kept": (
        ["--rule", "band(0.9, 1)", "--prompts", "a.jsonl", "--control"],
        "prompts: none of 15 samples survives (",
    ),
    "a pair to imitate": (
        ["--rule", "best-worst", "--out", "a.jsonl"],
        "out: best-worst keeps the worst too, which is nothing to imitate; write pairs with --form",
    ),
    "no pair": (
        ["--rule", "everything", "--out", "a.jsonl", "--form", "preference"],
        "out: 0 pairs of 3 prompts with survivors; the other 3 have no rejected sample with a",
    ),
    "pairs in Parquet": (
        ["--out", "a.parquet", "--form", "preference"],
        "form: only a .jsonl file has one, and none is to be written; name one as output, or",
    ),
    "form of nothing": (["--form", "messages"], "form: only a .jsonl file has one, and none is"),
    "control": (["--control"], "control: it is written beside a file of prompts; add --prompts"),
    "prompts": (["--prompts", "hard.parquet"], "prompts: cannot write 'hard.parquet'; use .jsonl"),
    "prompts exist": (
        ["--prompts", "there.jsonl"],
        "prompts: there.jsonl exists already; choose another --prompts",
    ),
    "control exists": (
        ["--prompts", "old.jsonl", "--control"],
        "prompts: old.control.jsonl exists already; choose another --prompts",
    ),
}


class TestCommand:
    @pytest.fixture
    def here(self, tmp_path, monkeypatch) -> Path:
        write(tmp_path, some(3))
        (tmp_path / "there.jsonl").write_text("mine\n")
        (tmp_path / "old.control.jsonl").write_text("mine\n")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_what_it_prints(self, here, monkeypatch, capsys) -> None:
        """p0: right 0 1, alike; p1: right 0 1 4, of which 0 and 1 alike; p2 as p0."""
        args = ["--rule", "correct", "--rule", "distinct", "--rule", "best(1)"]
        code, out, err = run(monkeypatch, capsys, "samples.parquet", *args, "--out", "k.parquet")
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert (code, err) == (0, "")
        assert lines == [
            "rule samples removed remaining prompts removed why",
            "(no score) 15 3 12 0 verifier error: broken",
            "correct 12 5 7 0 wrong",
            "distinct 7 3 4 0 same path",
            "best(1) 4 1 3 0 not among the best 1",
            "3 of 15 samples survive (20.0%), of 3 of 3 prompts",
            "written: k.parquet",
        ]

    def test_several_reasons_are_counted(self, here, monkeypatch, capsys) -> None:
        _, out, _ = run(monkeypatch, capsys, "samples.parquet", "--rule", "length(2, 3)")
        assert "3 x too short, 3 x too long" in out

    def test_correct_is_the_rule_without_any(self, here, monkeypatch, capsys) -> None:
        code, out, _ = run(monkeypatch, capsys, "samples.parquet", "--json")
        assert code == 0
        assert json.loads(out) == {
            "samples": 15,
            "prompts": 3,
            "survivors": 7,
            "prompts_left": 3,
            "rules": [
                {
                    "rule": "(no score)",
                    "seen": 15,
                    "removed": 3,
                    "prompts_removed": 0,
                    "reasons": {"verifier error: broken": 3},
                },
                {
                    "rule": "correct",
                    "seen": 12,
                    "removed": 5,
                    "prompts_removed": 0,
                    "reasons": {"wrong": 5},
                },
            ],
            "notes": [],
        }

    def test_notes_are_printed(self, here, monkeypatch, capsys) -> None:
        _, out, _ = run(monkeypatch, capsys, "samples.parquet", "--rule", "gibbs(0.5, 1)")
        assert "NOT exact samples from pi*: 3 samples had no score" in " ".join(out.split())

    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_a_mistake_is_one_line(self, here, monkeypatch, capsys, mistake) -> None:
        args, says = MISTAKES[mistake]
        before = {path: path.read_bytes() for path in here.iterdir()}
        code, out, err = run(monkeypatch, capsys, "samples.parquet", *args)
        assert (code, out) == (2, "")
        assert err.startswith(f"winnow: {says}") or says in err
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert {path: path.read_bytes() for path in here.iterdir()} == before

    def test_it_needs_no_model_library(self, here) -> None:
        for name in ("torch", "transformers"):
            (here / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
        done = subprocess.run(
            [sys.executable, "-m", "winnow", "select", "samples.parquet", "--out", "k.jsonl"],
            env={**os.environ, "PYTHONPATH": str(here)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len((here / "k.jsonl").read_text().splitlines()) == 7


def test_from_python(tmp_path) -> None:
    path = write(tmp_path, some(1))
    assert winnow.select(path).survivors == winnow.select([path], "correct").survivors == 2
    with pytest.raises(UserError, match=r"^rule: none is given; give at least one"):
        winnow.select(path, [])
    with pytest.raises(UserError, match=r"^form: unknown form 'chat'; use auto, messages, prompt"):
        winnow.select(path, form="chat", out=tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("option", "value"), [("--seed", "-1"), ("--seed", str(2**63)), ("--right-at", "nan")]
)
def test_an_option_out_of_its_range_is_one_line(option, value, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["winnow", "select", "samples.parquet", option, value])
    with pytest.raises(SystemExit) as end:
        main.main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("winnow: ")
    assert said.count("\n") == 1
    assert option in said
