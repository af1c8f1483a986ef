"""Windows, chunks, caps and sinks over a tree and over slots, against the library's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.cache_utils import LinearAttentionLayer
from transformers.masking_utils import (
    chunked_causal_mask_function,
    sdpa_mask,
    sliding_window_causal_mask_function,
)
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2_attention
from transformers.models.gpt_oss.modeling_gpt_oss import (
    eager_attention_forward as gpt_oss_attention,
)
from transformers.models.mistral import modeling_mistral

from tests.engines.models.architectures import ALONE, WINDOWED, build
from tests.engines.models.test_architectures import LOGPROB, PIECES, alone
from winnow.engines.local.kv_cache import token_bytes
from winnow.engines.local.other_caches import padding
from winnow.engines.models.capped_attention import capped_attention
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.prefix_tree import grow
from winnow.engines.models.recompute import compute_again
from winnow.engines.models.tree_attention import packed, stepping
from winnow.engines.models.windows import is_windowed, narrowed, unknown_kinds

CPU = torch.device("cpu")
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=6)


def library(kind: str, size: int):
    if kind == "window":
        return sliding_window_causal_mask_function(size)
    return chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.long))


@settings(deadline=None, max_examples=60)
@given(SEQUENCES, st.sampled_from(["window", "chunk"]), st.integers(1, 6), st.sampled_from([2, 64]))
def test_a_node_sees_of_its_path_what_it_would_see_alone(sequences, kind, size, block):
    """The library's mask of each sequence in a row of its own, entry by entry."""
    tree = grow(sequences)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("winnow.engines.models.tree_attention._BLOCK", block)
        _, _, plan = packed(tree, torch.float32, CPU, windowed=True)
    allowed = plan.narrowed(size, library(kind, size))
    mask = plan.mask_for(1, allowed)
    assert (allowed is None) == (size >= max(map(len, sequences)))
    assert plan.keys is not None
    seen = np.zeros((mask.shape[0] * mask.shape[2], len(tree)), dtype=bool)
    for b, rows in enumerate(mask[:, 0]):
        for q, row in enumerate(rows):
            seen[b * mask.shape[2] + q, plan.keys[b][row == 0].numpy()] = True
    for path in tree.paths:
        length = len(path)
        function = library(kind, size)
        expected = sdpa_mask(1, length, length, mask_function=function, allow_is_causal_skip=False)
        np.testing.assert_array_equal(seen[np.ix_(path, path)], expected[0, 0].numpy())
        assert seen[path].sum() == expected.sum()  # and nothing that is not on the path


@pytest.mark.parametrize("kind", ["window", "chunk"])
@pytest.mark.parametrize("size", [1, 3, 7, 8, 20])
def test_a_row_of_a_slot_sees_what_the_last_token_of_its_history_sees(kind, size):
    places, longest = torch.tensor([0, 2, 6, 7, 3]), 8
    plan = stepping(places, longest, torch.float32, windowed=True)
    allowed = plan.narrowed(size, library(kind, size))
    assert (allowed is None) == (size >= longest)
    for row, place in zip(plan.mask_for(1, allowed), places.tolist(), strict=True):
        n = place + 1
        alone_ = sdpa_mask(1, n, n, mask_function=library(kind, size), allow_is_causal_skip=False)[
            0, 0, -1
        ]
        assert (row[0, 0] == 0).tolist() == [*alone_.tolist(), *[False] * (longest - n)]


class Layer(nn.Module):
    """What the library's functions ask of a layer."""

    def __init__(self, groups: int, sinks: torch.Tensor | None) -> None:
        super().__init__()
        self.num_key_value_groups, self.head_dim, self.sinks = groups, 8, sinks


@pytest.mark.parametrize("kind", ["cap", "sink"])
def test_caps_and_sinks_are_the_librarys(kind):
    """Values and gradients, against Gemma 2's and gpt-oss's own."""
    torch.manual_seed(0)
    shapes = [(2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8), (4,)]
    given_ = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    query, key, value, sinks = given_
    mask = torch.zeros(2, 1, 5, 7, dtype=torch.float64)
    mask[0, 0, :, 5:] = mask[1, 0, 2, :6] = -torch.inf
    if kind == "cap":
        expected = gemma2_attention(
            Layer(1, None), query, key, value, mask, scaling=0.3, softcap=1.5
        )[0]
        got = capped_attention(query, key, value, mask, 0.3, 0.0, 1.5, None)
        used, rounding = given_[:3], 1e-6  # the library's softmax is float32
    else:
        expected = gpt_oss_attention(Layer(1, sinks), query, key, value, mask, scaling=0.3)[0]
        column = sinks[:, None, None].expand(-1, 5, -1)
        got = capped_attention(query, key, value, mask, 0.3, 0.0, None, column)
        used, rounding = given_, 1e-12
    got = got.transpose(1, 2)
    torch.testing.assert_close(got, expected, rtol=0, atol=rounding)
    factors = torch.randn_like(got)
    one, other = (torch.autograd.grad((x * factors).sum(), used) for x in (got, expected))
    for a, b in zip(one, other, strict=True):
        assert float(b.abs().max()) > 0.01
        torch.testing.assert_close(a, b, rtol=0, atol=10 * rounding)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_windows_of_all_lengths(size):
    for name in ("mistral", "gpt_oss"):
        model = build(name, sliding_window=size)
        forward = PolicyForward(model)
        with torch.no_grad():
            got = forward.logprobs(forward.contexts(PIECES), 1.0)
            assert float((got - alone(model, PIECES)).abs().max()) < LOGPROB
        assert forward.shares_prefix
        assert token_bytes(forward)


