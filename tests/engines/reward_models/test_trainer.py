"""Preferences: pairs out of groups, the Bradley-Terry loss, and a reward model fitted to them."""

from __future__ import annotations

import itertools
import math
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tests import tiny
from tests.kills import Killed, full_disk
from winnow.engines.reward_models import trainer
from winnow.engines.reward_models.model import RewardModel
from winnow.engines.reward_models.preferences import FitSettings, Pair, bradley_terry, pairs
from winnow.engines.reward_models.trainer import FitResult, fit_reward_model
from winnow.errors import UserError, WinnowError
from winnow.storage import atomic
from winnow.theory.intervals import clustered_interval
from winnow.types import Group, Prompt, Sample, Score

CPU = torch.device("cpu")


def group(*scored: tuple[str, float | None], name: str = "p") -> Group:
    samples = tuple(Sample((1,), (), text, "eos") for text, _ in scored)
    scores = tuple(Score.failed("no") if v is None else Score(v) for _, v in scored)
    return Group(Prompt(name, name), (1,), samples, scores)


def test_the_formulas_need_no_torch():
    code = "import sys, winnow.engines.reward_models.preferences; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# pairs

SCORED = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.sampled_from([None, -0.3, 0.0, 0.1, 1.0])), max_size=12
)


@given(st.lists(SCORED, max_size=4), st.integers(1, 6), st.integers(0, 5))
def test_pairs_are_ordered_distinct_and_limited(scored, per_prompt, seed):
    groups = [group(*rows, name=f"p{i}") for i, rows in enumerate(scored) if rows]
    made = pairs(groups, per_prompt=per_prompt, rng=random.Random(seed))
    assert made == pairs(groups, per_prompt=per_prompt, rng=random.Random(seed))
    by_prompt = Counter(pair.prompt.id for pair in made)
    for one in groups:
        seen = {}
        for sample, score in zip(one.samples, one.scores, strict=True):
            if score.value is not None:
                seen.setdefault(sample.text, []).append(score.value)
        mean = {text: np.mean(values) for text, values in seen.items()}
        unequal = {(a, b) for a, b in itertools.permutations(mean, 2) if mean[a] > mean[b] + 1e-12}
        got = [(pair.better, pair.worse) for pair in made if pair.prompt is one.prompt]
        assert len(set(got)) == len(got)
        assert set(got) <= unequal
        assert by_prompt[one.prompt.id] == min(per_prompt, len(unequal))


@given(SCORED.filter(bool), st.sampled_from([0.1, 0.7, 1.0]))
def test_equal_rewards_give_no_pair(scored, reward):
    """Also where a text was sampled several times: the mean of 0.1, 0.1, 0.1 is 0.1."""
    same = [(text, None if value is None else reward) for text, value in scored]
    assert pairs([group(*same)], per_prompt=9, rng=random.Random(0)) == []


@pytest.mark.parametrize("near", [(0.3, 0.1 + 0.2), (1.1015625, 1.09375)])
def test_rewards_that_differ_by_rounding_give_no_pair(near):
    """By float64's, and by that of the logits of a reward model in bfloat16 (141/128, 140/128)."""
    same = group(*zip("ab", near, strict=True))
    assert pairs([same], per_prompt=9, rng=random.Random(0)) == []
    more = group(*zip("abc", (*near, 0.0), strict=True))
    made = pairs([more], per_prompt=9, rng=random.Random(0))
    assert sorted((p.better, p.worse) for p in made) == [("a", "c"), ("b", "c")]


def test_a_text_with_several_rewards_has_their_mean():
    noisy = group(("a", 1.0), ("b", 0.5), ("a", 0.4), ("b", 0.5))
    assert [(p.better, p.worse) for p in pairs([noisy], per_prompt=9, rng=random.Random(0))] == [
        ("a", "b")
    ]


def test_every_pair_is_as_likely():
    one = group(("a", 0.0), ("b", 1.0), ("c", 2.0), ("d", 2.0))  # five pairs
    rng = random.Random(0)
    counts = Counter(
        (pair.better, pair.worse)
        for _ in range(2000)
        for pair in pairs([one], per_prompt=2, rng=rng)
    )
    assert len(counts) == 5
    assert all(abs(count - 800) < 5 * math.sqrt(2000 * 0.4 * 0.6) for count in counts.values())


