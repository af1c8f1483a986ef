"""What a dry run says of steps, disk and memory, against runs and models that were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import winnow
from tests import local, tiny
from winnow.config.phases import phases_of
from winnow.config.schema import from_dict
from winnow.engines.base import ModelSize
from winnow.engines.local.kv_cache import token_bytes
from winnow.prompts.loading import PromptSet
from winnow.training.forecast import Memory, checkpoint_bytes, copy_bytes, disk, memory, work
from winnow.training.needs import needs
from winnow.types import Prompt

RUNS: dict[str, dict[str, Any]] = {
    "raft": {"algorithm": "raft"},
    "bfloat16": {"algorithm": "raft", "dtype": "bfloat16"},
    "adapters": {"algorithm": "raft", "lora": {"rank": 8}},
    "some layers": {"algorithm": "raft", "lora": {"rank": 8, "targets": ["q_proj", "v_proj"]}},
    "merged": {"algorithm": "raft", "lora": {"rank": 4, "merge": True}},
    "critic": {"algorithm": "ppo"},
    "critic of its own": {"algorithm": "ppo", "critic": {"trunk": "own"}},
    "ema": {"algorithm": {"name": "raft", "kl": "in-loss(0.1)"}, "reference": "ema(0.9)"},
}


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("what", RUNS)
def test_a_checkpoint_is_as_large_as_was_said(what: str, tiny_model: Path, tmp_path: Path) -> None:
    """Within 2 %, headers and digests aside, of a model of 0.2 M parameters; with all its files."""
    settings: dict[str, Any] = {
        "model": str(tiny_model),
        "steps": 2,
        "prompts_per_step": 2,
        "samples_per_prompt": 4,
        "sampling": {"max_tokens": 3},
        "checkpoint": {"every": 1, "keep": 1},
        **RUNS[what],
    }
    rows = {"prompts": tiny.problems(), "eval": {"size": 4, "every": 1}, "reward": "exact"}
    result = winnow.train(**settings, **rows, out=tmp_path / "run", quiet=True)
    config = from_dict({**settings, "eval": rows["eval"]})
    phases = phases_of(config)
    size = local.engine(**settings).size()
    said = disk(size, config, phases, 4, longest=4)
    saved = max(sorted((result.folder / "checkpoints").iterdir()), key=bytes_of)
    headers = (40 if config.lora.rank else 16) * 2**10  # peft's own, and of many small tensors
    assert 0 <= bytes_of(saved) - said.checkpoint <= 0.02 * said.checkpoint + headers
    assert 0.2 * said.samples < bytes_of(result.folder / "rollouts") <= said.samples
    models = [result.folder / name for name in ("final", "base")]
    there = sum(bytes_of(folder) for folder in models if folder.is_dir())
    assert there == pytest.approx(said.models, rel=0.05, abs=16 * 2**10)
    assert said.checkpoints == 2  # the newest, while the next is written


def test_a_model_is_as_large_as_was_said(tiny_model: Path) -> None:
    engine = local.engine(tiny_model)
    size = engine.size()
    assert engine._module is None, "no weights are read"
    net = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert size.parameters == size.trained == sum(p.numel() for p in net.parameters())
    assert size.context == 128
    assert size.token_bytes == token_bytes(engine.forward())
    adapters = local.engine(tiny_model, lora={"rank": 4})
    assert adapters.size().trained == sum(p.numel() for p in adapters.trained())


def test_memory_is_that_of_the_tensors(tiny_model: Path) -> None:
    """Of weights and the two averages that an optimizer has for each of them."""
    for dtype in ("float32", "bfloat16"):
        engine = local.engine(tiny_model, dtype=dtype)
        config = from_dict({"dtype": dtype})
        said = memory(engine.size(), config, phases_of(config), longest=4, start=True)
        weights = sum(w.nbytes for w in engine.trained())
        assert said.weights == said.copies == weights
        learner = engine.learner(local.plan())
        held = [*learner._adam.state.values()]
        averages = sum(one["exp_avg"].nbytes + one["exp_avg_sq"].nbytes for one in held)
        masters = sum(m.nbytes for m in learner._masters) if dtype == "bfloat16" else 0
        assert said.optimizer == averages + masters
        assert said.gradients == sum(m.nbytes for m in learner._masters)
        assert all(m.dtype == torch.float32 for m in learner._masters)


SIZE = ModelSize(1000, 1000, 4, 10, 100, 64, 0, True)


def test_the_cache_is_bounded_by_its_setting_and_by_what_is_sampled() -> None:
    """100 bytes a token; 16 x 8 samples are 128 rows of 4 + 256 tokens."""
    for given, expected in (
        ({}, 128 * 260 * 100),
        ({"sampling": {"batch": 10}}, 10 * 260 * 100),
        ({"sampling": {"cache_gib": 0.001}}, int(0.001 * 2**30)),
        ({"samples_per_prompt": 1, "algorithm": "raft"}, 16 * 260 * 100),
    ):
        config = from_dict(given)
        assert memory(SIZE, config, phases_of(config), longest=4, start=False).cache == expected


def test_steps_and_samples_are_those_of_the_phases() -> None:
    """Evaluations: at 0, at 5, 10, ..., and at the end of each phase."""
    one = from_dict({"steps": 12, "eval": {"every": 5}, "prompts_per_step": 4})
    made = work(one, phases_of(one), 10, 0)
    assert (made.steps, made.updates, made.samples) == (12, 12, 12 * 4 * 8)
    assert (made.evaluations, made.evaluated) == (4, 40)  # 0, 5, 10, 12
    assert work(one, phases_of(one), 0, 0).evaluations == 0
    once = from_dict({"steps": 5, "algorithm": "rft", "minibatch_prompts": 4})
    made = work(once, phases_of(once), 10, 0)
    assert (made.steps, made.samples) == (15, 5 * 16 * 8)  # sampled once, three passes
    two = from_dict({"phases": [{"steps": 3}, {"steps": 4, "algorithm": "ppo"}], "cycles": 2})
    made = work(two, phases_of(two), 10, 0)
    assert (made.steps, made.evaluations) == (14, 5)  # 0, 3, 7, 10, 14
    tested = from_dict({"steps": 4, "eval": {"every": 2, "patience": 1, "samples": 3}})
    assert work(tested, phases_of(tested), 10, 7).evaluated == 3 * (3 * 10 + 2 * 7)


def test_the_default_run() -> None:
    """Measured, of SmolLM2-135M-Instruct in float32: 538,090,408 bytes of weights, 1,076,232,923 of
    the optimizer, 3,522,871 of the tokenizer."""
    config = from_dict({})
    size = ModelSize(134_515_008, 134_515_008, 4, 576, 46_080, 8192, 3_522_871, False)
    (phase,) = phases_of(config)
    measured = 538_090_408 + 1_076_232_923 + 3_522_871
    assert checkpoint_bytes(size, config, phase) == pytest.approx(measured, rel=0.001)


def test_what_a_run_needs_not_have_where_its_model_is(tiny_model: Path) -> None:
    """The copy for KL to the start alone, and a model that only samples; its own bytes each."""
    size = local.engine(tiny_model).size()
    weights = size.parameters * size.item
    sets = PromptSet((), (Prompt("a", "1 + 1 ="),))
    model = {"model": str(tiny_model), "eval": {"size": 1}}

    def held(**settings: Any) -> Memory:
        config = from_dict({**model, **settings})
        return needs(size, config, phases_of(config), sets, 4).memory

    assert (held().copies, held().aside, held().passing) == (weights, weights, 0)
    penalty = held(algorithm={"name": "grpo", "kl": "in-loss(0.1)"})  # read in every step
    assert (penalty.copies, penalty.aside) == (weights, 0)
    both = held(algorithm="rft", samples_from=str(tiny_model))
    assert both.others == both.passing == weights
    assert both.total - both.least(gpu=True) == both.cache + weights + weights


def test_memory_of_a_process_that_holds_a_part() -> None:
    """A quarter of 4 bytes of weights, 4 of gradients, 8 of averages and 4 of the start, and the
    whole in bfloat16 to sample: of 1000 parameters 1000 + 2000, 1000, 2000, 1000."""
    config = from_dict({"dtype": "bfloat16", "engine": {"learner": "fsdp"}, "eval": {"size": 0}})
    phases = phases_of(config)
    size = replace(SIZE, item=2, ranks=4)
    made = memory(size, config, phases, longest=10, start=True, others=copy_bytes(size))
    assert (made.weights, made.gradients, made.optimizer, made.copies) == (3000, 1000, 2000, 1000)
    assert made.others == 1000  # another model, in float32 too
    sets = PromptSet((), (Prompt("a", "1 + 1 ="),))
    measured = from_dict({"dtype": "bfloat16", "engine": {"learner": "fsdp"}, "eval": {"size": 1}})
    held = needs(size, measured, phases_of(measured), sets, 4).memory
    assert (held.copies, held.aside) == (1000, 1000)  # of the start, for KL
    offloaded = {"learner": "fsdp", "cpu_offload": True}
    measured = from_dict({"dtype": "bfloat16", "engine": offloaded, "eval": {"size": 1}})
    held = needs(size, measured, phases_of(measured), sets, 4).memory
    assert held.least(gpu=True) == 2000  # what is gathered
