"""Losses, gradients, advantages and log-probs against TRL's, computed by TRL's own code.

TRL's trainers are not built: their methods run unbound, on a namespace that carries the few
attributes they read. One that they come to read in addition is an AttributeError here.
"""

from __future__ import annotations

import copy
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from winnow.algorithms.advantages import Advantage, Centred, LeaveOneOut, Standardised
from winnow.algorithms.assignment import assign_advantages
from winnow.algorithms.denominators import Constant, GroupMeans, SampleMeans, Tokens
from winnow.algorithms.kl import KL, InReward
from winnow.algorithms.losses import DPO, Clipped, Entropy, SequenceClipped
from winnow.algorithms.objective import Term, factors, totals
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.models.distributions import entropies
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.types import Group, Outcome, Prompt, Sample, Score, TokenAnnotations

pytestmark = pytest.mark.peers

LIMIT = 12  # most tokens of an answer: what dr_grpo divides by
DENOMINATORS = {
    "grpo": SampleMeans(),
    "bnpo": Tokens(),
    "dr_grpo": Constant(LIMIT),
    "dapo": Tokens(),
}
CLIPS = [(0.2, 0.28), (0.1, 0.6), (0.5, 0.05)]


@pytest.fixture(scope="module")
def trl() -> SimpleNamespace:
    # Not at the top, so that what is deselected needs no TRL; not `importorskip`, so that what is
    # selected fails without it.
    from trl import DPOTrainer, GRPOTrainer, RLOOTrainer
    from trl.trainer.utils import add_fused_lm_head, selective_log_softmax

    return SimpleNamespace(
        dpo=DPOTrainer,
        grpo=GRPOTrainer,
        rloo=RLOOTrainer,
        add_fused_lm_head=add_fused_lm_head,
        selective_log_softmax=selective_log_softmax,
    )


def some_groups(seed: int) -> list[Group]:
    """Four prompts of four ragged answers: weights of both signs, and one that was rejected."""
    rng = random.Random(seed)

    def ids(shortest: int, longest: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(len(tiny.tokenizer())), k=rng.randint(shortest, longest)))

    def sample() -> Sample:
        tokens = ids(1, LIMIT)
        return Sample(tokens, tuple(rng.uniform(-3, -1) for _ in tokens), "", "eos")

    return [
        Group(
            prompt=Prompt(str(number), "question"),
            prompt_ids=ids(2, 6),
            samples=tuple(sample() for _ in range(4)),
            scores=(Score(1.0),) * 4,
            outcomes=tuple(Outcome(i != number, "") for i in range(4)),
            advantages=tuple((i != number) * (-1) ** i * rng.uniform(0.5, 2) for i in range(4)),
        )
        for number in range(4)
    ]


def samples(groups: Sequence[Group]) -> list[Sample]:
    return [sample for group in groups for sample in group.samples]


def lengths(groups: Sequence[Group]) -> list[int]:
    return [len(sample.token_ids) for sample in samples(groups)]


def weights(groups: Sequence[Group], dtype: torch.dtype) -> Tensor:
    return torch.tensor(
        [advantage for group in groups for advantage in group.advantages], dtype=dtype
    )


