"""Over-optimization: the fit, where gold turns over, KL of a run's policies, and the pictures."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.build import sample
from tests.cli.test_main import Case, check_line, in_process
from tests.evaluation import overoptimisation_levels as levels
from winnow.cli.render import study_report
from winnow.config.schema import from_dict
from winnow.engines.learning.token_values import sequence_logprobs
from winnow.engines.models.forward import PolicyForward
from winnow.evaluation.overoptimisation import overoptimisation, run_overoptimisation
from winnow.evaluation.overoptimisation_fit import (
    Rewards,
    as_json_table,
    best_of_n_study,
    fit,
    fitted,
    rewards_of,
    study_of,
)
from winnow.reporting.observer import Observers
from winnow.storage.schema import write_groups
from winnow.theory.intervals import rate_interval
from winnow.training.run import run as train
from winnow.types import Group, Prompt, Sample, Score

NS = (1, 2, 4, 8, 16)


def gold_of(d: np.ndarray, alpha: float, beta: float, form: str) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        second = d if form == "best-of-n" else np.where(d > 0, np.log(d), 0.0)
    return d * (alpha - beta * second)


def curve(rows: np.ndarray) -> Rewards:
    """Rewards without bounds, each from one sample."""
    return rewards_of(rows, rows, [1] * rows.shape[1])


class TestFit:
    @given(
        st.sampled_from(["best-of-n", "rl"]),
        st.floats(-3, 3),
        st.floats(-3, 3),
        st.floats(-5, 5),
        st.lists(st.floats(0.05, 4), min_size=3, max_size=8, unique_by=lambda d: round(d, 1)),
    )
    def test_noiseless_curves_give_back_what_made_them(self, form, alpha, beta, start, ds) -> None:
        d = np.array([0.0, *sorted(ds)])
        found = fit(d**2, start + gold_of(d, alpha, beta, form), form)
        assert found == pytest.approx((alpha, beta), abs=1e-6)

    def test_points_that_spend_nothing_are_left_out(self) -> None:
        d = np.array([0.0, 0.5, 1.0, 2.0])
        kl = np.array([0.01, 0.26, 0.0, 1.01, 4.01])  # one below the start, by noise
        gold = np.insert(gold_of(d, 1.0, 0.2, "best-of-n"), 2, 99.0)
        assert fit(kl, gold, "best-of-n") == pytest.approx((1.0, 0.2))
        assert all(map(math.isnan, fit(np.zeros(4), np.arange(4.0), "rl")))

    @pytest.mark.parametrize("form", ["best-of-n", "rl"])
    @pytest.mark.parametrize("alpha", [-0.5, 0.1, 1.0])
    @pytest.mark.parametrize("beta", [-0.3, 0.0, 1e-4, 0.3])
    def test_the_fitted_peak_is_the_top_of_the_fitted_curve(self, form, alpha, beta) -> None:
        d = np.array([0.0, 0.4, 0.8, 1.2, 1.6])
        rows = np.tile(gold_of(d, alpha, beta, form), (3, 1))
        study = study_of(range(5), np.tile(d**2, (3, 1)), curve(rows), curve(rows), form)
        grid = np.linspace(0, 40, 400_001)
        top = float(grid[np.argmax(fitted(grid, study))])
        if top == 40:  # beyond, or there is none
            assert study.fitted_peak > 40
            assert math.isinf(study.fitted_peak) or beta > 0
        else:
            assert study.fitted_peak == pytest.approx(top, abs=1e-3)

    @pytest.mark.parametrize("form", ["best-of-n", "rl"])
    def test_intervals_cover(self, form, monkeypatch) -> None:
        """Prompts differ in how fast they rise and fall: new data sets of 40 prompts each."""
        monkeypatch.setattr("winnow.evaluation.overoptimisation_fit._RESAMPLES", 200)
        rng = np.random.default_rng(7)
        d = np.sqrt([0.0, 0.2, 0.6, 1.2, 1.8])
        kl = np.tile(d**2, (40, 1))
        covered = np.zeros(3)
        for seed in range(150):
            made = [gold_of(d, *rng.normal([1.0, 0.4], 0.5), form) for _ in range(40)]
            gold = np.array(made) + rng.normal(0, 0.3, (40, 5))
            study = study_of(range(5), kl, curve(gold), curve(gold), form, seed=seed)
            end = study.points[-1].gold
            truth = gold_of(d, 1.0, 0.4, form)[-1]
            checks = [(study.alpha, 1.0), (study.beta, 0.4), (end, truth)]
            covered += [m.low <= true <= m.high for m, true in checks]
        assert (covered / 150 > 0.89).all(), covered / 150
        assert (covered / 150 < 0.995).all(), covered / 150


def tails(prompts: int, number: int, perfect: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Gold follows the proxy, but in the proxy's uppermost tenth gold is at its worst."""
    rng = np.random.default_rng(5)
    proxies = [rng.normal(size=number) for _ in range(prompts)]
    wrong = [p > 1.2816 for p in proxies]
    golds = [np.where(w & (not perfect), -2.0, p) for p, w in zip(proxies, wrong, strict=True)]
    return proxies, golds


DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


class TestLevels:
    """In small; `python -m tests.evaluation.overoptimisation_levels` is the long one."""

    @pytest.mark.parametrize("world", levels.WORLDS, ids=lambda world: world.name)
    def test_a_fall_is_shown_where_there_is_one(self, world) -> None:
        """A true 5 % is above 9.5 % of 200 sets once in 500 times."""
        share = levels.shown(world, 64, 200)
        assert share > 0.3 if world.falls else share <= 0.095

    def test_the_docs_show_what_is_printed(self) -> None:
        """Of each world its levels and two rows of coverage; one level is made again."""
        docs = DOCS.read_text()
        told = {}
        for world in levels.WORLDS:
            named = rf"^\|(.*) {re.escape(world.name)} \|(.*)\|$"
            shares, *coverage = re.findall(named, docs, re.MULTILINE)
            told[world.name] = [float(cell) for cell in shares[1].split("|")]
            assert [int(row[0].strip(" |")) for row in coverage] == [64, 256]
            assert world.falls or max(told[world.name]) <= 0.06
        made = levels.shown(levels.WORLDS[0], 64, 400)
        assert told[levels.WORLDS[0].name][1] == pytest.approx(made, abs=0.03)


class TestTurningOver:
    def test_a_proxy_that_is_wrong_in_its_tail(self) -> None:
        """Of n normal samples the best is in the tail with 1 - .9^n: gold is highest at n = 4."""
        study = best_of_n_study(*tails(60, 32, False), ns=[1, 2, 4, 8, 16, 32])
        gold = [point.gold.value for point in study.points]
        proxy = [point.proxy.value for point in study.points]
        assert proxy == sorted(proxy)
        assert study.peak.value in (2, 4)
        assert study.peak.value == study.points[int(np.argmax(gold))].at
        assert study.falls
        assert study.drop.value == pytest.approx(max(gold) - gold[-1])
        assert 0.5 < study.drop.low < study.drop.high < 2.5
        assert study.beta.low > 0
        assert study.fitted_peak < math.sqrt(study.points[-1].kl)

    def test_a_perfect_proxy_does_not(self) -> None:
        study = best_of_n_study(*tails(60, 32, True), ns=[1, 2, 4, 8, 16, 32])
        assert (study.peak.value, study.peak.low) == (32, 32)
        assert (study.drop.value, study.drop.low, study.falls) == (0, 0, False)
        assert study.points[-1].gold.value > study.points[0].gold.value + 1.5

    def test_a_plateau_is_no_fall(self) -> None:
        """Gold of 0 or 1 reaches 1, and stays there but for rounding."""
        gold = np.array([0.1, 0.6, 1.0 + 3e-16, 1.0, 1.0 - 3e-16])
        rows = np.tile(gold, (4, 1))
        study = study_of(NS, np.tile(np.arange(5.0), (4, 1)), curve(rows), curve(rows), "best-of-n")
        assert (study.peak.value, study.peak.low, study.peak.high) == (4, 4, 16)
        assert (study.drop.value, study.drop.low, study.falls) == (0, 0, False)

    def test_rates_have_the_intervals_of_rates(self) -> None:
        """One right of 12 x 8 samples, the worst by the proxy: chosen at n = 1 alone."""
        proxies = [np.arange(8.0)] * 12
        golds = [np.eye(8)[0], *[np.zeros(8)] * 11]
        study = best_of_n_study(proxies, golds, [1, 2, 4, 8])
        first, last = study.points[0].gold, study.points[-1].gold
        values = np.array([1 / 8] + [0.0] * 11)
        assert (first.value, first.low, first.high) == pytest.approx(rate_interval(values, 8))
        assert (last.value, last.low, last.high) == pytest.approx(rate_interval(np.zeros(12), 1))
        assert last.high > 0.2
        proxy = study.points[1].proxy  # not within 0 to 1, and on all prompts the same
        assert np.isnan([proxy.low, proxy.high]).all()

    def test_best_of_n_of_random_subsets(self) -> None:
        """Proxy and gold of each point, against picking from random subsets."""
        rng = np.random.default_rng(1)
        proxies, golds = tails(20, 16, False)
        proxies = [np.round(p) for p in proxies]  # ties
        study = best_of_n_study(proxies, golds, NS)
        for point in study.points:
            found = []
            for proxy, gold in zip(proxies, golds, strict=True):
                for _ in range(1000):
                    chosen = rng.permutation(16)[: point.at]
                    top = chosen[proxy[chosen] == proxy[chosen].max()]
                    found.append((proxy[top].mean(), gold[top].mean()))
            error = np.std(found, axis=0) / math.sqrt(len(found))
            measured = (point.proxy.value, point.gold.value)
            assert (np.abs(np.mean(found, axis=0) - measured) <= 4.5 * error + 1e-9).all()

    def test_too_little(self) -> None:
        rows = np.zeros((1, 5))
        with pytest.raises(ValueError, match="three points and two prompts"):
            study_of(NS, rows, curve(rows), curve(rows), "rl")

    def test_what_is_not_finite_is_null(self) -> None:
        rows = np.tile(np.arange(5.0), (3, 1))
        for kl in (rows, np.zeros((3, 5))):
            study = study_of(NS, kl, curve(rows), curve(rows), "rl")
            table = json.loads(json.dumps(as_json_table(study), allow_nan=False))
            assert table["fitted_peak"] is None
            assert table["points"][0]["bound"] is None
            assert table["points"][4]["gold"]["value"] == 4


