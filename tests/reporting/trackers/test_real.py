"""The real libraries, offline, their files read back: `make test-trackers`.

One run that was killed in step 4, after its checkpoint of step 2, and resumed in another process.
"""

from __future__ import annotations

import html
import json
import os
import re
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kills import samples
from tests.reporting.trackers.heard import evaluations_of, metrics_of, rows
from tests.reporting.trackers.run_tracked import ALARM

pytestmark = pytest.mark.trackers

HERE = Path(__file__).parents[3]
SECRET = "a-key-that-nobody-is-to-see"
COLUMNS = ["prompt", "completion", "answer", "reward", "right", "finish_reason"]


class Trap:
    """A proxy that all that would go out is sent to, from child processes too; it counts them."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.caught: list[bytes] = []
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            with connection:
                self.caught.append(connection.recv(200))

    def close(self) -> None:
        self._server.close()


def environment(folder: Path, proxy: str) -> dict[str, str]:
    kept = ("WANDB", "TRACKIO", "HF_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(kept)},
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy),
        "PYTHONPATH": str(HERE),
        "HOME": str(folder / "home"),
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_API_KEY": SECRET * 2,
        "MY_SERVER_KEY": SECRET,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tracked")
    (made / "home").mkdir()
    trap = Trap()
    for more in (["4"], []):
        command = [sys.executable, "-m", "tests.reporting.trackers.run_tracked", str(made), *more]
        done = subprocess.run(
            command, env=environment(made, trap.url), cwd=made, capture_output=True, text=True
        )
        assert done.returncode == (9 if more else 0), done.stderr
        assert done.stdout == ""
        assert done.stderr == ""
    trap.close()
    (made / "caught").write_text(repr(trap.caught))
    return made


def expected(folder: Path) -> dict[tuple[int, str], float]:
    """The numbers of the files by step and name, alarms aside."""
    found = {}
    for by_step in (metrics_of(folder / "run"), evaluations_of(folder / "run")):
        for step, values in by_step.items():
            found.update({(step, name): value for name, value in values.items()})
    return found


def compared(told: dict[tuple[int, str], float], folder: Path, digits: float) -> None:
    """All numbers are those of the files.

    Step 3 was told before the kill: only what a clock or the system says of it may differ.
    """
    result = {key: value for key, value in told.items() if key[1].startswith("result/")}
    alarms = {key: value for key, value in told.items() if key[1].startswith("alarms/")}
    rest = {k: v for k, v in told.items() if k not in result.keys() | alarms.keys()}
    files = expected(folder)
    assert rest.keys() == files.keys()
    for (step, name), value in rest.items():
        if step != 3 or not re.search("seconds|memory", name):
            assert value == pytest.approx(files[step, name], rel=digits, abs=0), (step, name)
    assert alarms == {(2, "alarms/no_signal"): 1, (5, "alarms/no_signal"): 0}
    names = {name.removeprefix("result/") for _, name in result}
    assert names == {
        *("before", "after", "gain", "gain_low", "gain_high", "reward_before", "reward_after"),
        *("reward_gain", "reward_gain_low", "reward_gain_high"),
    }
    first, last = rows(folder / "run", "evals.jsonl")[0], rows(folder / "run", "evals.jsonl")[-1]
    value = {name: value for (_, name), value in result.items()}
    assert value["result/before"] == pytest.approx(first["accuracy"], rel=digits)
    assert value["result/after"] == pytest.approx(last["accuracy"], rel=digits)
    gain = last["accuracy"] - first["accuracy"]
    assert value["result/gain"] == pytest.approx(gain, rel=max(digits, 1e-9))


def stored(folder: Path, step: int) -> list[list[Any]]:
    """What the table of an evaluation is to have, from the Parquet files."""
    own = [row for row in samples(folder / "run", "eval") if row["step"] == step]
    own.sort(key=lambda row: (row["sample"], row["group"]))
    names = ("prompt", "text", "answer", "reward", "right", "finish_reason")
    return [[row[name] for name in names] for row in own]


def settings(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "run" / "config.toml").read_text())


def test_nothing_connects_to_the_outside(folder) -> None:
    assert (folder / "caught").read_text() == "[]"
    assert not (folder / "connected").exists()


def test_no_key_is_anywhere(folder) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def left(folder: Path) -> list[str]:
    """The commands of processes whose environment names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(path.with_name("cmdline").read_text())
        except OSError:  # another's, or gone
            continue
    return found