def old_and_new(groups: Sequence[Group], dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """Log-probs at sampling, and a leaf: ratios from 1/e to e, most of them outside the clip."""
    old = torch.tensor([x for sample in samples(groups) for x in sample.logprobs], dtype=dtype)
    unit = torch.rand(old.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return old, (old + 2 * unit.to(dtype) - 1).requires_grad_()


def winnow_loss(groups: Sequence[Group], term: Term, logp: Tensor, old: Tensor) -> Tensor:
    counts = totals(groups)
    scale = torch.tensor(
        [x for group in groups for x in factors(group, term, counts)], dtype=logp.dtype
    )
    repeats = torch.tensor(lengths(groups))
    advantage = weights(groups, logp.dtype).repeat_interleave(repeats)
    return (term.loss(logp, old, advantage) * scale.repeat_interleave(repeats)).sum()


def padded(values: Tensor, groups: Sequence[Group], padding: float) -> Tensor:
    """A value for each token as a rectangle, one row a sample."""
    rows = list(values.split(lengths(groups)))
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)


def trl_trainer(loss_type: str, clip: tuple[float, float], **changes: Any) -> SimpleNamespace:
    """All that `GRPOTrainer._compute_loss` reads, at the settings that Winnow has too."""
    settings = {
        "accelerator": SimpleNamespace(
            num_processes=1,
            is_main_process=True,
            autocast=nullcontext,
            gather=lambda x: x,
            reduce=lambda x, reduction: x,
        ),
        "args": SimpleNamespace(delta=None, steps_per_generation=1),
        "model": SimpleNamespace(training=True),
        "loss_type": loss_type,
        "epsilon_low": clip[0],
        "epsilon_high": clip[1],
        "max_completion_length": LIMIT,
        "current_gradient_accumulation_steps": 1,
        "importance_sampling_level": "token",
        "beta": 0.0,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
    }
    return SimpleNamespace(**{**settings, **changes})


def trl_inputs(
    groups: Sequence[Group], old: Tensor | None, dtype: torch.dtype, batch_tokens: int
) -> dict[str, Tensor]:
    """A micro-batch as TRL collates it: prompts padded on the left, answers on the right."""
    prompts = [torch.tensor(group.prompt_ids) for group in groups for _ in group.samples]
    tokens = torch.tensor([token for sample in samples(groups) for token in sample.token_ids])
    left = partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    inputs = {
        "prompt_ids": left(prompts),
        "prompt_mask": left([torch.ones_like(prompt) for prompt in prompts]),
        "completion_ids": padded(tokens, groups, 0),
        "completion_mask": padded(torch.ones_like(tokens), groups, 0),
        "advantages": weights(groups, dtype),
        "num_items_in_batch": torch.tensor(batch_tokens),
    }
    if old is not None:
        # Other than the padding of the new ones, so that an unmasked one shows in the loss.
        inputs["old_per_token_logps"] = padded(old, groups, -2.0)
    return inputs


def trl_loss(
    trl: SimpleNamespace,
    trainer: SimpleNamespace,
    groups: Sequence[Group],
    logp: Tensor,
    old: Tensor | None,
    batch_tokens: int,
) -> Tensor:
    rectangle = padded(logp, groups, -1.0)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
        rectangle,
        torch.zeros_like(rectangle),
        None,
    )
    inputs = trl_inputs(groups, old, logp.dtype, batch_tokens)
    return trl.grpo._compute_loss(trainer, None, inputs)


def assert_same(ours: Tensor, theirs: Tensor, logp: Tensor, tolerance: float) -> None:
    """Equal losses with equal gradients."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    gradients = [torch.autograd.grad(loss, logp)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-14), (torch.float32, 2e-7)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("loss_type", DENOMINATORS)
def test_loss_and_gradient(trl, loss_type, clip, dtype, tolerance):
    groups = some_groups(seed=1)
    old, logp = old_and_new(groups, dtype, seed=2)
    trainer = trl_trainer(loss_type, clip)
    theirs = trl_loss(trl, trainer, groups, logp, old, sum(lengths(groups)))
    ours = winnow_loss(groups, Term(Clipped(*clip), DENOMINATORS[loss_type]), logp, old)
    assert_same(ours, theirs, logp, tolerance)

    # The same tokens are clipped, and there are some on either side.
    logged = trainer._metrics["train"]
    repeats = torch.tensor(lengths(groups))
    advantage = weights(groups, dtype).repeat_interleave(repeats)
    clipped = Clipped(*clip).clips(logp.detach(), old, advantage)
    for name, side in [("low", advantage < 0), ("high", advantage > 0)]:
        share = (clipped & side).double().mean().item()
        assert share > 0
        assert logged[f"clip_ratio/{name}_mean"] == pytest.approx([share], abs=1e-6)


@pytest.mark.parametrize("loss_type", DENOMINATORS)
def test_first_update_after_sampling(trl, loss_type):
    """TRL then keeps no log-probs of the samples; the sampler's are those of the policy."""
    groups = some_groups(seed=3)
    _, logp = old_and_new(groups, torch.float64, seed=4)
    trainer = trl_trainer(loss_type, (0.2, 0.28))
    theirs = trl_loss(trl, trainer, groups, logp, None, sum(lengths(groups)))
    term = Term(Clipped(0.2, 0.28), DENOMINATORS[loss_type])
    assert_same(winnow_loss(groups, term, logp, logp.detach()), theirs, logp, 1e-14)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_loss_of_a_batch_cut_in_four(trl, loss_type):
    """Two processes, whose gradients are averaged, of two micro-batches each, which are summed.

    Not bnpo: its mean over the tokens of each micro-batch is another loss.
    """
    groups = some_groups(seed=5)
    old, logp = old_and_new(groups, torch.float64, seed=6)
    trainer = trl_trainer(
        loss_type,
        (0.2, 0.28),
        current_gradient_accumulation_steps=2,
        args=SimpleNamespace(delta=None, steps_per_generation=2),
    )
    trainer.accelerator.num_processes = 2
    tokens = lengths(groups)
    sizes = [sum(lengths([group])) for group in groups]
    parts = [
        trl_loss(trl, trainer, [group], new, before, sum(tokens))
        for group, new, before in zip(groups, logp.split(sizes), old.split(sizes), strict=True)
    ]
    term = Term(Clipped(0.2, 0.28), DENOMINATORS[loss_type])
    assert_same(winnow_loss(groups, term, logp, old), sum(parts) / 2, logp, 1e-14)


