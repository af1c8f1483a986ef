"""What `winnow watch` answers, asked over HTTP."""

from __future__ import annotations

import gzip
import http.client
import json
import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.page.test_blocks import group
from winnow.errors import UserError
from winnow.reporting.page.server import Watched, serve
from winnow.storage.schema import write_groups
from winnow.training.report import served_blocks, served_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run" / "rollouts").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").write_text("")
    return tmp_path / "run"


@pytest.fixture
def ask(folder: Path) -> Any:
    told: queue.Queue[str] = queue.Queue()
    watched = Watched([folder], served_of, served_blocks)
    threading.Thread(target=serve, args=(watched, 0, told.put), daemon=True).start()
    port = int(told.get(timeout=20).rpartition(":")[2].strip("/"))

    def ask(path: str, host: str = f"127.0.0.1:{port}") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    return ask


def write(folder: Path, step: int) -> None:
    path = folder / "rollouts" / f"train-{step:06d}.parquet"
    write_groups(path, "train", step, [group(step, ["a", "b"], step)])


def test_new_samples_are_served_as_they_come(folder: Path, ask: Any) -> None:
    write(folder, 1)
    before = json.loads(ask("/state")[1])
    assert json.loads(ask("/state")[1]) == before
    head = json.loads(gzip.decompress(ask("/data/head")[1]))["runs"][0]
    assert [block["rows"] for block in head["blocks"]] == [2]
    write(folder, 2)
    assert json.loads(ask("/state")[1])["mark"] != before["mark"]
    blocks = json.loads(gzip.decompress(ask("/data/head")[1]))["runs"][0]["blocks"]
    assert blocks[0]["name"] == head["blocks"][0]["name"]  # what a page has it keeps
    texts = json.loads(gzip.decompress(ask(f"/data/0/{blocks[1]['name']}/texts")[1]))
    assert texts == {"text": ["a", "b"]}


def test_only_what_is_there_is_served(folder: Path, ask: Any) -> None:
    write(folder, 1)
    assert ask("/")[0] == 200
    for path in ("/data/1/0-0/rows", "/data/0/../../rows", "/config.toml", "/data/0/x/y", "/data/"):
        assert ask(path)[0] == 404, path
    assert ask("/data/0/../texts") == (204, b"")


def test_a_block_that_is_gone_is_no_error(folder: Path, ask: Any) -> None:
    """Each new file changes the last block, and its name; a page may have the name before."""
    write(folder, 1)
    head = json.loads(gzip.decompress(ask("/data/head")[1]))["runs"][0]
    (block,) = head["blocks"]
    assert ask(f"/data/0/{block['name']}/rows")[0] == 200
    (folder / "rollouts" / "train-000001.parquet").unlink()
    assert ask(f"/data/0/{block['name']}/rows") == (204, b"")


def test_another_name_for_this_machine_is_refused(ask: Any) -> None:
    """A page elsewhere may point a name of its own at 127.0.0.1, and read the answers."""
    assert ask("/", "evil.example:8400")[0] == 403
    assert ask("/", "localhost:8400")[0] == 200


def test_a_taken_port_is_named(ask: Any, folder: Path) -> None:
    taken: queue.Queue[str] = queue.Queue()
    watched = Watched([folder], served_of, served_blocks)
    threading.Thread(target=serve, args=(watched, 0, taken.put), daemon=True).start()
    port = int(taken.get(timeout=20).rpartition(":")[2].strip("/"))
    with pytest.raises(UserError, match="--port: cannot listen"):
        serve(watched, port, taken.put)
