"""What processes gather in bfloat16 is what one process that holds all of it would round it to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests import local, tiny
from tests.engines.fsdp import ragged
from tests.engines.fsdp.spawned import led
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import Config, from_dict
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.engines.base import START, Engine, LearnerPlan
from winnow.engines.fsdp.engine import ShardedEngine
from winnow.engines.fsdp.worker import Worker
from winnow.engines.models.rounding import rounded

LOW = torch.bfloat16
HOST = {"learner": "fsdp", "cpu_offload": True}


def config(model: Path, **settings: Any) -> Config:
    return from_dict({"model": str(model), "device": "cpu", "dtype": "bfloat16", **settings})


def written(worker: Worker, given: Config, folder: Path) -> set[type]:
    """Writes the weights of the passes, twice. The kinds of tensors that are stepped."""
    engine = ShardedEngine(worker, given)
    engine.save(folder / "once", merged=False)
    engine.save(folder / "again", merged=False)
    return {type(part) for part in worker.policy(engine.number).tensors()}


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (2, {}),
        pytest.param(1, {}, marks=pytest.mark.fsdp),
        pytest.param(3, {}, marks=pytest.mark.fsdp),
        pytest.param(
            3, {"engine": {"learner": "fsdp", "cpu_offload": True}}, marks=pytest.mark.fsdp
        ),
        pytest.param(2, {"engine": {"activation_checkpointing": True}}, marks=pytest.mark.fsdp),
    ],
)
def test_what_is_gathered_is_rounded_by_its_place(tiny_model, tmp_path, ranks, settings) -> None:
    assert led(ranks, written, config(tiny_model, **settings), tmp_path) == {Tensor}
    original = load_file(tiny_model / "model.safetensors")
    nearest = 0
    for folder in ("once", "again"):
        found = load_file(tmp_path / folder / "model.safetensors")
        assert found.keys() == original.keys()
        for name, weight in original.items():
            assert found[name].dtype == LOW
            assert torch.equal(found[name], rounded(weight)), name
            nearest += torch.equal(found[name], weight.to(LOW))
    assert nearest < len(original)  # else the test would not tell


@pytest.mark.fsdp
def test_what_is_not_trained_is_the_nearest(tiny_model, tmp_path) -> None:
    """Below adapters the base stays the same, and the nearest is nearer than up or down."""
    given = config(tiny_model, lora={"rank": 2})
    assert led(2, based, given, tmp_path / "base") is None
    original = load_file(tiny_model / "model.safetensors")
    found = load_file(tmp_path / "base" / "model.safetensors")
    for name, weight in original.items():
        assert torch.equal(found[name], weight.to(LOW)), name


def learned(engine: Engine, first: bool, folder: Path) -> list[tuple[float, float]]:
    """Loss and norm of some updates; the first phase leaves a checkpoint."""
    row = ALGORITHMS["grpo"]
    groups = ragged.groups(row)
    made = engine.learner(LearnerPlan(OptimizerConfig(lr=1e-4), 10, 64))
    told = [local.step(made, groups, row.objective, 0.7) for _ in range(3)]
    if first:
        folder.mkdir()
        made.save(folder)
    made.close()
    return [(one.loss, one.grad_norm) for one in told]


def in_phases(engine: Engine, folder: Path) -> list[tuple[float, float]]:
    learned(engine, True, folder)
    return learned(engine, False, folder)


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=pytest.mark.fsdp)])
@pytest.mark.parametrize("more", [{}, {"lora": {"rank": 2}}], ids=["whole", "lora"])
def test_a_phase_begins_with_what_the_checkpoint_before_it_holds(
    tiny_model, tmp_path, ranks, more
) -> None:
    """Or a run that is resumed there would not be the unbroken one."""
    given = config(tiny_model, engine={"learner": "fsdp"}, **more)
    unbroken, resumed = (
        led(ranks, sharded, given, at, function, tmp_path / "c")
        for at, function in ((None, in_phases), (tmp_path / "c", resumed_at))
    )
    assert unbroken == resumed
    assert len({loss for loss, _ in unbroken}) == 3


def resumed_at(engine: Engine, folder: Path) -> list[tuple[float, float]]:
    return learned(engine, False, folder)


def sharded(worker: Worker, given: Config, at: Path | None, function: Any, *more: Any) -> Any:
    return function(ShardedEngine(worker, given, "model", at), *more)


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=pytest.mark.fsdp)])
def test_an_average_takes_back_the_share_that_was_asked_for(tiny_model, tmp_path, ranks) -> None:
    """Of steps that bfloat16 does not have; the same bits in one process and in parts."""
    net = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=LOW)
    begin = {name: weight.detach().float() for name, weight in net.named_parameters()}
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(rounded(weight.float() + 3e-4 * torch.randn_like(weight).sign().float()))
    after = {name: weight.detach().float() for name, weight in net.named_parameters()}
    for name, weights in (("start", begin), ("checkpoint", after)):
        net.load_state_dict(weights, strict=False)
        net.save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
    step = torch.cat([(after[name] - begin[name]).flatten() for name in begin])
    for share in (0.2, 0.6):
        given = config(tmp_path / "start", engine={"learner": "fsdp"})
        averaged(local.engine(tmp_path / "start", dtype="bfloat16"), share, tmp_path / "one")
        led(ranks, sharded, given, None, averaged, share, tmp_path / "parts")
        one, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "parts"))
        assert all(torch.equal(one[name], parts[name]) for name in one)
        left = torch.cat([(one[name].float() - begin[name]).flatten() for name in begin])
        assert float(left @ step / (step @ step)) == pytest.approx(1 - share, abs=0.02)
        for name in ("one", "parts"):
            shutil.rmtree(tmp_path / name)


def averaged(engine: Engine, share: float, folder: Path) -> None:
    """As a run makes its final model."""
    engine.restore(folder.parent / "checkpoint")
    engine.average(START, share)
    engine.save(folder, merged=False)


def based(worker: Worker, given: Config, folder: Path) -> None:
    ShardedEngine(worker, given).save_base(folder)