SEQUENCE_CLIPS = [(3e-4, 4e-4), (0.1, 0.2), (0.02, 0.9)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-14), (torch.float32, 2e-7)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("clip", SEQUENCE_CLIPS)
def test_gspo(trl, clip, dtype, tolerance):
    """GRPO with one ratio an answer, `importance_sampling_level = "sequence"`."""
    groups = some_groups(seed=1)
    old, logp = old_and_new(groups, dtype, seed=2)
    trainer = trl_trainer("grpo", clip, importance_sampling_level="sequence")
    theirs = trl_loss(trl, trainer, groups, logp, old, sum(lengths(groups)))
    loss = SequenceClipped(*clip)
    ours = winnow_sample_loss(groups, Term(loss, SampleMeans()), logp, old)
    assert_same(ours, theirs, logp, tolerance)

    # The same answers are clipped, and with the narrow clip there are some on either side.
    sample = sample_numbers(groups)
    advantage = weights(groups, dtype)
    marked = loss.clips(logp.detach(), old, advantage[sample], sample)
    clipped = torch.stack([part.all() for part in marked.split(lengths(groups))])
    assert torch.equal(clipped[sample], marked)
    logged = trainer._metrics["train"]
    for name, side in [("low", advantage < 0), ("high", advantage > 0)]:
        share = (clipped & side).double().mean().item()
        assert share > 0 or clip != SEQUENCE_CLIPS[0]
        assert logged[f"clip_ratio/{name}_mean"] == pytest.approx([share], abs=1e-6)


def sample_numbers(groups: Sequence[Group]) -> Tensor:
    return torch.arange(len(samples(groups))).repeat_interleave(torch.tensor(lengths(groups)))


def winnow_sample_loss(groups: Sequence[Group], term: Term, logp: Tensor, old: Tensor) -> Tensor:
    """As `winnow_loss`, of a loss that gives a number a sample."""
    counts, sample = totals(groups), sample_numbers(groups)
    scale = [x for group in groups for x in factors(group, term, counts)]
    losses = term.loss(logp, old, weights(groups, logp.dtype)[sample], sample)
    return (losses * torch.tensor(scale, dtype=logp.dtype)).sum()


