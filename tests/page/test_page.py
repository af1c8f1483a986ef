"""The page, driven in a headless Chromium: `make test-page`.

Needs a Chromium or Chrome of the system (`apt-get install chromium`), or its path in CHROMIUM.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.report import browser_path
from tests.big_run import make_run
from tests.reporting.page.test_blocks import HOSTILE, group
from winnow.reporting.page.server import Watched, serve
from winnow.storage.lines import line_of
from winnow.storage.schema import write_groups
from winnow.training.report import served_blocks, served_of, write_report
from winnow.types import Group, Prompt, Sample, Score

pytestmark = pytest.mark.page

SHOWN = "#groups article"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        yield made
        made.close()


class Sheet:
    """A page that is open, and what went wrong in it."""

    def __init__(self, browser: Any, address: str, **how: Any) -> None:
        self.context = browser.new_context(
            viewport={"width": how.pop("width", 1280), "height": 900}, **how
        )
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: said.type == "error" and self.faults.append(said.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def ready(self) -> Any:
        self.page.wait_for_selector("html[data-ready=true]", timeout=30_000)
        return self.page

    def hits(self, text: str) -> None:
        """Wait until the number of samples that are found is this."""
        self.page.wait_for_selector(f"#hits:has-text('{text}')", timeout=30_000)


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    sheets: list[Sheet] = []

    def opened(path: Path, **how: Any) -> Sheet:
        sheets.append(Sheet(browser, path.as_uri(), **how))
        sheets[-1].ready()
        return sheets[-1]

    yield opened
    for sheet in sheets:
        assert sheet.faults == []
        assert all(one.startswith(("file:", "blob:")) for one in sheet.requests)
        assert len([one for one in sheet.requests if one.startswith("file:")]) == 1
        sheet.context.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "made-up", samples=20_480, tokens=8)


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    return write_report([run])


def number(text: str) -> int:
    return int(text.split()[0].replace(",", ""))


def test_filters_filter(opened: Any, report: Path) -> None:
    sheet = opened(report)
    page = sheet.page
    # 40 steps of 64 prompts x 8 samples to train on, two evaluations
    sheet.hits("19,968 of 20,992 samples, of 2,496 groups")
    page.fill("#f-step", "2-3, 7")
    sheet.hits("1,536 of")
    page.fill("#f-step", "")
    page.select_option("#f-split", "")
    sheet.hits("20,992 of")
    page.select_option("#f-right", "1")
    page.wait_for_timeout(500)
    right = number(page.inner_text("#hits"))
    page.select_option("#f-right", "0")
    page.wait_for_timeout(500)
    assert right + number(page.inner_text("#hits")) == 20_992
    assert page.locator(".sample.right").count() == 0
    page.click("#f-clear")
    sheet.hits("20,992 of")
    page.fill("#f-low", "0.5")
    sheet.hits(f"{right:,} of")
    page.click("#f-clear")
    page.fill("#f-prompt", "made-up/3")
    sheet.hits(f"{41 * 8} of 20,992 samples, of 41 groups")
    assert page.locator(SHOWN).count() == 8
    page.click("#next")
    page.wait_for_selector("#page-of:has-text('page 2 of 6')")


def test_text_is_searched_in_every_block(opened: Any, report: Path, run: Path) -> None:
    import pyarrow.parquet as pq

    texts = pq.read_table(run / "rollouts", columns=["text"])["text"].to_pylist()
    sheet = opened(report)
    sheet.page.select_option("#f-split", "")
    sheet.page.fill("#f-text", "THEREFORE we")
    sheet.hits(f"{sum('therefore we' in text for text in texts)} of")
    assert "therefore we" in sheet.page.locator(".sample .text").first.inner_text()


def test_plots_draw_and_zoom_together(opened: Any, report: Path) -> None:
    sheet = opened(report)
    page = sheet.page
    count = page.locator(".chart canvas").count()
    assert count >= 6
    drawn = page.eval_on_selector_all(
        ".chart canvas",
        "all => all.map(c => c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data.some(x => x > 0))",
    )
    assert drawn == [True] * count

    box = page.locator(".chart .u-over").nth(1).bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 60, steps=5)
    page.mouse.up()
    page.wait_for_selector("#zoom-out:visible")
    before = [c.screenshot() for c in page.locator(".chart .plot").all()[:3]]
    page.keyboard.press("Escape")
    page.wait_for_selector("#zoom-out", state="hidden")
    page.wait_for_timeout(200)
    after = [c.screenshot() for c in page.locator(".chart .plot").all()[:3]]
    assert all(one != other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("marks", "step", "told"),
    [
        ([0, 0.25, 0.5, 0.75], 0.25, ["0", "0.25", "0.50", "0.75"]),
        ([2.5, 5, 7.5], 2.5, ["2.5", "5.0", "7.5"]),
        ([25, 50], 25, ["25", "50"]),
        ([0.001, 0.0015], 0.0005, ["0.0010", "0.0015"]),
        ([1.25e6, 1.5e6], 2.5e5, ["1.25e+6", "1.50e+6"]),
        ([1e6, 2e6], 1e6, ["1.0e+6", "2.0e+6"]),
    ],
)
def test_the_marks_of_an_axis_are_where_they_say(
    opened: Any, report: Path, marks: list[float], step: float, told: list[str]
) -> None:
    page = opened(report).page
    assert page.evaluate("([all, step]) => all.map((x) => tick(x, step))", [marks, step]) == told


def test_prompts_of_a_single_step_are_drawn(opened: Any, tmp_path: Path) -> None:
    """Of one step there is no area between two."""
    page = opened(write_report([make_run(tmp_path / "one", samples=512, tokens=8)])).page
    drawn = page.locator(".chart", has_text="Prompts by their samples").locator("canvas")
    coloured = drawn.evaluate(
        """(canvas) => {
          const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          let count = 0;
          for (let i = 0; i < all.length; i += 4)
            count += all[i + 3] === 255 && Math.max(all[i], all[i + 1], all[i + 2])
              - Math.min(all[i], all[i + 1], all[i + 2]) > 100;
          return count;
        }"""
    )
    assert coloured > 0


def test_a_chart_is_read_by_keys(opened: Any, report: Path) -> None:
    page = opened(report).page
    chart = page.locator(".chart").nth(1)
    label = chart.get_attribute("aria-label")
    assert "at step 1" in label
    chart.focus()
    page.keyboard.press("End")
    page.wait_for_timeout(200)
    last = chart.locator(".u-legend .u-value").nth(1).inner_text()
    assert last in label
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(200)
    assert chart.locator(".u-legend .u-value").first.inner_text() not in ("--", "–")


def test_a_row_of_the_heat_map_opens_its_prompt(opened: Any, report: Path) -> None:
    sheet = opened(report)
    page = sheet.page
    page.select_option("#prompts-split", "train")
    page.select_option("#prompts-sort", "hardest")
    first = page.locator(".heat .row").first.get_attribute("aria-label")
    rates = [float(text.rstrip("%")) for text in page.locator(".heat .mean").all_inner_texts()]
    assert rates == sorted(rates)
    page.locator("#heat").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    sheet.hits(f"{39 * 8} of")
    assert "Question" in first
    assert (
        first.split(":")[0].removeprefix("…") in page.locator(f"{SHOWN} .prompt").first.inner_text()
    )


def test_a_group_opens_and_a_sample_is_copied(browser: Any, report: Path) -> None:
    sheet = Sheet(browser, report.as_uri(), permissions=["clipboard-read", "clipboard-write"])
    page = sheet.ready()
    page.fill("#f-prompt", "made-up/9")
    page.select_option("#f-right", "0")
    page.wait_for_selector("text=All 8 samples of this group")
    card = page.locator(SHOWN, has_text="All 8 samples of this group").first
    card.get_by_text("All 8 samples of this group").click()
    page.wait_for_selector(".sample.other")
    card.get_by_text("Copy as JSON").first.click()
    page.wait_for_selector("text=Copied")
    copied = json.loads(page.evaluate("() => navigator.clipboard.readText()"))
    assert copied["prompt_id"] == "made-up/9"
    assert copied["text"]
    assert sheet.faults == []
    sheet.context.close()


def test_tokens_are_shaded_where_their_ends_are_known(opened: Any, report: Path) -> None:
    page = opened(report).page
    page.select_option("#f-shade", "logprobs")
    page.wait_for_selector(".token")
    sample = page.locator(".sample").first
    assert sample.locator(".token").count() >= 8
    assert "probability" in sample.locator(".token").first.get_attribute("title")
    shaded = sample.locator(".text").inner_text()
    page.select_option("#f-shade", "")
    page.wait_for_selector(".token", state="detached")
    assert page.locator(".sample .text").first.inner_text() == shaded


def test_hostile_answers_stay_text(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    long = "x" * 1_000_000
    made = group(1, [HOSTILE, "<script>alert(2)</script>", long])
    chat = Prompt("chat", "t", messages=({"role": "<b>user</b>", "content": HOSTILE},))
    sample = Sample((1,), (-0.5,), "ok", "eos")
    other = Group(chat, (1,), (sample,), (Score.failed(HOSTILE),), step=1)
    write_groups(tmp_path / "rollouts/train-000001.parquet", "train", 1, [made, other])
    (tmp_path / "config.toml").write_text(f"model = {json.dumps(HOSTILE)}")
    (tmp_path / "metrics.jsonl").write_text(line_of({"step": 1, "reward_mean": 0.5}))
    sheet = opened(write_report([tmp_path]))
    page = sheet.page
    page.select_option("#f-sort", "order")
    page.wait_for_timeout(400)
    assert page.locator("main img, main script, main iframe").count() == 0
    shown = page.locator(".sample .text").first.inner_text()
    assert "<img src=x onerror=alert(1)>" in shown
    assert "U+202E" in shown
    assert "U+0000" in shown
    assert "U+001B" in shown
    assert "997,000 more characters" in page.locator(".sample .text").nth(2).inner_text()
    page.locator(".sample .more").first.click()
    assert "797,000 more characters" in page.locator(".sample .text").nth(2).inner_text()
    errors = page.locator("#errors-list table td.text").all_inner_texts()
    assert {text[:9] for text in errors} == {"no <b>ans", "</script>"}
    assert page.evaluate("document.body.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [360, 768, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(
    opened: Any, report: Path, width: int, scheme: str
) -> None:
    page = opened(report, width=width, color_scheme=scheme).page
    page.locator("#numbers summary").click()
    page.wait_for_selector("#numbers tbody tr")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("html").get_attribute("data-dark") == str(scheme == "dark").lower()
    assert page.locator("#numbers tbody tr").count() == 39


def test_runs_side_by_side(opened: Any, run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", samples=4_096, tokens=4, seed=1)
    (other / "config.toml").write_text('model = "other"\nsteps = 3\n')
    sheet = opened(write_report([run, other], tmp_path / "both.html"))
    page = sheet.page
    legends = page.locator(".chart").first.locator(".u-legend .u-label").all_inner_texts()
    assert legends[1:] == ["made-up", "other"]
    rows = page.locator("#settings-list tbody th").all_inner_texts()
    assert rows == ["model", "steps"]
    page.select_option("#f-run", "1")
    page.select_option("#f-split", "")
    sheet.hits("4,608 of 4,608")


def test_watching_a_run_that_goes_on(browser: Any, tmp_path: Path) -> None:
    """A real run in another process; the page shows its steps as they come, and its end."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "winnow", "train", "--out", str(out), "--set", "steps=4"]
    small = ["eval.size=4", "prompts_per_step=2", "samples_per_prompt=2", "minibatch_prompts=2"]
    for setting in small:
        command += ["--set", setting]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (out / "config.toml").is_file():
            assert process.poll() is None
            time.sleep(0.2)
        told: queue.Queue[str] = queue.Queue()
        watched = Watched([out], served_of, served_blocks)
        threading.Thread(target=serve, args=(watched, 0, told.put), daemon=True).start()
        sheet = Sheet(browser, told.get(timeout=20))
        sheet.page.wait_for_selector("#live:has-text('step')", timeout=60_000)
        sheet.page.wait_for_selector("#sentences:has-text('It is running')", timeout=60_000)
        sheet.page.wait_for_selector("#live:has-text('done')", timeout=240_000)
        sheet.page.wait_for_selector(".tile:has-text('4'):has-text('steps')", timeout=20_000)
        sheet.page.select_option("#f-split", "")
        sheet.hits("24 of 24 samples")  # 4 steps x 2 x 2, and twice 4 held out
        assert sheet.faults == []
        address = sheet.page.url
        assert all(one.startswith((address, "blob:")) for one in sheet.requests)
        sheet.context.close()
    finally:
        process.kill()
        process.wait()


def test_the_page_finds_watch_again(browser: Any, run: Path) -> None:
    """`winnow watch` is killed and begun anew on its port; the page goes on by itself."""

    def watching(port: int) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-u", "-m", "winnow", "watch", str(run), "--port", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        return process, process.stdout.readline().split()[1]

    process, address = watching(0)
    try:
        sheet = Sheet(browser, address)
        sheet.page.wait_for_selector("#hits:has-text('20,992')", timeout=60_000)
        process.kill()
        process.communicate()
        sheet.page.wait_for_selector("#live.lost:has-text('trying again')", timeout=20_000)
        process, _ = watching(int(address.rpartition(":")[2].strip("/")))
        sheet.page.wait_for_selector("#live:not(.lost):has-text('runs')", timeout=20_000)
        sheet.context.close()
    finally:
        process.kill()
        process.communicate()
