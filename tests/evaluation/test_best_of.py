"""The best of n answers of a file: curves, winners, the command and its picture."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.build import sample
from tests.cli.test_main import Case, check_line, contents, in_process
from winnow.errors import UserError
from winnow.evaluation.best_of import best_of
from winnow.storage.schema import write_groups
from winnow.types import Group, Origin, Prompt, Score

NS = (1, 2, 4, 8, 14)


class Levels:
    """Scores an answer by its first letter: z is -6, a 0, b 1; an x is an error."""

    name = "levels"

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [
            Score.failed("no level") if text[0] == "x" else Score(level(text)) for _, text in items
        ]

    def close(self) -> None: ...


def level(text: str) -> float:
    return -6.0 if text[0] == "z" else float("abcde".index(text[0]))


def answer(text: str) -> str | None:
    found = re.search(r"#### (\w+)", text)
    return found[1] if found else None


def groups(prompts: int, number: int, seed: int = 0, errors: float = 0.0) -> list[Group]:
    """Samples with few levels of score and few answers, so that both tie. Answer 0 is right."""
    rng = np.random.default_rng(seed)
    made = []
    for place in range(prompts):
        likely = rng.dirichlet([1.5, 1.0, 1.0, 0.5])
        texts, scores = [], []
        for said in rng.choice(4, number, p=likely):
            tail = f"#### {said}" if said < 3 else "no answer"
            texts.append(f"{'zabcde'[rng.integers(5) + (said == 0)]}: {tail}")
            broken = rng.random() < errors
            scores.append(Score.failed("broken") if broken else Score(float(said == 0)))
        prompt = Prompt(f"p{place}", f"question {place}", "0")
        made.append(Group(prompt, (1,), tuple(map(sample, texts)), tuple(scores)))
    return made


def write(path: Path, made: Sequence[Group]) -> Path:
    write_groups(path, "sample", 0, list(made))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("samples") / "samples.parquet", groups(12, 14))


def rows_by_prompt(path: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for number, row in enumerate(pq.read_table(path).to_pylist()):
        found.setdefault(row["prompt_id"], []).append({**row, "row": number})
    return found


def by_subsets(path: Path, pick, subsets: int = 1500) -> list[tuple[float, float]]:
    """Mean and standard error over random n-subsets of each prompt's samples, for each n of NS."""
    rng = np.random.default_rng(99)
    rows = list(rows_by_prompt(path).values())
    found = []
    for n in NS:
        rates = [
            [pick([own[i] for i in rng.permutation(len(own))[:n]]) for _ in range(subsets)]
            for own in rows
        ]
        error = math.sqrt(sum(np.var(rate) / subsets for rate in rates)) / len(rates)
        found.append((float(np.mean(rates)), error))
    return found


def one_right(chosen: list[dict]) -> float:
    return float(any(row["right"] for row in chosen))


def best_scored(chosen: list[dict]) -> float:
    top = max(level(row["text"]) for row in chosen)
    tied = [row["right"] for row in chosen if level(row["text"]) == top]
    return sum(tied) / len(tied)


def voted(weight) -> object:
    def pick(chosen: list[dict]) -> float:
        totals: dict[str, float] = {}
        for row in chosen:
            if answer(row["text"]) is not None and weight(row) > 0:
                said = answer(row["text"])
                totals[said] = totals.get(said, 0.0) + weight(row)
        tied = [said for said, total in totals.items() if total == max(totals.values())]
        return ("0" in tied) / len(tied) if tied else 0.0

    return pick


