"""`load_run`: what a folder holds, read back by other means than the files were written with."""

from __future__ import annotations

import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

import winnow
from tests.training import faked
from winnow.config.schema import from_dict
from winnow.errors import UserError
from winnow.evaluation.held_out import run_evaluation
from winnow.reporting.notebook import run_html
from winnow.reporting.observer import Observers
from winnow.rollouts.collect import run_sample
from winnow.training import loaded
from winnow.training.run import result_of


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return faked.settings(tmp_path, monkeypatch)


@pytest.fixture
def run(given: dict[str, Any], tmp_path: Path) -> winnow.Run:
    return winnow.load_run(faked.trained(given, tmp_path / "run"))


def rows(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "crc32"} for row in found]


def test_a_finished_run(run: winnow.Run) -> None:
    assert run.metrics == rows(run.folder / "metrics.jsonl")
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    assert run.evaluations == rows(run.folder / "evals.jsonl")
    assert [row["step"] for row in run.evaluations] == [0, 2, 4]
    assert run.config == tomllib.loads((run.folder / "config.toml").read_text())
    assert run.config["steps"] == 4
    assert run.environment["device"] == "nowhere"
    assert run.checkpoint == run.folder / "checkpoints/step-4"
    assert run.alarms == []
    (run.folder / "alarms.jsonl").write_text('{"step": 3, "alarm": "x"}\n{"st')
    assert run.alarms == [{"step": 3, "alarm": "x"}]


def test_the_memory_is_in_every_row(run: winnow.Run) -> None:
    """This process holds numpy and more; the fake engine has no device that counts."""
    assert all(0.01 < row["memory_host_gib"] < 1000 for row in run.metrics)
    assert {row["memory_device_gib"] for row in run.metrics} == {None}
    manual = Path(__file__).parents[2] / "docs/metrics.md"
    assert {"`memory_host_gib`", "`memory_device_gib`"} <= set(manual.read_text().split())


def test_its_samples_are_groups_step_by_step(run: winnow.Run) -> None:
    """6 prompts a training step, 4 held out at steps 0, 2 and 4; all of them by the files."""
    assert [group.step for group in run.samples(split="train")] == [1] * 6 + [2] * 6 + [3] * 6 + [
        4
    ] * 6
    assert len(list(run.samples())) == 4 * 6 + 3 * 4
    assert len(list(run.samples(step=2))) == 6 + 4
    assert list(run.samples(step=1, split="eval")) == list(run.samples(9)) == []
    written = pq.read_table(run.folder / "rollouts/train-000003.parquet").to_pylist()
    read = list(run.samples(3, "train"))
    assert [s.text for group in read for s in group.samples] == [row["text"] for row in written]
    assert [s.value for group in read for s in group.scores] == [row["reward"] for row in written]
    assert [a for group in read for a in group.advantages] == [row["advantage"] for row in written]
    with pytest.raises(UserError, match=r"^split: unknown split 'trian'"):
        run.samples(split="trian")
    for foreign in ("train-000002-copy.parquet", "train-x.parquet", "mine.parquet"):
        (run.folder / "rollouts" / foreign).write_text("not Winnow's")
    assert len(list(run.samples())) == 4 * 6 + 3 * 4


def test_a_run_under_way_is_what_there_is_of_it(run: winnow.Run) -> None:
    """A line that is being written, no final checkpoint yet, and a step that comes later."""
    path = run.folder / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:2]) + whole[2][:40])
    assert [row["step"] for row in run.metrics] == [1, 2]
    path.write_text("".join(whole))
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    (run.folder / "checkpoints/step-4").rename(run.folder / "away")
    assert run.checkpoint == run.folder / "checkpoints/step-2"
    (run.folder / "checkpoints/step-2").rename(run.folder / "away-2")
    assert run.checkpoint is None
    path.write_text("".join([whole[0], whole[1].replace('"step": 2', '"step": 7'), whole[2]]))
    with pytest.raises(UserError, match=r"metrics.jsonl line 2 is damaged \(its crc32 differs\)"):
        _ = run.metrics


def test_damage_names_the_file(run: winnow.Run) -> None:
    path = run.folder / "rollouts/eval-000002.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    assert len(list(run.samples(split="train"))) == 24
    with pytest.raises(UserError, match=r"^\S*eval-000002.parquet is damaged"):
        list(run.samples(split="eval"))
    (run.folder / "environment.json").write_text("[]")
    with pytest.raises(UserError, match=r"environment.json is damaged \(it is not a JSON object"):
        _ = run.environment
    (run.folder / "config.toml").write_text("steps = ")
    with pytest.raises(UserError, match=r"^cannot read \S*config.toml: "):
        _ = run.config


def test_an_evaluation_has_no_steps(given: dict[str, Any], tmp_path: Path) -> None:
    config = from_dict(given)
    monitored = run_evaluation(config, out=tmp_path / "e", observers=Observers())
    run = winnow.load_run(tmp_path / "e")
    assert (run.metrics, run.checkpoint) == ([], None)
    assert [row["accuracy"] for row in run.evaluations] == [monitored.accuracy]
    assert {group.kind for group in run.samples()} <= {"mixed", "all-wrong", "all-right"}
    assert len(list(run.samples(split="eval"))) == 4
    assert "1 evaluation" in run._repr_html_()
    assert run.plot()._repr_png_().startswith(b"\x89PNG")


