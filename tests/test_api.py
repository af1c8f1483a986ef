"""Winnow from Python: what may be given, what is refused, and what is left on the disk."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import winnow
from tests import tiny
from tests.fake_engine import Engine
from tests.kills import full_disk
from tests.studies.faked import TRAIN, study
from winnow.algorithms.advantages import Reward
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.denominators import SampleMeans
from winnow.algorithms.losses import NLL
from winnow.algorithms.objective import Term
from winnow.algorithms.selection import Correct, Everything
from winnow.algorithms.table import ALGORITHMS
from winnow.engines import factory
from winnow.errors import DiskError
from winnow.studies.running import run_study

ROWS = tiny.problems()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny.save(tmp_path_factory.mktemp("model") / "tiny", tiny.model()))


def small(model: str, out: Path, **changes):
    given = {
        "model": model,
        "prompts": ROWS,
        "reward": "exact",
        "steps": 1,
        "prompts_per_step": 2,
        "minibatch_prompts": 2,
        "samples_per_prompt": 2,
        "sampling": {"max_tokens": 2},
        "eval": {"size": 2},
        "out": out,
        "quiet": True,
    }
    return winnow.train(**given | changes)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_study_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))
    monkeypatch.setitem(run_study.__kwdefaults__, "train", TRAIN)
    made = winnow.compare(study(tmp_path, seeds=1), tmp_path / "out", quiet=True)
    assert isinstance(made, winnow.Comparison)
    (said,) = made.verdicts
    assert said.startswith("cannot tell rloo from raft in held-out accuracy")
    assert repr(made).endswith(said)
    assert made.page.is_file()


def test_rows_are_written_beside_the_run(model, tmp_path) -> None:
    result = small(model, tmp_path / "run", eval_prompts=ROWS[:3], eval={"size": 9, "samples": 2})
    assert left(tmp_path) == ["run", "run.eval.jsonl", "run.prompts.jsonl"]
    lines = (tmp_path / "run.prompts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    lines = (result.folder / "evals.jsonl").read_text().splitlines()
    evals = [json.loads(line) for line in lines]
    assert [(row["prompts"], row["samples"]) for row in evals] == [(3, 6), (3, 6)]


def test_a_section_may_be_given_whole(model, tmp_path) -> None:
    rows = [{"question": row["prompt"], "answer": row["answer"]} for row in ROWS]
    section = {"source": rows, "prompt_column": "question", "limit": 4}
    result = small(model, tmp_path / "run", prompts=section)
    recorded = winnow.config.recipe.load(str(result.folder / "config.toml")).prompts
    assert recorded.source == str(tmp_path / "run.prompts.jsonl")
    assert (recorded.prompt_column, recorded.limit) == ("question", 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "grop"}, "algorithm: unknown algorithm 'grop'"),
        ({"reward": "nummber"}, "reward: unknown reward 'nummber'"),
        ({"prompts": []}, "prompts: there is no row in it"),
        ({"eval_prompts": []}, "eval_prompts: there is no row in it"),
        (
            {"prompts": [{"answer": "1"}]},
            r"prompts\.prompt_column: row 1 of prompts=\.\.\. has no column 'prompt'; available: a",
        ),
        (
            {"eval_prompts": [ROWS[0], {"prompt": ""}]},
            r"eval\.source: row 2 of eval_prompts=\.\.\. has an empty prompt",
        ),
        ({"device": "gpu"}, "device: unknown device 'gpu'; use 'cpu', 'cuda' or 'auto'$"),
        ({"prompts": ["2 + 2"]}, "prompts: each row must be a dict"),
        ({"prompts": [{"prompt": object()}]}, "prompts: a row cannot be written as JSON"),
        ({"prompts": iter(ROWS)}, "prompts: list_iterator is no list of rows; make it one of di"),
        ({"prompts": np.array(ROWS)}, "prompts: ndarray is no list of rows"),
        ({"prompts": {"source": {*"ab"}}}, "prompts: set is no list of rows"),
        ({"eval_prompts": iter(ROWS)}, "eval_prompts: list_iterator is no list of rows"),
        (
            {"samples_from": torch.nn.Sequential(torch.nn.ReLU())},
            r"samples_from: must be a str \(got Sequ",
        ),
        ({"stpes": 3}, "unknown setting 'stpes'"),
        (
            {"sampling.max_tokens": 2},
            "unknown setting 'sampling.max_tokens'; give it as 'max_tokens' of the table 'sampling",
        ),
        (
            {"eval_prompts": ROWS, "eval": {"source": "a.jsonl"}},
            r"eval\.source: an argument of its own says it too; give one of them",
        ),
        ({"sampling": {"max_tokens": 999}}, "prompts: prompt '.*' has .* the model's context"),
        ({"eval": 3}, "eval: must be a table"),
    ],
)
def test_a_mistake_leaves_nothing_behind(changes, message, model, tmp_path) -> None:
    with pytest.raises(winnow.UserError, match=rf"^{message}") as caught:
        small(model, tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == []


def test_nothing_that_exists_is_written_over(model, tmp_path) -> None:
    (tmp_path / "run.prompts.jsonl").write_text("mine")
    with pytest.raises(winnow.UserError, match=r"^out: .*run\.prompts\.jsonl exists already"):
        small(model, tmp_path / "run")
    assert left(tmp_path) == ["run.prompts.jsonl"]
    assert (tmp_path / "run.prompts.jsonl").read_text() == "mine"
    (tmp_path / "old").mkdir()
    with pytest.raises(winnow.UserError, match=r"^out: .*old exists already"):
        small(model, tmp_path / "old")
    assert left(tmp_path) == ["old", "run.prompts.jsonl"]


def test_rows_that_a_killed_run_left_are_in_nobodys_way(model, tmp_path, monkeypatch) -> None:
    """It had written them, and not yet a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/run-001.prompts.jsonl").write_text("{}")
    assert small(model, None).folder == tmp_path / "runs/run-002"
    own = tmp_path / "own.prompts.jsonl"
    own.write_text("".join(json.dumps(dict(row)) + "\n" for row in ROWS))
    assert small(model, tmp_path / "own").folder == tmp_path / "own"
    (tmp_path / "other.prompts.jsonl").write_text("somebody's")
    with pytest.raises(winnow.UserError, match=r"other.prompts.jsonl exists already"):
        small(model, tmp_path / "other")


