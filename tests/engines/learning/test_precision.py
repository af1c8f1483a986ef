"""An update in mixed precision: products in bfloat16, everything else in float32."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers.pytorch_utils import Conv1D

from tests import kills, local, tiny
from tests.engines.fsdp import ragged
from tests.engines.models import architectures
from tests.rounded import EXPECTED, ROUNDING, far_from_clips
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.objective import totals
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import Config, from_dict
from winnow.config.schema.critic import CriticConfig
from winnow.config.validation import check
from winnow.engines.base import LearnerPlan
from winnow.engines.learning.learner import AdamLearner
from winnow.engines.learning.token_values import logprobs as own_logprobs
from winnow.engines.local.engine import LocalEngine
from winnow.engines.models import precision
from winnow.engines.models.chunked_logprobs import logprobs
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.engines.models.recompute import blocks_of, compute_again
from winnow.engines.models.rounding import rounded
from winnow.errors import UserError
from winnow.reporting.observer import Observers
from winnow.training.run import run
from winnow.types import Group

CPU, HOW = torch.device("cpu"), ("float32", "mixed")
PIECES = [Piece([5, 9, 2], [[3, 4], [7], [6, 6, 8]]), Piece([5, 9, 4, 4], [[8, 2, 2, 2]])]
GRPO = ALGORITHMS["grpo"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights large enough for attention and logits to be far from uniform."""
    folder = tmp_path_factory.mktemp("model")
    tiny.model(1, initializer_range=0.1).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def grown(row: Algorithm) -> Algorithm:
    return row.with_cells({"kl": "in-loss(0.5, full)", "entropy": 0.1})


def learner(
    model: Path, how: str, row: Algorithm = GRPO, limit: int = 64, **settings: object
) -> tuple[LocalEngine, AdamLearner]:
    engine = local.engine(model, **settings)
    plan = LearnerPlan(
        from_dict({"optimizer": {"precision": how, "lr": 1e-3}}).optimizer,
        10,
        limit,
        critic=CriticConfig() if "values" in row.needs else None,
        reference="start" if row.refers or "ref" in row.needs else None,
    )
    made = engine.learner(plan)
    with torch.no_grad():  # the reference is elsewhere
        for number, weight in enumerate(engine.trained()):
            torch.manual_seed(number)
            weight.add_(0.02 * torch.randn_like(weight))
    return engine, made


def groups_of(row: Algorithm, model: Path) -> list[Group]:
    """Groups whose ratios are far from any clip, which rounding would else move tokens over."""
    engine, made = learner(model, "float32", row)
    groups = ragged.groups(row)
    asked = [range(len(group.samples)) for group in groups]
    told = made._per_token(engine.forward(), own_logprobs(engine.forward(), 0.7), groups, asked)
    return far_from_clips(groups, told)


def gradients(made: AdamLearner, row: Algorithm, groups: Sequence[Group]) -> list[Tensor]:
    own = [*made._masters, *made._critic_masters]
    made._forget()
    made._gradient(groups, row.objective, totals(groups), 0.7, None)
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in own]
    made._forget()
    return found


