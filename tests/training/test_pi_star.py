"""pi* reached with real models: by selection from samples, and by training on what was selected.

The policies are small enough, or their answers short enough, that pi* = pi_ref exp(r / beta) / Z
can be enumerated. The enumeration uses plain forward passes of transformers and NumPy.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import winnow

BETA = 0.5
ANSWERS = [(0,), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
"""All answers of at most two tokens over {end, a, b}."""
TEXTS = ["", "a", "aa", "ab", "b", "ba", "bb"]
REWARDS = {"": 0.1, "a": 0.9, "aa": 0.0, "ab": 1.0, "b": 0.3, "ba": 0.6, "bb": 0.45}
PROMPT = "ab"


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """A Llama over three tokens whose answers are far from equally likely."""
    torch.manual_seed(3)
    net = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=3,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=16,
            eos_token_id=0,
            pad_token_id=0,
            bos_token_id=None,
            initializer_range=0.4,
        )
    )
    core = Tokenizer(models.WordLevel({"<end>": 0, "a": 1, "b": 2}, unk_token="b"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    core.decoder = decoders.Fuse()
    folder = tmp_path_factory.mktemp("policy") / "model"
    net.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>").save_pretrained(folder)
    return folder


def enumerated(folder: Path, prompt: str, temperature: float = 1.0) -> np.ndarray:
    """The probability of each of ANSWERS."""
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    found = []
    for answer in ANSWERS:
        ids = [{"a": 1, "b": 2}[c] for c in prompt] + list(answer)
        with torch.no_grad():
            logp = net(input_ids=torch.tensor([ids])).logits[0]
            logp = (logp / temperature).log_softmax(-1)
        places = range(len(prompt) - 1, len(ids) - 1)
        found.append(sum(float(logp[i, ids[i + 1]]) for i in places))
    probabilities = np.exp(found)
    assert probabilities.sum() == pytest.approx(1, abs=1e-9)
    return probabilities


def tilted(probabilities: np.ndarray, beta: float = BETA) -> np.ndarray:
    weights = probabilities * np.exp(np.array([REWARDS[text] for text in TEXTS]) / beta)
    return weights / weights.sum()


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    return 0.5 * float(np.abs(p - q).sum())


@pytest.fixture(scope="module")
def samples(policy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "sampled"
    winnow.sample(
        model=str(policy),
        prompts=[{"prompt": PROMPT}],
        reward=lambda prompt, completion: REWARDS[completion],
        n=12_000,
        sampling={"max_tokens": 2, "batch": 4096},
        out=folder,
        quiet=True,
    )
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ("row", "advantage"),
    [
        ("gibbs", "one"),
        ("snis", f"softmax({BETA}, over=group)"),  # one prompt: the same as over=set
    ],
)
def test_training_reaches_pi_star(policy, samples, tmp_path, row, advantage) -> None:
    result = winnow.train(
        model=str(policy),
        samples_file=str(samples),
        algorithm={"name": row, "epochs": 40, "advantage": advantage},
        prompts_per_step=1,
        minibatch_prompts=1,
        optimizer={"lr": 3e-3, "schedule": "linear"},
        eval={"size": 0},
        checkpoint={"every": 1000},
        out=tmp_path / "run",
        quiet=True,
    )
    start = enumerated(policy, PROMPT)
    assert total_variation(start, tilted(start)) > 0.1
    assert total_variation(enumerated(result.checkpoint, PROMPT), tilted(start)) < 0.02


@pytest.mark.long
@pytest.mark.parametrize("over", ["set", "group"])
def test_weights_normalised_over_all_steps_reach_pi_star_and_by_prompt_do_not(
    policy, tmp_path, over
) -> None:
    """600 prompts of 4 samples, made in 4 steps. By prompt the fit is the mean over 4 samples of
    their self-normalised weights, which is enumerated here: .441 from pi* in total variation."""
    beta, n = 0.2, 4
    result = winnow.train(
        model=str(policy),
        prompts=[{"prompt": PROMPT, "id": str(i)} for i in range(600)],
        reward=lambda prompt, completion: REWARDS[completion],
        algorithm={"name": "snis", "advantage": f"softmax({beta}, over={over})", "epochs": 12},
        steps=4,
        prompts_per_step=150,
        minibatch_prompts=150,
        samples_per_prompt=n,
        sampling={"max_tokens": 2, "batch": 1024},
        optimizer={"lr": 3e-3, "schedule": "linear"},
        eval={"size": 0},
        checkpoint={"every": 1000},
        out=tmp_path / "run",
        quiet=True,
    )
    start = enumerated(policy, PROMPT)
    target = tilted(start, beta)
    found = enumerated(result.checkpoint, PROMPT)
    rewards = np.array([REWARDS[text] for text in TEXTS])
    by_prompt = np.zeros(len(start))
    for drawn in itertools.product(range(len(start)), repeat=n):
        weights = np.exp(rewards[list(drawn)] / beta)
        shares = start[list(drawn)].prod() * weights / weights.sum()
        np.add.at(by_prompt, list(drawn), shares)
    assert total_variation(by_prompt, target) == pytest.approx(0.441, abs=0.001)
    assert total_variation(found, target if over == "set" else by_prompt) < 0.12


@pytest.fixture(scope="module")
def ends(policy, tmp_path_factory):
    """Where training with a KL term ends: total variation to pi*, by the cell."""

    def end(kl: str, temperature: float = 1.0) -> float:
        result = trained(policy, tmp_path_factory.mktemp("kl") / "run", kl, temperature)
        found = enumerated(result.checkpoint, PROMPT, temperature)
        return total_variation(found, tilted(enumerated(policy, PROMPT, temperature)))

    return end


def trained(policy: Path, out: Path, kl: str, temperature: float = 1.0, **settings):
    """REINFORCE against the mean of the other samples; no sigma, no 1/|a|, no clip."""
    fixed = {
        "steps": 60,
        "optimizer": {"lr": 1.5e-3, "schedule": "linear"},
    }
    return winnow.train(
        model=str(policy),
        prompts=[{"prompt": PROMPT}],
        reward=lambda prompt, completion: REWARDS[completion],
        algorithm={
            "name": "reinforce",
            "reward_scale": "0/1",
            "advantage": "leave-one-out",
            "loss": "importance",
            "denominator": "constant(1)",
            "kl": kl,
        },
        prompts_per_step=1,
        minibatch_prompts=1,
        samples_per_prompt=256,
        sampling={"max_tokens": 2, "batch": 512, "temperature": temperature},
        eval={"size": 0},
        checkpoint={"every": 1000},
        out=out,
        quiet=True,
        **{**fixed, **settings},
    )


@pytest.mark.parametrize("kl", [f"in-reward({BETA})", f"in-loss({BETA}, k2, sequence)"])
def test_kl_of_whole_answers_leads_to_pi_star(ends, kl) -> None:
    """-beta k1 of the answer in the reward, or its k2 in the loss: one gradient in expectation,
    that of E[r] - beta KL(pi || pi_ref). At pi* every sample's advantage is 0, not only their mean,
    so that what is reached is exact."""
    assert ends(kl) < 0.02


def test_at_another_temperature_the_policy_is_the_one_that_samples(ends) -> None:
    assert ends(f"in-reward({BETA})", temperature=1.5) < 0.02


def test_an_adaptive_coefficient_reaches_its_target(policy, tmp_path) -> None:
    """From beta .1, where pi* is .8 nats away, to the beta whose pi* is .15 nats away."""
    target = 0.15
    kl = f"in-reward(0.1, target={target}, horizon=2000)"
    rows = trained(policy, tmp_path / "run", kl, steps=120, optimizer={"lr": 1e-3}).metrics
    assert max(row["kl_to_reference"] for row in rows) > 2 * target
    last = [row["kl_to_reference"] for row in rows[-30:]]
    assert np.mean(last) == pytest.approx(target, rel=0.2)
    assert rows[-1]["kl_beta"] > 3 * rows[0]["kl_beta"]


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_by_token_ends_elsewhere(ends, estimator) -> None:
    """What a token does to later tokens' KL is left out (k2), or the other KL is minimised (k3)."""
    assert ends(f"in-loss({BETA}, {estimator})") > 0.03


