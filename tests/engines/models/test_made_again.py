"""What is made again in the backward pass, against a pass that keeps everything."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from tests.engines.models.architectures import ALL, build
from tests.engines.models.autograd import kept_bytes
from tests.engines.models.test_architectures import PIECES, gradients
from winnow.engines.models import forward as forward_module
from winnow.engines.models import made_again as module
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.made_again import kept, made_again, make
from winnow.engines.models.precision import mixed
from winnow.engines.models.recompute import blocks_of, compute_again


@pytest.fixture(autouse=True)
def _small_tensors_too(monkeypatch):
    monkeypatch.setattr(module, "_LEAST", 1)


@pytest.fixture
def counted(monkeypatch):
    """Appends how often a tensor was made again."""
    made: list[torch.Tensor] = []
    again = module._Made.again

    def count(self):
        made.append(again(self))
        return made[-1]

    monkeypatch.setattr(module._Made, "again", count)
    return made


def both(monkeypatch, compute):
    """What is computed with activations made again, and with all of them kept."""
    made = compute()
    monkeypatch.setattr(forward_module, "made_again", nullcontext)
    return made, compute()


def same(one, two):
    (logp, grads), (plain, expected) = one, two
    assert torch.equal(logp, plain)
    assert grads.keys() == expected.keys()
    for name, gradient in grads.items():
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("low", [False, True], ids=["float32", "mixed"])
def test_gradients_are_the_same_bits(name, low, monkeypatch, counted):
    model = build(name, torch.float32)
    forward = PolicyForward(model)
    device = torch.device("cpu")

    def run():
        with mixed(device, low):
            return gradients(model, lambda: forward.logprobs(forward.contexts(PIECES), 0.7))

    same(*both(monkeypatch, run))
    assert counted


def test_blocks_that_are_made_again_note_nothing(monkeypatch, counted):
    model = build("llama", torch.float32)
    forward = PolicyForward(model)
    for block in blocks_of(model):
        compute_again(block, model)

    def run():
        return gradients(model, lambda: forward.logprobs(forward.contexts(PIECES), 1.0))

    same(*both(monkeypatch, run))
    # Two muls of the final norm, outside of the blocks.
    assert len(counted) <= 2


def test_half_as_much_is_kept(monkeypatch):
    """A gated layer keeps two of its four tensors, a norm one of three."""
    torch.manual_seed(0)
    x = torch.randn(100, 32, requires_grad=True)
    norm, gate, up, down = torch.ones(32, requires_grad=True), *torch.randn(3, 64, 32) / 8
    for weight in (gate, up, down):
        weight.requires_grad_()

    def layer():
        with made_again():
            h = x + 1
            normed = norm * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5))
            return F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down.t())

    weights = (norm, gate, up, down)
    few = kept_bytes(layer, weights)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_KEPT", {})
        all_of_it = kept_bytes(layer, weights)
    unit = 100 * 32 * 4
    assert all_of_it // unit == 3 + 4 * 2
    assert few // unit == 1 + 2 * 2


def test_a_value_is_held_no_longer_than_it_is_asked_for():
    """Three layers read it: made once, gone after the third."""
    x = torch.randn(4, 8, requires_grad=True)
    calls = []

    def double(given):
        calls.append(given)
        return given * 2

    with made_again():
        h = make(double, x)
        layers = [torch.randn(8, 8, requires_grad=True) for _ in range(3)]
        outs = [F.linear(h, layer) for layer in layers]
    reads = [out.grad_fn for out in outs]
    del h
    assert len(calls) == 1
    for number, node in enumerate(reads):
        value = node._saved_self
        place = StorageWeakRef(value.untyped_storage())
        assert torch.equal(value, x * 2)
        assert len(calls) == 2
        del value
        assert place.expired() == (number == 2)


@pytest.mark.parametrize("which", ["input", "other"])
def test_what_is_written_to_is_told(which):
    x, y = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    weight = torch.randn(8, 8, requires_grad=True)
    with made_again():
        h, other = x + 1, y + 1
        out = F.linear(h * other, weight) if which == "input" else F.linear(other, weight)
        (h if which == "input" else other).add_(1)
    with pytest.raises(RuntimeError, match="written to"):
        out.sum().backward()


def test_what_was_made_is_not_what_now_has_its_place():
    """Its memory is another tensor's before autograd keeps that one."""
    weight = torch.randn(64, 64, requires_grad=True)
    x = torch.randn(256, 64, requires_grad=True)
    got = 0
    with made_again():
        outs = []
        for number in range(20):
            place = (F.silu(x) * x).data_ptr()
            other = x + number
            got += other.data_ptr() == place
            outs.append(F.linear(other, weight))
    assert got, "the allocator never gave the same place again: the test shows nothing"
    torch.stack(outs).sum().backward()
    expected = sum((x.detach() + number).sum(0) for number in range(20)).expand(64, 64)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "view",
    [
        lambda h: h.view(2, 16, 8),
        lambda h: h.t(),
        lambda h: h[1:],
        lambda h: h[:, ::2],
        lambda h: h.t().reshape(32, 8),
    ],
)
def test_views_of_it_are_what_they_were(view):
    def gradient(again):
        torch.manual_seed(0)
        x = torch.randn(32, 8, requires_grad=True)
        with made_again() if again else nullcontext():
            seen = view(F.gelu(x))
            weight = torch.randn(5, seen.shape[-1], requires_grad=True)
            F.linear(seen, weight).pow(2).sum().backward()
        return x.grad, weight.grad

    for got, expected in zip(gradient(True), gradient(False), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    "write", [lambda x: F.silu(x + 1, inplace=True), lambda x: F.silu(x).add_(1)]
)
def test_what_is_written_in_place_is_kept(write):
    def gradient(again):
        x = torch.linspace(-1, 1, 64).view(8, 8).requires_grad_()
        weight = torch.eye(8).requires_grad_()
        with made_again() if again else nullcontext():
            F.linear(write(x), weight).pow(2).sum().backward()
        return x.grad, weight.grad

    for got, expected in zip(gradient(True), gradient(False), strict=True):
        assert torch.equal(got, expected)


