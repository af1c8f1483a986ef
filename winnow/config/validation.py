"""What no run should begin with: settings that contradict each other or their algorithm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from winnow.algorithms.advantages import Extremes, Standardised
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.kl import InReward
from winnow.algorithms.losses import DPO, SequenceClipped, Value
from winnow.algorithms.spec import show
from winnow.config.schema import Config
from winnow.config.schema.anchor import AnchorConfig
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.lora import LoraConfig
from winnow.errors import UserError


def check(config: Config, algorithm: Algorithm) -> None:
    """Refuse it before any model is loaded.

    Raises:
        UserError: naming the field and the remedy, the first thing found.
    """
    for complaints in (_cells, _draws, _sampling, _signals, _rounds, _sizes):
        refuse(complaints(config, algorithm))


def refuse(complaints: Iterator[str]) -> None:
    """Raise the first complaint, if there is one.

    Raises:
        UserError: it.
    """
    for complaint in complaints:
        raise UserError(complaint)


def _cells(config: Config, algorithm: Algorithm) -> Iterator[str]:
    for term in algorithm.objective:
        narrow = (
            isinstance(term.loss, SequenceClipped) and max(term.loss.low, term.loss.high) < 0.01
        )
        if narrow and config.dtype == "bfloat16":
            yield (
                f"algorithm.loss: {show(term.loss)} clips at less than log-probs in bfloat16 are "
                "good to, so that rounding would be clipped; set dtype = 'float32', or widen it"
            )
        if isinstance(term.loss, Value) and algorithm.advantage.over != "token":
            yield (
                f"algorithm.critic: it learns the returns of an advantage by token, and "
                f"{show(algorithm.advantage)} is none; set algorithm.advantage = 'gae', or "
                "algorithm.critic = 'none'"
            )
        pairs = algorithm.select[-1].pairs and isinstance(algorithm.advantage, Extremes)
        if isinstance(term.loss, DPO) and not pairs:
            yield (
                "algorithm.loss: dpo compares the best draw of a prompt with the worst; set "
                "algorithm.select = ['best-worst'] (the last rule, if there are more) and "
                "algorithm.advantage = 'extremes'"
            )
    if isinstance(algorithm.kl, InReward):
        if algorithm.kl.horizon != InReward().horizon and not algorithm.kl.target:
            yield "algorithm.kl: horizon is that of an adaptive beta; give a target, too"
        yield from _taxed(algorithm)


def _taxed(algorithm: Algorithm) -> Iterator[str]:
    """Advantages that a KL in the reward does not reach, or is all that is left of."""
    taxed, advantage = f"algorithm.kl: {show(algorithm.kl)}", show(algorithm.advantage)
    if not algorithm.advantage.of_rewards:
        yield f"{taxed} changes rewards, and advantage {advantage} reads none; use in-loss"
    if isinstance(algorithm.advantage, Extremes):
        yield (
            f"{taxed} would turn pairs round: which draw is better is the verifier's to say; "
            "leave it out (dpo holds a KL to the reference itself), or use in-loss"
        )
    if isinstance(algorithm.advantage, Standardised):
        yield (
            f"{taxed} beside advantage {advantage}: where all rewards of a prompt are equal the KL "
            "alone, however small, would be scaled to 1; use centred or leave-one-out, or in-loss"
        )


def _draws(config: Config, algorithm: Algorithm) -> Iterator[str]:
    if config.draws_from is not None and algorithm.draws != "once" and not config.phases:
        yield (
            "draws_from: only an algorithm that draws once can draw from another model; "
            "set algorithm.draws = 'once' (as rft does) or leave draws_from out"
        )
    if config.draws is not None and config.draws_from is not None:
        yield "draws_from: draws of a file are there already; leave one of the two out"
    if config.server.url is not None:
        yield (
            "server.url: training needs the model itself; draw from the server with winnow sample, "
            "then train with --set draws=FOLDER"
        )
    if config.draws is None and algorithm.draws == "every-step":
        if config.rounds.merge:
            yield from _older(algorithm, "draws of earlier rounds (rounds.merge)")
        return
    how = "draws of a file" if config.draws is not None else "draws made once"
    yield from _older(algorithm, how)
    for field, value in (
        ("algorithm.refill", algorithm.refill),
        ("rounds.restart", config.rounds.restart),
        ("rounds.merge", config.rounds.merge),
    ):
        if value:
            yield f"{field}: {how} come in no rounds; leave it out, or draw every step"


def _older(algorithm: Algorithm, how: str) -> Iterator[str]:
    """What draws of another policy than the present one cannot be used with."""
    if isinstance(algorithm.kl, InReward):
        yield (
            f"algorithm.kl: {show(algorithm.kl)} taxes the policy that draws, and {how} are not "
            "made by the policy as it becomes; use in-loss, or draws of each step alone"
        )
    if isinstance(algorithm.critic, Value) or algorithm.advantage.over == "token":
        yield (
            f"algorithm.advantage: {show(algorithm.advantage)} compares each draw with what was "
            f"expected when it was made, and {how} are older; use draws of each step alone"
        )


def _sampling(config: Config, algorithm: Algorithm) -> Iterator[str]:
    if config.samples_per_prompt == 1 and algorithm.needs_group:
        yield (
            f"samples_per_prompt = 1: {algorithm.needs_group} compares the draws of a prompt with "
            "each other; draw 2 or more, or set algorithm.advantage = 'reward' and "
            "algorithm.select = ['everything']"
        )
    if config.sampling.truncated and "old" in algorithm.needs:
        field = "sampling.top_k" if config.sampling.top_k else "sampling.top_p"
        yield (
            f"{field}: {algorithm.name} divides by the probabilities that its draws were made "
            "with, and truncated sampling has others; set top_k = 0 and top_p = 1, or use a row "
            "without a ratio (raft, rft)"
        )


def _signals(config: Config, algorithm: Algorithm) -> Iterator[str]:
    if len(algorithm.refers) > 1 and config.sampling.temperature != 1:
        yield (
            "algorithm.kl: this loss compares with the reference at temperature 1 and the KL at "
            f"sampling.temperature = {config.sampling.temperature:g}; sample at 1, or drop the KL"
        )
    if not config.phases:  # else what one phase does not use another may
        yield from unused(config, [algorithm])


def unused(config: Config, algorithms: Sequence[Algorithm]) -> Iterator[str]:
    """Settings that none of the algorithms reads."""
    names = ", ".join(dict.fromkeys(row.name for row in algorithms))
    if config.reference != "start" and not any("ref" in row.needs for row in algorithms):
        yield (
            f"reference: {names} compares with none; set algorithm.kl (such as "
            "'in-loss(0.04)'), or leave it out"
        )
    if config.critic != CriticConfig() and not any("values" in row.needs for row in algorithms):
        yield f"critic: {names} has none; leave it out, or use a row with a critic"


def _rounds(config: Config, algorithm: Algorithm) -> Iterator[str]:
    if config.eval.patience and not (config.eval.every and config.eval.size):
        yield (
            "eval.patience: stopping early needs held-out evaluations on the way; set eval.every "
            "and eval.size"
        )
    if config.eval.patience and config.phases:
        yield "eval.patience: a run in phases goes through all of them; leave one of the two out"
    if config.lora != LoraConfig() and not config.lora.rank:
        yield "lora: there are no adapters without a rank; set lora.rank"
    if config.anchor != AnchorConfig() and config.anchor.source is None:
        yield "anchor: no examples are named; set anchor.source"
    if config.cycles > 1 and not config.phases:
        yield "cycles: there are no phases to go through again; set phases, or more steps"


def _sizes(config: Config, algorithm: Algorithm) -> Iterator[str]:
    if config.minibatch_prompts > config.prompts_per_step:
        yield (
            f"minibatch_prompts = {config.minibatch_prompts} is more than prompts_per_step = "
            f"{config.prompts_per_step}; an update cannot hold more prompts than a step draws: set "
            f"minibatch_prompts = {config.prompts_per_step} or less, too"
        )
