"""Adapters instead of all weights: trained, saved as peft saves them, resumed, merged."""

from __future__ import annotations

import builtins
import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import winnow
from tests import local, tiny
from tests.kills import after_checkpoint, check_resumed, config, go, logits, samples
from winnow.algorithms.denominators import SurvivorMeans
from winnow.algorithms.losses import NLL
from winnow.algorithms.objective import Term
from winnow.config.schema import from_dict
from winnow.engines.local.engine import LocalEngine
from winnow.engines.local.learner import LocalLearner
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.engines.models.loading import ModelSource
from winnow.engines.models.reference import Within
from winnow.engines.models.rounding import rounded
from winnow.reporting.observer import Observers
from winnow.training.run import run
from winnow.types import Group, Outcome, Prompt, Sample, Score

LORA: dict[str, Any] = {"lora": {"rank": 4}, "optimizer": {"lr": 1e-2}}
CPU = torch.device("cpu")
FILE = "adapter_model.safetensors"
theirs = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
"""Of peft at transformers, where a test loads with peft itself."""


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def engine(model: Path, dtype: str = "float32", **lora: Any) -> LocalEngine:
    lora = {"rank": 4, **lora}
    return local.engine(model, dtype=dtype, lora=lora)


def example(text: str = "1+2=", answer: str = "3") -> Group:
    words = tiny.tokenizer()
    ids = (*words.encode(answer), 0)
    sample = Sample(ids, (-1.0,) * len(ids), answer, "eos")
    return Group(
        prompt=Prompt(text, text, answer),
        prompt_ids=tuple(words.encode(text)),
        samples=(sample,),
        scores=(Score(1.0),),
        outcomes=(Outcome(True, "survived"),),
        advantages=(1.0,),
    )


def step(learner: LocalLearner, times: int = 1) -> None:
    for _ in range(times):
        local.step(learner, [example()], (Term(NLL(), SurvivorMeans()),))


def learner(made: LocalEngine, lr: float = 1e-2, **more: Any) -> LocalLearner:
    return made.learner(local.plan(512, lr=lr, **more))


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> winnow.Result:
    """A run that learns, its adapters merged in the end."""
    folder = tmp_path_factory.mktemp("trained")
    settings = config(
        tiny_model,
        folder,
        algorithm="grpo",
        steps=30,
        prompts_per_step=25,
        samples_per_prompt=16,
        minibatch_prompts=5,
        lora={"rank": 4, "merge": True},
        optimizer={"lr": 1e-3},
    )
    return go(settings, folder / "run")


@theirs
def test_a_checkpoint_is_in_pefts_own_format(trained, tiny_model):
    (checkpoint,) = (trained.folder / "checkpoints").iterdir()
    said = json.loads((checkpoint / "adapter_config.json").read_text())
    assert (said["peft_type"], said["r"], said["lora_alpha"]) == ("LORA", 4, 16.0)
    assert said["base_model_name_or_path"] == str(tiny_model)
    saved = load_file(checkpoint / "adapter_model.safetensors")
    kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert len(saved) == 4 * len(kinds) * 2
    assert not (checkpoint / "model.safetensors").exists()
    # the same by peft itself
    own = peft.PeftModel.from_pretrained(plain(tiny_model), checkpoint)
    assert set(saved) == set(peft.get_peft_model_state_dict(own))


