"""What the README and the docs tell one to run, run in their order: `.ci/nightly docs`.

One folder, as a reader's: the blocks of the README first, then those of the docs. Numbers may be
another processor's, so what is printed is compared with its digits masked.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs

HERE = Path(__file__).parent.parent
FILES = [HERE / "README.md", *sorted((HERE / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MAKE = "make demo"
LEFT_OUT = {
    "make install": "development: `.ci/run` does it",
    "pip install .": "into an environment of one's own: `.ci/package` does it",
    "transformers serve": "asks a hub; test_server has such a server",
    "make vllm": "3.5 GB: `.ci/nightly vllm` does it",
    "def short_and_right": "a module, not a script",
    "winnow compare STUDY.toml": "a file of one's own: tests/studies does it",
    "examples/study/run.sh": "half an hour: `make examples` runs a part of it",
    "import mlflow": "a library that no extra has",
}
SMALLER = {
    "winnow sample ": ("prompts.limit", "--set prompts.limit=40 "),
    "winnow fit-reward ": ("--prompts", "--prompts 24 "),
}
"""What would take hours is given fewer prompts: how a command says how many, and what it is given
where it does not."""
FEWER = {"prompts.limit=400": "prompts.limit=80"}
APART = ("samples.md",)
"""Files whose commands write what the README's have written already."""


def blocks(kind: str) -> list[tuple[str, str]]:
    found = []
    for path in FILES:
        for language, text in BLOCK.findall(path.read_text(encoding="utf-8")):
            if language == kind and not any(word in text for word in LEFT_OUT):
                found.append((path.name, text))
    return found


def smaller(script: str) -> str:
    lines = []
    for line in script.replace("\\\n", " ").splitlines():
        for command, (word, more) in SMALLER.items():
            if command in line and word not in line:
                line = line.replace(command, command + more)
        for many, few in FEWER.items():
            line = line.replace(many, few)
        lines.append(line)
    return "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("reader")


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(paths), "COLUMNS": "80"}
    del environment["OMP_NUM_THREADS"]  # as a reader's

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def shapes(text: str) -> set[str]:
    """Its lines, without their numbers and how they are set."""
    lines = (re.sub(r"[-\d.,%▁-█]+", "#", line) for line in text.splitlines())
    return {" ".join(line.split()) for line in lines}


def printed(first: str) -> str:
    """The block of the README that begins so."""
    (text,) = [
        text
        for _, text in BLOCK.findall((HERE / "README.md").read_text(encoding="utf-8"))
        if text.startswith(first)
    ]
    return text


def test_the_demo_prints_what_the_readme_says(run):
    (rule,) = re.findall(r"^demo:.*\n\t(.*)$", (HERE / "Makefile").read_text(), re.MULTILINE)
    command = rule.replace("$(BIN)/", "").replace("$(ARGS)", "").split()
    assert shapes(printed("raft++: select")) - shapes(run(*command)) == set()


@pytest.mark.parametrize(("file", "script"), blocks("bash"))
def test_the_commands(run, folder, monkeypatch, file, script):
    if MAKE in script:
        pytest.skip("the demo is run above, and these are the tests")
    if file in APART:
        (folder / file).mkdir(exist_ok=True)
        monkeypatch.chdir(folder / file)
    out = run("bash", "-euo", "pipefail", "-c", smaller(script))
    if "--rule distinct" in script and file == "README.md":
        assert shapes(printed("rule ")) - shapes(out) == set()


@pytest.mark.parametrize(("file", "script"), blocks("python"))
def test_the_snippets(run, file, script):
    run(sys.executable, "-c", script)
