"""Every architecture's log-probs, gradients and samples against each row alone.

The rows are read by the library's own eager attention, without a cache, padding or a tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.engines.models.architectures import ALL, ALONE, SHARED, SINGLE, WINDOWED, build
from winnow.engines.base import Request, SamplingParams
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.engines.models.prefix_tree import grow
from winnow.rollouts.generate import ask
from winnow.types import Prompt

LOGPROB, GRADIENT, RECORDED = 5e-7, 6e-7, 1e-6
"""Most differences. Weights are float64, but norms and softmax round to float32 inside, and what is
recorded with a sample is float32: of a log-prob of -4 half a unit of its last place is 2.4e-7."""
PIECES = [
    Piece([5, 9, 2, 7, 11, 6, 6, 3], [[3, 4, 8], [1], [12, 2, 2, 9, 1, 5, 7, 7]]),
    Piece([8], [[4, 4, 4, 4, 4, 2, 3]]),
    Piece([13, 2, 2, 1, 1, 10, 6, 4], [[7], [9, 9, 9, 9, 9, 9, 9], [9, 9, 9, 8, 8, 8]]),
]


def alone(model: nn.Module, pieces: Sequence[Piece]) -> Tensor:
    """log pi of every token, each completion in a row of its own."""
    before = model.config._attn_implementation
    if before == "sdpa" and model.config.model_type != "falcon":  # whose own two differ
        model.config._attn_implementation = "eager"
    found = []
    for piece in pieces:
        for answer in piece.answers:
            ids = torch.tensor([[*piece.prompt, *answer]])
            logits = model(input_ids=ids, use_cache=False).logits[0, len(piece.prompt) - 1 : -1]
            found.append(logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)])
    model.config._attn_implementation = before
    return torch.cat(found)


def gradients(model: nn.Module, compute: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs, and the gradient of a sum of them in which each token has a factor of its own."""
    model.zero_grad()
    logp = compute()
    (logp * torch.linspace(0.5, -1, len(logp))).sum().backward()
    return logp.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def tokens_read(model: nn.Module) -> list[int]:
    """A list to which every pass of the module appends how many tokens it reads."""
    seen: list[int] = []
    words = model.get_input_embeddings()
    words.register_forward_pre_hook(lambda _, given: seen.append(given[0].numel()))
    return seen


def nearly(got: Tensor, expected: Tensor, most: float, name: str) -> bool:
    """Equal up to a difference, which is larger where the weights are float32 too."""
    return float((got - expected).abs().max()) < most * (4 if name in SINGLE else 1)


@pytest.mark.parametrize("name", ALL)
def test_it_learns_what_each_row_alone_says(name):
    model = build(name)
    forward = PolicyForward(model)
    assert forward.shares_prefix == (name not in ALONE), forward.why
    assert bool(forward.why) == (name in ALONE)
    read: list[int] = []

    def together() -> Tensor:
        at = forward.contexts(PIECES)
        read.append(at.positions)
        return forward.logprobs(at, 1.0)

    expected, by_row = gradients(model, lambda: alone(model, PIECES))
    got, by_tree = gradients(model, together)
    assert nearly(got, expected, LOGPROB, name)
    largest = max(float(g.abs().max()) for g in by_row.values())
    assert by_tree.keys() == by_row.keys()
    for weight, gradient in by_row.items():
        assert nearly(by_tree[weight], gradient, GRADIENT * largest, name), weight
    rows = [ids for piece in PIECES for ids in piece.inputs]
    if name in ALONE:
        assert read == [len(rows) * max(map(len, rows))]
    else:  # a tree is filled up to equal blocks
        assert read == [pytest.approx(len(grow(rows)), abs=1)]


@pytest.mark.parametrize("name", ALL)
def test_it_samples_what_each_row_alone_says(name):
    model = build(name)
    forward = PolicyForward(model)
    sampler = LocalSampler(
        lambda: forward, tiny.tokenizer(), 64, encode=lambda p: tuple(map(int, p.text.split()))
    )
    assert (sampler._token_bytes is None) == (name in ALONE)
    assert name not in ALONE or (sampler._pads is None) == (name == "rwkv")
    read = tokens_read(model)
    params = SamplingParams(max_tokens=9)
    requests = [
        Request(Prompt(id=str(i), text=" ".join(map(str, piece.prompt))), 3, i, params)
        for i, piece in enumerate(PIECES)
    ]
    groups = [group for _, group in ask(sampler, requests)]
    tokens = sum(read)
    made = [sample for group in groups for sample in group.samples]
    histories = {
        (group.prompt_ids, sample.token_ids[:length])
        for group in groups
        for sample in group.samples
        for length in range(1, len(sample.token_ids))
    }
    prompts = [piece.prompt for piece in PIECES]
    if name not in ALONE:  # a tree is filled up to equal blocks
        assert tokens == pytest.approx(len(histories) + len(grow(prompts)), abs=1)
    elif sampler._pads is not None:
        assert tokens <= len(histories) + len(prompts) * max(map(len, prompts))
    with torch.no_grad():
        pieces = [Piece(g.prompt_ids, [s.token_ids for s in g.samples]) for g in groups]
        expected = alone(model, pieces)
    recorded = torch.tensor([x for sample in made for x in sample.logprobs])
    assert nearly(recorded, expected, RECORDED, name)


@pytest.mark.parametrize("name", WINDOWED)
def test_the_windows_of_these_models_show(name):
    """What the others compare would not be equal without them."""
    model = build(name)
    with torch.no_grad():
        narrow = alone(model, PIECES)
        for setting in ("sliding_window", "attention_chunk_size"):
            if getattr(model.config, setting, None):
                setattr(model.config, setting, 64)
        assert float((alone(model, PIECES) - narrow).abs().max()) > 1e-3


FULL = {"layer_types": ["full_attention"] * 2}


@pytest.mark.parametrize(
    ("name", "full"), [("mistral", {"sliding_window": None}), ("gemma2", FULL), ("gpt_oss", FULL)]
)
def test_a_window_as_long_as_the_longest_row_changes_nothing(name, full):
    """Bit for bit what the model gives whose layers see everything; one token less, and it does."""
    longest = max(len(ids) for piece in PIECES for ids in piece.inputs)
    found = []
    for changes in (full, {"sliding_window": longest}, {"sliding_window": longest - 1}):
        forward = PolicyForward(build(name, **changes))
        assert forward.shares_prefix
        with torch.no_grad():
            found.append(forward.logprobs(forward.contexts(PIECES), 1.0))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_docs_name_every_architecture_in_its_row():
    text = (Path(__file__).parents[3] / "docs" / "engines.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if "| a prefix tree |" in line]
    rows += [line.split("|") for line in text.splitlines() if "| a row a sample |" in line]
    named = [set(re.findall(r"`(\w+)`", row[4])) for row in rows]
    assert named[:2] == [set(SHARED), set(WINDOWED)]
    assert set().union(*named[2:]) == set(ALONE)
