"""The table of alarms says what its settings and its manual say."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from tests.build import group, with_advantages
from tests.reporting.alarms.test_rules import history
from winnow.algorithms.denominators import Totals
from winnow.algorithms.objective import factors
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import from_dict
from winnow.config.schema.alarms import AlarmsConfig
from winnow.config.schema.describe import describe
from winnow.errors import UserError
from winnow.reporting.alarms.table import ALARMS, WINDOW

MANUAL = (Path(__file__).parents[3] / "docs/alarms.md").read_text(encoding="utf-8")
SETTINGS = {row["key"] for row in describe()}


def test_each_has_a_setting_of_its_threshold() -> None:
    fields = AlarmsConfig.model_fields
    assert fields.keys() == {"off", "stop", "window", *ALARMS}
    for name, rule in ALARMS.items():
        assert fields[name].default == rule.threshold
        assert fields[name].description == rule.measures
    assert AlarmsConfig().window == WINDOW
    assert AlarmsConfig().thresholds == {name: rule.threshold for name, rule in ALARMS.items()}
    assert "ess" not in AlarmsConfig(off=["ess"]).thresholds


@pytest.mark.parametrize("name", ALARMS)
def test_its_sentences_name_settings_that_there_are(name) -> None:
    for says in ALARMS[name].says.values():
        for text in (says.happens, says.matters, says.advice):
            for word in re.findall(r"\b[a-z]+\.[a-z_]+\b", text):
                assert word in SETTINGS, word
            assert text.endswith(".")
        assert len(says.advice) < 330


def test_the_denominator_against_one_prompt_lets_each_count_the_same() -> None:
    """Prompts with 4 and 1 of 8 right: means over samples or survivors give 0.8 and 0.2."""
    (says,) = ALARMS["one_prompt"].says.values()
    (named,) = re.findall(r"algorithm\.denominator = '([a-z-]+)'", says.advice)
    row = ALGORITHMS["raft++"].with_cells({"denominator": named})
    groups = with_advantages([group([1.0] * k + [0.0] * (8 - k)) for k in (4, 1)], row)
    (term,) = row.terms
    totals = Totals(prompts=2, samples=16, survivors=5, tokens=16, survivor_tokens=5, groups=2)
    shares = [
        sum(f * a for f, a in zip(factors(g, term, totals), g.advantages, strict=True))
        for g in groups
    ]
    assert shares == pytest.approx([0.5, 0.5])


def test_the_manual_has_the_table() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in MANUAL.splitlines()
        if line.startswith("| `")
    ]
    told = {row[0].strip("`"): row[1:] for row in rows if row[0].strip("`") in ALARMS}
    assert list(told) == list(ALARMS)
    for name, rule in ALARMS.items():
        measures, threshold, looks_at = told[name][:3]
        assert measures == rule.measures.rstrip(".")
        sign = "≤" if rule.falls else "≥"
        assert threshold == f"{sign} {rule.threshold:g}"
        assert looks_at == ", ".join(f"`{key}`" for key in rule.looks_at)


def test_the_words_a_rule_puts_into_its_sentences_are_there() -> None:
    """Sentences with facts that a reading has not would fail when it matters; see test_alarms."""
    for rule in ALARMS.values():
        for says in rule.says.values():
            names = {part[1] for part in string.Formatter().parse(says.happens) if part[1]}
            assert names <= _facts(rule.name) | {"value"}, rule.name


def _facts(name: str) -> set[str]:
    source = Path(__file__).parents[3] / "winnow/reporting/alarms"
    text = "".join(path.read_text(encoding="utf-8") for path in source.glob("*.py"))
    return set(re.findall(r'"([a-z_]+)": ', text))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stop": ["no_signl"]}, r"alarms\.stop: unknown alarm 'no_signl'; did you mean 'no_sig"),
        ({"off": "entropy"}, r"alarms\.off: unknown alarm 'entropy'; did you mean 'entropy_"),
        ({"off": ["{x}"]}, r"alarms\.off: unknown alarm '\(x\)'; available: verifier_errors, "),
        ({"stop": ["ess"], "off": ["ess"]}, r"alarms: stop names 'ess', which off switches off; "),
        ({"no_signal": 2.0}, r"alarms\.no_signal: must be from 1e-06 to 1 \(got 2\.0\)"),
        ({"nothing_kept": 0}, r"alarms\.nothing_kept: must be from 1 to 1,000,000,000 \(got 0\)"),
    ],
)
def test_a_wrong_setting_is_one_line(given, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        from_dict({"alarms": given})


def test_a_new_run_has_no_reading() -> None:
    empty = history()
    assert {name: rule.read(empty, rule.threshold) for name, rule in ALARMS.items()} == {
        **dict.fromkeys(ALARMS), "nothing_kept": ALARMS["nothing_kept"].read(empty, 3)
    }  # fmt: skip
