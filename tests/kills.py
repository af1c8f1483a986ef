"""Runs of the tiny model, killed where a test says, and what a folder holds afterwards."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

import winnow
from tests import tiny
from winnow.config.schema import Config, from_dict
from winnow.training.run import run
from winnow.types import Prompt, Score

SMALL: dict[str, Any] = {
    "reward": "exact",
    "steps": 3,
    "prompts_per_step": 6,
    "samples_per_prompt": 6,
    "minibatch_prompts": 3,
    "sampling": {"max_tokens": 4},
    "optimizer": {"lr": 2e-3},
    "eval": {"size": 0},
    "checkpoint": {"every": 100},
}


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may have more bytes than these: what writes more hears what it hears of a full disk.

    To libraries that write in Rust or C++ as well.
    """
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


class KillAt(winnow.reporting.observer.Observers):
    """Dies at the n-th event that it hears of, and remembers what those events were."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at = at
        self.heard: list[tuple[str, int]] = []
        self.notes: list[str] = []

    def progress(self, stage: str, done: int, total: int) -> None:
        self.heard.append((stage, done))
        if len(self.heard) == self.at:
            raise Killed

    def note(self, text: str) -> None:
        self.notes.append(text)


class Dealt:
    """A reward by the place of a sample alone: no luck decides who survives.

    Args:
        groups: The rewards of each prompt's samples; those of further prompts begin anew.
    """

    name = "dealt"

    def __init__(self, *groups: Sequence[float]) -> None:
        self._rewards = [reward for group in groups for reward in group]

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [Score(self._rewards[i % len(self._rewards)]) for i in range(len(items))]

    def close(self) -> None: ...


FIRST = Dealt([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
"""The first of each prompt's six samples is right."""


def config(model: Path, tmp_path: Path, **settings: Any) -> Config:
    """Settings over those of a small run; its prompts are written beside it."""
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in tiny.problems()))
    given = {"model": str(model), "prompts": str(source), **SMALL, **settings}
    phases = settings.get("phases", ())
    for key in ("steps", "prompts_per_step", "minibatch_prompts"):  # not above, if each has its own
        if phases and all(key in phase for phase in phases):
            del given[key]
    return from_dict(given)


def go(config: Config, out: Path, reward: Any = None) -> winnow.Result:
    return run(config, out=out, observers=winnow.reporting.observer.Observers(), reward=reward)


def check_resumed(
    config: Config,
    tmp_path: Path,
    kills: Sequence[int] | Callable[[list[tuple[str, int]]], Sequence[int]],
    reward: Any = None,
) -> tuple[winnow.Result, winnow.Result]:
    """Killed at each of these events and resumed, a run ends as the unbroken one.

    Args:
        kills: Numbers of events, each counted from where the run goes on; or what finds them among
            the events of the unbroken run.

    Returns:
        The unbroken run and the other.
    """
    listener = KillAt()
    whole = run(config, out=tmp_path / "whole", observers=listener, reward=reward)
    broken = tmp_path / "broken"
    begin: dict[str, Any] = {"config": config, "out": broken}
    for at in kills(listener.heard) if callable(kills) else kills:
        with pytest.raises(Killed):
            run(**begin, observers=KillAt(at), reward=reward)
        begin = {"resume": broken}
    result = run(resume=broken, observers=winnow.reporting.observer.Observers(), reward=reward)
    check_same(whole.folder, broken)
    assert result.checkpoint.relative_to(broken) == whole.checkpoint.relative_to(whole.folder)
    return whole, result


def after_checkpoint(heard: list[tuple[str, int]], number: int) -> int:
    """The event that follows when the n-th checkpoint has been written."""
    return [i for i, (stage, _) in enumerate(heard, start=1) if stage == "checkpoint"][
        number - 1
    ] + 1


def check_same(one: Path, other: Path) -> None:
    """Two folders hold the same samples, numbers, weights and optimizer states, bit by bit."""
    for name in ("metrics.jsonl", "evals.jsonl"):
        assert lines(one, name) == lines(other, name)
    files = sorted(path.relative_to(one) for path in (one / "rollouts").iterdir())
    assert files == sorted(path.relative_to(other) for path in (other / "rollouts").iterdir())
    for file in files:
        assert pq.read_table(one / file).equals(pq.read_table(other / file)), file
    saved = _saved(one)
    assert saved
    assert saved == _saved(other)
    for file in saved:
        if file.suffix == ".pt":
            states = [torch.load(folder / file, weights_only=True) for folder in (one, other)]
            assert alike(*states), file
        else:
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def _saved(folder: Path) -> list[Path]:
    kinds = (".safetensors", ".pt", "logits.json")  # the last of the fake engine
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.name.endswith(kinds))


def alike(one: Any, other: Any) -> bool:
    """Equal bit by bit, through dicts and lists."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


OF_THE_CLOCK = ("seconds", "time", "crc32", "memory_host_gib", "memory_device_gib")
"""Keys of rows that a clock or the process says, and the digest of them."""


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl or evals.jsonl, without what a clock says and what follows from it."""
    text = (folder / name).read_text() if (folder / name).exists() else ""
    found = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in found]


def samples(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    """Every sample that a run made, in order."""
    files = sorted((folder / "rollouts").glob(f"{split}-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The model in a folder, by the names of its weights."""
    found: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    ).state_dict()
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether they are, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def logits(model: Any) -> torch.Tensor:
    """Log-probs of the next token at every place of two texts, by nothing but the model itself."""
    ids = torch.tensor([tiny.tokenizer().encode(text) for text in ("1+2=3 4+4=8", "3+0=3 2+2=4")])
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits.float().log_softmax(-1)
    return found