@pytest.mark.parametrize(
    ("how", "field", "pick"),
    [
        ({}, "passes", one_right),
        ({}, "best", one_right),  # by the verifier, best-of-n is pass@n
        ({"by": Levels()}, "passes", one_right),
        ({"by": Levels()}, "best", best_scored),
        ({"by": Levels()}, "score", lambda chosen: max(level(row["text"]) for row in chosen)),
        ({"by": "majority"}, "majority", voted(lambda row: 1)),
        ({"by": "weighted"}, "majority", voted(lambda row: row["reward"])),
        (
            {"by": "weighted", "votes": Levels()},
            "majority",
            voted(lambda row: max(0, level(row["text"]))),
        ),
    ],
)
def test_curves_agree_with_subsets_of_the_file(file, how, field, pick) -> None:
    found = getattr(best_of(file, **how).curves, field)
    assert [point.n for point in found] == list(NS)
    for point, (value, error) in zip(found, by_subsets(file, pick), strict=True):
        own = 0.5 / math.sqrt(1000 * 12)  # of the 1000 subsets that votes are averaged over
        assert point.value == pytest.approx(value, abs=4.5 * math.hypot(error, own) + 1e-9)


def test_n_itself_has_a_line(file) -> None:
    """Curves go on to all samples, and n is among their places."""
    for n, places in ((5, [1, 2, 4, 5, 8, 14]), (8, [1, 2, 4, 8, 14]), (None, [1, 2, 4, 8, 14])):
        assert [point.n for point in best_of(file, n).curves.passes] == places


def test_either_a_vote_or_a_score_has_curves(file) -> None:
    vote, scored = best_of(file, by="majority").curves, best_of(file).curves
    assert (vote.best, vote.score, vote.kl_plugin, vote.kl_bound) == ([], [], [], [])
    assert scored.majority == []


def test_kl_at_half_and_four(tmp_path) -> None:
    """p = .5, n = 4: m = (1/16, 15/16), KL = .4594; log 4 - 3/4 = .6363."""
    one = groups(1, 40)[0]
    scores = tuple(Score(float(i % 2)) for i in range(40))
    path = write(tmp_path / "d.parquet", [one.with_(scores=scores)])
    made = best_of(path).curves
    assert made.kl_plugin[2] == pytest.approx(0.4594, abs=1e-4)
    assert made.kl_bound[2] == pytest.approx(0.6363, abs=1e-4)
    assert (made.kl_plugin[0], made.kl_bound[0]) == (0, 0)