def off(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("name", [*ALGORITHMS, "grown"])
def test_gradients_of_every_row_are_float32s_up_to_rounding(model, name) -> None:
    row = grown(GRPO) if name == "grown" else ALGORITHMS[name]
    groups = groups_of(row, model)
    exact, rough = (gradients(learner(model, how, row)[1], row, groups) for how in HOW)
    assert all(each.dtype == torch.float32 for each in rough)
    whole = [torch.cat([each.flatten() for each in side]) for side in (rough, exact)]
    assert 0 < off(*whole) < 5 * EXPECTED
    assert cosine_similarity(*whole, dim=0) > 1 - (5 * EXPECTED) ** 2 / 2


def test_gradients_by_layer(model) -> None:
    exact, rough = (gradients(learner(model, how)[1], GRPO, groups_of(GRPO, model)) for how in HOW)
    worst = max(off(a, b) for a, b in zip(rough, exact, strict=True))
    assert 0 < worst < 10 * EXPECTED


@pytest.mark.parametrize("limit", [1, 20, 64])
def test_micro_batches_do_not_change_the_gradient(model, limit) -> None:
    """Each is rounded apart, so up to rounding; a cast that is lost or left over would be seen."""
    groups = groups_of(GRPO, model)
    whole, parts = (
        gradients(learner(model, "mixed", limit=n)[1], GRPO, groups) for n in (999, limit)
    )
    assert off(*(torch.cat([x.flatten() for x in side]) for side in (parts, whole))) < 5 * EXPECTED


def test_weights_are_rounded_once_for_all_micro_batches_and_anew_after_each_update(
    model, monkeypatch
) -> None:
    """Those of linear layers, 7 in each of 4 blocks, and of the head."""
    engine, made = learner(model, "mixed", limit=8)
    groups = groups_of(GRPO, model)
    seen: list[int] = []

    def counted(weight: Tensor) -> Tensor:
        seen.append(weight.data_ptr())
        return rounded(weight)

    monkeypatch.setattr(precision, "rounded", counted)
    for _ in range(2):
        seen.clear()
        local.step(made, groups, GRPO.objective, 0.7)
        assert len(seen) == len(set(seen)) == 7 * 4 + 1
        assert set(seen) <= {weight.data_ptr() for weight in engine.trained()}
    fresh = PolicyForward(engine.module())
    with precision.mixed(CPU):
        now = made.forward.contexts(PIECES).features
        assert torch.equal(now, fresh.contexts(PIECES).features)


def test_the_reference_of_a_kl_is_not_read_from_the_policys_rounded_weights(model) -> None:
    """Its weights are in the policy's module for a pass, among passes that learn."""
    row = grown(GRPO)
    engine, made = learner(model, "mixed", row, limit=8)
    _, exact = learner(model, "float32", row, limit=8)
    groups = groups_of(row, model)
    gradient, true = (
        torch.cat([g.flatten() for g in gradients(m, row, groups)]) for m in (made, exact)
    )
    engine.restore("start")  # a reference that is the policy has no gradient
    assert off(gradient, true) < 5 * EXPECTED


KINDS = ("llama", "gpt2", "qwen2", "mixtral", "mixtral grouped_mm", "gpt_oss", "llama4_text")


def built(kind: str) -> nn.Module:
    """A model, and how its experts' products are made: one by one, grouped, Llama 4's batched."""
    name, _, experts = kind.partition(" ")
    more = {"moe_layers": [0, 1]} if name == "llama4_text" else {}
    net = architectures.build(name, torch.float32, tie_word_embeddings=False, **more)
    net.config._experts_implementation = experts or "eager"
    return net


def multiplied(net: nn.Module) -> Iterator[nn.Parameter]:
    """What products read: weights of layers, their biases, and weights of experts."""
    for module in net.modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            yield from module.parameters()
    yield from (weight for weight in net.parameters() if weight.dim() == 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learns", [True, False])
def test_products_read_weights_that_are_right_on_average(kind, learns) -> None:
    """As they would read these weights if they were numbers of bfloat16, which stay as they are."""
    made, low = (built(kind) for _ in range(2))
    with torch.no_grad():
        for weight in multiplied(low):
            weight.copy_(rounded(weight).float())
    told = []
    for net in (made, low):
        forward = PolicyForward(net)
        with precision.mixed(CPU), torch.set_grad_enabled(learns):
            told.append(forward.logprobs(forward.contexts(PIECES), 1.0).detach())
        with precision.mixed(CPU), torch.no_grad():
            assert torch.equal(forward.logprobs(forward.contexts(PIECES), 1.0), told[-1])
    assert torch.equal(*told)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "grouped_mm" not in kind])
