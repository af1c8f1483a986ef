"""No settings bring a traceback or a quiet hour: they are a config, or a line that says why not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.config.fuzz import CONFIGS, ROWS, WRONG, Values, modest, nested
from winnow.config.phases import phases_of
from winnow.config.recipe import dumps, merge
from winnow.config.schema import Config, from_dict
from winnow.errors import UserError
from winnow.training.setup import Plan, plan

SMALL = {"prompts": {"size": 60}, "eval": {"size": 4}}
NAMED = {"", "recipe", "--set"} | {key.split(".")[0] for key in ROWS}


def checked(values: Values, model: Path) -> Plan | UserError:
    """What becomes of settings before a model is loaded."""
    over: Values = {"model": str(model)}
    merge(over, {key: dict(table) for key, table in SMALL.items()})
    try:
        merge(over, values)
        return plan(from_dict(over))
    except UserError as error:
        return error


def check_line(error: UserError, keys: Iterable[object]) -> None:
    """One line of bearable length that begins with a setting."""
    said = str(error)
    assert len(said.splitlines()) == 1, said
    assert len(said) < 1000, said
    assert error.setting.split(".")[0] in NAMED | {str(key) for key in keys}, said


@pytest.mark.parametrize("key", ROWS)
def test_each_setting_is_tried_with_each_wrong_value(key) -> None:
    """Where a value is none of them, the config can be written and read again."""
    taken = 0
    for value in WRONG:
        values = nested([(key, value)])
        with modest():
            try:
                config = from_dict(values)
                phases_of(config, open_file=lambda *_: pytest.fail("it is not opened here"))
            except UserError as error:
                check_line(error, values)
                continue
            except pytest.fail.Exception:
                assert key == "samples_file"
        taken += 1
        assert from_toml(dumps(config)) == config
    assert taken < len(WRONG) / 2


def test_settings_are_a_config_or_one_line(tiny_model) -> None:
    seen = {True: 0, False: 0}

    @settings(max_examples=150)
    @given(CONFIGS)
    def try_them(values: Values) -> None:
        with modest():
            found = checked(values, tiny_model)
        seen[isinstance(found, Plan)] += 1
        if isinstance(found, Plan):
            assert from_toml(dumps(found.config)) == found.config
            return
        check_line(found, values)

    for once in ({}, {"prompts": {"source": "gym:no"}}):  # imports are not the settings' memory
        checked(once, tiny_model)
    try_them()
    assert min(seen.values()) > 15, seen  # it tries both


def from_toml(text: str) -> Config:
    import tomllib

    return from_dict(tomllib.loads(text))