def test_rows_of_a_run_that_begins_are_not_anothers_to_remove(model, tmp_path) -> None:
    """It has written them, and has no folder yet; the other is the same call, and fails."""
    rows = tmp_path / "run.prompts.jsonl"
    rows.write_text("".join(json.dumps(dict(row)) + "\n" for row in ROWS))
    with pytest.raises(winnow.UserError):
        small(model, tmp_path / "run", reward="nowhere:x")
    assert left(tmp_path) == ["run.prompts.jsonl"]


def test_paths_are_as_good_as_texts(model, tmp_path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(dict(row)) + "\n" for row in ROWS))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("seed = 3\n")
    result = small(Path(model), tmp_path / "run", prompts=rows, recipe=recipe)
    assert result.run.config["seed"] == 3
    found = winnow.evaluate(
        model=Path(model), prompts=rows, reward="exact", sampling={"max_tokens": 2}, quiet=True,
        out=tmp_path / "eval",
    )  # fmt: skip
    assert found.samples == len(ROWS)
    assert small(model, tmp_path / "table", prompts={"source": rows}).metrics


@pytest.mark.parametrize("resumed", [winnow.train, winnow.sample])
def test_what_is_no_path_is_told(resumed) -> None:
    with pytest.raises(winnow.UserError, match=r"^resume: 3 is no path; give it as text$"):
        resumed(resume=3, quiet=True)


def test_samples_by_path_and_a_model_by_path(model, tmp_path) -> None:
    asked = {"prompts": ROWS, "n": 4, "sampling": {"max_tokens": 2}, "quiet": True}
    odd = lambda prompt, said: float(len(said) % 2)  # noqa: E731
    folder = winnow.sample(model=model, reward=odd, out=tmp_path / "samples", **asked).folder
    assert winnow.select(iter([folder]), rules=["everything"]).samples == 4 * len(ROWS)
    fitted = winnow.fit_reward(folder, model=Path(model), out=tmp_path / "fitted")
    assert weights(fitted.folder)
    for given, said in (([], "there is no file or folder; name at least one"), (3, "3 is no path")):
        with pytest.raises(winnow.UserError, match=rf"^samples: {said}"):
            winnow.select(given, rules=["correct"])


