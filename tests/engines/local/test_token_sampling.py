import numpy as np
import pytest
import torch
from scipy import stats

from winnow.engines.local.token_sampling import choose
from winnow.errors import WinnowError


def uniforms(n, seed=0):
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("vocabulary", [5, 256, 257, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_follow_the_softmax(vocabulary, temperature):
    n = 60_000
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 2
    probabilities = (logits.double() / temperature).softmax(-1).numpy()
    chosen = choose(logits.expand(n, -1), uniforms(n), temperature).tokens.numpy()
    counts = np.bincount(chosen, minlength=vocabulary)
    rare = probabilities * n < 8  # pooled, so that every cell expects enough
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(probabilities[~rare], probabilities[rare].sum()) * n
    filled = expected > 0
    assert stats.chisquare(observed[filled], expected[filled]).pvalue > 0.001


def test_logprobs_and_entropies_are_those_of_the_full_softmax():
    logits = torch.randn(7, 300, generator=torch.Generator().manual_seed(2)) * 3
    for top_k, top_p in ((0, 1.0), (3, 1.0), (0, 0.5)):
        choice = choose(logits, uniforms(7), 0.8, top_k, top_p)
        full = (logits.double() / 0.8).log_softmax(-1)
        expected = full.gather(-1, choice.tokens[:, None]).squeeze(-1)
        np.testing.assert_allclose(choice.logprobs.double(), expected, atol=2e-6)
        entropy = -(full.exp() * full).sum(-1)
        np.testing.assert_allclose(choice.entropies.double(), entropy, atol=2e-5)


def test_a_token_of_probability_zero_is_never_sampled():
    logits = torch.full((1, 600), -torch.inf)
    logits[0, [0, 300, 512]] = 0.0
    edges = torch.tensor([0.0, 1 / 3, 2 / 3, 1 - 2**-53, 0.5], dtype=torch.float64)
    choice = choose(logits.expand(5, -1), edges, 1.0)
    assert set(choice.tokens.tolist()) <= {0, 300, 512}
    assert choice.tokens.tolist()[0] == 0
    assert choice.tokens.tolist()[3] == 512
    assert torch.isfinite(choice.entropies).all()
    np.testing.assert_allclose(choice.entropies, np.log(3), rtol=1e-6)


def test_truncation_keeps_what_it_says():
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    n = 4000
    many = logits.expand(n, -1)
    assert set(choose(many, uniforms(n), 1.0, top_k=2).tokens.tolist()) == {0, 1}
    # the smallest set that holds .65: .4 + .3; .7 needs the same two, .71 a third
    assert set(choose(many, uniforms(n), 1.0, top_p=0.65).tokens.tolist()) == {0, 1}
    assert set(choose(many, uniforms(n), 1.0, top_p=0.71).tokens.tolist()) == {0, 1, 2}
    assert set(choose(many, uniforms(n), 1.0, top_p=1e-6).tokens.tolist()) == {0}
    share = (choose(many, uniforms(n), 1.0, top_k=2).tokens == 0).double().mean()
    assert abs(float(share) - 4 / 7) < 4 * (4 / 7 * 3 / 7 / n) ** 0.5


def test_extreme_logits_do_not_overflow():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    choice = choose(logits, uniforms(2), 1.0)
    assert choice.tokens[0] == 0
    assert torch.isfinite(choice.logprobs).all()
    np.testing.assert_allclose(choice.logprobs[1], -np.log(3), rtol=1e-5)


def test_logits_that_are_no_numbers_are_an_error():
    with pytest.raises(WinnowError, match="not finite"):
        choose(torch.tensor([[0.0, torch.nan]]), uniforms(1), 1.0)


def test_temperature_0_takes_the_likeliest_of_equals_the_first() -> None:
    """Whatever the random numbers; with the log-prob and the entropy of the full softmax at 1."""
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(3)) * 3
    logits[4, [7, 200]] = 50.0
    for seed in range(3):
        for top_k, top_p in ((0, 1.0), (2, 1.0), (0, 0.5)):
            choice = choose(logits, uniforms(5, seed), 0.0, top_k, top_p)
            assert choice.tokens.tolist() == np.argmax(logits.numpy(), -1).tolist()
            assert choice.tokens[4] == 7
            full = logits.double().log_softmax(-1)
            np.testing.assert_allclose(choice.logprobs.double(), full.amax(-1), atol=2e-6)
            np.testing.assert_allclose(
                choice.entropies.double(), -(full.exp() * full).sum(-1), atol=2e-5
            )