def answers(prompts: int = 8, number: int = 16) -> list[Group]:
    """Of 16 answers the longest are wrong: a proxy that likes length goes astray."""
    rng = np.random.default_rng(0)
    made = []
    for place in range(prompts):
        lengths = rng.integers(1, 12, number)
        made.append(
            Group(
                Prompt(f"p{place}", f"q{place}"),
                (1,),
                tuple(sample("x" * length) for length in lengths),
                tuple(Score(float(3 < length < 9)) for length in lengths),
            )
        )
    return made


class Length:
    name = "length"

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [Score(float(len(text))) for _, text in items]

    def close(self) -> None: ...


@pytest.fixture
def file(tmp_path) -> Path:
    write_groups(tmp_path / "d.parquet", "sample", 0, answers())
    return tmp_path / "d.parquet"


class TestCommand:
    def test_the_study_of_a_file(self, file) -> None:
        study = overoptimisation(file, Length())
        proxies = [np.array([float(len(d.text)) for d in g.samples]) for g in answers()]
        golds = [np.array([s.value for s in g.scores]) for g in answers()]
        assert study == best_of_n_study(proxies, golds, NS)
        assert study.peak.value < 16
        assert overoptimisation(file, Length(), largest=8).points[-1].at == 8

    def test_prompts_with_too_few_are_told(self, tmp_path, capsys) -> None:
        made = answers()
        made[0] = made[0].with_(scores=(Score.failed("broken"),) * 3 + made[0].scores[3:])
        write_groups(tmp_path / "d.parquet", "sample", 0, made)
        study = overoptimisation(tmp_path / "d.parquet", Length(), largest=16)
        assert (study.prompts, study.left_out) == (7, 1)
        study_report(study)
        assert "of 7 prompts, 1 left out: too few scores" in capsys.readouterr().out

    def test_a_proxy_that_ties_everywhere_has_no_fit(self, capsys) -> None:
        """The best of n is a sample then: no KL is spent, so nothing is known of a turn."""
        golds = list(np.random.default_rng(0).normal(size=(5, 8)))
        study = best_of_n_study([np.zeros(8)] * 5, golds, (1, 2, 4, 8))
        study_report(study)
        told = capsys.readouterr().out
        assert "no fit: fewer than two points have a KL above that of n 1\n" in told
        assert "nan" not in told
        assert "turn over" not in told

    def test_gold_that_never_varies_has_no_interval(self, capsys) -> None:
        proxies = list(np.random.default_rng(0).normal(size=(5, 8)))
        study = best_of_n_study(proxies, [np.full(8, -5.0)] * 5, (1, 2, 4, 8))
        study_report(study)
        assert capsys.readouterr().out.count(" -5.000\n") == 4
        gold = as_json_table(study)["points"][0]["gold"]
        assert gold == {"value": pytest.approx(-5.0), "low": None, "high": None}

    def test_the_drop_from_a_given_n(self, file, monkeypatch, capsys) -> None:
        """Gold at 3 less gold at 16; 3 is no power of two, and has a line of its own."""
        study = overoptimisation(file, Length(), drop_from=3)
        gold = {point.at: point.gold.value for point in study.points}
        assert study.drop.value == pytest.approx(gold[3] - gold[16])
        assert study.drop_from == 3
        args = ["overoptimisation", str(file), "--proxy", "verifier", "--drop-from", "3"]
        code, out, _ = in_process(monkeypatch, capsys, *args)
        assert code == 0
        assert "\ndrop of gold from n = 3 to n = 16: -" in out
        assert "no fall is shown; of 8 prompts\n" in out

    def test_it_is_printed_in_eighty_columns(self, file, monkeypatch, capsys) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        args = ["overoptimisation", str(file), "--proxy", "verifier"]
        code, out, _ = in_process(monkeypatch, capsys, *args)
        assert code == 0
        heading, *lines = out.splitlines()
        names = ["n", "KL plug-in", "KL bound", "d", "proxy", "gold"]
        assert re.split(r"\s{2,}", heading.strip()) == names
        for n, line in zip(NS, lines, strict=False):
            assert re.match(rf" *{n} .*\]$", line)
            assert len(line) <= 80
        code, out, err = in_process(monkeypatch, capsys, *args, "--json")
        assert (code, err) == (0, "")
        found = json.loads(out, parse_constant=pytest.fail)
        assert [point["at"] for point in found["points"]] == list(NS)

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            ("d.parquet", "missing option '--proxy'"),
            ("d.parquet --proxy lenght", "reward: unknown reward 'lenght'"),
            ("d.parquet --proxy verifier --n 0", "n: the study needs 4 samples a prompt"),
            ("d.parquet --proxy verifier --n 3", "n: the study needs 4 samples a prompt"),
            (
                "d.parquet --proxy verifier --n 17",
                "samples: the study needs 2 prompts with 17 samples that have",
            ),
            (
                "d.parquet --proxy verifier --plot p.jpg",
                "plot: unknown kind of picture 'p.jpg'; use .png, .pdf or .svg",
            ),
            (
                "d.parquet --proxy verifier --drop-from 16",
                "drop_from: must be from 1 to below the largest n, 16 (got 16)",
            ),
            (
                "run3 --proxy verifier --checkpoints --drop-from 3",
                "drop_from: run3 has no evaluation of step 3 before its last; use 0 or 5",
            ),
            (
                "d.parquet --proxy verifier --checkpoints --n 4",
                "--checkpoints: it takes one run; give",
            ),
            (
                "run --proxy verifier --checkpoints",
                "run: the study needs 3 evaluations with samples, and run has 2",
            ),
        ],
    )
    def test_a_mistake(self, file, monkeypatch, capsys, args, says) -> None:
        monkeypatch.chdir(file.parent)
        Path("run/rollouts").mkdir(parents=True)
        Path("run/config.toml").touch()
        for step in (0, 5):
            shutil.copy(file, f"run/rollouts/eval-{step:06d}.parquet")
        shutil.copytree("run", "run3")
        shutil.copy(file, "run3/rollouts/eval-000010.parquet")
        done = in_process(monkeypatch, capsys, "overoptimisation", *args.split())
        check_line(Case(args, says), *done)
        assert not list(Path().glob("p.*"))