def test_no_process_is_left(folder) -> None:
    """What measures the machine for wandb ends by itself, some seconds after the run."""
    while running := left(folder):
        assert all("wandb" in command for command in running), running
        time.sleep(0.5)


EVERYTHING = {"scalars": 0, "tensors": 0}


def accumulated(folder: Path) -> Any:
    """As TensorBoard itself reads tables."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "run/trackers/tensorboard"), EVERYTHING, EVERYTHING)
    return found.Reload()


def test_tensorboard_has_the_numbers(folder) -> None:
    """As 32-bit floats."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "run/trackers/tensorboard"), EVERYTHING).Reload()
    told: dict[tuple[int, str], float] = {}
    for tag in found.Tags()["scalars"]:
        for event in found.Scalars(tag):
            assert (event.step, tag) not in told
            told[event.step, tag] = event.value
    compared(told, folder, float(np.finfo(np.float32).eps))


def texts(folder: Path, tag: str) -> dict[int, list[list[str]]]:
    """The cells of tables by step, as TensorBoard's own page shows them."""
    from tensorboard.plugin_util import markdown_to_safe_html
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[int, list[list[str]]] = {}
    for event in accumulated(folder).Tensors(tag):
        shown = markdown_to_safe_html(make_ndarray(event.tensor_proto).item())
        lines = re.findall(r"<tr>(.*?)</tr>", shown, re.DOTALL)
        assert event.step not in found or tag == "notes"
        found[event.step] = [
            [
                html.unescape(re.sub(r"<br */?>", "\n", cell))
                for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", line, re.DOTALL)
            ]
            for line in lines
        ]
    return found


def test_tensorboard_has_tables_settings_and_alarms(folder) -> None:
    tables = texts(folder, "eval/completions")
    assert [*tables] == [0, 1, 2, 3, 4, 5, 6]
    for step, (head, *cells) in tables.items():
        assert head == COLUMNS
        assert cells == [["" if c is None else str(c) for c in row] for row in stored(folder, step)]
    ((step, (head, *told)),) = texts(folder, "settings").items()
    assert (step, head) == (0, ["setting", "value"])
    assert dict(told)["optimizer.lr"] == str(settings(folder)["optimizer"]["lr"])
    assert dict(told)["model"] == settings(folder)["model"]
    notes = texts(folder, "notes")
    assert [str(ALARM.step), f"alarm no_signal: {ALARM.text} {ALARM.advice}"] in notes[2]
    assert ["5", "alarm no_signal has cleared: some are right."] in notes[5]


def test_tensorboard_compares_settings_of_runs(folder) -> None:
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

    found = accumulated(folder).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = parse_session_start_info_plugin_data(found).hparams
    assert told["optimizer.lr"].number_value == settings(folder)["optimizer"]["lr"]
    assert told["report"].bool_value == settings(folder)["report"]
    assert told["algorithm.name"].string_value == "rloo"


@pytest.mark.parametrize(
    "text",
    ["| a | b |", "*a* _b_ `c` ~d~", "a\n- b\n1. c", "<script>x</script>", "\\( # [x](y) &amp;"],
)
def test_a_cell_is_shown_as_it_is(text) -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    from winnow.reporting.trackers.tensorboard import markdown

    shown = markdown_to_safe_html(markdown(["a"], [[text]]).encode())
    (cell,) = re.findall(r"<td>(.*?)</td>", shown, re.DOTALL)
    assert html.unescape(re.sub(r"<br */?>", "\n", cell)) == text


