"""Samples at temperature 0: all of a prompt are one, and no rule takes them for a distribution."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import winnow
from tests import tiny
from winnow.algorithms.algorithm import Algorithm
from winnow.config.phases import phases_of
from winnow.config.schema import from_dict
from winnow.engines.base import Request, SamplingParams
from winnow.engines.server.protocol import question
from winnow.errors import UserError
from winnow.rollouts.select import select
from winnow.storage.sample_table import read_samples
from winnow.training.file_source import open_file
from winnow.types import Prompt


class Notes(winnow.Observer):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_note(self, note: winnow.Note) -> None:
        self.texts.append(note.text)


@pytest.fixture(scope="module")
def greedy(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    notes = Notes()
    made = winnow.sample(
        model=str(tiny_model),
        prompts=tiny.problems(),
        reward="exact",
        n=2,
        sampling={"temperature": 0.0, "max_tokens": 3},
        out=tmp_path_factory.mktemp("greedy") / "samples",
        callbacks=[notes],
        quiet=True,
    )
    return made.folder, notes.texts


def test_all_samples_of_a_prompt_are_the_same_and_that_is_said(greedy) -> None:
    folder, notes = greedy
    table = read_samples([str(folder)], ["text", "token_ids"], why="a test")
    assert table.values("temperature") == [0.0]
    for group in table:
        assert len({sample.token_ids for sample in group.samples}) == 1
    assert [note for note in notes if "temperature 0" in note] == [
        "samples_per_prompt: at temperature 0 the 2 samples of a prompt are the same; one is enough"
    ]


@pytest.mark.parametrize("rule", ["gibbs(beta=0.5, r_max=1)", "rso(beta=0.5, k=1)"])
def test_rules_that_are_exact_for_the_policy_refuse_them(greedy, rule: str) -> None:
    folder, _ = greedy
    with pytest.raises(UserError, match=r"samples at temperature 0, and .* needs them of"):
        select([str(folder)], [rule], quiet=True)
    assert select([str(folder)], ["correct"], quiet=True).samples == 50


@pytest.mark.parametrize(("name", "taken"), [("rft", True), ("snis", False), ("gibbs", False)])
def test_what_is_trained_from_such_a_file(greedy, name: str, taken: bool) -> None:
    """Eight samples a prompt are not asked for: the file has what it has."""
    folder, _ = greedy
    given = {"samples_file": str(folder), "algorithm": name, "sampling": {"temperature": 1.0}}
    config = from_dict(given)
    if taken:
        (phase,) = phases_of(config, open_file=open_file)
        assert phase.file is not None
        phases_of(from_dict({**given, "sampling": {"temperature": 0.0}}), open_file=open_file)
        return
    with pytest.raises(UserError, match=r"^samples_file: there are samples at temperature 0"):
        phases_of(config, open_file=open_file)


def test_an_evaluation_of_its_own_length_and_temperature(tiny_model, tmp_path) -> None:
    notes = Notes()
    result = winnow.train(
        model=str(tiny_model),
        prompts=tiny.problems(),
        reward="exact",
        algorithm=Algorithm("raft"),
        steps=1,
        prompts_per_step=2,
        samples_per_prompt=2,
        sampling={"max_tokens": 4},
        eval={"size": 5, "temperature": 0.0, "max_tokens": 1, "samples": 2},
        out=tmp_path / "run",
        callbacks=[notes],
        quiet=True,
    )
    rollouts = result.folder / "rollouts"
    for split, heat in (("train", 1.0), ("eval", 0.0)):
        (file, *_) = sorted(rollouts.glob(f"{split}-*.parquet"))
        table = read_samples([str(file)], ["text", "tokens"], why="a test")
        assert table.values("temperature") == [heat]
        longest = max(sample.length for group in table for sample in group.samples)
        assert longest == 1 if split == "eval" else longest > 1
    row = json.loads((result.folder / "evals.jsonl").read_text().splitlines()[0])
    assert row["kl"] is None
    said = " ".join(notes.texts)
    assert "eval.samples: at temperature 0 the 2 samples of a prompt are the same" in said
    assert "eval.kl_prompts: no KL to the start" in said


def test_a_server_is_asked_for_temperature_0() -> None:
    request = Request(Prompt("p", "1+1="), 1, 5, SamplingParams(temperature=0.0))
    for api in ("completions", "chat"):
        assert question(request, api, "m", n=1, offset=0, logprobs=True)["temperature"] == 0
