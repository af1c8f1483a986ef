"""The page of a run, as the run leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kills import KillAt
from tests.reporting.page.test_html import Parsed
from tests.training.faked import settings, trained
from winnow.config.schema import from_dict
from winnow.errors import DiskError, UserError
from winnow.training import report
from winnow.training.loaded import load_run
from winnow.training.report import files_of, view_of, write_report
from winnow.training.run import result_of, run


def test_a_run_ends_with_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(tmp_path, monkeypatch)
    folder = trained({**given, "eval": {**given.get("eval", {}), "every": 2}}, tmp_path / "run")
    found = Parsed((folder / "report.html").read_text(encoding="utf-8"))
    head = found.unpacked("head")["runs"][0]
    result = result_of(folder)
    assert head["metrics"]["step"] == [1, 2, 3, 4]
    assert head["metrics"]["reward_mean"] == [row["reward_mean"] for row in result.metrics]
    assert sum(block["rows"] for block in head["blocks"]) == sum(
        len(found.unpacked(f"0/{block['name']}/texts")["text"]) for block in head["blocks"]
    )
    changed = {one["key"]: one["value"] for one in head["settings"] if one["changed"]}
    assert changed["algorithm.name"] == "rloo"
    assert changed["prompts_per_step"] == 6
    # the cells that the folder writes out are those of the row: nothing was changed by them
    assert not [key for key in changed if key.startswith("algorithm.") and key[10:] != "name"]
    assert head["again"].endswith("config.toml --out NEW")


def test_files_are_in_the_order_of_time(tmp_path: Path) -> None:
    names = ["eval-000000", "test-000000", "train-000001", "train-000002", "eval-000002"]
    (tmp_path / "rollouts").mkdir()
    for name in sorted(names):
        (tmp_path / "rollouts" / f"{name}.parquet").touch()
    found = [path.stem for path in files_of(tmp_path)]
    assert found.index("train-000002") < found.index("eval-000002")
    assert found.index("eval-000000") < found.index("train-000001") < found.index("train-000002")


def test_no_report_is_written_where_none_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained({**settings(tmp_path, monkeypatch), "report": False}, tmp_path / "run")
    assert not (folder / "report.html").exists()
    out = write_report([folder])
    assert out == folder / "report.html"
    both = write_report([folder, folder], tmp_path / "both.html")
    heads = Parsed(both.read_text(encoding="utf-8")).unpacked("head")["runs"]
    assert [head["name"] for head in heads] == ["run", "run"]


def test_a_damaged_file_is_listed_and_the_rest_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained(settings(tmp_path, monkeypatch), tmp_path / "run")
    (folder / "rollouts" / "train-000002.parquet").write_bytes(b"PAR1")
    head = Parsed(write_report([folder]).read_text(encoding="utf-8")).unpacked("head")["runs"][0]
    assert "train-000002.parquet" in head["verdict"][-1]["text"]
    names = [name for block in head["blocks"] for name, _ in block["files"]]
    assert "train-000001.parquet" in names
    assert "train-000002.parquet" not in names


def test_other_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        write_report([tmp_path / "none"])
    with pytest.raises(UserError, match="holds no samples"):
        write_report([tmp_path])
    (tmp_path / "config.toml").write_text("steps = 3")
    assert view_of(tmp_path).kind == "samples"


def test_a_page_that_cannot_be_written_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskError("No space left on device")

    monkeypatch.setattr(report, "write_text", full)
    heard = KillAt()
    result = run(from_dict(settings(tmp_path, monkeypatch)), out=tmp_path / "run", observers=heard)
    assert result.report is None
    assert len(result.metrics) == 4
    assert heard.notes[-1].startswith("report.html cannot be written; winnow report ")


@pytest.mark.parametrize("said", ["eval = 3", "[eval]\npatience = 'long'"])
def test_settings_that_no_run_has_are_named_and_the_rest_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    folder = trained(settings(tmp_path, monkeypatch), tmp_path / "run")
    (folder / "config.toml").write_text(said)
    head = Parsed(write_report([folder]).read_text(encoding="utf-8")).unpacked("head")["runs"][0]
    assert head["metrics"]["step"] == [1, 2, 3, 4]
    assert head["verdict"][-1]["text"].endswith("is not shown: config.toml.")
    with pytest.raises(UserError, match=r"config\.toml is damaged"):
        load_run(folder).checkpoint  # noqa: B018


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained(settings(tmp_path, monkeypatch), tmp_path / "run")
    row = (folder / "metrics.jsonl").read_text().splitlines()[0]
    spoilt = json.loads(row) | {"loss": float("nan"), "crc32": None}
    (folder / "metrics.jsonl").write_text(json.dumps(spoilt) + "\n")
    (folder / "config.toml").write_text("not toml [")
    head = Parsed(write_report([folder]).read_text(encoding="utf-8")).unpacked("head")["runs"][0]
    assert head["metrics"]["loss"] == [None]
    assert head["verdict"][-1]["text"].endswith("is not shown: config.toml.")
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "seconds": {"a": "b"}}) + "\n")
    with pytest.raises(UserError, match="cannot be shown: TypeError"):
        write_report([folder])
    (folder / "environment.json").write_text('{"format": 999}')
    with pytest.raises(UserError, match="format"):
        write_report([folder])