@theirs
def test_transformers_and_peft_load_what_was_trained(trained, tiny_model):
    """Both give the log-probs of the base with B A alpha / rank added to its weights by hand."""
    (checkpoint,) = (trained.folder / "checkpoints").iterdir()
    by_hand = plain(tiny_model)
    saved = load_file(checkpoint / "adapter_model.safetensors")
    for name, layer in by_hand.named_modules():
        if f"base_model.model.{name}.lora_A.weight" in saved:
            a, b = (saved[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
            layer.weight.data += 16 / 4 * (b @ a)
    expected = logits(by_hand)
    assert (expected - logits(plain(tiny_model))).abs().max() > 0.1
    torch.testing.assert_close(logits(plain(checkpoint)), expected, atol=1e-4, rtol=0)
    own = peft.PeftModel.from_pretrained(plain(tiny_model), checkpoint).eval()
    torch.testing.assert_close(logits(own), expected, atol=1e-4, rtol=0)


def test_the_merged_model_is_an_ordinary_one_and_what_the_run_ends_with(trained):
    (checkpoint,) = (trained.folder / "checkpoints").iterdir()
    assert trained.checkpoint == trained.folder / "final"
    assert not list(trained.checkpoint.glob("adapter*"))
    merged = LlamaForCausalLM.from_pretrained(trained.checkpoint).eval()
    assert not [name for name in merged.state_dict() if "lora" in name or "base_layer" in name]
    torch.testing.assert_close(logits(merged), logits(plain(checkpoint)), atol=1e-4, rtol=0)


def test_a_checkpoint_is_a_model_wherever_one_is_named(trained, tiny_model, tmp_path, monkeypatch):
    """It can be evaluated, and trained on as an ordinary model, all its weights."""
    checkpoint = trained.folder / "checkpoints/step-30"
    told = [
        winnow.evaluate(
            model=str(model),
            prompts=tiny.problems(),
            reward="exact",
            out=tmp_path / model.name,
            quiet=True,
            sampling={"max_tokens": 4},
            eval={"samples": 8},
        ).accuracy
        for model in (checkpoint, trained.checkpoint)
    ]
    # alike but for rounding, which may turn a sample of 200
    assert told[0] == pytest.approx(told[1], abs=0.02)
    start, learned = (float(tiny.right(plain(m)).mean()) for m in (tiny_model, trained.checkpoint))
    assert told[1] == pytest.approx(learned, abs=0.15)  # four standard errors at most
    assert learned > start + 0.2
    settings = config(checkpoint, tmp_path, optimizer={"lr": 0.0})
    again = go(settings, tmp_path / "again")
    assert (again.checkpoint / "model.safetensors").is_file()
    torch.testing.assert_close(
        logits(plain(again.checkpoint)), logits(plain(trained.checkpoint)), atol=1e-4, rtol=0
    )
    named = config(checkpoint, tmp_path, algorithm="rloo", reference=str(checkpoint), **LORA)
    over = go(named, tmp_path / "named")
    assert over.metrics[0]["kl_to_reference"] == pytest.approx(0, abs=1e-5)
    # adapters over adapters: the model that they stand over is written beside them
    said = json.loads((over.checkpoint / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == "../../base"
    base = plain(tmp_path / "named/base")
    torch.testing.assert_close(logits(base), logits(plain(trained.checkpoint)), atol=1e-4, rtol=0)
    monkeypatch.chdir(over.checkpoint)
    assert (logits(plain(Path("."))) - logits(base)).abs().max() > 0.01


def test_merging_leaves_the_module_bitwise_as_it_was(tiny_model, tmp_path):
    made = engine(tiny_model)
    made.forward()
    step(learner(made), 3)
    before = {name: w.clone() for name, w in made.module().state_dict().items()}
    made.save(tmp_path / "merged", merged=True)
    after = made.module().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_loaded_as_the_model_that_merging_writes(tiny_model, tmp_path, dtype):
    """Bit for bit, also where they add less than bfloat16 shows of each weight."""
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).float().save_pretrained(
        tmp_path / "base"
    )
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    made = engine(tmp_path / "base", dtype)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in made.trained():
            weight.add_(1e-3 * torch.randn_like(weight))
    made.save(tmp_path / "adapters", merged=False)
    made.save(tmp_path / "whole", merged=True)
    one, other, base = (
        dict(local.engine(tmp_path / name, dtype=dtype).module().named_parameters())
        for name in ("adapters", "whole", "base")
    )
    assert one.keys() == other.keys() == base.keys()
    changed = [name for name in base if not torch.equal(one[name], base[name])]
    assert len(changed) == 4 * 7
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_only_adapters_are_trained(tiny_model):
    made = engine(tiny_model)
    base = {n: w.clone() for n, w in made.module().state_dict().items() if "lora_" not in n}
    assert sum(map(torch.numel, made.trained())) < 0.2 * sum(map(torch.numel, base.values()))
    before = local.weights(made)
    step(learner(made), 5)
    now = made.module().state_dict()
    assert all(torch.equal(base[name], now[name]) for name in base)
    assert sum(not torch.equal(a, b) for a, b in zip(before, local.weights(made), strict=True)) > 40
    start = plain(tiny_model).state_dict()
    assert start.keys() == {name.replace(".base_layer", "") for name in base}
    assert all(torch.equal(start[n.replace(".base_layer", "")], base[n]) for n in base)


def test_with_learning_rate_zero_the_policy_is_the_base_model(tiny_model, tmp_path):
    settings = {**LORA, "optimizer": {"lr": 0.0}}
    result = go(config(tiny_model, tmp_path, algorithm="grpo", **settings), tmp_path / "run")
    assert sum(row["updates"] for row in result.metrics) > 3
    assert torch.equal(logits(plain(result.checkpoint)), logits(plain(tiny_model)))
    whole = go(
        config(tiny_model, tmp_path, algorithm="grpo", optimizer={"lr": 0.0}), tmp_path / "all"
    )
    assert samples(result.folder) == samples(whole.folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_is_the_unbroken_run(tiny_model, tmp_path, dtype):
    settings = config(
        tiny_model,
        tmp_path,
        **LORA,
        algorithm="raft++",
        steps=4,
        dtype=dtype,
        checkpoint={"every": 2},
    )
    whole, _ = check_resumed(settings, tmp_path, (12, 30, 10))
    assert not torch.equal(logits(plain(whole.checkpoint)), logits(plain(tiny_model)))


def test_over_bfloat16_the_adapters_are_float32_and_the_base_stays(tiny_model, tmp_path):
    """Merged, they are rounded right on average; a product in another order may turn a draw."""
    settings = config(
        tiny_model,
        tmp_path,
        algorithm="grpo",
        dtype="bfloat16",
        lora={"rank": 4, "merge": True},
        optimizer={"lr": 1e-2},
    )
    result = go(settings, tmp_path / "run")
    checkpoint = result.folder / "checkpoints/step-3"
    saved = load_file(checkpoint / "adapter_model.safetensors")
    assert {w.dtype for w in saved.values()} == {torch.float32}
    final = load_file(result.checkpoint / "model.safetensors")
    assert {w.dtype for w in final.values()} == {torch.bfloat16}
    base = plain(tiny_model).state_dict()
    for name, weight in final.items():
        a = saved.get(f"base_model.model.{name.replace('.weight', '.lora_A.weight')}")
        b = saved.get(f"base_model.model.{name.replace('.weight', '.lora_B.weight')}")
        delta = 0 if a is None else 4 * (b @ a)
        expected = base[name].bfloat16().float() + delta
        assert int((weight != rounded(expected)).sum()) <= 3, name
        assert a is None or int((weight != expected.bfloat16()).sum()) > 3, name


def test_a_reference_at_the_start_is_the_base_model_and_copies_no_weights(tiny_model):
    made = engine(tiny_model)
    trainer = learner(made, reference="start")
    reference = trainer.reference
    assert isinstance(reference, Within)
    kept = sum(p.numel() for p in made.module().parameters())
    start = logits(plain(tiny_model))
    step(trainer, 5)
    with reference.used() as forward:
        assert forward.module is made.module()
        assert torch.equal(logits(forward.module), start)
        assert sum(p.numel() for p in forward.module.parameters()) == kept
    assert (logits(made.module()) - start).abs().max() > 0.1
    assert all(p.requires_grad for p in made.trained())
    assert len(made.trained()) == 4 * 7 * 2
    group = example()
    told = trainer.reference_logprobs([group], [(0,)], 1.0)
    ids = torch.tensor([[*group.prompt_ids, *group.samples[0].token_ids]])
    logp = plain(tiny_model)(input_ids=ids).logits[0].detach().log_softmax(-1)
    first = len(group.prompt_ids) - 1
    expected = [float(logp[first + i, t]) for i, t in enumerate(group.samples[0].token_ids)]
    assert told == [[pytest.approx(expected, abs=1e-4)]]


def test_a_run_is_held_to_the_base_model(tiny_model, tmp_path):
    """The reference log-probs of its samples are the base model's, after updates too."""
    settings = config(tiny_model, tmp_path, **LORA, algorithm="rloo", steps=3)
    result = go(settings, tmp_path / "run")
    base = plain(tiny_model)
    for row in samples(result.folder)[-10:]:
        ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
        logp = base(input_ids=ids).logits[0].detach().log_softmax(-1)
        first = len(row["prompt_ids"]) - 1
        expected = [float(logp[first + i, t]) for i, t in enumerate(row["token_ids"])]
        assert row["ref_logprobs"] == pytest.approx(expected, abs=1e-4)
    assert result.metrics[0]["kl_to_reference"] == pytest.approx(0, abs=1e-5)
    assert abs(result.metrics[-1]["kl_to_reference"]) > 1e-3


@pytest.mark.parametrize("what", ["phase", "ema(0.9)"])
def test_other_references_are_other_adapters(tiny_model, tmp_path, what):
    settings = config(
        tiny_model,
        tmp_path,
        **LORA,
        algorithm={"name": "grpo", "kl": "in-loss(0.1)"},
        steps=4,
        reference=what,
        checkpoint={"every": 2},
    )
    whole, _ = check_resumed(settings, tmp_path, (20, 8))
    saved = torch.load(whole.checkpoint / "optimizer.pt", weights_only=True)
    if what == "phase":
        assert "reference" not in saved
    else:
        adapters = load_file(whole.checkpoint / FILE).values()
        sizes = [sorted(w.numel() for w in some) for some in (saved["reference"], adapters)]
        assert sizes[0] == sizes[1]


def test_a_phase_killed_at_its_beginning_refers_to_the_adapters_it_began_with(tiny_model, tmp_path):
    """Nor does one that begins anew resume the adapters of the checkpoint."""
    for begin in ("policy", "start"):
        folder = tmp_path / begin
        folder.mkdir()
        second = {"algorithm": {"name": "grpo", "kl": "in-loss(0.5)"}, "reference": "phase"}
        settings = config(
            tiny_model,
            folder,
            **LORA,
            phases=[
                {"algorithm": "raft", "steps": 2},
                {**second, "steps": 2, "start_from": begin},
            ],
            checkpoint={"every": 100, "keep": 1},
        )
        check_resumed(settings, folder, lambda heard: [after_checkpoint(heard, 1)])


def test_prefixes_are_shared_with_adapters_attached(tiny_model):
    made = engine(tiny_model)
    forward = made.forward()
    assert forward.shares_prefix, forward.why
    step(learner(made), 5)
    words = tiny.tokenizer()
    pieces = [Piece(words.encode("1+2="), [words.encode("3"), words.encode("44"), [5, 0]])]
    alone = PolicyForward(copy.deepcopy(made.module()))
    alone.shares_prefix = False
    found = [f.logprobs(f.contexts(pieces), 1.0).detach() for f in (forward, alone)]
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def test_what_no_name_finds_is_written_beside_the_adapters(tiny_model, tmp_path, monkeypatch):
    """As for a GGUF file: the base as an ordinary model, once, whole, unchanged by training."""
    made = engine(tiny_model)
    made.forward()
    assert made.adapters() is not None
    made.adapters().keep_base(tmp_path / "base")
    trainer = learner(made)
    step(trainer, 3)
    trainer.save(tmp_path / "checkpoint")
    written = (tmp_path / "base/model.safetensors").stat().st_mtime_ns
    base, start = plain(tmp_path / "base").state_dict(), plain(tiny_model).state_dict()
    assert base.keys() == start.keys()
    assert all(torch.equal(base[name], start[name]) for name in base)
    said = json.loads((tmp_path / "checkpoint/adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == "../base"
    monkeypatch.chdir(tmp_path / "checkpoint")
    torch.testing.assert_close(logits(plain(Path("."))), logits(made.module()), atol=1e-4, rtol=0)
    trainer.save(tmp_path / "again")
    assert (tmp_path / "base/model.safetensors").stat().st_mtime_ns == written


def test_a_run_over_a_gguf_file_keeps_its_base(tiny_model, tmp_path, monkeypatch):
    """The source alone decides; here it names an ordinary folder, read as such."""
    monkeypatch.setattr(ModelSource, "ordinary", False)
    result = go(config(tiny_model, tmp_path, **LORA), tmp_path / "run")
    assert torch.equal(logits(plain(tmp_path / "run/base")), logits(plain(tiny_model)))
    monkeypatch.chdir(result.checkpoint)
    plain(Path("."))


@theirs
def test_a_run_that_is_moved_loads_and_resumes(tiny_model, tmp_path, monkeypatch):
    """With its base: by Winnow from anywhere, by peft from the checkpoint's folder."""
    monkeypatch.setattr(ModelSource, "ordinary", False)  # as for a GGUF file
    settings = config(tiny_model, tmp_path, algorithm="raft", steps=2, **LORA)
    whole = go(settings, tmp_path / "here" / "run")
    expected = logits(LocalEngine(from_dict({"model": str(whole.checkpoint)})).module())
    assert not torch.equal(expected, logits(plain(tiny_model)))
    (tmp_path / "there").mkdir()
    moved = (tmp_path / "here" / "run").rename(tmp_path / "there" / "moved")
    checkpoint = moved / "checkpoints" / "step-2"
    for path in checkpoint.rglob("*"):  # nor in the README.md that peft writes
        assert str(tmp_path).encode() not in path.read_bytes(), path
    assert torch.equal(logits(local.engine(checkpoint).module()), expected)
    monkeypatch.chdir(checkpoint)
    own = peft.AutoPeftModelForCausalLM.from_pretrained(".").eval()
    torch.testing.assert_close(logits(own), expected, atol=1e-4, rtol=0)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(logits(local.engine(checkpoint.relative_to(tmp_path)).module()), expected)
    text = (moved / "config.toml").read_text()
    (moved / "config.toml").write_text(text.replace("\nsteps = 2", "\nsteps = 3"))
    longer = run(resume=moved, observers=Observers())
    again = go(config(tiny_model, tmp_path, algorithm="raft", steps=3, **LORA), tmp_path / "three")
    saved, unmoved = (load_file(one.checkpoint / FILE) for one in (longer, again))
    assert all(torch.equal(saved[name], unmoved[name]) for name in unmoved)


def test_a_base_of_an_earlier_version_is_found_where_the_run_is(tiny_model, tmp_path, monkeypatch):
    """It wrote the whole path of `base/`; a base that is nowhere is named."""
    monkeypatch.setattr(ModelSource, "ordinary", False)
    result = go(config(tiny_model, tmp_path, **LORA), tmp_path / "run")
    monkeypatch.undo()
    expected = logits(local.engine(result.checkpoint).module())
    (result.checkpoint / "state.json").unlink()  # an earlier version's had other digests
    file = result.checkpoint / "adapter_config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "base_model_name_or_path": str(tmp_path / "run/base")}))
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    checkpoint = moved / "checkpoints" / result.checkpoint.name
    assert torch.equal(logits(local.engine(checkpoint).module()), expected)
    (moved / "base").rename(tmp_path / "gone")
    with pytest.raises(winnow.UserError, match=r"were trained over .*run/base, which is not there"):
        local.engine(checkpoint)


def test_a_relative_name_of_the_base_is_written_out(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    made = engine(Path(tiny_model.name))
    made.forward()
    made.save(tmp_path / "adapters", merged=False)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(logits(plain(tmp_path / "adapters")), logits(plain(tiny_model)))


def test_tied_weights_are_merged_too(tmp_path):
    tied = tiny.model(tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    made = engine(tmp_path / "model")
    step(learner(made), 3)
    made.save(tmp_path / "merged", merged=True)
    merged = plain(tmp_path / "merged")
    assert merged.config.tie_word_embeddings
    torch.testing.assert_close(logits(merged), logits(made.module()), atol=1e-4, rtol=0)
    assert (logits(merged) - logits(tied)).abs().max() > 0.01


def test_layers_are_chosen_by_name(tiny_model):
    made = engine(tiny_model, targets=["q_proj", "down_proj"])
    made.module()
    assert made.adapters() is not None
    names = {
        n.split(".lora_")[0].rpartition(".")[2]
        for n, p in made.module().named_parameters()
        if p.requires_grad
    }
    assert names == {"q_proj", "down_proj"}


@pytest.mark.parametrize("targets", [["qproj"], ["q_proj", "downproj"]])
def test_a_wrong_name_of_a_layer_is_one_line(tiny_model, tmp_path, targets):
    lora = {"rank": 4, "targets": targets}
    with pytest.raises(winnow.UserError) as caught:
        go(config(tiny_model, tmp_path, lora=lora), tmp_path / "run")
    wrong, near = targets[-1], {"qproj": "q_proj", "downproj": "down_proj"}[targets[-1]]
    assert str(caught.value) == (
        f"lora.targets: no layer is called {wrong!r}; did you mean {near!r}?"
    )
    assert not (tmp_path / "run").exists()


def test_without_peft_it_says_how_to_get_it(tiny_model, tmp_path, monkeypatch):
    true = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return true(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        winnow.UserError,
        match=r"^lora\.rank: adapters need peft; pip install '\.\[lora\]' in your clone of Winnow$",
    ):
        go(config(tiny_model, tmp_path, **LORA), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trunk", ["shared", "own"])
def test_a_critic_is_trained_beside_adapters(tiny_model, tmp_path, trunk):
    settings = config(
        tiny_model,
        tmp_path,
        **LORA,
        algorithm="ppo",
        critic={"trunk": trunk, "lr": 1e-3, "warmup": 2},
        checkpoint={"every": 2},
    )
    whole, _ = check_resumed(settings, tmp_path, (20, 10))
    assert (logits(plain(whole.checkpoint)) - logits(plain(tiny_model))).abs().max() > 1e-3
    critic = load_file(whole.checkpoint / "critic.safetensors")
    assert (len(critic) > 2) is (trunk == "own")
    assert all(row["value_error"] is not None for row in whole.metrics)


def test_adapters_that_are_not_finite_are_refused(tiny_model, tmp_path):
    """A checkpoint of adapters is read after the model that they are over."""
    engine(tiny_model, rank=4).save(tmp_path / "step", merged=False)
    file = tmp_path / "step" / "adapter_model.safetensors"
    weights = load_file(file)
    weights[min(weights)][0, 0] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    settings = from_dict({"model": str(tiny_model), "device": "cpu", "lora": {"rank": 4}})
    with pytest.raises(winnow.UserError, match=r"^model: '.*step': 1 of \d+ weights of .*lora_A"):
        LocalEngine(settings, checkpoint=tmp_path / "step").load()


def test_adapters_are_seeded(tiny_model):
    first, again = engine(tiny_model), engine(tiny_model)
    state = torch.get_rng_state()
    assert all(map(torch.equal, _loaded(first), _loaded(again)))
    assert torch.equal(state, torch.get_rng_state())
    other = local.engine(tiny_model, lora={"rank": 4}, seed=1)
    assert not all(map(torch.equal, local.weights(first), _loaded(other)))


def _loaded(made: LocalEngine) -> list[torch.Tensor]:
    made.module()
    return local.weights(made)


def test_layers_that_share_their_weights_are_refused(tiny_model, tmp_path):
    net = tiny.model(tie_word_embeddings=True)
    net.save_pretrained(tmp_path / "tied")
    tiny.tokenizer().save_pretrained(tmp_path / "tied")
    with pytest.raises(winnow.UserError, match=r"^lora\.targets: lm_head shares its weights"):
        winnow.train(
            model=str(tmp_path / "tied"),
            prompts=tiny.problems(),
            reward="exact",
            lora={"rank": 2, "targets": ["q_proj", "lm_head"]},
            sampling={"max_tokens": 4},
            eval={"size": 0},
            out=tmp_path / "run",
            quiet=True,
        )