class TestWinners:
    """What is written, against a plain loop over the rows of the file."""

    @pytest.fixture(scope="class")
    def uneven(self, tmp_path_factory) -> Path:
        made = groups(10, 12, seed=3, errors=0.3)
        texts = [sample("x: #### 0"), *made[0].samples[1:]]
        made[0] = made[0].with_(samples=tuple(texts))
        return write(tmp_path_factory.mktemp("uneven") / "d.parquet", made)

    @pytest.mark.parametrize("how", ["verifier", "levels", "majority", "weighted"])
    def test_they_are_the_best_of_the_first_n(self, uneven, tmp_path, how) -> None:
        n = 7
        by = Levels() if how == "levels" else how
        paths = [tmp_path / "w.parquet", tmp_path / "w.jsonl"]
        made = best_of(uneven, n, by=by, out=paths)
        expected: dict[str, set[int]] = {}
        left = 0
        for name, rows in rows_by_prompt(uneven).items():
            usable = [row for row in rows if row["error"] is None]
            if how == "levels":
                usable = [row for row in usable if row["text"][0] != "x"]
            if len(usable) < n:
                left += 1
                continue
            best = self.best(usable[:n], how)
            if best:
                expected[name] = best
        assert 0 < left < 8  # or this shows nothing
        assert made.prompts == 10 - left
        assert f"left out: {left} of 10 prompts" in made.notes[0]
        won = pq.read_table(paths[0]).to_pylist()
        places = {row["prompt_id"]: row["sample"] for row in won}
        assert places.keys() == expected.keys()
        for name, samples in expected.items():
            assert places[name] in samples
        lines = [json.loads(line) for line in paths[1].read_text().splitlines()]
        assert [(line["prompt"], line["completion"], line["reward"]) for line in lines] == [
            (row["prompt"], row["text"], row["reward"]) for row in won
        ]
        assert made.accuracy[0] == pytest.approx(sum(r["right"] for r in won) / made.prompts)
        source = pq.read_table(uneven).to_pylist()
        assert [source[i]["text"] for i in np.flatnonzero(made.won)] == [r["text"] for r in won]

    def best(self, rows: list[dict], how: str) -> set[int]:
        """The samples that may win."""
        if how in ("verifier", "levels"):
            scores = [r["reward"] if how == "verifier" else level(r["text"]) for r in rows]
            return {r["sample"] for r, s in zip(rows, scores, strict=True) if s == max(scores)}
        weights = [1.0 if how == "majority" else r["reward"] for r in rows]
        totals: dict[str | None, float] = {}
        for row, weight in zip(rows, weights, strict=True):
            if answer(row["text"]) is not None and weight > 0:
                said = answer(row["text"])
                totals[said] = totals.get(said, 0) + weight
        top = [said for said, total in totals.items() if total == max(totals.values())]
        # the weights of one answer are equal here: any of its samples may win
        return {r["sample"] for r in rows if answer(r["text"]) in top}

    def test_ties_go_by_lot(self, tmp_path) -> None:
        made = Group(
            Prompt("p", "p"),
            (1,),
            tuple(sample(f"{s}: #### 1") for s in "cdbdd"),
            tuple(Score(0.0) for _ in range(5)),
        )
        path = write(tmp_path / "d.parquet", [made])
        won = [int(np.flatnonzero(best_of(path, by=Levels(), seed=s).won)[0]) for s in range(60)]
        assert {place: won.count(place) > 8 for place in won} == dict.fromkeys([1, 3, 4], True)
        again = [best_of(path, by=Levels(), seed=s).won.argmax() for s in range(60)]
        assert again == won

    def test_ties_by_rounding_go_by_lot_too(self, tmp_path) -> None:
        """.1 + .2 is .3; and each of the two is the best of both with chance 1/2 in the curve."""
        scores = tuple(map(Score, (0.3, 0.1 + 0.2)))
        made = Group(Prompt("p", "p"), (1,), (sample("a"), sample("b")), scores, right_at=0.3001)
        path = write(tmp_path / "d.parquet", [made])
        found = [best_of(path, seed=s).won.tolist().index(True) for s in range(60)]
        assert all(found.count(place) > 8 for place in (0, 1))

    def test_a_vote_does_not_favour_the_first_of_its_answer(self, tmp_path) -> None:
        """Equal answers, of which the verifier takes the first alone: right in one of three."""
        scores = tuple(map(Score, (1.0, 0.0, 0.0)))
        made = Group(Prompt("p", "p"), (1,), (sample("#### 1"),) * 3, scores)
        path = write(tmp_path / "d.parquet", [made] * 1)
        found = [best_of(path, by="majority", seed=s) for s in range(90)]
        places = [one.won.tolist().index(True) for one in found]
        # 90 throws of a fair three-sided die: each side 30 +- 4.5; 4.4 sigma is 20
        assert all(10 < places.count(place) < 50 for place in range(3))

    def test_nobody_has_a_vote(self, tmp_path) -> None:
        made = [g.with_(samples=tuple(sample("b: dunno") for _ in g.samples)) for g in groups(3, 4)]
        found = best_of(write(tmp_path / "d.parquet", made), by="majority")
        assert not found.won.any()
        assert found.accuracy[0] == 0

    def test_votes_that_weigh_nothing_are_told(self, file) -> None:
        found = best_of(file, by="weighted", votes=Levels())
        nothing = sum(level(r["text"]) < 0 for rows in rows_by_prompt(file).values() for r in rows)
        assert nothing
        assert found.notes == [f"{nothing} of 168 votes weigh nothing: a score below 0"]

    def test_comparisons_that_fail_are_told(self, tmp_path) -> None:
        texts = [r"\boxed{\frac{1}{0}}", r"\boxed{x+1}", r"\boxed{1+x}", r"\boxed{7}"]
        one = groups(1, 4)[0].with_(samples=tuple(map(sample, texts)))
        found = best_of(write(tmp_path / "d.parquet", [one]), by="majority", answers="math")
        assert found.notes == [
            "comparisons of formulas that failed: 1; their answers count as different"
        ]
        assert np.flatnonzero(found.won).tolist() in ([1], [2])  # the two that are equal