def test_what_may_not_be_given_beside_resume(model, tmp_path) -> None:
    small(model, tmp_path / "run")
    for given in ({"reward": "exact"}, {"steps": 3}, {"algorithm": "raft"}, {"out": "x"}):
        with pytest.raises(winnow.UserError, match=r"^resume: a run resumes with its own"):
            winnow.train(resume=tmp_path / "run", quiet=True, **given)


def odd_samples(group, alive, rng):
    return [None if i % 2 else "even" for i in range(len(group.samples))]


@pytest.mark.parametrize("named", [True, False], ids=["in a module", "in a test"])
def test_an_algorithm_of_ones_own_is_resumed(named, model, tmp_path) -> None:
    """One that a file can hold goes on by itself; another is asked for."""
    rule = odd_samples if named else lambda *args: odd_samples(*args)
    mine = Algorithm("mine", select=(rule,), terms=(Term(NLL(), SampleMeans()),))
    first = small(model, tmp_path / "run", algorithm=mine)
    assert first.metrics[0]["survivors"] == 2
    if named:
        again = winnow.train(resume=first.folder, quiet=True)
    else:
        with pytest.raises(winnow.UserError, match=r"^algorithm: 'mine' was made in Python"):
            winnow.train(resume=first.folder, quiet=True)
        again = winnow.train(resume=first.folder, algorithm=mine, quiet=True)
    assert again == first


def as_rewarded(rewards):
    return rewards


def downhill(logp, old, weight):
    return -weight * logp


def by_samples(length, siblings, totals):
    return 1 / (length * totals.samples)


@pytest.mark.parametrize("written", [True, False], ids=["in a recipe", "in Python"])
def test_every_cell_may_be_a_function_of_ones_own(written, model, tmp_path) -> None:
    """Functions that do as cells of the table do make the same run."""
    functions = {"advantage": as_rewarded, "loss": downhill, "denominator": by_samples}
    mine: object = Algorithm("mine", (odd_samples,), as_rewarded, (Term(downhill, by_samples),))
    if written:
        cells = {key: f"{__name__}:{function.__name__}" for key, function in functions.items()}
        mine = {"name": "raft", "select": [f"{__name__}:odd_samples"], **cells}
    theirs = Algorithm("theirs", (odd_samples,), Reward(), (Term(NLL(), SampleMeans()),))
    reward = {"reward": lambda prompt, said: float(len(said))}
    runs = [
        small(model, tmp_path / name, algorithm=algorithm, **reward)
        for name, algorithm in (("mine", mine), ("theirs", theirs))
    ]
    for key in ("loss", "grad_norm", "survivors"):
        assert runs[0].metrics[0][key] == runs[1].metrics[0][key] != 0, key


def test_two_terms_are_trained(model, tmp_path) -> None:
    terms = (Term(NLL(), SampleMeans()), Term(NLL(), SampleMeans(), coefficient=0.5))
    mine = Algorithm("mine", select=(Everything(),), terms=terms)
    assert small(model, tmp_path / "run", algorithm=mine).metrics[0]["updates"] == 1


def test_without_the_answer_column_a_run_can_be_resumed(model, tmp_path) -> None:
    rows = [{"prompt": row["prompt"]} for row in ROWS]
    first = small(model, tmp_path / "run", prompts=rows, reward=lambda prompt, said: 1.0)
    again = winnow.train(resume=first.folder, reward=lambda prompt, said: 1.0, quiet=True)
    assert again == first


