"""The page is one file, loads nothing, and holds nothing of a run as HTML."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html.parser
import json
import re
from pathlib import Path
from typing import Any

from tests.reporting.page.test_blocks import HOSTILE, group
from winnow.reporting.page.blocks import blocks_of
from winnow.reporting.page.budget import embed
from winnow.reporting.page.html import SCRIPTS, Shown, page
from winnow.reporting.page.study import STUDY_SCRIPTS
from winnow.reporting.page.view import Setting, View
from winnow.storage.schema import write_groups

WEB = Path(__file__).parents[3] / "winnow/reporting/page/web"


def hostile(folder: Path) -> Shown:
    write_groups(folder / "train-000001.parquet", "train", 1, [group(1, [HOSTILE, "b", "c"])])
    blocks, _ = blocks_of([folder / "train-000001.parquet"])
    view = View(
        name=HOSTILE,
        folder=HOSTILE,
        kind="run",
        metrics=[{"step": 1, "seconds": {HOSTILE: 1.0}}],
        settings=[Setting("reward.name", HOSTILE, "number", "{{script}}")],
        environment={HOSTILE: HOSTILE},
        again=HOSTILE,
    )
    return Shown(view, blocks, embed(blocks))


class Parsed(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: dict[str, str] = {}
        self.scripts: list[tuple[str, str]] = []
        self._part: str | None = None
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._part = dict(attrs).get("data-part") if tag == "script" else None
        self._tag = tag

    def handle_data(self, data: str) -> None:
        if self._part is not None:
            self.parts[self._part] = self.parts.get(self._part, "") + data
        elif self._tag == "script":
            self.scripts.append((self._tag, data))

    def handle_endtag(self, tag: str) -> None:
        self._part, self._tag = None, ""

    def unpacked(self, key: str) -> Any:
        return json.loads(gzip.decompress(base64.b64decode(self.parts[key])))


def test_nothing_of_a_run_is_html(tmp_path: Path) -> None:
    text = page([hostile(tmp_path)])
    found = Parsed(text)
    assert not [tag for tag, _ in found.tags if tag in ("img", "iframe", "object", "link")]
    assert not [name for _, own in found.tags for name in own if name.startswith("onerror")]
    assert "onerror=alert" not in text.replace("&lt;/script&gt;&lt;img src=x onerror=alert", "")
    head = found.unpacked("head")["runs"][0]
    assert (head["name"], head["again"], head["environment"]) == (
        HOSTILE,
        HOSTILE,
        {HOSTILE: HOSTILE},
    )
    assert head["settings"][0]["help"] == "{{script}}"
    (block,) = head["blocks"]
    assert block["files"] == [["train-000001.parquet", 3]]
    assert found.unpacked(f"0/{block['name']}/texts")["text"] == [HOSTILE, "b", "c"]


def test_it_loads_nothing(tmp_path: Path) -> None:
    found = Parsed(page([hostile(tmp_path)]))
    addresses = [own.get(name) for _, own in found.tags for name in ("src", "href", "action")]
    assert all(one is None or one.startswith("#") for one in addresses)
    (policy,) = [own["content"] for _, own in found.tags if "http-equiv" in own]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "unsafe-eval" not in policy
    (script,) = [text for tag, text in found.scripts]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    for path in WEB.iterdir():
        own = re.sub(r"https://github.com/leeoniya/uPlot", "", path.read_text(encoding="utf-8"))
        assert "http://" not in own.replace("http://www.w3.org", ""), path
        assert "https://" not in own, path


def test_our_scripts_make_no_html_of_text() -> None:
    for name in {*SCRIPTS, *STUDY_SCRIPTS} - {"uPlot"}:
        text = (WEB / f"{name}.js").read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, (name, word)
        assert "</script" not in text
        assert len(text.splitlines()) <= 300


def test_a_served_page_holds_no_data(tmp_path: Path) -> None:
    found = Parsed(page([hostile(tmp_path)], live=True))
    assert not found.parts
    assert dict(found.tags)["html"]["data-live"] == "true"


def test_the_library_comes_with_its_licence() -> None:
    assert "MIT License" in (WEB / "uPlot.LICENSE").read_text()