def test_nothing_is_noted_without_gradients_or_where_it_is_kept(counted):
    x = torch.randn(8, 8, requires_grad=True)
    with torch.no_grad(), made_again():
        assert module._notes.get() is None
    with made_again(), kept():
        out = F.linear(F.silu(x), x)
    out.sum().backward()
    assert not counted


def test_a_pass_that_is_dropped_is_gone():
    """Softmax and exp keep their own results, which must not hold what made them."""
    x = torch.randn(8, 8, requires_grad=True)
    with made_again():
        h = F.silu(x + 1) * (x * 2)
        place = StorageWeakRef(h.untyped_storage())
        out = torch.softmax(F.linear(h, x), -1).exp()
        result = StorageWeakRef(out.untyped_storage())
    del h, out
    assert place.expired()
    assert result.expired()


def test_a_value_that_one_reader_writes_to_is_told_to_the_next():
    class Writes(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x + 0

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return x.mul_(grad)

    x = torch.randn(8, 8, requires_grad=True)
    with made_again():
        h = F.silu(x)
        out = Writes.apply(h) + Writes.apply(h)
    with pytest.raises(RuntimeError, match="written to"):
        out.sum().backward()


def test_a_frozen_norm_is_made_again_as_well():
    """As under adapters: what a norm gives is kept for them alone."""
    x = torch.randn(64, 32, requires_grad=True)
    weight, a = torch.ones(32), torch.randn(4, 32, requires_grad=True)

    def layer():
        with made_again():
            h = x + 1
            normed = weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True)))
            return F.linear(normed, a)

    assert kept_bytes(layer, [weight, a]) // (64 * 32 * 4) == 1
    layer().sum().backward()
    normed = (x + 1) * torch.rsqrt((x + 1).pow(2).mean(-1, keepdim=True))
    torch.testing.assert_close(a.grad, normed.detach().sum(0).expand(4, 32))


def test_functions_over_batches_are_left_alone():
    x = torch.randn(3, 8, requires_grad=True)
    with made_again():
        out = torch.vmap(lambda row: (F.silu(row) * row).to(torch.float64))(x)
    assert torch.equal(out, (F.silu(x) * x).double())
