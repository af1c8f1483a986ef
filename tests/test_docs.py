"""What the README and the docs say, against the code."""

from __future__ import annotations

import inspect
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

import winnow
from winnow import errors
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.registry import ADVANTAGES, CRITICS, DENOMINATORS, LOSSES, PENALTIES, RULES
from winnow.algorithms.table import ALGORITHMS
from winnow.cli import main
from winnow.cli.render import settings_recipe
from winnow.config.schema import from_dict
from winnow.config.schema.describe import describe
from winnow.config.schema.engine import _READERS, _STARTED, EngineConfig
from winnow.engines import base
from winnow.reporting.metrics import Evaluation
from winnow.reporting.observer import Observer
from winnow.reporting.step_table import _OFFLINE, _SAMPLED
from winnow.rewards.factory import REWARDS, make_reward
from winnow.studies.schema import StudyTable, study_of
from winnow.studies.variants import planned_runs
from winnow.types import Prompt

HERE = Path(__file__).parent.parent
README = (HERE / "README.md").read_text()


def test_the_settings_are_those_that_are_printed():
    printed = CliRunner().invoke(main.app, ["settings"]).output
    assert printed in (HERE / "docs" / "config.md").read_text()


def test_the_settings_of_a_study_are_those_that_are_printed():
    printed = "\n".join(settings_recipe(describe(StudyTable), None))
    assert f"```toml\n{printed}\n```" in (HERE / "docs" / "compare.md").read_text()


def test_the_study_in_the_manual_is_a_study():
    text = (HERE / "docs" / "compare.md").read_text().split("```toml\n")[1].split("```")[0]
    file = study_of(tomllib.loads(text))
    runs = planned_runs(file, None, deeply=False)
    assert len(runs) == len(file.variants) * len(file.study.seeds)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_table_in_the_readme_is_the_table(name):
    row = ALGORITHMS[name]
    cells = row.cells()
    (line,) = [text for text in README.splitlines() if text.startswith(f"| `{name}` |")]
    said = [cell.strip() for cell in line.strip("|").split("|")]
    assert said[2] == cells["reward_scale"]
    assert said[3] == ", ".join(cells["select"])
    assert said[4:7] == [cells["advantage"], cells["loss"], cells["denominator"]]
    usual = Algorithm("usual").cells()
    beside = [
        f"{k} {cells[k]}" for k in ("kl", "entropy", "critic", "refill") if cells[k] != usual[k]
    ]
    assert said[7] == ", ".join(beside)
    assert said[8] == row.paper
    assert said[1].startswith(row.resample)


def test_every_cell_is_in_the_manual():
    manual = (HERE / "docs" / "algorithms.md").read_text()
    cells = (*RULES, *ADVANTAGES, *LOSSES, *DENOMINATORS, *PENALTIES, *CRITICS)
    for name in (*cells, *ALGORITHMS):
        assert re.search(rf"[`*]{re.escape(name)}[`*(]", manual), name


def signatures(protocol: type) -> str:
    """The attributes and methods of a protocol."""
    found = [f"class {protocol.__name__}(Protocol):"]
    found += [f"    {name}: {kind}" for name, kind in protocol.__annotations__.items()]
    for name, member in vars(protocol).items():
        if isinstance(member, property):
            found.append(f"    {name}: {member.fget.__annotations__['return']}")
        elif inspect.isfunction(member) and not name.startswith("_"):
            told = str(inspect.signature(member)).replace("'present'", "PRESENT")
            found.append(f"    def {name}{told}".replace("'", ""))
    return "\n".join(found) + "\n"


@pytest.mark.parametrize("protocol", [base.Engine, base.Sampler, base.Learner])
def test_the_protocols_are_those_that_are_printed(protocol):
    assert signatures(protocol) in (HERE / "docs" / "engines.md").read_text()


def test_every_event_is_in_the_manual():
    """With all that it says, an evaluation aside."""
    manual = (HERE / "docs" / "callbacks.md").read_text()
    said = dict(re.findall(r"^\| `(on_\w+)` \| (.*?) \|", manual, re.MULTILINE))
    told = {n: get_type_hints(m) for n, m in vars(Observer).items() if n.startswith("on_")}
    assert said.keys() == told.keys()
    for event, hints in told.items():
        (payload,) = (hint for name, hint in hints.items() if name != "return")
        names = re.findall(r"`(\w+)`", said[event])
        known = [field.name for field in fields(payload)]
        assert names[0] == payload.__name__
        assert names[1:] == known or (payload is Evaluation and set(names[1:]) <= set(known))


