"""Linear layers laid out for decoding: the same products, and no trace of them afterwards."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from winnow.engines.local import packed_linears
from winnow.engines.local.packed_linears import PackedLinears

here = pytest.mark.skipif(not packed_linears._available(), reason="this torch has no MKL")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3, bias=False))


@here
def test_products_are_the_same_and_the_layers_are_left_as_they_were():
    model = net()
    linears = PackedLinears(model, rows=4, steps=1000)
    for rows in (1, 4, 9):
        x = torch.randn(2, rows, 5)
        with torch.inference_mode():
            plain = model(x)
            with linears.used():
                assert "forward" in vars(model[0])
                torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-6)
    assert "forward" not in vars(model[0])
    assert "forward" not in vars(model[2])


@here
def test_they_are_of_the_weights_at_their_making():
    """So whoever changes weights must make them anew: the sampler does for each set of samples."""
    model = net()
    linears = PackedLinears(model, rows=4, steps=1000)
    x = torch.randn(3, 5)
    with torch.inference_mode():
        before = model(x)
        for parameter in model.parameters():
            parameter.mul_(2)
        after = model(x)
        with PackedLinears(model, rows=4, steps=1000).used():
            torch.testing.assert_close(model(x), after, rtol=1e-5, atol=1e-6)
        with linears.used():
            stale = model(x)
    assert not torch.allclose(before, after)
    assert not torch.allclose(stale, after)


def test_few_products_are_not_worth_it(monkeypatch):
    monkeypatch.setattr(packed_linears, "_available", lambda: True)
    assert PackedLinears(net(), rows=4, steps=8)._forwards == []


def test_an_operator_that_gives_something_else_is_not_used(monkeypatch):
    monkeypatch.setattr(packed_linears, "_available", lambda: True)
    monkeypatch.setattr(packed_linears, "_product", lambda *_: torch.zeros(1))
    assert PackedLinears(net(), rows=4, steps=1000)._forwards == []


def test_half_precision_stays_as_it_is():
    assert PackedLinears(net().bfloat16(), rows=4, steps=1000)._forwards == []


@here
def test_what_is_packed_goes_back_after_sampling(monkeypatch):
    monkeypatch.setattr(packed_linears, "for_a_while", noted := Noted())
    PackedLinears(net(), rows=4, steps=1000)
    assert noted.blocks == 1


class Noted:
    """A block that counts how often it is entered."""

    def __init__(self):
        self.blocks = 0

    @contextmanager
    def __call__(self):
        self.blocks += 1
        yield