def entropy_of_a_run_without_a_preference(policy: Path, out: Path, row, heat: float) -> float:
    """Entropy afterwards minus before, nats of whole answers at the run's temperature.

    Every sample has reward 1. Without a baseline, samples that are more than their share pull
    nevertheless: a walk, kept short here by 256 samples a step and a small learning rate.
    """
    result = winnow.train(
        model=str(policy),
        prompts=[{"prompt": PROMPT}],
        reward=lambda prompt, completion: 1.0,
        algorithm=row,
        steps=60,
        prompts_per_step=1,
        minibatch_prompts=1,
        samples_per_prompt=256,
        sampling={"max_tokens": 2, "batch": 512, "temperature": heat},
        optimizer={"lr": 1e-4, "schedule": "constant", "warmup": 0},
        eval={"size": 0},
        checkpoint={"every": 1000},
        out=out,
        quiet=True,
    )
    before, after = (
        stats.entropy(enumerated(model, PROMPT, heat)) for model in (policy, result.checkpoint)
    )
    return float(after - before)


@pytest.mark.parametrize(
    ("row", "heat"),
    [
        ("raft", 1.0),
        ({"name": "raft", "loss": "nll-tempered"}, 0.7),
        ({"name": "raft++", "denominator": "constant(1)"}, 0.7),
        ("grpo", 0.7),
        ("rloo", 0.7),
    ],
)
def test_without_a_preference_the_policy_keeps_its_entropy(policy, tmp_path, row, heat) -> None:
    change = entropy_of_a_run_without_a_preference(policy, tmp_path / "run", row, heat)
    assert abs(change) < 0.2


