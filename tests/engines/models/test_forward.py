"""The shared-prefix forward against one plain sequence at a time, and the update on top of it."""

from __future__ import annotations

import copy
from types import MethodType

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    Qwen2Config,
    Qwen3Config,
)

from winnow.algorithms.advantages import Reward
from winnow.algorithms.denominators import SampleMeans, SurvivorTokens
from winnow.algorithms.losses import NLL, Clipped, Entropy
from winnow.algorithms.objective import Term, totals
from winnow.algorithms.table import ALGORITHMS
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.models.forward import Piece, PolicyForward, cache_argument
from winnow.types import Group, Outcome, Prompt, Sample, Score

SMALL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
CONFIGS = {
    "llama": lambda: LlamaConfig(**WIDE),
    "qwen2": lambda: Qwen2Config(**WIDE),
    "qwen3": lambda: Qwen3Config(**WIDE, head_dim=8),
    "gpt2": lambda: GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}


def build(name: str, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    torch.manual_seed(1)
    config = CONFIGS[name]()
    config.pad_token_id = None
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for parameter in model.parameters():  # away from the near-uniform start
        torch.nn.init.normal_(parameter, std=0.2)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(norm_in_full, module)
    return model


def norm_in_full(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """RMSNorm in the dtype of its input.

    The library's own rounds to float32 inside, in the backward pass too: a prompt that is encoded
    twice then differs from one encoded once by 1e-8, which hides what is tested here.
    """
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


FLOAT32 = 1e-5
"""What log-probs differ by where norms are the library's own, which are float32 inside."""


def one_by_one(model: torch.nn.Module, piece: Piece, temperature: float = 1.0) -> torch.Tensor:
    """The plain computation: each answer alone behind its prompt, no padding, no mask."""
    out = []
    for answer in piece.answers:
        ids = torch.tensor([[*piece.prompt, *answer]])
        logits = model(input_ids=ids).logits[0] / temperature
        start = len(piece.prompt)
        rows = logits[start - 1 : -1].log_softmax(-1)
        out.append(rows[torch.arange(len(answer)), torch.tensor(answer)])
    return torch.cat(out)


RAGGED = [
    Piece([5, 9, 2, 7, 11], [[3, 4, 8], [1], [60, 2, 2, 9, 0, 5]]),
    Piece([8], [[4, 4]]),
    Piece([13, 2, 2, 0, 0, 21, 6, 40], [[7], [7], [9]]),
]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_plain_computation(name, share, temperature):
    model = build(name)
    forward = PolicyForward(model, share_prefix=share)
    assert forward.shares_prefix is share
    assert forward.splits_head
    got = forward.logprobs(forward.contexts(RAGGED), temperature)
    expected = torch.cat([one_by_one(model, piece, temperature) for piece in RAGGED])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


def test_a_long_vocabulary_is_taken_in_chunks(monkeypatch):
    model = build("llama")
    forward = PolicyForward(model)
    whole = forward.logprobs(forward.contexts(RAGGED), 1.0)
    monkeypatch.setattr("winnow.engines.models.chunked_logprobs._LEAST", 7)
    monkeypatch.setattr("winnow.engines.models.chunked_logprobs._ELEMENTS", 1)
    pieces = RAGGED * 3
    chunked = forward.logprobs(forward.contexts(pieces), 1.0)
    torch.testing.assert_close(chunked, whole.repeat(3), rtol=0, atol=1e-12)


def group(piece: Piece, weights: list[float], right: list[bool] | None = None) -> Group:
    right = right or [w > 0 for w in weights]
    return Group(
        prompt=Prompt(id=str(piece.prompt), text="x"),
        prompt_ids=tuple(piece.prompt),
        samples=tuple(Sample(tuple(a), (-2.0,) * len(a), "", "length") for a in piece.answers),
        scores=tuple(Score(float(r)) for r in right),
        outcomes=tuple(Outcome(True, "survived") for _ in weights),
        advantages=tuple(weights),
    )


GROUPS = [
    group(RAGGED[0], [1.0, -0.5, 0.25]),
    group(RAGGED[1], [2.0]),
    group(RAGGED[2], [0.0, 1.0, 0.0]),
]
TERMS = (Term(Clipped(0.2, 0.28), SampleMeans()), Term(NLL(), SurvivorTokens(), coefficient=0.3))


def gradients(model, groups, terms, limit, share=True, temperature=1.0, counts=None):
    model.zero_grad()
    done = accumulate(
        Models(PolicyForward(model, share_prefix=share)),
        groups,
        terms,
        counts or totals(groups),
        temperature,
        limit,
    )
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return done, grads


def plain_gradients(model, groups, terms, temperature=1.0):
    """The same loss written out: one sequence at a time, every token's factor by hand."""
    model.zero_grad()
    counts = totals(groups)
    for g in groups:
        for sample, weight in zip(g.samples, g.advantages, strict=True):
            for term in terms:
                at = temperature if term.loss.needs_old else 1.0
                logp = one_by_one(model, Piece(g.prompt_ids, [sample.token_ids]), at)
                old = torch.tensor(sample.logprobs, dtype=logp.dtype)
                factor = term.denominator(len(sample.token_ids), len(g.samples), counts)
                loss = term.loss(logp, old, torch.full_like(logp, weight)).sum()
                (term.coefficient * factor * loss).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def largest_difference(a, b):
    scale = max(float(x.abs().max()) for x in a.values())
    assert a.keys() == b.keys()
    assert scale > 0
    return max(float((a[k] - b[k]).abs().max()) for k in a) / scale


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_are_those_of_the_plain_computation(name, temperature):
    model = build(name)
    _, shared = gradients(model, GROUPS, TERMS, 1000, temperature=temperature)
    plain = plain_gradients(model, GROUPS, TERMS, temperature)
    assert largest_difference(shared, plain) < 1e-10
    single = build(name, torch.float32)
    single.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    _, shared = gradients(single, GROUPS, TERMS, 1000, temperature=temperature)
    plain = plain_gradients(single, GROUPS, TERMS, temperature)
    assert largest_difference(shared, plain) < 1e-5


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("limit", [1, 6, 9, 15, 40])
def test_micro_batches_do_not_change_the_gradient(share, limit):
    """Limits below a single row, below a group (it is split), and above all."""
    model = build("llama")
    whole, expected = gradients(model, GROUPS, TERMS, 10_000, share)
    cut, got = gradients(model, GROUPS, TERMS, limit, share)
    assert largest_difference(expected, got) < 1e-10
    assert cut.loss == pytest.approx(whole.loss, rel=1e-12)
    assert (cut.samples, cut.tokens, cut.clipped) == (whole.samples, whole.tokens, whole.clipped)
    assert cut.ratio_max == pytest.approx(whole.ratio_max, rel=1e-9)


@pytest.mark.parametrize("share", [True, False])
def test_parts_with_the_totals_of_the_whole_add_up_to_it(share):
    """As ranks that each have some groups: neither loss nor gradient sees the cut."""
    model, counts = build("llama"), totals(GROUPS)
    whole, expected = gradients(model, GROUPS, TERMS, 1000, share)
    parts = [
        gradients(model, part, TERMS, 1000, share, 1.0, counts) for part in (GROUPS[:2], GROUPS[2:])
    ]
    summed = {name: sum(grads[name] for _, grads in parts) for name in expected}
    assert largest_difference(expected, summed) < 1e-12
    assert sum(done.loss for done, _ in parts) == pytest.approx(whole.loss, rel=1e-12)
    assert [row for done, _ in parts for row in done.influence] == whole.influence


ALIKE = [
    group(Piece([5, 9, 2, 7], [[3, 4, 8], [3, 4, 8], [3, 4, 9, 1], [3]]), [1.0, -0.5, 0.25, 1.0]),
    group(Piece([5, 9, 2, 11], [[3, 4], [6, 6, 6, 6, 6, 6, 6, 6]]), [2.0, 1.0]),
    group(Piece([5, 9, 2, 7, 3], [[4, 8]]), [0.5]),  # begins like an answer of the first
]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("block", "limit"), [(64, 1000), (3, 1000), (4, 9)])
def test_what_begins_alike_is_computed_once_and_changes_nothing(name, block, limit, monkeypatch):
    """Equal samples, samples that part late, prompts that begin alike; in one block and in many."""
    monkeypatch.setattr("winnow.engines.models.tree_attention._BLOCK", block)
    model = build(name)
    done, shared = gradients(model, ALIKE, TERMS, limit)
    assert largest_difference(shared, plain_gradients(model, ALIKE, TERMS)) < 1e-10
    if limit == 1000:
        # 5 9 2, then 7 3 4 9 (8 and 1 end answers), then 11 3 and seven times 6
        assert done.positions == pytest.approx(3 + 4 + 9, abs=16 // block)


def test_a_prompt_is_encoded_once_and_rejected_samples_never():
    """Counts the tokens that enter the model."""
    model = build("llama")
    forward = PolicyForward(model)
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append("whole"))
    model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(int(kwargs["input_ids"].numel())), with_kwargs=True
    )
    g = group(RAGGED[0], [1.0, 0.0, 2.0])
    done = accumulate(Models(forward), [g], TERMS, totals([g]), 1.0, 1000)
    # prompt 5, answers of 3 and 6 tokens whose last token is no input: 5 + 2 + 5
    assert seen == [12]
    assert (done.samples, done.tokens, done.positions) == (2, 9, 12)


