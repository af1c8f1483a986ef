"""The grammar of a table cell: what is shown can be read back, what cannot be read is explained."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.algorithms.advantages import Advantage
from winnow.algorithms.denominators import Denominator
from winnow.algorithms.registry import ADVANTAGES, CRITICS, DENOMINATORS, LOSSES, PENALTIES, RULES
from winnow.algorithms.selection import Rule
from winnow.algorithms.spec import Cell, parse, show
from winnow.algorithms.table import ALGORITHMS
from winnow.errors import UserError, nearest

VOCABULARIES = {
    "select": RULES,
    "advantage": ADVANTAGES,
    "loss": LOSSES,
    "denominator": DENOMINATORS,
    "kl": PENALTIES,
    "critic": CRITICS,
}
CELLS = [(kind, cls) for kind, words in VOCABULARIES.items() for cls in words.values()]

BETA = st.floats(1e-12, 1e12)
BOUND = BETA | st.just(math.inf)  # infinity: none
UNIT = st.just(0.0) | st.floats(1e-12, 1)
ARGUMENTS = {
    ("best", "k"): st.integers(1, 10**9),
    ("standardised", "sigma"): st.sampled_from(["sample", "population"]),
    ("clipped", "low"): UNIT,
    ("clipped", "high"): st.just(0.0) | BOUND,  # infinity: no upper clip
    ("mixed", "by"): st.sampled_from(["right", "reward"]),
    ("length", "low"): st.integers(1, 50),
    ("length", "high"): st.integers(50, 10**12),
    ("at-most", "m"): st.integers(1, 10**9),
    ("band", "low"): st.just(0.0) | st.floats(1e-12, 0.5),
    ("band", "high"): st.floats(0.5, 1),
    ("gibbs", "beta"): BETA,
    ("gibbs", "r_max"): st.sampled_from(["sample", 0.0]) | BETA | BETA.map(lambda x: -x),
    ("rso", "beta"): BETA,
    ("rso", "k"): st.integers(1, 10**9),
    ("softmax", "beta"): BETA,
    ("softmax", "over"): st.sampled_from(["group", "set"]),
    ("gae", "gamma"): UNIT,
    ("gae", "lam"): UNIT,
    ("gae", "whiten"): st.sampled_from(["batch", "none"]),
    ("capped", "cap"): BOUND,
    ("sequence-clipped", "low"): UNIT,
    ("sequence-clipped", "high"): st.just(0.0) | BOUND,
    ("sequence-importance", "cap"): BOUND,
    ("dpo", "beta"): BETA,
    ("in-reward", "beta"): BETA,
    ("in-reward", "estimator"): st.sampled_from(["k1", "k2", "k3"]),
    ("in-reward", "target"): st.just(0.0) | BETA,
    ("in-reward", "horizon"): BETA,
    ("in-loss", "beta"): BETA,
    ("in-loss", "estimator"): st.sampled_from(["k1", "k2", "k3"]),  # `full` has no sequences
    ("in-loss", "over"): st.sampled_from(["token", "sequence"]),
    ("value", "clip"): BOUND,
    ("value", "coefficient"): BETA,
    ("constant", "length"): BETA | st.integers(1, 10**6),
}


def made(cls: type[Cell]) -> st.SearchStrategy[Cell]:
    return st.builds(cls, **{f.name: ARGUMENTS[cls.cell, f.name] for f in fields(cls)})


@pytest.mark.parametrize(("kind", "cls"), CELLS, ids=[f"{k}-{c.cell}" for k, c in CELLS])
@given(data=st.data())
def test_what_is_shown_is_read_back(kind: str, cls: type[Cell], data: st.DataObject) -> None:
    cell = data.draw(made(cls))
    assert parse(kind, show(cell), VOCABULARIES[kind]) == cell
    assert parse(kind, f"  {cell}\n", VOCABULARIES[kind]) == cell


def test_every_argument_of_every_cell_is_tried_above() -> None:
    own = {(cls.cell, field.name) for _, cls in CELLS for field in fields(cls)}
    assert own == ARGUMENTS.keys()


def test_every_cell_is_frozen_has_a_line_and_a_name_of_its_own() -> None:
    for kind, words in VOCABULARIES.items():
        assert all(name == cls.cell for name, cls in words.items()), kind
    for _, cls in CELLS:
        assert cls.__doc__
        assert not cls.__doc__.startswith(f"{cls.__name__}(")
        assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert set(get_type_hints(cls)) >= {f.name for f in fields(cls)}


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
def test_every_row_of_the_table_is_read_back(row) -> None:
    assert row.with_cells(row.cells()) == row
    elsewhere = ALGORITHMS["rft" if row.name != "rft" else "grpo"].with_cells(row.cells())
    assert elsewhere.cells() == row.cells()


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("loss", "clipped", "clipped(low=0.2, high=0.28)"),
        ("loss", "clipped()", "clipped(low=0.2, high=0.28)"),
        ("loss", "clipped(0.1)", "clipped(low=0.1, high=0.28)"),
        ("loss", "clipped(0.1, high=1)", "clipped(low=0.1, high=1)"),
        ("loss", " clipped ( high = inf ) ", "clipped(low=0.2, high=inf)"),
        ("advantage", "standardised", "standardised(sample)"),
        ("advantage", "standardised('population')", "standardised(population)"),
        ("advantage", "standardised(sigma=population)", "standardised(population)"),
        ("select", "best", "best(1)"),
        ("select", "best(k=4)", "best(4)"),
        ("select", "gibbs(1)", "gibbs(beta=1, r_max=sample)"),
        ("select", "gibbs(beta=0.5, r_max=1)", "gibbs(beta=0.5, r_max=1)"),
        ("select", "rso(0.5)", "rso(beta=0.5, k=8)"),
        ("select", "at-most(4)", "at-most(4)"),
        ("advantage", "softmax(0.5, set)", "softmax(beta=0.5, over=set)"),
        ("loss", "capped", "capped(2.0)"),
        ("denominator", "constant(256)", "constant(256)"),
        ("advantage", "gae", "gae(gamma=1.0, lam=0.95, whiten=batch)"),
        ("advantage", "gae(0.9, whiten=none)", "gae(gamma=0.9, lam=0.95, whiten=none)"),
        ("loss", "sequence-clipped", "sequence-clipped(low=0.0003, high=0.0004)"),
        ("loss", "sequence-importance", "sequence-importance(inf)"),
        ("loss", "sequence-importance(5)", "sequence-importance(5)"),
        ("loss", "dpo", "dpo(0.1)"),
        ("kl", "none", "none"),
        ("kl", "in-reward(0.1)", "in-reward(beta=0.1, estimator=k1)"),
        ("kl", "in-reward(target=6.0)", "in-reward(beta=0.05, estimator=k1, target=6.0)"),
        ("kl", "in-loss(0.04, full)", "in-loss(beta=0.04, estimator=full, over=token)"),
        ("kl", "in-loss(over=sequence)", "in-loss(beta=0.04, estimator=k3, over=sequence)"),
        ("critic", "none", "none"),
        ("critic", "value", "value(clip=0.2, coefficient=0.5)"),
        ("critic", "value(inf)", "value(clip=inf, coefficient=0.5)"),
    ],
)
def test_short_and_long_forms(kind: str, text: str, expected: str) -> None:
    assert show(parse(kind, text, VOCABULARIES[kind])) == expected


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("select", "corect", "select: unknown selection rule 'corect'; did you mean 'correct'?"),
        (
            "select",
            "",
            "select: unknown selection rule ''; available: everything, as-recorded, correct",
        ),
        ("select", "Correct", "unknown selection rule 'Correct'; did you mean 'correct'?"),
        ("select", "best(", "unknown selection rule 'best('"),
        ("select", "gibs(1)", "unknown selection rule 'gibs'; did you mean 'gibbs'?"),
        ("select", "gibbs", "'gibbs' has the wrong arguments; gibbs takes (beta, r_max=sample)"),
        ("select", "gibbs(0)", "'gibbs(0)': beta must be above 0 and finite"),
        ("select", "gibbs(inf)", "beta must be above 0 and finite"),
        ("select", "gibbs(hot)", "beta must be a float"),
        ("select", "gibbs(1, max)", "r_max must be a number that no reward exceeds, or sample"),
        ("select", "gibbs(1, inf)", "r_max must be a number that no reward exceeds, or sample"),
        ("select", "gibbs(1, [2])", "gibbs takes (beta, r_max=sample)"),
        ("select", "rso(-1)", "beta must be above 0 and finite"),
        ("select", "rso(1, 0)", "k must be at least 1"),
        ("select", "rso(1, 2.5)", "k must be an int"),
        ("select", "at-most", "'at-most' has the wrong arguments; at-most takes (m)"),
        ("select", "at-most(0)", "m must be at least 1"),
        ("select", "length(5, 4)", "1 <= low <= high"),
        ("select", "length(0)", "1 <= low <= high"),
        ("select", "band(0.5, 0.4)", "0 <= low <= high <= 1"),
        ("select", "band(high=2)", "0 <= low <= high <= 1"),
        ("advantage", "softmax(0)", "beta must be above 0 and finite"),
        ("advantage", "softmax(1, prompt)", "over must be group or set"),
        ("loss", "capped(0)", "cap must be above 0"),
        ("loss", "capped(nan)", "cap must be a float"),
        ("select", "best(k)", "'best(k)': k must be an int; best takes (k=1)"),
        ("select", "best(2.5)", "k must be an int"),
        ("select", "best(True)", "k must be an int"),
        ("select", "best(0)", "'best(0)': k must be at least 1"),
        ("select", "best(1, 2)", "too many arguments in 'best(1, 2)'; best takes (k=1)"),
        ("select", "best(1, k=2)", "best takes (k=1)"),
        ("select", "best(n=2)", "best has no argument 'n'; it takes (k=1)"),
        ("select", "correct(1)", "correct takes no arguments"),
        ("select", "best(1)(2)", "cannot read the arguments in 'best(1)(2)'"),
        ("select", "best(1), (2)", "cannot read the arguments"),
        ("select", "best(1) or (2)", "cannot read the arguments"),
        ("select", "best(*a)", "cannot read the arguments"),
        ("select", "best(**a)", "best has no argument 'None'"),
        ("select", "best(1 +)", "cannot read the arguments"),
        ("select", "best(f(1))", "cannot read the arguments"),
        ("select", "best(\0)", "cannot read the arguments"),
        ("loss", "clipped(low='a')", "low must be a float"),
        ("loss", "clipped(low=2)", "0 <= low <= 1 and high >= 0"),
        ("advantage", "standardised(median)", "sigma must be 'sample' or 'population'"),
        ("loss", "sequence-clipped(2)", "0 <= low <= 1 and high >= 0"),
        ("loss", "sequence-importance(0)", "cap must be above 0"),
        ("loss", "dpo(0)", "beta must be above 0 and finite"),
        ("advantage", "gae(1.1)", "gamma and lam must be from 0 to 1"),
        ("advantage", "gae(whiten=group)", "whiten must be batch or none"),
        ("kl", "in-reward(0)", "beta must be above 0 and finite"),
        ("kl", "in-reward(estimator=full)", "the estimator must be k1, k2 or k3"),
        ("kl", "in-reward(target=-1)", "target (0: beta is fixed) and horizon must be finite"),
        ("kl", "in-reward(horizon=0)", "target (0: beta is fixed) and horizon must be finite"),
        ("kl", "in-loss(inf)", "beta must be above 0 and finite"),
        ("kl", "in-loss(1, k4)", "the estimator must be k1, k2, k3 or full"),
        ("kl", "in-loss(1, k3, sample)", "over must be token or sequence"),
        (
            "kl",
            "in-loss(1, full, sequence)",
            "full must be over tokens: sequences cannot be enumerated",
        ),
        ("critic", "value(0)", "clip and coefficient must be above 0"),
        ("critic", "value(1, inf)", "clip and coefficient must be above 0"),
        ("denominator", "constant", "'constant' has the wrong arguments; constant takes (length)"),
        ("denominator", "constant(0)", "the length must be above 0"),
        ("denominator", "constant(inf)", "the length must be above 0 and finite"),
        (
            "denominator",
            "constant(1e-320)",
            "length is out of range; a number is 0, inf",
        ),
        (
            "select",
            "best(99999999999999)",
            "k is out of range; a number is 0, inf or from",
        ),
        ("select", "best(0x" + "f" * 500 + ")", "k is out of range"),
        ("select", "best(0x" + "f" * 5000 + ")", "has 5,008 characters; a cell has 1,000 at most"),
        ("select", "best(" + "-" * 5000 + "1)", "has 5,007 characters; a cell has 1,000 at most"),
        ("select", "best(k=1, k=2)", "cannot read the arguments in 'best(k=1, k=2)'"),
        ("select", "band(-0.0, 1)", "low is out of range"),
        ("select", "gibbs(1e-320, r_max=1)", "beta is out of range"),
        ("select", "gibbs(1, r_max=True)", "r_max is out of range"),
        ("select", f"gibbs(1, r_max={'9' * 400})", "r_max is out of range"),
        ("loss", f"capped({'9' * 400})", "cap is out of range"),
        ("kl", "in-loss(1e308)", "beta is out of range"),
        ("denominator", "constant(nan)", "length must be a float"),
        ("select", "no_such_module:rule", "select: cannot import 'no_such_module:rule': No module"),
        ("select", "os.path:jion", "cannot import 'os.path:jion'"),
        ("select", "os:sep", "'os:sep' is of type str, not a function"),
        ("select", "functools:partial", "cannot import 'functools:partial'"),
        ("select", ".a:b", "cannot import '.a:b'"),
        ("select", "sys:exit", "'sys:exit' does not take what a selection rule is given; define "),
        ("select", "math:sqrt", "it as f(group, alive, rng)"),
        ("select", f"{__name__}:Judge.none", "does not take what a selection rule is given"),
        ("advantage", "math:pow", "does not take what an advantage is given; define it as f(rew"),
        ("loss", f"{__name__}:keeps_some", "what a loss is given; define it as f(logp, old, adv"),
        ("denominator", "math:sqrt", "a denominator is given; define it as f(length, siblings, t"),
        ("select", f"{__name__}:Tenth", "Tenth' is a cell of another kind, not a selection rule; "),
        ("select", "collections:Counter", "is of type Counter, not a function"),
        ("select", "m:f.<locals>.g", "from inside a function; define it"),
        ("select", "m:<lambda>", "from inside a function; define it"),
    ],
)
def test_what_cannot_be_read_is_one_line(kind: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(kind, text, VOCABULARIES[kind])
    said = str(caught.value)
    assert said.startswith(f"{kind}: ")
    assert message in said
    assert "\n" not in said


@given(text=st.text(max_size=30) | st.from_regex(r"(best|clipped|one)\(.{0,12}\)", fullmatch=True))
def test_no_text_is_a_traceback(text: str) -> None:
    for kind, words in VOCABULARIES.items():
        if ":" in text:  # would be imported
            continue
        try:
            cell = parse(kind, text, words)
        except UserError:
            continue
        assert parse(kind, show(cell), words) == cell


def keeps_all(group, alive, rng):
    """A rule of one's own."""
    return [None] * len(alive)