@pytest.mark.parametrize("beta", [0.04, 3.0])
@pytest.mark.parametrize("loss_type", DENOMINATORS)
def test_kl_in_the_loss(trl, loss_type, beta):
    """k3 by token over all valid samples, the rejected ones included: TRL's `beta`."""
    groups = some_groups(seed=13)
    old, logp = old_and_new(groups, torch.float64, seed=14)
    ref, _ = old_and_new(groups, torch.float64, seed=15)
    ref = ref + torch.linspace(-0.5, 0.5, len(ref), dtype=torch.float64)
    trainer = trl_trainer(loss_type, (0.2, 0.28), beta=beta)
    trainer.args.use_bias_correction_kl = False
    rectangle = padded(logp, groups, -1.0)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
        rectangle,
        torch.zeros_like(rectangle),
        None,
    )
    inputs = trl_inputs(groups, old, torch.float64, sum(lengths(groups)))
    inputs["ref_per_token_logps"] = padded(ref, groups, -3.0)
    theirs = trl.grpo._compute_loss(trainer, None, inputs)

    under = DENOMINATORS[loss_type]
    penalty = Term(KL("k3", "token"), under, beta)
    assert all(penalty.covers(group) == (0, 1, 2, 3) for group in groups)
    ours = winnow_loss(groups, Term(Clipped(0.2, 0.28), under), logp, old)
    ours = ours + spread(groups, penalty, penalty.loss(logp, ref))
    assert_same(ours, theirs, logp, 1e-13)
    mean = (penalty.loss(logp, ref)).mean().item()
    assert trainer._metrics["train"]["kl"] == pytest.approx([mean], abs=1e-6)


def spread(groups: Sequence[Group], term: Term, values: Tensor) -> Tensor:
    """What a term makes of a number for each token."""
    counts = totals(groups)
    scale = [x for group in groups for x in factors(group, term, counts)]
    repeats = torch.tensor(lengths(groups))
    return (values * torch.tensor(scale, dtype=values.dtype).repeat_interleave(repeats)).sum()


def test_entropy_bonus(trl):
    """TRL's is a mean over the tokens of all samples, whatever the loss divides by: `tokens`."""
    groups = some_groups(seed=16)
    old, logp = old_and_new(groups, torch.float64, seed=17)
    entropy = (logp.detach() ** 2).requires_grad_()
    trainer = trl_trainer(
        "dapo", (0.2, 0.28), _entropy_bonus_enabled=True, use_adaptive_entropy=False,
        entropy_coef=0.3,
    )  # fmt: skip
    trainer.accelerator.sync_gradients = False
    rectangles = padded(logp, groups, -1.0), padded(entropy, groups, 5.0)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (*rectangles, None)
    inputs = trl_inputs(groups, old, torch.float64, sum(lengths(groups)))
    theirs = trl.grpo._compute_loss(trainer, None, inputs)
    bonus = Term(Entropy(), Tokens(), 0.3)
    ours = winnow_loss(groups, Term(Clipped(0.2, 0.28), Tokens()), logp, old)
    ours = ours + spread(groups, bonus, bonus.loss(entropy))
    assert_same(ours, theirs, entropy, 1e-14)
    assert_same(ours, theirs, logp, 1e-14)


REWARDS: list[list[float | None]] = [
    [1, 0, 0, 1],
    [0.3, 0.9, 0.1, -0.5],
    [1000, 1001, 1002.5, 1000],
    [1, None, 0, 0],
    [0.1, 0.1, 0.1, 0.1],
    [None, 0.7, None, None],
    [None, None, None, None],
]
"""Of each group; `None` where the verifier failed."""


def winnow_advantages(advantage: Advantage) -> Tensor:
    groups = [
        Group(
            prompt=Prompt("x", "question"),
            prompt_ids=(1,),
            samples=(Sample((1,), (-1.0,), "", "eos"),) * len(rewards),
            scores=tuple(Score.failed("broken") if r is None else Score(r) for r in rewards),
            outcomes=(Outcome(True, ""),) * len(rewards),
        )
        for rewards in REWARDS
    ]
    return weights(assign_advantages(groups, advantage, "0/1"), torch.float64)