def test_a_run_that_goes_on_with_another_function_says_so(model, tmp_path) -> None:
    notes: list[str] = []

    class Notes(winnow.Observer):
        def on_note(self, note: winnow.Note) -> None:
            notes.append(note.text)

    def other(prompt: winnow.Prompt, said: str) -> float:
        return 1.0

    def longer(run: winnow.Result) -> Path:
        path = run.folder / "config.toml"
        path.write_text(path.read_text().replace("steps = 1\n", "steps = 2\n"))
        return run.folder

    first = longer(small(model, tmp_path / "run"))
    winnow.train(resume=first, reward=other, quiet=True, callbacks=[Notes()])
    said = [note for note in notes if note.startswith("reward: ")]
    assert len(said) == 1
    assert said[0].endswith(".other scores from now on; what there is was scored by exact")
    notes.clear()
    own = longer(small(model, tmp_path / "own", reward=other))
    assert winnow.train(resume=own, reward=other, quiet=True, callbacks=[Notes()]).metrics[1]
    assert not [note for note in notes if note.startswith("reward: ")]


def test_what_an_argument_says_is_not_said_otherwise_too(model, tmp_path) -> None:
    common = {"model": model, "reward": "exact", "out": tmp_path / "x", "quiet": True}
    with pytest.raises(winnow.UserError, match=r"^samples_per_prompt: an argument of its own says"):
        winnow.sample(**common, prompts=ROWS, n=2, samples_per_prompt=3)
    with pytest.raises(winnow.UserError, match=r"^eval\.source: an argument of its own says"):
        winnow.evaluate(**common, prompts=ROWS, eval={"source": "a.jsonl"})
    some = winnow.evaluate(**common, prompts=ROWS, eval={"size": 3}, sampling={"max_tokens": 2})
    assert some.prompts == 3 < len(ROWS)


def test_evaluate(model, tmp_path) -> None:
    result = winnow.evaluate(
        model=model,
        prompts=ROWS,
        reward=lambda prompt, said: 1.0,
        sampling={"max_tokens": 2},
        out=tmp_path / "tried",
        quiet=True,
    )
    assert (result.accuracy, result.prompts) == (1.0, len(ROWS))
    assert left(tmp_path) == ["tried", "tried.eval.jsonl"]
    with pytest.raises(winnow.UserError, match=r"^prompts: there is no row in it"):
        winnow.evaluate(model=model, prompts=[], reward="exact", out=tmp_path / "x", quiet=True)
    assert left(tmp_path) == ["tried", "tried.eval.jsonl"]


def test_an_evaluation_of_a_run_of_ones_own_algorithm(model, tmp_path) -> None:
    mine = Algorithm("mine", select=(Correct(), lambda *args: odd_samples(*args)))
    run = small(model, tmp_path / "run", algorithm=mine)
    result = winnow.evaluate(
        recipe=str(run.folder / "config.toml"),
        model=str(run.checkpoint),
        out=tmp_path / "tried",
        quiet=True,
    )
    assert result.prompts == 2


def test_names_are_found_where_they_live() -> None:
    for name in winnow.__all__:
        assert getattr(winnow, name) is not None
    assert winnow.ALGORITHMS is ALGORITHMS
    assert set(winnow.__all__) <= set(dir(winnow))
    with pytest.raises(AttributeError, match="'winnow' has no attribute 'trian'"):
        winnow.trian  # noqa: B018


def test_a_disk_without_room_for_rows_is_told(tmp_path: Path) -> None:
    """Nothing half-written is left, which would be refused when there is room."""
    rows = [{"prompt": f"{number}?", "answer": "7"} for number in range(12)]
    with full_disk(64), pytest.raises(DiskError, match=r"cannot write .*make room"):
        winnow.evaluate(prompts=rows, reward="exact", out=tmp_path / "x", quiet=True)
    assert list(tmp_path.iterdir()) == []


def cut_off(logp, old, weight):
    return downhill(logp, old, weight).detach()


def nothing(logp, old, weight):
    return torch.zeros(len(logp))


def test_a_loss_without_a_gradient_is_told(model, tmp_path) -> None:
    """Nothing was learned from it, step after step; from a 0 there is nothing to learn."""
    said = r"cut_off: the loss returned numbers without a gradient, from which nothing is learned"
    for loss in (cut_off, nothing):
        mine = Algorithm("mine", (Everything(),), terms=(Term(loss, SampleMeans()),))
        run = partial(small, model, tmp_path / loss.__name__, algorithm=mine)
        if loss is nothing:
            assert run().metrics[0]["grad_norm"] == 0
        else:
            with pytest.raises(winnow.UserError, match=said):
                run()
