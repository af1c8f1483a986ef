"""Linear layers laid out and joined: the same logits, or everything as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests import tiny
from winnow.engines.devices import Processor
from winnow.engines.local import laid_out
from winnow.engines.local.laid_out import LaidOut

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="this torch has no oneDNN",
)


@pytest.fixture(autouse=True)
def amd(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN multiplies in float32 on any processor; only there is it chosen."""
    monkeypatch.setattr(laid_out, "processor", lambda: Processor("AuthenticAMD"))


def logits(net: Any, length: int) -> torch.Tensor:
    ids = torch.arange(length)[None] % len(tiny.tokenizer())
    with torch.no_grad():
        found: torch.Tensor = net(input_ids=ids, use_cache=False).logits
    return found


def test_layers_with_one_input_are_joined_and_the_logits_are_those_of_the_plain_ones() -> None:
    plain = tiny.rambling()
    net = copy.deepcopy(plain)
    made = LaidOut(net)
    kinds = [[name.split(".")[-2] for name in product.names] for product in made._products]
    layer = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert kinds == [*layer * 4, ["lm_head"]]
    assert len(made.names) == 4 * 7
    assert all(dict(net.named_parameters())[name].numel() == 0 for name in made.names)
    for length in (1, 5, 60):
        torch.testing.assert_close(logits(net, length), logits(plain, length), rtol=1e-4, atol=1e-4)


def test_new_weights_are_read_when_they_are_packed() -> None:
    net, other = tiny.rambling(3), tiny.rambling(4)
    made = LaidOut(net)
    weights = dict(other.named_parameters())
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name not in made.names:
                weight.copy_(weights[name])
    made.pack(lambda name: weights[name].detach())
    torch.testing.assert_close(logits(net, 9), logits(other, 9), rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_asked_alone_or_out_of_turn_gives_its_own() -> None:
    plain = tiny.rambling()
    net = copy.deepcopy(plain)
    LaidOut(net)
    there, here = (each.model.layers[0].self_attn for each in (plain, net))
    one, other = torch.randn(2, 3, 64)
    with torch.no_grad():
        for name, x in (("v", one), ("q", other), ("v", one), ("k", one), ("k", one), ("q", one)):
            layers = [getattr(attention, f"{name}_proj") for attention in (there, here)]
            torch.testing.assert_close(layers[1](x), layers[0](x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fault", ["other numbers", "an error", "missing", "another maker"])
def test_where_it_is_not_the_same_everything_stays(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plain = tiny.rambling()
    net = copy.deepcopy(plain)
    if fault == "other numbers":
        alone = laid_out._Product._alone
        monkeypatch.setattr(laid_out._Product, "_alone", lambda own, x: 1.1 * alone(own, x))
    elif fault == "an error":
        monkeypatch.setattr(laid_out._Product, "_alone", lambda *_: torch.zeros(2).view(3))
    elif fault == "missing":
        monkeypatch.setattr(laid_out, "_available", lambda _: False)
    else:
        monkeypatch.setattr(laid_out, "processor", lambda: Processor("GenuineIntel"))
    made = LaidOut(net)
    assert made.names == frozenset()
    assert not made._products
    assert torch.equal(logits(net, 9), logits(plain, 9))
    assert not any("forward" in vars(layer) for layer in net.modules())