def records(path: Path) -> Iterator[Any]:
    """The records of an offline run: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # no header fits into the rest of a block
            at += left
            continue
        size, kind = struct.unpack("<4xHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def parts(folder: Path) -> list[list[Any]]:
    """The records of each process."""
    paths = sorted((folder / "run/trackers/wandb").glob("offline-run-*/*.wandb"))
    assert len(paths) == 2
    return [[*records(path)] for path in paths]


def items(found: Any) -> dict[str, Any]:
    """Keys and values; those of a table are one value."""
    told: dict[str, Any] = {}
    for one in found:
        first, *rest = one.nested_key or [one.key]
        if rest:
            told.setdefault(first, {})["/".join(rest)] = json.loads(one.value_json)
        else:
            told[first] = json.loads(one.value_json)
    return told


def history(folder: Path) -> list[dict[str, Any]]:
    every = [record for part in parts(folder) for record in part]
    return [items(r.history.item) for r in every if r.WhichOneof("record_type") == "history"]


def test_wandb_has_the_numbers_and_its_steps_rise(folder) -> None:
    told: dict[tuple[int, str], float] = {}
    steps = []
    for row in history(folder):
        steps.append(row["_step"])
        for name, value in row.items():
            if isinstance(value, int | float) and not name.startswith("_"):
                assert (row["_step"], name) not in told
                told[row["_step"], name] = value
    assert steps == sorted(set(steps))
    summary: dict[str, Any] = {}
    for record in parts(folder)[-1]:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    told |= {(6, name): v for name, v in summary.items() if name.startswith("result/")}
    assert told.pop((6, "result/status")) == "done"
    compared(told, folder, 1e-12)


def test_wandb_has_one_run_its_settings_tables_and_alarms(folder) -> None:
    begun = [r.run for part in parts(folder) for r in part if r.HasField("run")]
    record = json.loads((folder / "run/trackers/wandb.json").read_text())
    assert {(one.run_id, one.project, one.display_name) for one in begun} == {
        (record["id"], "winnow", "run")
    }
    config = items(begun[0].config.update)
    assert {k: v for k, v in config.items() if k != "_wandb"} == json.loads(
        json.dumps(settings(folder))
    )
    alerts = [r.alert for part in parts(folder) for r in part if r.HasField("alert")]
    assert [(one.title, one.text, one.level) for one in alerts] == [
        ("alarm no_signal", f"{ALARM.text} {ALARM.advice}", "WARN")
    ]
    seen = []
    for row in history(folder):
        if "eval/completions" in row:
            seen.append(row["_step"])
            (path,) = (folder / "run/trackers/wandb").glob(
                f"offline-run-*/files/{row['eval/completions']['path']}"
            )
            table = json.loads(path.read_text())
            assert table["columns"] == COLUMNS
            assert table["data"] == stored(folder, row["_step"])
    assert seen == [0, 1, 2, 3, 4, 5, 6]
    exits = [r.exit.exit_code for part in parts(folder) for r in part if r.HasField("exit")]
    assert exits[-1] == 0


def database(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "trackio" / "winnow.db")


def test_trackio_has_the_numbers(folder) -> None:
    told: dict[tuple[int, str], float] = {}
    runs = Counter()
    for run, name, step, text in database(folder).execute(
        "select run_id, run_name, step, metrics from metrics"
    ):
        runs[run, name] += 1
        for key, value in json.loads(text).items():
            if isinstance(value, int | float):
                assert (step, key) not in told
                told[step, key] = value
    ((_, name),) = runs
    assert name == json.loads((folder / "run/trackers/trackio.json").read_text())["name"]
    assert re.fullmatch(r"run-[0-9a-f]{6}", name)
    compared(told, folder, 1e-12)


def test_trackio_has_settings_tables_and_alarms(folder) -> None:
    base = database(folder)
    ((text,),) = base.execute("select config from configs")
    config = {k: v for k, v in json.loads(text).items() if not k.startswith("_")}
    assert config == json.loads(json.dumps(settings(folder)))
    seen = []
    for step, text in base.execute("select step, metrics from metrics order by step"):
        table = json.loads(text).get("eval/completions")
        if table is not None:
            seen.append(step)
            assert [[*row] for row in table["_value"]] == [COLUMNS] * len(table["_value"])
            assert [[*row.values()] for row in table["_value"]] == stored(folder, step)
    assert seen == [0, 1, 2, 3, 4, 5, 6]
    alerts = base.execute("select title, text, level, step from alerts").fetchall()
    assert alerts == [("alarm no_signal", f"{ALARM.text} {ALARM.advice}", "warn", 2)]
