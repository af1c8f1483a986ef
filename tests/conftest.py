from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a hub
# The models here are too small to share out; what a test starts takes as many.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import tiny
from tests.torture import table
from winnow import user_code

# A job in the background of a shell starts with this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, however slow the machine; `--hypothesis-profile=explore` has others.
unhurried = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile("suite", derandomize=True, **unhurried)
hypothesis.settings.register_profile("explore", **unhurried)
hypothesis.settings.load_profile("suite")

Reached = Callable[[str, float], float]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=1, help="runs of each test that trains")
    parser.addoption(
        "--luck", type=int, default=0, help="other samples everywhere: see tests/tiny.py"
    )
    parser.addoption(
        "--write-table", action="store_true", help="the table of `make torture` into the docs"
    )


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have that of the one that starts them
        caches = tempfile.mkdtemp(prefix="winnow-tests-")
        os.environ["XDG_CACHE_HOME"] = caches
        config.add_cleanup(lambda: shutil.rmtree(caches, ignore_errors=True))
    tiny.LUCK = config.getoption("--luck")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "run_seed" in metafunc.fixturenames:
        metafunc.parametrize("run_seed", range(metafunc.config.getoption("--seeds")))


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports from files of its own is no other's; no terminal has a width."""
    monkeypatch.delenv("COLUMNS", raising=False)
    before = set(user_code._FOLDERS)
    yield
    user_code._FOLDERS.clear()
    user_code._FOLDERS.update(before)


@pytest.fixture
def reached(record_property: Callable[[str, object], None]) -> Reached:
    """Notes a number that training reached, for the table after the tests."""

    def note(what: str, value: float) -> float:
        record_property("reached", (what, value))
        return value

    return note


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> table.Tally:
    """Counts trials for the table of `make torture`."""
    return table.Tally(record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    show_trials(terminalreporter)
    found = defaultdict(list)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == "reached":
                    found[value[0]].append(value[1])
    if found:
        terminalreporter.section("what training reached, worst and best of the seeds")
    for what, values in sorted(found.items()):
        terminalreporter.write_line(f"{what:50} {min(values):8.3f} {max(values):8.3f}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a warmed-up tiny model; not to be written to."""
    return tiny.save(tmp_path_factory.mktemp("tiny") / "model")


def show_trials(terminal: pytest.TerminalReporter) -> None:
    """The table of `make torture`, once all of the tests have counted their trials."""
    reports = [r for outcome in ("passed", "failed") for r in terminal.getreports(outcome)]
    counts = table.counted(pair for report in reports for pair in report.user_properties)
    if counts:
        terminal.section("what became of every trial")
        for line in table.lines(counts):
            terminal.write_line(line)
    if terminal.config.getoption("--write-table"):
        table.write(counts)