def test_a_folder_of_samples(given: dict[str, Any], tmp_path: Path) -> None:
    """Prompts for training: 12 less the 4 that are held out."""
    run_sample(from_dict(given), out=tmp_path / "s", held_out=False, observers=Observers())
    run = winnow.load_run(str(tmp_path / "s"))
    assert (run.metrics, run.evaluations, run.checkpoint) == ([], [], None)
    groups = list(run.samples())
    assert [len(group.samples) for group in groups] == [8] * 8
    assert list(run.samples(0, "sample")) == groups
    assert list(run.samples(split="train")) == list(run.samples(1)) == []
    (run.folder / "journal.jsonl").write_text("\n")  # as one that is under way
    assert list(run.samples()) == groups
    (run.folder / "samples/part-00001.parquet").unlink()
    assert list(run.samples()) == []


def test_what_is_no_run(tmp_path: Path, run: winnow.Run) -> None:
    with pytest.raises(UserError, match=r"^folder: no folder \S*there; name a folder of"):
        winnow.load_run(tmp_path / "there")
    with pytest.raises(UserError, match=r"^folder: \S+ is not a run folder \(it has no config"):
        winnow.load_run(tmp_path)
    (run.folder / "environment.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match=r"^folder: .* has format 99"):
        winnow.load_run(run.folder)


def test_a_row_of_the_frame_is_a_step(run: winnow.Run) -> None:
    pytest.importorskip("pandas")
    frame = run.frame()
    assert list(frame["step"]) == [1, 2, 3, 4]
    assert list(frame["reward_mean"]) == [row["reward_mean"] for row in run.metrics]
    assert list(frame["seconds.sample"]) == [row["seconds"]["sample"] for row in run.metrics]


def test_without_pandas_it_says_what_to_install(
    run: winnow.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^frame: data frames need pandas; pip install pandas$"):
        run.frame()


def test_the_figure_shows_the_rows(run: winnow.Run) -> None:
    reward, accuracy, kinds, entropy = run.plot().axes
    assert list(reward.lines[0].get_ydata()) == [row["reward_mean"] for row in run.metrics]
    assert list(accuracy.lines[0].get_xdata()) == [0, 2, 4]
    assert list(accuracy.lines[0].get_ydata()) == [row["accuracy"] for row in run.evaluations]
    (band,) = accuracy.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert {row["low"] for row in run.evaluations} <= set(heights)
    assert {row["high"] for row in run.evaluations} <= set(heights)
    # stacked: the highest edge of the last area is the number of prompts, all of which have a score
    assert kinds.collections[-1].get_paths()[0].vertices[:, 1].max() == 6
    assert [text.get_text() for text in kinds.get_legend().get_texts()] == [
        *("all wrong", "mixed", "all right")
    ]
    assert len(entropy.lines) == 1


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.keys: set[str] = set()
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.keys |= {key for key, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_the_html_has_the_last_ten_steps_and_nothing_that_runs() -> None:
    evil = "<script>alert(1)</script>\x1b[2J & \"'"
    steps = [
        {
            "step": n,
            "reward_mean": n / 20,
            "entropy": float("nan"),
            "samples": evil,
            "grad_norm": evil,
            "eval_accuracy": 0.5,
            "eval_low": 0.25,
            "eval_high": None,
        }
        for n in range(1, 15)
    ]
    evaluations = [
        {"step": n, "split": "eval", "accuracy": 0.5, "low": 0.25, "high": 0.75} for n in (0, 14)
    ]
    text = run_html(evil, steps, evaluations)
    assert ElementTree.fromstring(text).tag == "div"  # every tag is closed
    read = Tags(text)
    assert read.tags.count("tr") == 1 + 10
    assert set(read.tags) <= {
        *("div", "p", "b", "svg", "polygon", "polyline", "line", "text"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert not {key for key in read.keys if key.startswith("on") or key in ("href", "src")}
    assert "\x1b" not in text
    assert read.said[0].startswith("<script>alert(1)</script>\\x1b")
    first = read.said.index("held-out accuracy") + 1
    assert read.said[first : first + 2] == ["5", "0.250"]
    (around,) = re.findall(r'polygon points="(.*?)"', text)
    # the band: 0.75 and 0.25 of the height, from the left edge to the right and back
    heights = [float(point.split(",")[1]) for point in around.split()]
    assert heights[0] == heights[1] > heights[2] == heights[3]
    left, right, *back = [float(point.split(",")[0]) for point in around.split()]
    assert back == [right, left]
    assert run_html("new", [], []) == "<div><p><b>new</b> no steps yet</p></div>"


def test_a_result_shows_its_run(run: winnow.Run) -> None:
    result = result_of(run.folder)
    assert result.run == run
    assert result._repr_html_() == run._repr_html_()
    assert len(result.plot().axes) == 4
    assert result.checkpoint == run.checkpoint