MISTAKES = {
    "n": Case("best-of d.parquet --n 15", "n: no prompt has 15 samples with a score, only up"),
    "no n": Case("best-of d.parquet --n 0", "n: must be at least 1 (got 0)"),
    "answers": Case(
        "best-of d.parquet --answers maths", "answers: unknown kind of answers 'maths'; use nu"
    ),
    "votes": Case("best-of d.parquet --votes exact", "votes: it is read only with by = 'weighted'"),
    "by": Case("best-of d.parquet --by nummber", "reward: unknown reward 'nummber'; did you mean"),
    "model": Case("best-of d.parquet --by model:none", "'none' is not a folder, a .gguf file"),
    "form": Case("best-of d.parquet --form chat", "--form: unknown form 'chat'; use auto, mess"),
    "pairs": Case(
        "best-of d.parquet --form preference --out w.jsonl",
        "form: only winners are written, and a pair needs a loser; use winnow select",
    ),
    "form of nothing": Case(
        "best-of d.parquet --form messages", "form: only a .jsonl file has one, and none is to be"
    ),
    "form of columns": Case(
        "best-of d.parquet --form messages --out w.parquet", "form: only a .jsonl file has one, and"
    ),
    "policies": Case(
        "best-of d.parquet e.parquet", "samples of 2 policies (a at temperature 1; b at"
    ),
    "unscored": Case("best-of raw.parquet", "samples: 8 of 8 samples have no score; score them w"),
    "errors": Case("best-of broken.parquet", "samples: no sample has a score, all are err"),
    "no file": Case("best-of no.parquet", "samples: no file or folder no.parquet"),
    "samples and recipe": Case("best-of d.parquet --set seed=1", "--recipe, --set, --folder: they"),
    "out": Case("best-of d.parquet --out w.csv", "out: unknown kind of file 'w.csv'; use"),
    "out exists": Case("best-of d.parquet --out e.parquet", "out: e.parquet exists already"),
    "out folder": Case("best-of d.parquet --out no/w.jsonl", "out: no folder no"),
    "plot": Case("best-of --plot p.gif", "plot: unknown kind of picture 'p.gif'; use"),
    "plot folder": Case("best-of --plot no/p.svg", "plot: no folder no"),
    "sampled, then out": Case("best-of --out w.csv", "out: unknown kind of file"),
    "sampled, then by": Case("best-of --by nummber", "reward: unknown reward 'nummber'"),
    "sampled, then model": Case("best-of --by model:none", "reward: 'none' is not a folder"),
    "sampled, then form": Case("best-of --form chat", "--form: unknown form 'chat'"),
    "sampled, then pairs": Case("best-of --form preference", "form: only winners are written, and"),
    "sampled, then no lines": Case("best-of --form messages", "form: only a .jsonl file has one"),
}
"""Those without samples would sample with the built-in model, were they not found before."""


