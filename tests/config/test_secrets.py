"""A key or a password in the wrong place is refused before anything is written, and never shown."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import winnow
from winnow.cli import main
from winnow.config.recipe import load
from winnow.config.schema import from_dict
from winnow.config.secrets import names_a_variable
from winnow.errors import UserError

# in the form of keys of several services; none of them is one
KEYS = (
    "sk-proj-abcDEF123456",
    "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "gsk_AbCdEfGhIjKlMnOpQrStUvWxYz01",
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh",
    "AKIAIOSFODNN7EXAMPLE",
    "0123456789abcdef0123456789abcdef",
    "abcdef0123456789abcdef0123456789",
    "token abc",
    "",
)
NAMES = ("OPENAI_API_KEY", "KEY2", "_K", "my_key", "HF_TOKEN", "AZURE_OPENAI_API_KEY_WESTEUROPE_2")
SERVER = {"sampler": "openai", "url": "http://localhost:9/v1"}


@pytest.mark.parametrize("value", KEYS)
def test_a_key_is_no_name(value: str) -> None:
    assert not names_a_variable(value)


@pytest.mark.parametrize("value", NAMES)
def test_a_name_is_one(value: str) -> None:
    assert names_a_variable(value)
    assert from_dict({"engine": {**SERVER, "key_env": value}}).engine.key_env == value


WRONG: dict[str, Callable[[str], dict[str, Any]]] = {
    "the name of the variable": lambda key: {**SERVER, "key_env": key},
    "before the sampler is said": lambda key: {"key_env": key, **SERVER},
    "with the model in this process": lambda key: {"key_env": key},
    "a list": lambda key: {**SERVER, "key_env": [key]},
    "the address": lambda key: {**SERVER, "url": f"http://me:{key}@host/v1"},
    "its query": lambda key: {**SERVER, "url": f"http://host/v1?key={key}"},
    "its fragment": lambda key: {**SERVER, "url": f"http://host/v1#{key}"},
    "no address": lambda key: {**SERVER, "url": [key]},
    "another setting": lambda key: {**SERVER, "api_key": key},
}


@pytest.mark.parametrize("where", WRONG)
def test_a_key_in_the_wrong_place_is_not_shown(where: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict({"engine": WRONG[where](KEYS[0])})
    assert "engine." in str(caught.value)
    assert KEYS[0] not in "".join(traceback.format_exception(caught.value))


def test_a_key_for_the_whole_table_is_not_shown() -> None:
    with pytest.raises(UserError, match=r"^engine: must be a table") as caught:
        load(sets=[f"engine={KEYS[0]}"])
    assert KEYS[0] not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("command", ["sample", "eval", "train"])
@pytest.mark.parametrize("key", [KEYS[0], KEYS[3], "ABCDEFGHIJKLMNOPQRSTUVW"])
def test_a_key_is_written_nowhere(command: str, key: str, tmp_path: Path) -> None:
    """The last one could be a name: it is refused since no such variable is set."""
    out = tmp_path / "out"
    sets = ["engine.sampler=openai", f"engine.url={SERVER['url']}", f"engine.key_env={key}"]
    options = [part for setting in sets for part in ("--set", setting)]
    result = CliRunner().invoke(main.app, [command, *options, "--out", str(out)])
    assert isinstance(result.exception, UserError)
    assert result.exception.setting == (
        "engine.sampler" if "ABC" in key and command == "train" else "engine.key_env"
    )
    assert key not in result.output + "".join(traceback.format_exception(result.exception))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if key.encode() in path.read_bytes()]


GIVEN = {
    "not in UTF-8": [["--set", f"engine.key_env={KEYS[0]}\udcff"]],
    "too many parts": [["--set", f"{KEYS[0]}{'.a' * 40}=1"]],
    "no =": [["--set", KEYS[0]], ["--set", "engine.key_env", KEYS[0]]],
    "undone by another": [["--set", f"reward.options.key={KEYS[0]}", "--set", "reward=exact"]],
    "undoes another": [["--set", "reward.options.a=1", "--set", f"reward={KEYS[0]}"]],
    "without --set": [
        [f"engine.key_env={KEYS[0]}"],
        [f"engine.url=http://me:{KEYS[0]}@host/v1"],
        ["arithmetic", f"engine.key_env={KEYS[0]}"],
        ["arithmetic", KEYS[0]],
    ],
}


@pytest.mark.parametrize("words", [w for some in GIVEN.values() for w in some], ids=str)
def test_no_message_about_the_words_of_a_command_shows_a_key(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["winnow", "sample", *words, "--out", "out"])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("winnow: ")
    assert said.count("\n") == 1
    assert KEYS[0][:6] not in said


def test_from_python_too(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        winnow.sample(out=tmp_path / "out", engine={**SERVER, "key_env": KEYS[0]})
    assert KEYS[0] not in "".join(traceback.format_exception(caught.value))
    assert not (tmp_path / "out").exists()
