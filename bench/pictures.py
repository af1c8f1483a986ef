"""The pictures of the README: the page of a run in light and in dark.

    python bench/pictures.py RUN [--out docs/images]

Needs what `make test-page` needs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench.report import browser_path
from winnow.training.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = write_report([asked.run], Path(folder) / "report.html")
        browser = driver.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
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
        browser.close()


if __name__ == "__main__":
    main()