def own_mask(config, inputs_embeds, attention_mask, past_key_values, position_ids=None, **_):
    """A window by place in the row, made without the library's interface."""
    n = inputs_embeds.shape[1]
    query, key = torch.arange(n)[:, None], torch.arange(n)
    return ((key <= query) & (key > query - config.sliding_window))[None, None]


def changed_mask(*given_, **more):
    """The library's, widened by a function of the model's own."""
    return modeling_mistral.create_causal_mask(
        *given_, **more, or_mask_function=lambda b, h, q, k: q > 3
    )


@pytest.mark.parametrize("mask", [own_mask, changed_mask, lambda **_: None])
def test_a_window_that_is_not_understood_is_read_a_row_at_a_time(monkeypatch, mask):
    """A mask of the model's own, one that it changes, and none where a layer asks for a window."""
    monkeypatch.setattr(modeling_mistral, "create_sliding_window_causal_mask", mask)
    model = build("mistral")
    forward = PolicyForward(model)
    assert not forward.shares_prefix
    assert "NotImplementedError" in forward.why
    assert token_bytes(forward) is None


def test_a_layer_that_is_no_attention_is_not_shared():
    config = build("lfm2").config
    assert unknown_kinds(config) == ["conv"]
    assert is_windowed(config)
    assert "conv" in PolicyForward(build("lfm2")).why


def test_places_in_a_row_that_matter_far_on_are_not_shared():
    """Llama 4 scales queries from place 8192 on; with 4 instead, its rows show the difference."""
    model = build("llama4_text", attn_temperature_tuning=True)
    forward = PolicyForward(model)
    assert not forward.shares_prefix
    assert "places" in forward.why
    assert padding(forward) is False
    soon = build("llama4_text", attn_temperature_tuning=True, floor_scale=4, attn_scale=1.0)
    with torch.no_grad():
        assert float((alone(soon, PIECES) - alone(model, PIECES)).abs().max()) > 100 * LOGPROB


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_narrow_for_a_while(name):
    config = build(name).config
    before = config.to_dict()
    with narrowed(config, 3):
        now = config.to_dict()
        changed = {key for key in before if now[key] != before[key]}
        assert changed == {"attention_chunk_size" if name == "llama4_text" else "sliding_window"}
    assert config.to_dict() == before


def test_a_probe_of_a_few_tokens_sees_windows_that_are_longer(monkeypatch):
    """A tree that ignores the window is found out although no probe is as long as it."""
    from winnow.engines.models.tree_attention import Plan

    monkeypatch.setattr(Plan, "mask_for", _without_windows(Plan.mask_for))
    assert not PolicyForward(build("mistral", sliding_window=60)).shares_prefix


def _without_windows(mask_for):
    return lambda plan, heads, allowed=None: mask_for(plan, heads)


@pytest.mark.parametrize("name", ["mamba", "jamba", "lfm2"])
def test_states_that_are_not_copied_are_found_out(name, monkeypatch):
    forward = PolicyForward(build(name))
    assert padding(forward) is True
    monkeypatch.setattr(LinearAttentionLayer, "reorder_cache", lambda self, index: None)
    assert padding(forward) is None
    assert name in ALONE


@pytest.mark.parametrize("name", ["mistral", "gpt_oss", "gemma2"])
def test_blocks_that_are_computed_again_see_the_same_windows(name):
    """As FSDP has them, which keeps no activations: gradients bit for bit."""
    model, other = build(name), build(name)
    for block in other.model.layers:
        compute_again(block, other)
    one, two = (gradients(m, PolicyForward(m)) for m in (model, other))
    assert one.keys() == two.keys()
    for weight, gradient in one.items():
        assert torch.equal(gradient, two[weight]), weight


def gradients(model, forward):
    assert forward.shares_prefix
    forward.logprobs(forward.contexts(PIECES), 1.0).sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