class TestCommand:
    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_a_mistake_is_one_clear_line(self, mistake, tmp_path, monkeypatch, capsys) -> None:
        monkeypatch.chdir(tmp_path)
        made = groups(2, 4)
        write(Path("d.parquet"), [g.with_(origin=Origin("a")) for g in made])
        write(Path("e.parquet"), [g.with_(origin=Origin("b")) for g in made])
        write(Path("raw.parquet"), [g.with_(scores=()) for g in made])
        failed = (Score.failed("it broke"),) * 4
        write(Path("broken.parquet"), [g.with_(scores=failed) for g in made])
        monkeypatch.setattr("winnow.rollouts.collect.run_sample", None)  # nothing is sampled
        before = contents(tmp_path)
        case = MISTAKES[mistake]
        check_line(case, *in_process(monkeypatch, capsys, *case.args.split()))
        assert contents(tmp_path) == before

    def test_many_policies_are_not_all_named(self, tmp_path) -> None:
        for name in "abcde":
            write(tmp_path / f"{name}.parquet", [groups(1, 4)[0].with_(origin=Origin(name))])
        with pytest.raises(
            UserError, match=r"samples of 5 policies \(a .*; b .*; c .* and others\)"
        ):
            best_of(tmp_path)

    def test_pool_takes_several_policies(self, tmp_path) -> None:
        made = groups(2, 4)
        paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
        for path, own in zip(paths, made, strict=True):
            write(path, [own.with_(origin=Origin(path.stem))])
        with pytest.raises(UserError, match="samples of 2 policies"):
            best_of(paths)
        assert best_of(paths, pool=True).prompts == 2

    @pytest.mark.parametrize("by", ["verifier", "majority"])
    def test_each_n_is_a_line_of_eighty_columns(self, file, monkeypatch, capsys, by) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        code, out, _ = in_process(monkeypatch, capsys, "best-of", str(file), "--by", by)
        assert code == 0
        heading, *lines = out.splitlines()[1:]
        names = {"verifier": "best of n  its score  KL plug-in  KL bound", "majority": "vote of n"}
        assert re.split(r"\s{2,}", heading.strip()) == ["n", "pass@n", *names[by].split("  ")]
        for n, line in zip(NS, lines, strict=False):
            assert re.match(rf" *{n}  .*\d% \[[\d.]+, [\d.]+\]", line)
            assert len(line) <= 80
        monkeypatch.setenv("COLUMNS", "40")  # never cut off
        _, narrow, _ = in_process(monkeypatch, capsys, "best-of", str(file), "--by", by)
        assert narrow.splitlines()[1 : 2 + len(NS)] == [heading, *lines[: len(NS)]]

    def test_what_it_prints(self, file, tmp_path, monkeypatch, capsys) -> None:
        args = ["best-of", str(file), "--n", "4", "--by", "majority", "--plot"]
        code, out, _ = in_process(monkeypatch, capsys, *args, str(tmp_path / "p.svg"))
        assert code == 0
        made = best_of(file, 4, by="majority")
        share = f"{made.accuracy[0]:.1%}"
        assert out.startswith(f"best of 4 by majority, 12 prompts: {share} [")
        assert out.endswith(f"written:  {tmp_path / 'p.svg'}\n")
        code, out, err = in_process(monkeypatch, capsys, "best-of", str(file), "--json")
        found = json.loads(out, parse_constant=pytest.fail)
        assert (code, err) == (0, "")
        assert (found["by"], found["n"], found["prompts"]) == ("verifier", 14, 12)
        assert [point["n"] for point in found["curves"]["passes"]] == list(NS)

    def test_without_samples_it_samples_first(
        self, tiny_model, tmp_path, monkeypatch, capsys
    ) -> None:
        monkeypatch.chdir(tmp_path)
        rows = [{"prompt": f"{a}+1=", "answer": str(a + 1)} for a in range(5)]
        Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sets = [f"model={tiny_model}", "prompts.source=p.jsonl", "eval.size=2"]
        sets += ["sampling.max_tokens=2", "reward=exact", "device=cpu"]
        args = [part for item in sets for part in ("--set", item)]
        args = ["best-of", *args, "--n", "3", "--folder", "sampled", "--out", "w.jsonl", "--json"]
        code, out, err = in_process(monkeypatch, capsys, *args)
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert (found["samples"], found["n"], found["prompts"]) == (["sampled"], 3, 2)
        sampled = rows_by_prompt(Path("sampled/samples/part-00001.parquet"))
        assert [len(own) for own in sampled.values()] == [3, 3]
        assert len(Path("w.jsonl").read_text().splitlines()) == 2

    def test_what_is_loaded(self) -> None:
        """No model library, no picture library; for the help no table of samples either."""
        code = (
            "import sys; import winnow.evaluation.best_of, winnow.evaluation.overoptimisation\n"
            "import winnow.engines.reward_models.fit\n"
            "print(sorted({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()))\n"
            "for m in ('numpy', 'pyarrow'): sys.modules[m] = None\n"
            "for m in [m for m in sys.modules if m.startswith('winnow')]: del sys.modules[m]\n"
            "from winnow.cli.main import main; sys.argv = ['winnow', 'best-of', '--help']\n"
            "main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.startswith("[]\nUsage: winnow best-of"), done.stderr