def trl_advantages(trainer_class: type, generated: tuple[Any, ...], **changes: Any) -> Tensor:
    """Those of `_generate_and_score_completions`, where `_generate` gives what is passed."""
    flat = torch.tensor(
        [[math.nan if r is None else r] for rewards in REWARDS for r in rewards],
        dtype=torch.float64,
    )
    settings = {
        "accelerator": SimpleNamespace(
            device=torch.device("cpu"),
            process_index=0,
            gather=lambda x: x,
            reduce=lambda x, reduction: x,
        ),
        "args": SimpleNamespace(
            per_device_train_batch_size=len(flat),
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing_kwargs=None,
        ),
        "model": SimpleNamespace(training=True, is_gradient_checkpointing=False),
        "_tokenizer": SimpleNamespace(pad_token_id=0),
        "_generate": lambda prompts: generated,
        "_calculate_rewards": lambda *_: flat,
        "_get_per_token_logps_and_entropies": lambda *_, **__: (torch.zeros(len(flat), 1),) * 3,
        "reward_weights": torch.ones(1, dtype=torch.float64),
        "reward_func_names": ["reward"],
        "num_generations": len(REWARDS[0]),
        "num_iterations": 1,
        "beta": 0.0,
        "use_vllm": False,
        "mask_truncated_completions": False,
        "pad_to_multiple_of": None,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_logs": defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list)),
        "_pending_extra_logs": {},
        "_pending_metrics": {},
    }
    trainer = SimpleNamespace(**{**settings, **changes})
    rows = [{"prompt": "question"}] * len(flat)
    return trainer_class._generate_and_score_completions(trainer, rows)["advantages"]


ONE_TOKEN_EACH = [[1]] * sum(map(len, REWARDS))


def grpo_advantages(trl: SimpleNamespace, scale_rewards: str) -> Tensor:
    return trl_advantages(
        trl.grpo,
        (ONE_TOKEN_EACH, ONE_TOKEN_EACH, None, [], None, {}, None, None),
        scale_rewards=scale_rewards,
        multi_objective_aggregation="sum_then_normalize",
        environment_factories=None,
        environments=None,
        tools=[],
    )


def test_standardised(trl):
    # TRL divides by sigma + 1e-4, Winnow by sigma.
    valid = [[r for r in rewards if r is not None] for rewards in REWARDS]
    sigma = [statistics.stdev(rewards) if len(rewards) > 1 else 0.0 for rewards in valid]
    added = torch.tensor([s / (s + 1e-4) for s in sigma], dtype=torch.float64)
    ours = winnow_advantages(Standardised("sample")) * added.repeat_interleave(len(REWARDS[0]))
    # No closer: n / (n - 1) is a float32 in TRL's sigma.
    torch.testing.assert_close(ours, grpo_advantages(trl, "group"), rtol=0, atol=1e-7)


def test_centred(trl):
    theirs = grpo_advantages(trl, "none")
    torch.testing.assert_close(winnow_advantages(Centred()), theirs, rtol=0, atol=1e-10)


def test_leave_one_out(trl):
    theirs = trl_advantages(
        trl.rloo,
        (ONE_TOKEN_EACH, ONE_TOKEN_EACH, []),
        reward_clip_range=None,
        normalize_advantages=False,
    )
    torch.testing.assert_close(winnow_advantages(LeaveOneOut()), theirs, rtol=0, atol=1e-10)


RAGGED = [[1] * (1 + i % 5) for i in range(sum(map(len, REWARDS)))]
"""Answers of one to five tokens."""


@pytest.mark.parametrize("beta", [0.05, 2.0])
def test_leave_one_out_with_kl_in_the_reward(trl, beta):
    """TRL's reward less beta times the sum of the answer's log-ratios, then its baseline; a sample
    without a reward has none with a penalty either."""
    made = torch.Generator().manual_seed(11)
    old, ref = (
        [-3 * torch.rand(len(ids), generator=made, dtype=torch.float64) for ids in RAGGED]
        for _ in range(2)
    )
    policy, reference = SimpleNamespace(training=True, is_gradient_checkpointing=False), object()
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
    # Other padding on either side, so that an unmasked one shows.
    rectangles = {id(policy): pad(old, padding_value=-7.0), id(reference): pad(ref)}
    theirs = trl_advantages(
        trl.rloo,
        (ONE_TOKEN_EACH, RAGGED, []),
        model=policy,
        ref_model=reference,
        beta=beta,
        reward_clip_range=None,
        normalize_advantages=False,
        _get_per_token_logps_and_entropies=lambda model, *_, **__: (
            rectangles[id(model)],
            None,
            None,
        ),
    )

    numbers = iter(range(len(RAGGED)))
    groups = []
    for rewards in REWARDS:
        own = [next(numbers) for _ in rewards]
        groups.append(
            Group(
                prompt=Prompt("x", "question"),
                prompt_ids=(1,),
                samples=tuple(
                    Sample(tuple(RAGGED[i]), tuple(old[i].tolist()), "", "eos") for i in own
                ),
                scores=tuple(Score.failed("broken") if r is None else Score(r) for r in rewards),
                outcomes=tuple(Outcome(r is not None, "") for r in rewards),
                annotations=tuple(
                    TokenAnnotations(ref_logprobs=tuple(ref[i].tolist())) for i in own
                ),
            )
        )
    ours = weights(assign_advantages(groups, LeaveOneOut(), "0/1", InReward(beta)), torch.float64)
    # A single sample with a reward has no baseline: TRL divides 0 by 0 and puts 0, as Winnow does.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert (ours[16:20] != 0).all()  # equal rewards, told apart by the penalty alone