def test_every_reward_is_in_the_manual():
    manual = (HERE / "docs" / "rewards.md").read_text().partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", manual, re.MULTILINE)) == set(REWARDS)


def test_the_house_is_as_drawn():
    """Every room is in the tree, and every file that it names exists."""
    tree = (HERE / "CONTRIBUTING.md").read_text().split("winnow/\n")[1].split("```")[0]
    files = {path.name for path in (HERE / "winnow").rglob("*.py")}
    assert set(re.findall(r"\b\w+\.py", tree)) <= files
    rooms = {p.parent.name + "/" for p in (HERE / "winnow").rglob("__init__.py")}
    assert set(re.findall(r"^ +(\w+/)", tree, re.MULTILINE)) == rooms - {"winnow/"}


def test_the_recipe_in_the_readme_is_a_recipe():
    (text,) = re.findall(r"```toml\n(# recipe\.toml.*?)```", README, re.DOTALL)
    assert from_dict(tomllib.loads(text)).algorithm.build().name == "grpo"


def test_every_column_of_the_terminal_is_in_the_manual():
    manual = (HERE / "docs" / "metrics.md").read_text()
    told = manual.partition("Columns of the terminal")[2].partition("\n## ")[0]
    for column in (*_SAMPLED, *_OFFLINE):
        assert f"`{column.heading}`" in told or column.heading == "step", column.heading


def test_which_sampler_reads_a_setting_is_in_the_manual():
    manual = (HERE / "docs" / "config.md").read_text()
    told = manual.partition("`engine.sampler` names what samples")[2].partition("\n\n")[0]
    alone, both, after = told.partition("For `openai` alone are")[2].split(";")
    readers = {part: re.findall(r"`(\w+)`", part) for part in (alone, both)}
    assert readers[alone] == [name for name, of in _READERS.items() if of == ("openai",)]
    assert readers[both] == [name for name, of in _READERS.items() if of == ("openai", "vllm")]
    fields = [*EngineConfig.model_fields]
    others = set(fields[fields.index("urls") :])
    assert "`urls` and all keys after it" in after
    assert others == {name for name, of in _READERS.items() if of == ("vllm",)} | {*_STARTED}


def test_rows_without_a_ratio_are_in_the_manual():
    names = [f"`{name}`" for name, row in ALGORITHMS.items() if "old" not in row.needs]
    manual = (HERE / "docs" / "samples.md").read_text()
    assert f"rows without a ratio ({', '.join(names)})" in manual


def test_every_table_of_the_manual_is_whole():
    """No blank line parts a row from its table."""
    for page in HERE.glob("docs/*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for first, second in re.findall(r"^\n(\|.*)\n(.*)", text, re.MULTILINE):
            assert second.startswith("|--"), (page.name, first)


def test_every_function_is_in_the_manual():
    manual = README + "".join(page.read_text() for page in HERE.glob("docs/*.md"))
    for name in winnow.__all__:
        if inspect.isfunction(getattr(winnow, name)):
            assert f"winnow.{name}" in manual, name


def test_every_exit_code_is_in_the_manual():
    manual = (HERE / "docs" / "run-folder.md").read_text()
    told = manual.partition("## Exit codes")[2].partition("\n## ")[0]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.WinnowError)}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", told, re.MULTILINE)} == {
        *codes,
        0,
        main._TERMINATED,
    }


def test_every_page_is_in_the_index():
    index = (HERE / "docs" / "index.md").read_text()
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", index))
    assert linked == {path.name for path in (HERE / "docs").glob("*.md")} - {"index.md"}


def test_every_link_leads_somewhere():
    for page in (*HERE.glob("*.md"), *HERE.glob("docs/*.md"), *HERE.glob("examples/**/*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README


def test_the_verdicts_in_the_manual_are_those_of_the_rewards():
    lines = (HERE / "docs" / "rewards.md").read_text().splitlines()
    start = lines.index("| `number` | `gsm8k` | `math` | `exact` | answer | completion |") + 2
    rows = [line[2:-2].split(" | ") for line in lines[start : lines.index("", start)]]
    assert len(rows) > 20
    for column, name in enumerate(("number", "gsm8k", "math", "exact")):
        reward = make_reward(name, workers=1)
        items = [(Prompt("p", "", row[4][1:-1]), row[5][1:-1]) for row in rows]
        scores = reward.score(items)
        reward.close()
        said = ["error" if score.value is None else f"{score.value:.0f}" for score in scores]
        assert said == [row[column] for row in rows], name