def plain_logprob(net, prompt, answer, temperature: float) -> float:
    """log pi of an answer, by one plain pass over it alone."""
    with torch.no_grad():
        logits = net(torch.tensor([[*prompt, *answer]])).logits[0].double() / temperature
    at = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    return float(at.gather(1, torch.tensor(answer)[:, None]).sum())


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("room", [1, 24, 4096])
def test_sequence_logprobs_are_those_of_one_sequence_at_a_time(share, room) -> None:
    rng = np.random.default_rng(2)
    net = tiny.model(3)
    made = []
    for length, count in ((1, 3), (5, 1), (2, 6), (9, 2)):
        prompt = rng.integers(2, 40, length).tolist()
        lengths = rng.integers(1, 7, count)
        ids = [tuple(rng.integers(0, 40, k).tolist()) for k in lengths]
        ids.append(ids[0])  # the same answer twice
        samples = tuple(Sample(i, (-1.0,) * len(i), "", "stop") for i in ids)
        made.append(Group(Prompt(str(length), ""), tuple(prompt), samples))
    made.append(made[0])  # and a group
    forward = PolicyForward(net, share_prefix=share)
    for temperature in (1.0, 0.7):
        found = sequence_logprobs(forward, made, temperature, room)
        for group, own in zip(made, found, strict=True):
            expected = [
                plain_logprob(net, group.prompt_ids, d.token_ids, temperature)
                for d in group.samples
            ]
            assert own == pytest.approx(expected, abs=2e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model) -> Path:
    """A run that moves away from where it began."""
    folder = tmp_path_factory.mktemp("over")
    rows = [{**row, "answer": row["answer"]} for row in tiny.problems()]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = from_dict(
        {
            "model": str(tiny_model), "steps": 4, "prompts_per_step": 8, "samples_per_prompt": 4,
            "minibatch_prompts": 4, "reward": "exact", "optimizer": {"lr": 3e-3}, "device": "cpu",
            "prompts": {"source": str(folder / "p.jsonl")},
            "sampling": {"max_tokens": 3, "temperature": 0.8},
            "eval": {"size": 5, "samples": 12, "every": 2},
        }
    )  # fmt: skip
    train(config, out=folder / "run", observers=Observers())
    return folder / "run"