def test_an_architecture_that_cannot_share_falls_back_and_is_right():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=2, state_size=4)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    forward = PolicyForward(model)
    assert not forward.shares_prefix
    assert forward.why
    got = forward.logprobs(forward.contexts(RAGGED), 1.0)
    expected = torch.cat([one_by_one(model, piece) for piece in RAGGED])
    # this architecture computes its logits in float32
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cap", [2.0, 30.0])
def test_a_head_that_caps_its_logits_is_not_split_off(cap):
    torch.manual_seed(0)
    config = Gemma2Config(**WIDE, head_dim=8, final_logit_softcapping=cap, sliding_window=64)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    forward = PolicyForward(model)
    assert not forward.splits_head
    got = forward.logprobs(forward.contexts(RAGGED), 1.0)
    expected = torch.cat([one_by_one(model, piece) for piece in RAGGED])
    torch.testing.assert_close(got, expected, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("window", [4, 20])
def test_a_sliding_window_reaches_back_along_its_own_answer(window):
    """Along the row behind a shared prompt it would reach into the wrong answer, or be ignored.

    One of them is shorter than the probe of the constructor, the other longer.
    """
    torch.manual_seed(0)
    config = Qwen2Config(
        **WIDE, use_sliding_window=True, sliding_window=window, max_window_layers=0
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    forward = PolicyForward(model)
    pieces = [*RAGGED, Piece([(3 * i) % 61 for i in range(30)], [[5, 6, 7], [8, 9]])]
    got = forward.logprobs(forward.contexts(pieces), 1.0)
    expected = torch.cat([one_by_one(model, piece) for piece in pieces])
    torch.testing.assert_close(got, expected, rtol=0, atol=FLOAT32)
    assert forward.shares_prefix


def test_without_sharing_a_micro_batch_still_keeps_its_limit():
    model = build("llama")
    rows = []
    model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    forward = PolicyForward(model, share_prefix=False)
    rows.clear()
    done = accumulate(Models(forward), GROUPS, TERMS, totals(GROUPS), 1.0, 20)
    assert all(n == 1 or n * length <= 20 for n, length in rows)
    assert len(rows) > 1
    # each answer behind a prompt of its own
    assert done.positions == sum(n * length for n, length in rows) >= 3 * 5 + 1 + 8


def test_bfloat16_models_share_their_prompts_too():
    assert PolicyForward(build("llama", torch.bfloat16)).shares_prefix


def test_the_ratio_is_measured_against_what_was_recorded():
    model = build("llama")
    exact = one_by_one(model, RAGGED[0]).tolist()
    answers = RAGGED[0].answers
    cuts = [0, 3, 4, 10]
    shift = 0.5  # recorded log-probs lower by a half: every ratio is e^0.5 = 1.6487, k3 = .1487
    samples = tuple(
        Sample(tuple(a), tuple(x - shift for x in exact[i:j]), "", "length")
        for a, i, j in zip(answers, cuts, cuts[1:], strict=False)
    )
    g = group(RAGGED[0], [1.0, 1.0, -1.0]).with_(samples=samples)
    done, _ = gradients(model, [g], TERMS[:1], 1000)
    assert done.ratio_sum / done.ratio_tokens == pytest.approx(1.6487212707, rel=1e-9)
    assert done.ratio_max == pytest.approx(0.6487212707, rel=1e-9)
    assert done.kl_sum / done.ratio_tokens == pytest.approx(1.6487212707 - 1 - 0.5, rel=1e-9)
    assert done.clipped == 4  # the tokens of the two samples with a positive weight


@pytest.mark.parametrize("limit", [1, 6, 9, 15, 1000])
def test_the_largest_ratio_is_that_of_all_micro_batches(limit):
    """Also where other terms run over samples without an advantage, in micro-batches of theirs."""
    alike = GROUPS[0].with_(advantages=(0.0, 0.0, 0.0))
    terms = (Term(Clipped(0.2, 0.28), SampleMeans()), Term(Entropy(), SampleMeans(), -0.01))
    model = build("llama")
    learned = gradients(model, GROUPS[1:], terms, 1000)[0].ratio_max
    every = [*GROUPS[1:], alike, *GROUPS[1:]]
    assert gradients(model, every, terms, limit)[0].ratio_max == pytest.approx(learned, rel=1e-9)
    assert learned > 0
    assert gradients(model, [alike], terms, limit)[0].ratio_max == 0


def test_influence_is_what_each_sample_could_move():
    groups = [copy.copy(g) for g in GROUPS]
    done, _ = gradients(build("llama"), groups, (Term(NLL(), SampleMeans()),), 1000)
    # 1/|a| 1/7 per token: each sample's influence is |weight| / 7
    expected = [[1 / 7, 0.5 / 7, 0.25 / 7], [2 / 7], [0, 1 / 7, 0]]
    assert done.influence == [pytest.approx(row) for row in expected]


def test_totals_leave_errors_out():
    g = GROUPS[0].with_(
        scores=(Score(1.0), Score.failed("x"), Score(0.0)),
        outcomes=(
            Outcome(True, "survived"),
            Outcome(False, "verifier error: x"),
            Outcome(False, ""),
        ),
    )
    counts = totals([g])
    assert (counts.prompts, counts.samples, counts.survivors) == (1, 2, 1)
    assert (counts.tokens, counts.survivor_tokens) == (3 + 6, 3)
    assert totals([g.with_(scores=(Score.failed("x"),) * 3)]).prompts == 0


def test_rows_see_only_what_has_a_weight():
    assert Reward().over == "sample"
    assert ALGORITHMS["raft"].needs == frozenset()
    assert ALGORITHMS["grpo"].needs == {"old"}


def test_keys_and_values_are_called_as_the_model_calls_them():
    class Before(torch.nn.Module):
        def forward(self, input_ids, past_key_values=None): ...

    class After(torch.nn.Module):
        def forward(self, input_ids, cache=None): ...

    assert cache_argument(Before()) == "past_key_values"
    assert cache_argument(After()) == "cache"
    assert cache_argument(build("llama")) in ("past_key_values", "cache")
