"""Settings of earlier versions: the table `[server]`, whose keys are in `[engine]`; defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winnow.errors import UserError

FORMER = "server"
FORMER_BATCH = ("minibatch_prompts", 16)
"""A default that folders of earlier versions have written out, above phases too."""
_SAME = ("url", "api", "concurrency", "requests_per_minute", "timeout", "retries", "key_env")
_NOW = {**{key: key for key in _SAME}, "model": "served_model"}
"""The names that its keys have now."""


def moved(given: object) -> UserError:
    """The error where `--set` or a call has the table, that says where its first key went."""
    table = given if isinstance(given, Mapping) else {}
    key = next((key for key in table if key in _NOW), None)
    if key is None:
        return UserError(FORMER, "is now engine, with engine.sampler = 'openai'")
    problem = f"is now engine.{_NOW[key]}, with engine.sampler = 'openai'"
    alone = "without server.url it did nothing: leave it out"
    return UserError(f"{FORMER}.{key}", problem, "" if "url" in table else alone)


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a file of an earlier version, as they are called now.

    A folder's config.toml has the whole table, defaults too; without a URL none of it was read.
    """
    table = values.get(FORMER)
    if not isinstance(table, Mapping) or "engine" in values:
        return dict(values)
    rest = {key: value for key, value in values.items() if key != FORMER}
    if "url" not in table:
        return rest
    engine = {_NOW.get(key, key): value for key, value in table.items()}
    return {**rest, "engine": {"sampler": "openai", **engine}}


def without_test(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a folder; if it stops early and names no number of test prompts, it has none.

    The default would take them from the prompts that it trains on.
    """
    table = values.get("eval")
    if not isinstance(table, Mapping) or not table.get("patience"):
        return dict(values)
    return {**values, "eval": {"test_size": 0, **table}}