def test_gradients_through_products_are_those_of_torchs_own(kind, monkeypatch) -> None:
    """Where weights are numbers of bfloat16 `torch.autocast` rounds to the same ones."""
    found = []
    for own in (True, False):
        net = built(kind)
        with torch.no_grad():
            for weight in net.parameters():
                weight.copy_(weight.bfloat16())
        if not own:
            monkeypatch.setattr(precision, "_trained", lambda weight: False)
        forward = PolicyForward(net)
        with precision.mixed(CPU):
            forward.logprobs(forward.contexts(PIECES), 1.0).sum().backward()
        found.append(torch.cat([w.grad.flatten() for w in net.parameters() if w.grad is not None]))
    assert len(found[0]) == len(found[1])
    assert float(found[0].norm()) > 0
    assert off(*found) < 1e-3


@pytest.mark.parametrize("learns", [True, False])
def test_views_of_a_weight_are_parts_of_what_it_is_rounded_to(learns) -> None:
    torch.manual_seed(0)
    experts, x = nn.Parameter(torch.randn(4, 96, 64)), torch.randn(5, 64)
    low = rounded(experts)
    with precision.mixed(CPU), precision.products(CPU), torch.set_grad_enabled(learns):
        for e in range(4):
            wanted = x.to(torch.bfloat16) @ low[e].t()
            for found in (nn.functional.linear(x, experts[e]), x @ experts[e].t()):
                assert torch.equal(found, wanted)
        wide = x[:, :48].repeat(1, 2)
        assert torch.equal(torch.mm(wide, experts[2]), wide.to(torch.bfloat16) @ low[2])


def test_where_a_model_multiplies_in_float32_by_itself_it_does() -> None:
    """As routers do, in a block of their own."""
    experts, x = nn.Parameter(torch.randn(4, 96, 64)), torch.randn(5, 64)
    with precision.mixed(CPU), precision.products(CPU), torch.autocast("cpu", enabled=False):
        for found in (x @ experts[1].t(), nn.functional.linear(x, experts[1])):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, x @ experts.detach()[1].t())


def test_experts_have_the_same_gradients_one_by_one_and_grouped() -> None:
    found = []
    for kind in ("mixtral", "mixtral grouped_mm"):
        net = built(kind)
        forward = PolicyForward(net)
        with precision.mixed(CPU):
            forward.logprobs(forward.contexts(PIECES), 1.0).sum().backward()
        own = [w.grad for w in net.parameters() if w.dim() == 3 and w.grad is not None]
        assert {w.dtype for w in own} == {torch.float32}
        found.append(torch.cat([w.flatten() for w in own]))
    assert len(found[0]) == len(found[1]) > 0
    assert off(*found) < 5 * EXPECTED


@pytest.mark.parametrize("padding", [None, 3, -1])
def test_rows_and_the_head_add_to_the_gradient_of_one_weight(padding) -> None:
    """What torch gives of the rows, twice, and what the head gives by itself; padding learns not.

    Rows that are read twice in a pass are added up in one order or another, in float32.
    """
    torch.manual_seed(0)
    words, alone = (nn.Embedding(12, 4, padding_idx=padding) for _ in range(2))
    alone.load_state_dict(words.state_dict())
    ids, slopes = torch.tensor([[3, 5, 5, 11, 0]]), torch.randn(1, 5, 4)
    index, targets = torch.arange(5), torch.tensor([1, 2, 11, 0, 3])
    with precision.mixed(CPU):
        head = nn.Parameter(words.weight.detach().clone())
        logprobs(alone(ids)[0].detach(), head, None, index, targets, 1.0).sum().backward()
        for _ in range(2):
            with precision.products(CPU):
                rows = words(ids)
            assert torch.equal(rows, alone(ids))
            (rows * slopes).sum().backward()
            (alone(ids) * slopes).sum().backward()
        logprobs(rows[0].detach(), words.weight, None, index, targets, 1.0).sum().backward()
    torch.testing.assert_close(words.weight.grad, alone.weight.grad + head.grad)
    assert float(alone.weight.grad.norm()) > 0.1 * float(head.grad.norm()) > 0