def test_what_is_no_group_for_pairs():
    with pytest.raises(ValueError, match="at least one pair"):
        pairs([], per_prompt=0, rng=random.Random(0))
    with pytest.raises(ValueError):  # noqa: PT011 (zip's own words)
        pairs([group(("a", 1.0)).with_(scores=())], per_prompt=1, rng=random.Random(0))


# the loss


def test_bradley_terry_is_the_closed_form_and_its_gradient():
    margins = [-3.0, -0.5, 0.0, 0.25, 4.0]
    better = torch.tensor(margins, dtype=torch.float64).add(7).requires_grad_()
    worse = torch.full((5,), 7.0, dtype=torch.float64, requires_grad=True)
    loss = bradley_terry(better, worse)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-d)) for d in margins], rel=1e-12)
    loss.sum().backward()
    slope = [1 / (1 + math.exp(d)) for d in margins]  # sigma(-d)
    assert better.grad.tolist() == pytest.approx([-s for s in slope], rel=1e-12)
    assert worse.grad.tolist() == pytest.approx(slope, rel=1e-12)


def test_bradley_terry_stands_any_margin():
    better = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    loss = bradley_terry(better, torch.zeros(3))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1e4, 0.0, math.log(2)])
    assert better.grad.tolist() == pytest.approx([-1.0, 0.0, -0.5])


# fitting


