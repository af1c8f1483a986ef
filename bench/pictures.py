"""The pictures of the README and docs/study.md: a run in light and in dark, a study.

    python bench/pictures.py RUN_OR_STUDY [--out docs/images]

Needs what `make test-page` needs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from bench.report import browser_path
from winnow.training.report import write_report

STUDY = {"study-differences": "#differences", "study-curves": "#charts"}
"""Pictures of a study's page: a name and what is in it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of a run, or of a study")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    asked.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        (of_study if (asked.folder / "study.html").exists() else of_run)(browser, asked)
        browser.close()


def of_study(browser: Any, asked: argparse.Namespace) -> None:
    for name, part in STUDY.items():
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        page.goto((asked.folder / "study.html").resolve().as_uri())
        page.wait_for_selector("html[data-ready=true]")
        page.wait_for_timeout(800)
        page.locator(part).screenshot(path=str(asked.out / f"{name}.png"))
        page.close()


def of_run(browser: Any, asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_report([asked.folder], Path(folder) / "report.html")
        for name, scheme, section in (
            ("report", "light", "verdict"),
            ("samples", "dark", "rollouts"),
        ):
            page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready=true]")
            page.select_option("#f-shade", "logprobs")
            page.fill("#f-step", "1")  # where the model is unsure
            page.wait_for_timeout(800)
            page.evaluate(
                "id => document.getElementById(id).scrollIntoView({behavior: 'instant'})", section
            )
            page.wait_for_timeout(500)
            page.screenshot(path=str(asked.out / f"{name}.png"))
            page.close()


if __name__ == "__main__":
    main()