def keeps_some(group, alive, rng, share):
    """It takes one argument more than a rule is given."""


class Tenth(Advantage):
    def __call__(self, rewards):
        return rewards / 10


class Judge:
    """A rule as an object."""

    def __call__(self, group, alive, rng):
        return [None] * len(alive)

    @staticmethod
    def none(*, group=None):
        return []

    @staticmethod
    def strict(group, alive, rng):
        return ["no"] * len(alive)


def test_ones_own_is_named_by_where_it_lives() -> None:
    assert show(keeps_all) == f"{__name__}:keeps_all"
    assert parse("select", show(keeps_all), RULES).function is keeps_all
    assert parse("select", show(Judge.strict), RULES).function is Judge.strict
    assert isinstance(parse("select", show(Judge()), RULES).function, Judge)
    assert show(functools.partial(keeps_all)) == "functools:partial"


def test_a_module_of_the_current_folder_is_found(tmp_path, monkeypatch) -> None:
    (tmp_path / "rules_of_mine.py").write_text("def rule(group, alive, rng): ...")
    (tmp_path / "rules_broken.py").write_text("def rule(group alive): ...")
    (tmp_path / "math.py").write_text("raise RuntimeError('not the math you want')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    assert callable(parse("select", "rules_of_mine:rule", RULES))
    assert parse("advantage", "math:sqrt", ADVANTAGES).function is math.sqrt
    with pytest.raises(UserError, match="cannot import 'rules_broken:rule': invalid syntax"):
        parse("select", "rules_broken:rule", RULES)


@pytest.mark.parametrize(
    ("words", "base"),
    [(RULES, Rule), (ADVANTAGES, Advantage), (DENOMINATORS, Denominator)],
)
def test_a_function_is_given_what_the_base_is(words: Any, base: type[Cell]) -> None:
    given = list(inspect.signature(base.__call__).parameters)[1:]
    wrong = [given[:-1], [*given, "more"]]
    for names in (given, *wrong):
        made = eval(f"lambda {', '.join(names)}: None")
        if names is given:
            assert words.adopt("x", made).function is made
            assert words.adopt("x", eval(f"lambda {given[0]}, *rest: None"))
        else:
            with pytest.raises(UserError, match=f"f.{', '.join(given)}."):
                words.adopt("x", made)


def test_what_does_not_tell_its_arguments_is_taken() -> None:
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(max)
    assert parse("select", "builtins:max", RULES).function is max


def test_nearest() -> None:
    assert nearest("grop", ["raft", "grpo"]) == "did you mean 'grpo'?"
    assert nearest("GRPO", ["raft", "grpo"]) == "did you mean 'grpo'?"
    assert nearest("question", ["id", "Question"]) == "did you mean 'Question'?"
    assert nearest("xyz", ["raft", "grpo"]) == "available: raft, grpo"
    assert nearest("xyz", []) == "available: none"
    long = nearest("xyz", [f"task{i}" for i in range(100)])
    assert long.endswith("task19 and 80 more")
    assert len(long) < 250


def test_infinity_is_no_upper_clip() -> None:
    assert parse("loss", "clipped(high=inf)", LOSSES).high == math.inf
