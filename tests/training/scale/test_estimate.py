"""`winnow train --dry-run --device-model`: recipes over many GPUs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import in_process
from winnow.config.recipe import load
from winnow.errors import UserError
from winnow.training.scale.estimate import Asked, PhaseForecast, forecast

ROOT = Path(__file__).parents[3]
RECIPES = ("qwen-7b", "llama-3b")
H100 = Asked("h100", ranks=4, completion=1000)


def phase_of(recipe: str, *sets: str, asked: Asked = H100) -> PhaseForecast:
    (made,) = forecast(load(recipe, sets), asked).phases
    return made


def spread(servers: int) -> list[str]:
    """Settings for servers that run already, each on a GPU, with the same slots each."""
    urls = [f"http://host-{number}:8000" for number in range(servers)]
    return [
        *("engine.servers=", "engine.vllm_devices=", "engine.vllm_python="),
        f"engine.urls={json.dumps(urls)}",
        f"sampling.batch={256 * servers}",
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_have_the_settings_of_the_paper(recipe: str) -> None:
    """Xiong et al. (2025): 1024 prompts x 4, mini-batches of 512, lr 1e-6, temperature 1."""
    config = load(recipe)
    assert (config.prompts_per_step, config.samples_per_prompt) == (1024, 4)
    assert config.minibatch_prompts == 512
    assert (config.optimizer.lr, config.sampling.temperature) == (1e-6, 1.0)
    row = config.algorithm.build()
    assert row.cells()["loss"] == "clipped(low=0.2, high=0.28)"
    assert row.cells()["select"] == ["correct"]
    assert (config.engine.learner, config.engine.sampler) == ("fsdp", "vllm")


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_fit_eight_gpus(
    recipe: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """From the command line, where there is neither a model, nor prompts, nor a GPU."""
    monkeypatch.chdir(tmp_path)
    args = ("train", recipe, "--dry-run", "--device-model", "h100", "--ranks", "4", "--json")
    code, out, err = in_process(monkeypatch, capsys, *args)
    assert (code, err) == (0, "")
    made: dict[str, Any] = json.loads(out)
    assert made["spread"]["gpus"] == 8
    (phase,) = made["phases"]
    assert phase["stages"]["most"] < 80e9
    assert phase["slots"] == min(256, phase["server"]["sequences"])
    assert phase["slots"] > 200
    assert phase["seconds"] == pytest.approx(sum(phase["waits"].values()))
    assert list(tmp_path.iterdir()) == []


def test_the_text_has_the_numbers_of_the_json(monkeypatch: Any, capsys: Any) -> None:
    args = ("train", "qwen-7b", "--dry-run", "--device-model", "H100", "--ranks", "4")
    code, text, _ = in_process(monkeypatch, capsys, *args, "--completion-tokens", "1000")
    assert code == 0
    code, raw, _ = in_process(monkeypatch, capsys, *args, "--completion-tokens", "1000", "--json")
    (phase,) = json.loads(raw)["phases"]
    words = " ".join(text.split())
    assert f"a step: {phase['seconds']:.3g} s" in words
    assert f"{phase['tokens']:,} tokens" in words
    assert f"most by: {phase['bound']}" in words


def test_more_of_everything_is_never_slower() -> None:
    """And what a rank holds all the time is inversely as their number."""
    sizes = [(4, 4), (32, 32), (256, 256)]
    found = [
        phase_of("qwen-7b", *spread(servers), asked=Asked("h100", ranks, completion=1000))
        for ranks, servers in sizes
    ]
    seconds = [each.seconds for each in found]
    assert seconds == sorted(seconds, reverse=True)
    held = [each.stages.held for each in found]
    assert held[0] == pytest.approx(8 * held[1], rel=1e-6)
    # what no number of GPUs makes shorter: the weights' way, and the longest completion
    assert found[2].waits["weights to servers"] == found[0].waits["weights to servers"]
    assert found[2].sampling.total > found[2].lengths.most * 2 * 7.6e9 / 3.35e12


def test_adapters_travel_alone() -> None:
    """Rank 32 over all linear layers: 32 x (inputs + outputs), 4 bytes each, to each of 4."""
    found = phase_of("qwen-7b", "lora.rank=32", "engine.transfer=lora").traffic
    widths = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert found.written == 4 * 28 * 32 * widths
    assert found.fetched == 4 * found.written


def test_a_day_is_as_many_steps_as_fit() -> None:
    """Checkpoints: 2 bytes a weight, and 12 of the optimizer, every 20 steps."""
    found = phase_of("qwen-7b")
    steps = 86400 / found.seconds
    assert found.daily.checkpoints == pytest.approx(steps / 20 * 14 * 7_615_616_512, rel=1e-3)
    longer = phase_of("qwen-7b", asked=Asked("h100", 4, completion=2000))
    each = found.daily.samples / steps
    assert longer.daily.samples / (86400 / longer.seconds) == pytest.approx(2 * each, rel=0.1)


def test_without_checkpointing_less_is_computed_and_more_is_kept() -> None:
    plain, again = (
        phase_of("llama-3b", f"engine.activation_checkpointing={value}")
        for value in ("false", "true")
    )
    assert plain.update.compute < again.update.compute
    assert plain.stages.update > again.stages.update
    offloaded = phase_of("llama-3b", "engine.cpu_offload=true").stages
    assert (offloaded.held, offloaded.gradients) == (0, 0)


def test_ranks_sample_where_no_server_does() -> None:
    none = ("engine.servers=", "engine.vllm_devices=", "engine.vllm_python=", "engine.timeout=")
    found = phase_of("llama-3b", "engine.sampler=local", *none, "sampling.cache_gib=20")
    assert found.server is None
    assert found.waits["weights to servers"] == 0
    whole = 2 * 3_212_749_824
    cache = found.stages.sampling - found.stages.held - whole
    assert 0 < cache <= 20 * 2**30
    assert found.slots == int(cache / (114_688 * (256 + 4096)))


MISFITS = {
    "more ranks": ("qwen-7b", ["microbatch_tokens=8192"], Asked("a100", 1)),
    "the context is 4096": ("qwen-7b", ["sampling.max_tokens=4000"], H100),
    "no room for keys and values": ("qwen-7b", ["engine.vllm_memory=0.15"], H100),
}


@pytest.mark.parametrize("says", MISFITS)
def test_what_does_not_fit_is_said(says: str) -> None:
    recipe, sets, asked = MISFITS[says]
    notes = phase_of(recipe, *sets, asked=asked).notes
    assert [note for note in notes if says in note]
    assert phase_of("qwen-7b").notes == ()


OPENAI = [
    *("engine.servers=", "engine.vllm_devices=", "engine.vllm_python="),
    *("engine.sampler=openai", "engine.url=http://localhost:8000/v1"),
]
REFUSED = {
    "--device-model: unknown device 'tpu'": ("qwen-7b", [], Asked("tpu")),
    "engine.learner: only 'fsdp'": ("arithmetic", [], Asked("h100")),
    "model: the shape of 'nobody/nothing'": ("qwen-7b", ["model=nobody/nothing"], H100),
    "dtype: 'float32' cannot": ("qwen-7b", ["dtype=float32"], H100),
    "engine.vllm_dtype: 'float32' cannot": ("qwen-7b", ["engine.vllm_dtype=float32"], H100),
    "algorithm.resample: a run that samples once": ("qwen-7b", ["algorithm=dpo"], H100),
    "engine.sampler: training needs the model": ("llama-3b", OPENAI, H100),
    "--completion-tokens: must be at most": ("qwen-7b", [], Asked("h100", completion=5000)),
    "samples_from: a second model": (
        "qwen-7b",
        ["samples_from=other", "algorithm=rft"],
        H100,
    ),
    "reference: a second model": (
        "qwen-7b",
        ["reference=other", "algorithm.kl=in-loss(0.04, k3)"],
        H100,
    ),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_cannot_be_calculated_is_refused(says: str) -> None:
    recipe, sets, asked = REFUSED[says]
    with pytest.raises(UserError) as refused:
        forecast(load(recipe, sets), asked)
    assert str(refused.value).startswith(says)


MISUSED = {
    "--device-model: it is for a dry run": ["--device-model", "h100"],
    "--ranks: it is for --device-model": ["--dry-run", "--ranks", "2"],
    "--completion-tokens: it is for --device-model": ["--completion-tokens", "2"],
    "--out: what is calculated has no run folder": [
        *("--dry-run", "--device-model", "h100"),
        *("--out", "run"),
    ],
}


@pytest.mark.parametrize("says", MISUSED)
def test_nothing_is_given_for_nothing(says: str, monkeypatch: Any, capsys: Any) -> None:
    code, out, err = in_process(monkeypatch, capsys, "train", "qwen-7b", *MISUSED[says])
    assert (code, out) == (2, "")
    assert err.startswith(f"winnow: {says}; ")


def test_the_manual_shows_what_is_printed(monkeypatch: Any, capsys: Any) -> None:
    manual = (ROOT / "docs" / "scale.md").read_text()
    monkeypatch.setenv("COLUMNS", "100")
    (command,) = re.findall(r"^winnow (train .*--device-model .*)$", manual, re.MULTILINE)
    code, out, _ = in_process(monkeypatch, capsys, *command.split())
    assert (code, out in manual) == (0, True)


@pytest.mark.parametrize("what", ["gpus", "beside"])
def test_the_tables_of_the_manual_are_those_of_the_command(what: str) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "bench" / "scale.py"), what]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout in (ROOT / "docs" / "scale.md").read_text()
