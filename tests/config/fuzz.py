"""Settings at random: right and wrong, at the ends of their ranges, in tables and in phases."""

from __future__ import annotations

import datetime
import math
import re
import signal
from functools import partial
from typing import Any

from hypothesis import strategies as st

from tests.torture import watch
from winnow.algorithms.registry import ADVANTAGES, CRITICS, DENOMINATORS, LOSSES, PENALTIES, RULES
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema.describe import describe

Values = dict[str, Any]
ROWS = {row["key"]: row for row in describe()}
WRONG: list[Any] = [
    *(True, False, None, "", " ", "x", "true", "1", "nan", "-", ".", "~", "~nobody", "a\nb"),
    *(0, -1, 0.0, -0.0, 0.5, 1e-320, 1e-9, 1e30, 1e308, math.inf, -math.inf, math.nan),
    *(2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**400, -(2**63) - 1, 1 << 20_000),
    *([], {}, [[]], [{}], {"": 1}, {"a": 1}, {"name": "grpo"}, {"source": 1}, [True], [None]),
    *(["a", "a"], [0.9, 0.9, 0.9], [1e308, math.nan], {"a": {"b": {"c": []}}}, "\0", "a\0b"),
    *("x" * 5000, "é" * 300, "[" * 3000, "(" * 3000, datetime.date(2000, 1, 1), datetime.time(1)),
    *(b"x", {1: 2}, "\udcff", {"\udcff": 1}, object(), "::", "a:b", "hub:", "gym:", "hub:::"),
    *("x.jsonl", "x.parquet", "\0.jsonl", "~nobody/x.jsonl", "x" * 5000 + ".jsonl"),
]
"""For any setting."""
NUMBERS = ["0", "1", "2", "0.5", "1e-320", "1e308", "inf", "-0.0", "-1", "9" * 30, "nan", "True"]
WORDS = ["sample", "group", "set", "token", "sequence", "k1", "k3", "full", "batch", "reward", "x"]


def cells(*vocabularies: Any) -> st.SearchStrategy[str]:
    """The cells of a table, without arguments and with some, right and wrong."""
    names = st.sampled_from([name for words in vocabularies for name in words])
    argument = st.sampled_from(NUMBERS + WORDS)
    arguments = st.lists(argument, max_size=3).map(", ".join)
    return names | st.builds("{}({})".format, names, arguments)


KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just("smollm2-135m"),
    "samples_from": st.just("smollm2-135m"),
    "reference": st.sampled_from(["start", "phase", "ema(0.9)", "ema(1)", "ema(", "ema()"]),
    "device": st.sampled_from(["cpu", "auto"]),
    "prompts.source": st.sampled_from(["arithmetic", "gym:no", "no.jsonl", "no.parquet"]),
    "prompts.size": st.integers(1, 40),
    "prompts.template": st.sampled_from(["{question}", "{a} {b} {{", "{no}", "{", "x"]),
    "reward.name": st.sampled_from(["number", "exact", "math", "regex", "gym", "a:b"]),
    "reward.options": st.sampled_from([{}, {"pattern": "("}, {"ignore_case": True}]),
    "anchor.source": st.sampled_from(["arithmetic", "no.jsonl"]),
    "eval.source": st.sampled_from(["arithmetic", "no.jsonl"]),
    "eval.size": st.integers(0, 9),
    "engine.url": st.just("http://localhost:1/v1"),
    "engine.key_env": st.sampled_from(["MY_KEY", "sk-proj-abcDEF123456"]),
    "optimizer.betas": st.lists(st.sampled_from([0.0, 0.5, 0.9, 0.999]), min_size=2, max_size=3),
    "algorithm.name": st.sampled_from(list(ALGORITHMS)),
    "algorithm.select": st.lists(cells(RULES), min_size=1, max_size=3),
    "algorithm.advantage": cells(ADVANTAGES),
    "algorithm.loss": cells(LOSSES),
    "algorithm.denominator": cells(DENOMINATORS),
    "algorithm.kl": cells(PENALTIES),
    "algorithm.critic": cells(CRITICS),
}


def ends(key: str) -> list[float]:
    """The least and the most that a number may be; of another setting, nothing."""
    kind = ROWS[key]["type"]
    found = re.search(r"from (\S+) to (below )?(\S+)$", kind)
    if found is None:
        return []
    low, below, high = (part and part.replace(",", "") for part in found.groups())
    if re.search(r"\bint\b", kind):
        return [int(low), int(high)]
    return [float(low), float(high) * (1 - 1e-9) if below else float(high)]


def right(key: str) -> st.SearchStrategy[Any]:
    """Values of the right type, at the ends of the range more often than not."""
    kind, default = ROWS[key]["type"], ROWS[key]["default"]
    if key in KNOWN:
        return KNOWN[key]
    if words := re.findall(r"'([^']+)'", kind):
        one = st.sampled_from(words)
        return st.lists(one, min_size=1, max_size=3) if kind.startswith("list") else one
    if found := ends(key):
        low, high = found
        if isinstance(low, int) and isinstance(high, int):
            one = st.sampled_from([low, low + 1, 7, high - 1, high]) | st.integers(low, high)
        else:
            one = st.sampled_from([low, 0.5, 1.0, high]) | st.floats(low, high)
        return st.lists(one, min_size=1, max_size=3) if kind.startswith("list") else one
    if kind == "bool":
        return st.booleans()
    if kind == "list of str":
        return st.lists(st.text(min_size=1, max_size=4), max_size=3)
    return st.just(default or "name") | st.text(min_size=1, max_size=9)


def settings(keys: list[str]) -> st.SearchStrategy[Values]:
    """A few settings as nested tables, most of them right."""

    def one(key: str) -> st.SearchStrategy[tuple[str, Any]]:
        wrong = st.integers(0, 9).map(lambda number: number == 9)
        return st.tuples(
            st.just(key), wrong.flatmap(lambda is_: st.sampled_from(WRONG) if is_ else right(key))
        )

    known = st.sampled_from(keys).flatmap(one)
    strange = st.tuples(st.sampled_from(["stpes", "a.b", "eval", "phases"]), st.sampled_from(WRONG))
    few = st.lists(known, max_size=5)
    with_strange = st.tuples(known, strange).map(list)
    # `one_of` takes nine times the same strategy for one
    tenth = st.integers(0, 9).flatmap(lambda number: with_strange if number == 9 else few)
    return tenth.map(nested)


def nested(pairs: list[tuple[str, Any]]) -> Values:
    values: Values = {}
    for key, value in pairs:
        *tables, last = key.split(".")
        inner: Any = values
        for table in tables:
            if not isinstance(inner.setdefault(table, {}), dict):
                inner[table] = {}
            inner = inner[table]
        inner[last] = value
    return values


OF_PHASES = [
    key
    for key in ROWS
    if key.split(".")[0]
    in ("algorithm", "steps", "sampling", "optimizer", "critic", "rounds", "reference", "anchor")
]
PHASES = st.fixed_dictionaries(
    {"phases": st.lists(settings(OF_PHASES), min_size=1, max_size=3)},
    optional={"cycles": st.sampled_from([1, 2, 1000, 1001])},
)
ALL = [key for key in ROWS if key != "phases"]
CONFIGS = st.builds(
    lambda values, phases: {**values, **phases}, settings(ALL), st.just({}) | st.just({}) | PHASES
)
MOST_BYTES = 32 * 2**20
modest = partial(watch.modest, MOST_BYTES, 30, signal.ITIMER_VIRTUAL)
"""What settings alone may take, processor time and not the clock's."""