class TestRun:
    def test_kl_is_that_of_plain_passes(self, run, tiny_model) -> None:
        study = run_overoptimisation(run, "verifier")
        assert [point.at for point in study.points] == [0, 2, 4]
        assert study.points[0].kl == pytest.approx(0, abs=1e-4)
        assert study.points[2].kl > 0.01
        net = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
        for point in study.points:
            rows = pq.read_table(run / f"rollouts/eval-{point.at:06d}.parquet").to_pylist()
            ratios = [
                sum(r["logprobs"]) - plain_logprob(net, r["prompt_ids"], r["token_ids"], 0.8)
                for r in rows
            ]
            assert point.kl == pytest.approx(np.mean(ratios), abs=1e-4)
            assert point.gold.value == pytest.approx(np.mean([r["reward"] for r in rows]))

    def test_the_command(self, run, tmp_path, monkeypatch, capsys) -> None:
        args = ["overoptimisation", str(run), "--proxy", "verifier", "--checkpoints"]
        picture = tmp_path / "p.png"
        code, out, _ = in_process(monkeypatch, capsys, *args, "--plot", str(picture))
        assert code == 0
        assert re.split(r"\s{2,}", out.splitlines()[0].strip()) == [
            "step", "KL", "d", "proxy", "gold",
        ]  # fmt: skip
        assert picture.read_bytes().startswith(b"\x89PNG\r\n")
        code, out, _ = in_process(monkeypatch, capsys, *args, "--json")
        found = json.loads(out, parse_constant=pytest.fail)
        assert (code, found["form"], found["points"][0]["bound"]) == (0, "rl", None)

    @pytest.mark.parametrize(
        ("harm", "says"),
        [
            ("start", "has no evaluation of step 0"),
            ("few", "the study needs 3 evaluations with samples, and"),
            ("prompts", "eval-000002.parquet holds other prompts than"),
            ("logprobs", "eval-000002.parquet has no log-probs of its samples"),
            ("truncated", "eval-000002.parquet was sampled with top-k or top-p"),
        ],
    )
    def test_a_run_that_will_not_do(self, run, tmp_path, monkeypatch, capsys, harm, says) -> None:
        folder = shutil.copytree(run, tmp_path / "run")
        files = [folder / f"rollouts/eval-{step:06d}.parquet" for step in (0, 2, 4)]
        if harm == "few":
            files[1].unlink()
        elif harm == "start":
            files[0].rename(files[0].with_name("eval-000009.parquet"))
        else:
            table = pq.read_table(files[1])
            rows = table.to_pylist()
            for row in rows:
                row["prompt_id"] += "x" if harm == "prompts" else ""
                row["truncated"] = harm == "truncated"
                row["logprobs"] = [] if harm == "logprobs" else row["logprobs"]
            pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), files[1])
        args = ["overoptimisation", str(folder), "--proxy", "verifier", "--checkpoints"]
        check_line(Case(args, says), *in_process(monkeypatch, capsys, *args))