@pytest.mark.parametrize(
    "kind", [{"scale_grad_by_freq": True}, {"sparse": True}, {"max_norm": 0.5}]
)
def test_embeddings_that_do_more_than_give_rows_are_torchs(kind) -> None:
    torch.manual_seed(0)
    words, alone = (nn.Embedding(12, 4, **kind) for _ in range(2))
    alone.load_state_dict(words.state_dict())
    ids = torch.tensor([[3, 5, 5, 11, 0]])
    with precision.mixed(CPU), precision.products(CPU):
        words(ids).pow(2).sum().backward()
    alone(ids).pow(2).sum().backward()
    assert words.weight.grad.is_sparse == alone.weight.grad.is_sparse
    assert torch.equal(words.weight.grad.to_dense(), alone.weight.grad.to_dense())


def test_activations_that_are_computed_again_are_rounded_as_they_were() -> None:
    gradients = []
    for again in (False, True):
        net = built("llama")
        for block in blocks_of(net) if again else ():
            compute_again(block, net)
        forward = PolicyForward(net)
        with precision.mixed(CPU):
            forward.logprobs(forward.contexts(PIECES), 1.0).sum().backward()
        gradients.append([weight.grad for weight in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_where_the_policy_is_the_reference_their_kl_is_nothing(model) -> None:
    """Both are computed alike: to float32 they would be a rounding apart."""
    row = GRPO.with_cells({"kl": "in-loss(0.5, full)"})
    engine, made = learner(model, "mixed", row)
    engine.restore("start")
    groups = groups_of(row, model)
    asked = [range(len(group.samples)) for group in groups]
    with precision.mixed(CPU):
        pieces = [Piece(g.prompt_ids, [s.token_ids for s in g.samples]) for g in groups]
        at = made.forward.contexts(pieces)
        own = made.forward.logprobs(at, 0.7)
    found = made.reference_logprobs(groups, asked, 0.7)
    told = torch.tensor([x for group in found for sample in group for x in sample])
    torch.testing.assert_close(own.detach(), told, rtol=0, atol=1e-6)


def test_only_products_are_rounded(model) -> None:
    """What leaves a block, a norm or the head is float32, and the layers' products are not."""
    engine, made = learner(model, "mixed")
    kinds: dict[str, torch.dtype] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, name=name: kinds.__setitem__(
                name.rpartition(".")[2], (out[0] if isinstance(out, tuple) else out).dtype
            )
        )
        for name, module in engine.module().named_modules()
        if name and not name.endswith("model")
    ]
    with precision.mixed(CPU):
        at = made.forward.contexts(PIECES)
        logp = made.forward.logprobs(at, 1.0)
    for hook in hooks:
        hook.remove()
    low = {name for name, kind in kinds.items() if kind == torch.bfloat16}
    assert low >= {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert not low & {
        "embed_tokens",
        "input_layernorm",
        "post_attention_layernorm",
        "norm",
        "0",
        "3",
    }
    assert at.features.dtype == logp.dtype == torch.float32


@pytest.mark.parametrize("heat", [1.0, 0.7])
@pytest.mark.parametrize("bias", [False, True])
def test_the_heads_log_probs_are_exact_and_its_gradients_rounded(heat, bias) -> None:
    """Against log_softmax in float64. Each product of the backward pass rounds three numbers.

    Features and weights are numbers of bfloat16, so that rounding them as AMX does is nothing.
    """
    torch.manual_seed(0)
    features, weight = (x.bfloat16().float() for x in (torch.randn(40, 32), torch.randn(3000, 32)))
    shift = torch.randn(3000) if bias else None
    index, targets = torch.randint(40, (60,)), torch.randint(3000, (60,))
    slopes = torch.randn(60)
    leaves = [x.requires_grad_() for x in (features, weight, shift) if x is not None]
    with precision.mixed(CPU):
        got = logprobs(features, weight, shift, index, targets, heat)
        (got * slopes).sum().backward()
    found = [x.grad for x in leaves]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    logits = wide[0] @ wide[1].t() + (wide[2] if bias else 0)
    true = (logits / heat).log_softmax(-1)[index, targets]
    wanted = torch.autograd.grad((true * slopes.double()).sum(), wide)
    torch.testing.assert_close(got.double(), true, rtol=0, atol=1e-4)
    assert all(
        0 < off(a.double(), b) < 3 * ROUNDING for a, b in zip(found[:2], wanted[:2], strict=True)
    )
    assert not bias or off(found[2].double(), wanted[2]) < ROUNDING


def test_weights_averages_and_gradients_stay_float32_and_move_less_than_bfloat16_can(model) -> None:
    """Steps of 1e-6 of weights of 0.1: in bfloat16 most would be lost."""
    engine, made = learner(model, "mixed")
    for group in made._adam.param_groups:
        group["lr"] = 1e-6
    made._config = made._config.model_copy(update={"lr": 1e-6})
    before = local.weights(engine)
    local.step(made, ragged.groups(GRPO), GRPO.objective, 0.7)
    state = [x for own in made._adam.state.values() for x in own.values()]
    assert {x.dtype for x in (*engine.trained(), *made._masters, *state)} == {torch.float32}
    moved = torch.cat([(a - b).flatten() for a, b in zip(engine.trained(), before, strict=True)])
    assert 0.5e-6 < float(moved.detach().abs().median()) < 1.5e-6


@pytest.mark.parametrize("settings", [{}, {"lora": {"rank": 4}}], ids=["all weights", "adapters"])
@pytest.mark.parametrize("name", ["grpo", "ppo", "grown"])
def test_an_update_with_adapters_a_critic_and_a_reference(model, settings, name) -> None:
    row = grown(GRPO) if name == "grown" else ALGORITHMS[name]
    groups = groups_of(row, model)
    norms = []
    for how in HOW:
        _, made = learner(model, how, row, **settings)
        norms.append(local.step(made, groups, row.objective, 0.7).grad_norm)
    assert norms[0] != norms[1]
    assert norms[1] == pytest.approx(norms[0], rel=5 * EXPECTED)


def test_sampling_and_evaluation_are_as_without(model) -> None:
    """`engine.logprobs` is what KL to the start is read from, the sampler's are its own."""
    engine, _ = learner(model, "mixed")
    plain, _ = learner(model, "float32")
    groups = groups_of(GRPO, model)
    assert engine.logprobs(groups, 0.7) == plain.logprobs(groups, 0.7)


def test_after_a_failed_update_nothing_is_rounded_any_more(model, monkeypatch) -> None:
    _, made = learner(model, "mixed")
    monkeypatch.setattr("winnow.engines.learning.gradients._loss", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        local.step(made, ragged.groups(GRPO), GRPO.objective, 0.7)
    assert not precision.is_mixed()
    assert not torch.is_autocast_enabled("cpu")


def test_a_resumed_run_is_the_unbroken_run(tiny_model, tmp_path) -> None:
    """And the precision is in the run's config, so that it is resumed with it."""
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in tiny.problems()))

    def config(**optimizer: object) -> Config:
        given = {"model": str(tiny_model), "prompts": str(source), "steps": 4, "algorithm": "grpo"}
        own = {"optimizer": {"lr": 1e-3, **optimizer}, "microbatch_tokens": 16}
        return from_dict({**kills.SMALL, **given, **own, "checkpoint": {"every": 1}})

    whole = run(config(precision="mixed"), out=tmp_path / "whole", observers=Observers())
    broken = tmp_path / "broken"
    with pytest.raises(kills.Killed):
        run(config(precision="mixed"), out=broken, observers=kills.KillAt(12))
    resumed = run(resume=broken, observers=Observers())
    assert 'precision = "mixed"' in (broken / "config.toml").read_text()
    assert kills.same(kills.weights(resumed.checkpoint), kills.weights(whole.checkpoint))
    plain = run(config(), out=tmp_path / "plain", observers=Observers())
    assert not kills.same(kills.weights(plain.checkpoint), kills.weights(whole.checkpoint))


def test_a_clip_that_is_narrower_than_rounding_is_refused() -> None:
    config = from_dict({"optimizer": {"precision": "mixed"}})
    with pytest.raises(UserError, match=r"bfloat16.*optimizer.precision = 'float32'"):
        check(config, ALGORITHMS["gspo"])
    check(from_dict({}), ALGORITHMS["gspo"])