def some_model() -> nn.Module:
    """A tiny Llama in float64, far from uniform."""
    model = tiny.model().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = MethodType(norm_in_full, module)
    return model


def norm_in_full(self: nn.Module, x: Tensor) -> Tensor:
    """RMSNorm in float64; the library's own rounds to float32 inside."""
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def pieces(groups: Sequence[Group]) -> list[Piece]:
    return [Piece(g.prompt_ids, [sample.token_ids for sample in g.samples]) for g in groups]


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs(trl, temperature, share_prefix):
    model = some_model()
    groups = some_groups(seed=7)
    forward = PolicyForward(model, share_prefix=share_prefix)
    assert (forward.shares_prefix, forward.splits_head) == (share_prefix, True)
    theirs = []
    with torch.no_grad():
        ours = forward.logprobs(forward.contexts(pieces(groups)), temperature)
        for group in groups:
            for sample in group.samples:
                answer = torch.tensor([sample.token_ids])
                ids = torch.cat([torch.tensor([group.prompt_ids]), answer], dim=1)
                logits = model(input_ids=ids).logits[:, len(group.prompt_ids) - 1 : -1]
                theirs.append(trl.selective_log_softmax(logits, answer, temperature)[0])
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=0, atol=1e-12)


def sampled_by(forward: PolicyForward, groups: Sequence[Group], temperature: float) -> list[Group]:
    """The groups with log-probs of a policy that has moved on since by up to 1 nat a token."""
    with torch.no_grad():
        now = forward.logprobs(forward.contexts(pieces(groups)), temperature)
    rng = random.Random(9)
    before = iter([x + rng.uniform(-1, 1) for x in now.tolist()])

    def at_sampling(sample: Sample) -> Sample:
        return replace(sample, logprobs=tuple(next(before) for _ in sample.token_ids))

    return [group.with_(samples=tuple(map(at_sampling, group.samples))) for group in groups]


@pytest.mark.parametrize("loss_type", DENOMINATORS)
def test_gradient_of_a_model(trl, loss_type):
    """From tokens to `.grad`, either side with its own batches, forward pass and head."""
    temperature = 0.7
    model = some_model()
    other = copy.deepcopy(model)
    forward = PolicyForward(model)
    groups = sampled_by(forward, some_groups(seed=8), temperature)

    trl.add_fused_lm_head(other, temperature=temperature, outputs=("log_probs", "entropy"))
    trainer = trl_trainer(loss_type, (0.2, 0.28))
    trainer._get_per_token_logps_and_entropies = partial(
        trl.grpo._get_per_token_logps_and_entropies, trainer
    )
    old = torch.tensor(
        [x for sample in samples(groups) for x in sample.logprobs], dtype=torch.float64
    )
    inputs = trl_inputs(groups, old, torch.float64, sum(lengths(groups)))
    theirs = trl.grpo._compute_loss(trainer, other, inputs)
    theirs.backward()

    term = Term(Clipped(0.2, 0.28), DENOMINATORS[loss_type])
    done = accumulate(
        Models(forward), groups, [term], totals(groups), temperature, microbatch_tokens=24
    )

    # No closer: TRL's head works in float32.
    assert done.loss == pytest.approx(theirs.item(), rel=0, abs=2e-7)
    for (name, ours), peer in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (ours.grad - peer.grad).abs().max() < 2e-7, name


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_of_a_model(trl, temperature):
    """Those of TRL's head, with their gradient."""
    model = some_model()
    other = copy.deepcopy(model)
    trl.add_fused_lm_head(other, temperature=temperature, outputs=("log_probs", "entropy"))
    groups = some_groups(seed=18)
    forward = PolicyForward(model)
    ours = entropies(forward, forward.contexts(pieces(groups)), temperature)
    theirs = []
    for group in groups:
        for sample in group.samples:
            ids = torch.tensor([[*group.prompt_ids, *sample.token_ids]])
            out = other(input_ids=ids, labels=ids, fused_lm_head=True)
            theirs.append(out.entropy[0, -len(sample.token_ids) :])
    # No closer: TRL's head works in float32.
    torch.testing.assert_close(ours, torch.cat(theirs).double(), rtol=0, atol=2e-6)
    advantage = torch.linspace(-1, 2, len(ours), dtype=torch.float64)
    (ours * advantage).mean().backward()
    (torch.cat(theirs) * advantage).mean().backward()
    for (name, own), peer in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (own.grad - peer.grad).abs().max() < 2e-6, name


