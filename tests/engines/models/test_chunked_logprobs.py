"""Log-probabilities in slices of the vocabulary, against log_softmax of the whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from winnow.engines.models import chunked_logprobs, precision


def case(contexts, items, vocabulary, bias, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def some(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    index = torch.randint(contexts, (items,), generator=generator)
    targets = torch.randint(vocabulary, (items,), generator=generator)
    return (
        some(contexts, 5),
        some(vocabulary, 5),
        some(vocabulary) if bias else None,
        index,
        targets,
    )


def whole(features, weight, bias, index, targets, t):
    logits = features @ weight.t() + (0 if bias is None else bias)
    return (logits / t).log_softmax(-1)[index, targets]


@given(
    contexts=st.integers(1, 6), items=st.integers(1, 20), vocabulary=st.integers(1, 30),
    bias=st.booleans(), t=st.sampled_from([1.0, 0.5, 1.7]), slice_=st.integers(1, 31),
)  # fmt: skip
def test_values_and_gradients_are_those_of_log_softmax(
    contexts, items, vocabulary, bias, t, slice_
):
    features, weight, shift, index, targets = case(contexts, items, vocabulary, bias)
    leaves = [x for x in (features, weight, shift) if x is not None]
    slopes = torch.linspace(-1, 2, items, dtype=torch.float64)
    expected = whole(features, weight, shift, index, targets, t)
    wanted = torch.autograd.grad((expected * slopes).sum(), leaves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_logprobs, "_LEAST", slice_)
        patch.setattr(chunked_logprobs, "_ELEMENTS", 1)
        got = chunked_logprobs.logprobs(features, weight, shift, index, targets, t)
        found = torch.autograd.grad((got * slopes).sum(), leaves)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_what_does_not_learn_has_no_gradient():
    features, weight, _, index, targets = case(3, 7, 11, bias=False)
    frozen = weight.detach()
    chunked_logprobs.logprobs(features, frozen, None, index, targets, 1.0).sum().backward()
    expected = torch.autograd.grad(
        whole(features, frozen, None, index, targets, 1.0).sum(), features
    )
    torch.testing.assert_close(features.grad, expected[0])


def test_large_and_impossible_logits_stay_numbers():
    features = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    weight = torch.tensor([[900.0], [-900.0], [899.0]], dtype=torch.float64)
    bias = torch.tensor([-torch.inf, 0.0, 0.0], dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_logprobs, "_LEAST", 1)
        patch.setattr(chunked_logprobs, "_ELEMENTS", 1)
        got = chunked_logprobs.logprobs(
            features, weight, bias, torch.tensor([0, 1]), torch.tensor([2, 1]), 1.0
        )
    # one token is impossible, so the last has all the mass: log 1, and -900 - 899
    torch.testing.assert_close(got, torch.tensor([0.0, -1799.0], dtype=torch.float64))


def test_half_precision_features_give_float32_logprobs():
    features, weight, _, index, targets = case(4, 9, 13, bias=False)
    got = chunked_logprobs.logprobs(
        features.bfloat16(), weight.bfloat16(), None, index, targets, 1.0
    )
    assert got.dtype == torch.float32
    expected = whole(features, weight, None, index, targets, 1.0)
    torch.testing.assert_close(got.double(), expected, rtol=0.1, atol=0.1)


def test_half_precision_gradients_are_summed_in_full():
    """A sum over many slices, rounded to bfloat16 after each, would drift from a single product."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 64, generator=generator).bfloat16().requires_grad_()
    weight = (torch.randn(2000, 64, generator=generator) * 0.2).bfloat16()
    index, targets = torch.tensor([0, 1, 2]), torch.tensor([5, 700, 1999])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_logprobs, "_LEAST", 4)
        patch.setattr(chunked_logprobs, "_ELEMENTS", 1)
        chunked_logprobs.logprobs(features, weight, None, index, targets, 1.0).sum().backward()
    exact = features.detach().double().requires_grad_()
    whole(exact, weight.double(), None, index, targets, 1.0).sum().backward()
    error = (features.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert error < 0.004  # rounded to bfloat16 after each slice it is .025


@pytest.mark.parametrize("bias", [True, False])
def test_kept_probabilities_give_the_gradients_of_those_computed_again(bias):
    """Of the same log-probs: only how probabilities are rounded before they are multiplied differs.

    One token is all but sure: its slope is 1 - p, about 3e-4, where a rounded p would leave 0 or
    2^-9.
    """
    features, weight, shift, index, targets = (
        None if x is None else x.detach().float() if x.is_floating_point() else x
        for x in case(4, 9, 23, bias)
    )
    sure = 2
    targets[index == sure] = 5
    targets[0], index[0] = 5, sure
    with torch.no_grad():
        features[sure] = weight[5] * (11 / weight[5].pow(2).sum())
    slopes = torch.linspace(-1, 2, 9)
    found = []
    for most in (0, 2**28):
        leaves = [x.clone().requires_grad_() for x in (features, weight, shift) if x is not None]
        with pytest.MonkeyPatch.context() as patch, precision.mixed(torch.device("cpu")):
            patch.setattr(chunked_logprobs, "_KEPT_BYTES", most)
            patch.setattr(chunked_logprobs, "_LEAST", 7)
            patch.setattr(chunked_logprobs, "_ELEMENTS", 1)
            given = (leaves[0], leaves[1], leaves[2] if bias else None)
            got = chunked_logprobs.logprobs(*given, index, targets, 0.7)
            (got * slopes).sum().backward()
            found.append((got.detach(), [x.grad for x in leaves]))
    (again, grads), (kept, others) = found
    assert torch.equal(again, kept)
    for a, b in zip(grads, others, strict=True):
        assert not torch.equal(a, b)
        assert float((a - b).norm()) < 0.01 * float(a.norm())
        assert float((a[sure] - b[sure]).norm()) < 0.02 * float(a[sure].norm())
