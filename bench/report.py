"""The page of a run of many samples: its size, and seconds to write, open, filter and search it.

    python bench/report.py [--samples 100000] [--tokens 64]

The run is made up (tests/big_run.py). The page is driven in a headless Chromium, each number being
the median of five pages opened anew. `make bench-report` installs what it needs but for Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.big_run import make_run
from winnow.training.report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser_path() -> str:
    """A Chromium of the system, or that named by CHROMIUM."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit("install chromium, or name one in CHROMIUM")
    return found


def measured(page: Any, act: Any, done: str) -> float:
    """Seconds from an action to an element that shows its end."""
    begin = time.perf_counter()
    act()
    page.wait_for_selector(done, timeout=120_000)
    return time.perf_counter() - begin


def once(browser: Any, path: Path) -> dict[str, float]:
    """Open the page, filter by right ones, then search their texts."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    ready = "html[data-ready=true]"
    found = {"open": measured(page, lambda: page.goto(path.as_uri()), ready)}
    page.select_option("#f-split", "")
    page.wait_for_timeout(1000)
    before = page.inner_text("#hits")
    changed = f"#hits:not(:has-text('{before}'))"
    found["filter"] = measured(page, lambda: page.select_option("#f-right", "1"), changed)
    page.wait_for_timeout(1000)
    wait = f"#hits:not(:has-text('Searching')):not(:has-text('{page.inner_text('#hits')}'))"
    found["search"] = measured(page, lambda: page.fill("#f-text", "therefore we"), wait)
    page.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=64)
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", asked.samples, asked.tokens)
        begin = time.perf_counter()
        path = write_report([run])
        written = time.perf_counter() - begin
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
            rows = [once(browser, path) for _ in range(5)]
            browser.close()
        print(f"{asked.samples} samples of {asked.tokens} tokens")
        print(f"size    {path.stat().st_size / 1e6:.1f} MB")
        print(f"write   {written:.1f} s")
        for name in rows[0]:
            print(f"{name:7} {statistics.median(row[name] for row in rows):.2f} s")


if __name__ == "__main__":
    main()