def pairs(seed: int) -> list[Group]:
    """Groups of four samples of which one is the better and one the worse half of a pair."""
    rng = random.Random(seed)
    groups = []
    for group in some_groups(seed):
        better, worse = rng.sample(range(4), 2)
        own = [1.0 if i == better else -1.0 if i == worse else 0.0 for i in range(4)]
        groups.append(
            group.with_(
                outcomes=tuple(Outcome(w != 0, "") for w in own),
                advantages=tuple(own),
                annotations=tuple(
                    TokenAnnotations(
                        ref_logprobs=tuple(rng.uniform(-5, -1) for _ in sample.token_ids)
                    )
                    for sample in group.samples
                ),
            )
        )
    return groups


def chosen(groups: Sequence[Group], sign: float) -> list[tuple[Group, int]]:
    """The better (+1) or the worse (-1) sample of each group, by number."""
    return [(group, group.advantages.index(sign)) for group in groups]


def trl_dpo_inputs(groups: Sequence[Group]) -> dict[str, Tensor]:
    """A batch as TRL's DPO trainer collates it: better answers, then worse ones."""
    both = [*chosen(groups, 1.0), *chosen(groups, -1.0)]
    rows = [torch.tensor([*g.prompt_ids, *g.samples[i].token_ids]) for g, i in both]
    masks = [
        torch.tensor([0] * len(g.prompt_ids) + [1] * len(g.samples[i].token_ids)) for g, i in both
    ]
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
    ref = torch.tensor([sum(g.annotations[i].ref_logprobs) for g, i in both], dtype=torch.float64)
    better, worse = ref.chunk(2)
    return {
        "input_ids": pad(rows),
        "attention_mask": pad([torch.ones_like(row) for row in rows]),
        "completion_mask": pad(masks),
        "ref_chosen_logps": better,
        "ref_rejected_logps": worse,
    }


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo(trl, beta):
    """From tokens to `.grad`, by `DPOTrainer._compute_loss` at `loss_type = "sigmoid"`."""
    model = some_model()
    other = copy.deepcopy(model)
    groups = pairs(seed=20)
    trl.add_fused_lm_head(
        other, outputs=("log_probs", "entropy", "mean_logits", "is_top1"), temperature=1.0
    )
    identity = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    trainer = SimpleNamespace(
        accelerator=identity,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    theirs = trl.dpo._compute_loss(trainer, other, trl_dpo_inputs(groups), return_outputs=False)
    theirs.backward()

    term = Term(DPO(beta), GroupMeans())
    done = accumulate(
        Models(PolicyForward(model)), groups, [term], totals(groups), 0.7, microbatch_tokens=24
    )
    # No closer: TRL's head works in float32.
    assert done.loss == pytest.approx(theirs.item(), rel=0, abs=1e-6)
    for (name, ours), peer in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (ours.grad - peer.grad).abs().max() < 1e-6, name
    logged = trainer._metrics["train"]
    total, count = done.measures["preference_margin"]
    assert logged["rewards/margins"] == pytest.approx([total / count], abs=1e-5)
    right, count = done.measures["preference_accuracy"]
    assert (logged["rewards/accuracies"], count) == ([right / count], 4)