def digit_pairs(count: int, seed: int, *, shuffled: bool = False) -> list[Pair]:
    """The answer with the larger digit is better, whatever letters stand around it."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        low, high = sorted(rng.sample(range(10), 2))
        worse, better = (f"{rng.choice('abcdef')}{d}{rng.choice('uvwxyz')}" for d in (low, high))
        if shuffled and rng.random() < 0.5:
            better, worse = worse, better
        made.append(Pair(Prompt(f"{seed}-{i}", f"{rng.choice('klmno')}="), better, worse))
    return made


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny.model(initializer_range=0.1).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def fit(base: Path, out: Path, made, **settings) -> FitResult:
    chosen = {"lr": 3e-3, "batch_pairs": 32, "epochs": 1, "layers": 2, **settings}
    own = {field.name for field in fields(FitSettings)} & chosen.keys()
    how = FitSettings(**{name: chosen.pop(name) for name in own})
    return fit_reward_model(str(base), made, how, out=out, device=CPU, **chosen)


def judged(folder: Path, made, dtype: str = "float32") -> list[tuple[float, float]]:
    """What the folder, read as a reward, gives the better and the worse text of each pair."""
    reward = RewardModel(str(folder), device=CPU, dtype=dtype)
    items = [(pair.prompt, text) for pair in made for text in (pair.better, pair.worse)]
    scores = iter([score.value for score in reward.score(items)])
    return list(zip(scores, scores, strict=True))


def test_a_preference_is_learned_and_the_folder_is_the_reward_model(base, tmp_path, monkeypatch):
    train, held_out = digit_pairs(1200, seed=0), digit_pairs(300, seed=1)
    before_saving = []
    read_all = trainer.read_all

    def spy(*args):
        before_saving.append(read_all(*args))
        return before_saving[-1]

    monkeypatch.setattr(trainer, "read_all", spy)
    told = []
    done = fit(
        base,
        tmp_path / "judge",
        train,
        held_out=held_out,
        epochs=2,
        progress=lambda *facts: told.append(facts),
    )
    assert done.held_out_accuracy > 0.9
    assert done.accuracy > 0.9
    assert done.first_loss == pytest.approx(math.log(2))  # the head is zero
    assert done.last_loss < 0.3
    assert (done.steps, done.pairs, done.held_out, done.left_out) == (76, 1200, 300, 0)
    assert [(step, of) for step, of, _ in told] == [(i + 1, 76) for i in range(76)]
    assert (told[0][2], told[-1][2]) == (done.first_loss, done.last_loss)
    scores = judged(done.folder, held_out)
    right = [better > worse for better, worse in scores]
    assert done.held_out_accuracy == pytest.approx(np.mean(right))
    named = [pair.prompt.text for pair in held_out]  # which may have several ids
    prompts = [named.index(name) for name in named]
    told = (done.held_out_accuracy, done.held_out_low, done.held_out_high)
    assert told == clustered_interval(np.array(right, dtype=float), np.array(prompts))
    assert [better for better, _ in scores] == pytest.approx(before_saving[2], abs=1e-5)
    assert [worse for _, worse in scores] == pytest.approx(before_saving[3], abs=1e-5)


def test_from_labels_that_say_nothing_nothing_is_learned(base, tmp_path):
    train = digit_pairs(1200, seed=0, shuffled=True)
    held_out = digit_pairs(600, seed=1, shuffled=True)
    done = fit(base, tmp_path / "judge", train, held_out=held_out, epochs=2)
    assert 0.42 < done.held_out_accuracy < 0.58  # four standard errors
    assert done.held_out_low < 0.5 < done.held_out_high
    assert done.last_loss > 0.5


def test_the_folder_is_read_alike_by_transformers(base, tmp_path):
    made = digit_pairs(64, seed=0)
    folder = fit(base, tmp_path / "judge", made).folder
    words = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert net.config.num_labels == 1
    assert net.config.pad_token_id == words.pad_token_id != words.eos_token_id
    texts = [pair.prompt.text + pair.better + "z" * (i % 3) for i, pair in enumerate(made)]
    batch = words(texts, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        theirs = net(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0]
    reward = RewardModel(str(folder), device=CPU)
    ours = [score.value for score in reward.score([(Prompt("", ""), text) for text in texts])]
    assert ours == pytest.approx(theirs.tolist(), abs=1e-5)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_seed_decides_everything(base, tmp_path):
    made = digit_pairs(100, seed=0)
    torch.manual_seed(1)
    first = weights_of(fit(base, tmp_path / "a", made, seed=5).folder)
    torch.manual_seed(2)
    again = weights_of(fit(base, tmp_path / "b", made, seed=5).folder)
    other = weights_of(fit(base, tmp_path / "c", made, seed=6).folder)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["score.weight"], other["score.weight"])


@pytest.mark.parametrize("microbatch_tokens", [1, 40, 10**6])
def test_the_gradient_is_the_mean_over_the_batchs_pairs(base, microbatch_tokens):
    """However it is cut; against losses of one text at a time through torch's own logsigmoid."""
    words = tiny.tokenizer()
    made = [
        Pair(p.prompt, p.better * (1 + i % 4), p.worse + "k" * (i % 3))
        for i, p in enumerate(digit_pairs(11, seed=0))
    ]
    torch.manual_seed(0)
    net = LlamaForSequenceClassification.from_pretrained(base, num_labels=1).eval()

    def reward(prompt, text):
        return net.score(
            net.model(torch.tensor([words.encode(prompt.text + text)])).last_hidden_state[0, -1]
        )

    losses = [
        -torch.nn.functional.logsigmoid(reward(p.prompt, p.better) - reward(p.prompt, p.worse))
        for p in made
    ]
    expected_loss = torch.cat(losses).mean()
    expected_loss.backward()
    expected = {name: weight.grad for name, weight in net.named_parameters()}
    net.zero_grad()
    rows = [
        trainer._Rows(
            tuple(words.encode(p.prompt.text + p.better)),
            tuple(words.encode(p.prompt.text + p.worse)),
        )
        for p in made
    ]
    loss = trainer._accumulate(net, rows, torch.float32, microbatch_tokens)
    assert loss == pytest.approx(expected_loss.item(), rel=1e-5)
    assert expected["model.layers.0.mlp.up_proj.weight"].abs().max() > 1e-4
    for name, weight in net.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_the_first_layers_are_the_bases_own(base, tmp_path):
    """With a learning rate that moves nothing, what is saved is the base, cut."""
    folder = fit(base, tmp_path / "judge", digit_pairs(4, seed=0), lr=1e-20, layers=3).folder
    saved, original = weights_of(folder), weights_of(base)
    assert AutoConfig.from_pretrained(folder).num_hidden_layers == 3
    trunk = {name for name in saved if name != "score.weight"}
    assert {name.split(".")[2] for name in trunk if ".layers." in name} == {"0", "1", "2"}
    assert "model.norm.weight" in trunk
    for name in trunk:
        torch.testing.assert_close(saved[name], original[name], rtol=0, atol=1e-12)


