"""The studies that ship under examples/study: what their files say of themselves holds."""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from winnow.algorithms.table import ALGORITHMS
from winnow.studies.outcomes import Outcome, Point
from winnow.studies.schema import read_study
from winnow.studies.variants import planned_runs

STUDY = Path(__file__).parents[2] / "examples" / "study"
CELLS = {"select", "advantage", "reward_scale", "loss", "denominator"}


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"study_{name}", STUDY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look up their types
    spec.loader.exec_module(module)
    return module


FINDINGS = script("findings")


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (STUDY / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("name", "runs"), [("short", 80), ("long", 600), ("lm", 15)])
def test_every_run_is_one_that_would_begin(name: str, runs: int) -> None:
    study = read_study(STUDY / f"{name}.toml")
    one = study.model_copy(update={"study": study.study.model_copy(update={"seeds": [1]})})
    assert len(planned_runs(one, STUDY)) == len(study.variants)
    assert len(study.variants) * len(study.study.seeds) == runs


def test_the_long_one_has_every_row_and_cells_of_five_kinds() -> None:
    study = tomllib.loads((STUDY / "long.toml").read_text())
    cells = [
        {"name": cell} if isinstance(cell, str) else cell
        for cell in (variant["algorithm"] for variant in study["variants"].values())
    ]
    plain = {cell["name"] for cell in cells if not CELLS & cell.keys()}
    changed = [CELLS & cell.keys() for cell in cells if CELLS & cell.keys()]
    assert plain == set(ALGORITHMS)
    assert len(changed) >= 10
    assert set().union(*changed) == CELLS
    assert all(len(each) == 1 for each in changed)  # a difference is of one cell


def test_every_claim_is_of_variants_that_both_forms_have() -> None:
    for name in ("short", "long"):
        variants = read_study(STUDY / f"{name}.toml").variants
        for claim in FINDINGS.CLAIMS:
            assert {claim.a, claim.b} <= variants.keys()
    short, long = (tomllib.loads((STUDY / f"{n}.toml").read_text()) for n in ("short", "long"))
    assert short["base"] == long["base"]
    for name, variant in short["variants"].items():
        assert long["variants"][name] == variant


def test_the_policy_is_right_as_often_as_its_kinds_say() -> None:
    """By one plain pass of transformers; nothing of Winnow's is asked."""
    words = AutoTokenizer.from_pretrained(STUDY / "model")
    net = AutoModelForCausalLM.from_pretrained(STUDY / "model", dtype=torch.float32)
    assert (STUDY / "model" / "model.safetensors").stat().st_size < 450_000
    chances: dict[str, list[float]] = {}
    for row in [*rows("train"), *rows("held-out")]:
        ids = torch.tensor([[*words.encode(row["prompt"] + row["answer"]), 0]])
        with torch.no_grad():
            logp = net(input_ids=ids).logits.log_softmax(-1)[0]
        begin = len(words.encode(row["prompt"]))
        chance = sum(float(logp[i - 1, ids[0, i]]) for i in range(begin, ids.shape[1]))
        chances.setdefault(row["kind"], []).append(torch.tensor(chance).exp().item())
    means = {kind: sum(some) / len(some) for kind, some in chances.items()}
    assert {kind: len(some) for kind, some in chances.items()} == dict.fromkeys(means, 100)
    assert means["sums"] > 0.85
    assert 0.2 < means["products"] < 0.4
    assert 0.005 < means["differences"] < 0.05
    assert max(chances["never"]) < 1e-3


def test_answers_are_right_and_no_prompt_is_in_both_files() -> None:
    train, held_out = rows("train"), rows("held-out")
    assert len(train) == 320
    assert len(held_out) == 80
    assert len({row["prompt"] for row in [*train, *held_out]}) == 400
    for row in [*train, *held_out]:
        if row["kind"] != "never":
            assert eval(row["prompt"][:-1]) == int(row["answer"])


def outcome(accuracies: list[float], kl: list[float]) -> Outcome:
    points = [
        Point(i, {"samples": 100.0 * i}, accuracy, {"kl": kl[i]})
        for i, accuracy in enumerate(accuracies)
    ]
    spent = {"samples": 100.0 * (len(points) - 1)}
    return Outcome(points, accuracies[-1], {}, None, 1.0, len(points) - 1, spent)


def test_early_and_late_are_where_they_say() -> None:
    """Over 300 samples, a third is the first interval; the middle lies between two evaluations."""
    run = outcome([0.2, 0.4, 0.6, 0.65], [0.0] * 4)
    assert FINDINGS.early(run) == pytest.approx((0.2 + 0.4) / 2)
    assert FINDINGS.late_gain(run) == pytest.approx(0.65 - (0.4 + 0.6) / 2)
    between = outcome([0.2, 0.4, 0.6], [0.0] * 3)  # a third of 200 is 2/3 of the first interval
    end = 0.2 + 0.2 * 2 / 3
    assert FINDINGS.early(between) == pytest.approx((0.2 + end) / 2)


def test_a_claim_shows_is_contradicted_or_is_open() -> None:
    """KL where accuracy is first .4: half of the way for one variant, all of it for the other."""
    claim = next(one for one in FINDINGS.CLAIMS if one.value == "kl" and one.sign == -1)
    wide = {seed: outcome([0.2, 0.6], [0.0, 4.0 + 0.01 * seed]) for seed in range(8)}
    near = {seed: outcome([0.2, 0.4], [0.0, 1.0]) for seed in range(8)}
    rule = FINDINGS.Rule()
    shown = FINDINGS.weighed(claim, {claim.a: wide, claim.b: near}, 0.95)
    assert shown.level == pytest.approx(0.4)
    assert shown.difference.estimate == pytest.approx(1.0 - (2.0 + 0.005 * 3.5))
    assert shown.result(shown.difference.p, rule) == "shows"
    turned = FINDINGS.weighed(claim, {claim.a: near, claim.b: wide}, 0.95)
    assert turned.result(turned.difference.p, rule) == "contradicted"
    assert turned.result(0.06, rule) == "open"  # by the p that is corrected
    assert FINDINGS.weighed(claim, {claim.a: near}, 0.95) is None


def test_almost_nothing_is_a_claim_of_a_margin() -> None:
    claim = next(one for one in FINDINGS.CLAIMS if one.sign == 0)
    rule = FINDINGS.Rule(margin=0.02)

    def result(shift: float) -> str:
        a = {seed: outcome([0.2, 0.5 + 0.01 * (seed % 3)], [0.0, 0.0]) for seed in range(8)}
        b = {
            seed: replace(run, final=run.final + shift + 0.001 * (-1) ** seed)
            for seed, run in a.items()
        }
        found = FINDINGS.weighed(claim, {claim.a: a, claim.b: b}, 0.95)
        return str(found.result(found.difference.p, rule))

    assert [result(shift) for shift in (0.0, 0.02, 0.04)] == ["shows", "open", "contradicted"]