@pytest.mark.parametrize("row", ["raft", "raft++"])
def test_what_is_a_preference_whatever_the_reward(policy, tmp_path, row) -> None:
    """What the control above would see: the likelihood at 1 of samples at .7 is sharper each round;
    a mean over each completion's tokens prefers short ones."""
    change = entropy_of_a_run_without_a_preference(policy, tmp_path / "run", row, 0.7)
    assert change < -0.7


def fits(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """p-value of a chi-square test, cells of less than 5 expected pooled."""
    expected = probabilities * counts.sum()
    small = expected < 5
    observed = np.append(counts[~small], counts[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    keep = wanted > 0
    return float(stats.chisquare(observed[keep], wanted[keep]).pvalue)


@pytest.mark.long
def test_exact_samples_from_a_real_models_pi_star(tmp_path) -> None:
    """SmolLM2, one token: pi* is enumerated over its whole vocabulary."""
    prompt, beta = "My favourite colour is", 0.2
    reward = lambda _, completion: min(len(completion.strip()), 8) / 8  # noqa: E731
    folder = tmp_path / "samples"
    winnow.sample(
        prompts=[{"prompt": prompt}],
        reward=reward,
        n=40_000,
        sampling={"max_tokens": 1, "batch": 4096},
        out=folder,
        quiet=True,
    )
    kept = tmp_path / "kept.parquet"
    selected = winnow.select(folder, [f"gibbs(beta={beta}, r_max=1)"], out=kept)
    assert "exact samples" in selected.notes[0]
    assert "NOT" not in selected.notes[0]

    from winnow.engines.models.loading import load_model, load_tokenizer, resolve

    source = resolve("smollm2-135m")
    net, words = load_model(source, "float32", torch.device("cpu")), load_tokenizer(source)
    with torch.no_grad():
        logits = net(input_ids=torch.tensor([words.encode(prompt)])).logits[0, -1].double()
    reference = logits.softmax(-1).numpy()
    said = [words.decode([token], skip_special_tokens=True) for token in range(len(reference))]
    target = reference * np.exp(np.array([reward(None, text) for text in said]) / beta)
    accepted = target.sum() / np.exp(1 / beta)  # Z / M
    target /= target.sum()

    def counted(path: Path) -> np.ndarray:
        tokens = [row[0] for row in pq.read_table(path)["token_ids"].to_pylist()]
        return np.bincount(tokens, minlength=len(reference))

    counts = counted(kept)
    rate = counts.sum() / 40_000
    assert abs(rate - accepted) < 4 * np.sqrt(accepted * (1 - accepted) / 40_000)
    assert fits(counted(folder / "samples"), reference) > 0.001
    assert fits(counts, target) > 0.001
    assert fits(counts, reference) < 1e-6