def test_layers_that_have_kinds_are_cut_too(tmp_path):
    config = Qwen3Config(
        vocab_size=len(tiny.tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
    )
    assert len(set(config.layer_types)) == 2
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    made = digit_pairs(4, seed=0)
    folder = fit(tmp_path / "base", tmp_path / "judge", made, layers=2).folder
    saved = AutoConfig.from_pretrained(folder)
    assert saved.layer_types == config.layer_types[:2]
    assert len(judged(folder, made)) == 4


def test_a_reward_model_is_fitted_further_from_where_it_was(base, tmp_path):
    made = digit_pairs(64, seed=0)
    first = fit(base, tmp_path / "a", made).folder
    second = fit(first, tmp_path / "b", made, lr=1e-20, layers=None).folder
    assert judged(second, made) == judged(first, made)
    assert len(set(judged(first, made))) > 32


def test_bfloat16_is_what_is_written_and_measured(base, tmp_path):
    made = digit_pairs(800, seed=0)
    done = fit(base, tmp_path / "judge", made, epochs=2, dtype="bfloat16")
    assert {weight.dtype for weight in weights_of(done.folder).values()} == {torch.bfloat16}
    scores = np.array(judged(done.folder, made, dtype="bfloat16"))
    margins = scores[:, 0] - scores[:, 1]
    # Batches differ, and so does rounding to 8 bits: a pair that is nearly even may turn.
    even = np.mean(np.abs(margins) <= 4 * 2**-8 * np.abs(scores).max())
    assert abs(done.accuracy - np.mean(margins > 0)) <= even < 0.1
    assert done.accuracy > 0.85


def test_pairs_that_cannot_be_read_are_counted(base, tmp_path):
    good = digit_pairs(4, seed=0)
    long, same = Pair(Prompt("l", "1="), "1" * 127, "2"), Pair(Prompt("s", "1="), "3", "3")
    alike = Pair(Prompt("u", "1="), "!", "?")  # two characters that the tokenizer does not know
    done = fit(base, tmp_path / "judge", [*good, long, same, alike], held_out=[long, good[0]])
    assert (done.pairs, done.held_out, done.left_out) == (4, 1, 4)
    with pytest.raises(UserError, match="there are 1 of 2") as caught:
        fit(base, tmp_path / "other", [good[0], long])
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["judge"]


def test_without_held_out_pairs_there_is_no_number_for_them(base, tmp_path):
    done = fit(base, tmp_path / "judge", digit_pairs(4, seed=0))
    assert (done.held_out_accuracy, done.held_out_low, done.held_out_high) == (None, None, None)


def test_a_folder_that_exists_is_refused_before_any_work(tmp_path):
    (tmp_path / "judge").mkdir()
    with pytest.raises(UserError, match=r"^out: .*judge exists"):
        fit(Path("no/such/model"), tmp_path / "judge", digit_pairs(4, seed=0))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^out: cannot make .*judge: .*file is not a folder"):
        fit(Path("no/such/model"), tmp_path / "file" / "judge", digit_pairs(4, seed=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs: must be at least 1"),
        ({"batch_pairs": 0}, "batch_pairs: must be at least 1"),
        ({"lr": 0.0}, "lr: must be a number above 0"),
        ({"lr": math.nan}, "lr: must be a number above 0"),
        ({"dtype": "float16"}, "dtype: must be 'float32' or 'bfloat16'"),
        ({"layers": 5}, r"layers: must be from 1 to the base's 4 \(got 5"),
        ({"layers": 0}, r"layers: must be from 1 to the base's 4 \(got 0"),
        ({"made": 1}, "pairs: .* at least 2, and there are 1$"),
    ],
)
def test_settings_out_of_range(base, tmp_path, settings, message):
    made = digit_pairs(settings.pop("made", 4), seed=0)
    with pytest.raises(UserError, match=f"^{message}"):
        fit(base, tmp_path / "judge", made, **settings)
    assert not list(tmp_path.iterdir())


def test_a_fit_that_diverges_writes_nothing(base, tmp_path):
    with pytest.raises(WinnowError, match="diverged: loss or gradient of step"):
        fit(base, tmp_path / "judge", digit_pairs(64, seed=0), lr=1e30, batch_pairs=4)
    assert not list(tmp_path.iterdir())


def test_the_learning_rate_falls_linearly(base, tmp_path):
    rates = []
    hook = register_optimizer_step_pre_hook(
        lambda adam, args, named: rates.append(adam.param_groups[0]["lr"])
    )
    fit(base, tmp_path / "judge", digit_pairs(7, seed=0), lr=0.4, epochs=2, batch_pairs=4)
    hook.remove()
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_what_is_in_the_way_by_the_end_is_not_written_over(base, tmp_path):
    out = tmp_path / "judge"

    def occupy(*_):
        out.mkdir(exist_ok=True)
        (out / "note").write_text("mine")

    with pytest.raises(WinnowError, match=r"^cannot write .*judge: .*; it is whole in .*partial$"):
        fit(base, out, digit_pairs(4, seed=0), progress=occupy)
    assert [path.name for path in out.iterdir()] == ["note"]
    assert len(judged(tmp_path / ".judge.partial", digit_pairs(4, seed=0))) == 4


def test_everything_is_on_the_disk_before_it_has_its_name(base, tmp_path, monkeypatch):
    told = []
    real_sync, real_rename = atomic.sync, Path.rename
    monkeypatch.setattr(atomic, "sync", lambda path: (told.append(path.name), real_sync(path)))
    monkeypatch.setattr(
        Path, "rename", lambda path, to: (told.append(to.name), real_rename(path, to))[1]
    )
    fit(base, tmp_path / "new" / "judge", digit_pairs(4, seed=0))
    end = told.index("judge")
    files = {path.name for path in (tmp_path / "new" / "judge").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert {*files, ".judge.partial", tmp_path.name} <= set(told[:end])
    assert told[end + 1 :] == ["new"]


@pytest.mark.parametrize("stage", ["write", "sync", "rename"])
def test_a_fit_that_is_broken_off_leaves_no_folder(base, tmp_path, monkeypatch, stage):
    def killed(*_, **__):
        raise Killed

    if stage == "write":
        monkeypatch.setattr(LlamaForSequenceClassification, "save_pretrained", killed)
    elif stage == "sync":
        monkeypatch.setattr(os, "fsync", killed)
    else:
        monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(Killed):
        fit(base, tmp_path / "judge", digit_pairs(4, seed=0))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [".judge.partial"]
    fit(base, tmp_path / "judge", digit_pairs(4, seed=0))
    assert [path.name for path in tmp_path.iterdir()] == ["judge"]


def test_a_full_disk_is_one_line(base, tmp_path):
    with full_disk(2000), pytest.raises(WinnowError, match=r"^cannot write .*judge: ") as error:
        fit(base, tmp_path / "judge", digit_pairs(4, seed=0))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("headed", [False, True])
def test_a_base_whose_trunk_is_not_all_there_is_refused(base, tmp_path, headed):
    folder = tmp_path / "base"
    tiny.tokenizer().save_pretrained(folder)
    config = AutoConfig.from_pretrained(base, num_labels=1)
    (LlamaForSequenceClassification(config) if headed else tiny.model()).save_pretrained(folder)
    weights = weights_of(folder)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    lost = r"lacks the weight model\.layers\.1\.mlp\.up_proj"
    with pytest.raises(UserError, match=lost) as caught:
        fit(folder, tmp_path / "judge", digit_pairs(4, seed=0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "config"), [(BertForMaskedLM, BertConfig), (RobertaForMaskedLM, RobertaConfig)]
)
def test_a_base_of_another_kind_is_refused(tmp_path, kind, config):
    """One lacks a layer of the trunk, the other would get a head of two layers."""
    settings = config(
        vocab_size=len(tiny.tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    kind(settings).save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=r"lacks the weight .*; use a causal language model"):
        fit(tmp_path / "base", tmp_path / "judge", digit_pairs(4, seed=0), layers=None)
