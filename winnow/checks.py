"""What no run should begin with: settings that contradict each other or their algorithm."""

from __future__ import annotations

from collections.abc import Iterator

from winnow.algorithms import Algorithm
from winnow.cells import show
from winnow.config import Config, CriticConfig
from winnow.errors import UserError
from winnow.losses import DPO
from winnow.penalties import InReward, Value


def check(config: Config, algorithm: Algorithm) -> None:
    """Refuse it before any model is loaded.

    Raises:
        UserError: naming the field and the remedy, the first thing found.
    """
    for complaints in (_cells, _draws, _sampling, _signals, _rounds, _sizes):
        for complaint in complaints(config, algorithm):
            raise UserError(complaint)


def _cells(config: Config, algorithm: Algorithm) -> Iterator[str]:
    for term in algorithm.objective:
        if not hasattr(term.loss, "needs_old"):
            yield (
                f"algorithm.loss: {show(term.loss)} must say needs_old = True or False: whether "
                "it reads the log-probs of the policy that drew"
            )
        by_token = getattr(algorithm.advantage, "per_token", False)
        if isinstance(term.loss, Value) and not by_token:
            yield (
                f"algorithm.critic: it learns the returns of an advantage by token, and "
                f"{show(algorithm.advantage)} is none; set algorithm.advantage = 'gae', or "
                "algorithm.critic = 'none'"
            )
        pairs = any(getattr(rule, "pairs", False) for rule in algorithm.select)
        if isinstance(term.loss, DPO) and not (pairs and show(algorithm.advantage) == "extremes"):
            yield (
                "algorithm.loss: dpo compares the best draw of a prompt with the worst; set "
                "algorithm.select = ['best-worst'] and algorithm.advantage = 'extremes'"
            )


def _draws(config: Config, algorithm: Algorithm) -> Iterator[str]:
    if config.draws_from is not None and algorithm.draws != "once":
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
        return
    how = "draws of a file" if config.draws is not None else "draws made once"
    if isinstance(algorithm.kl, InReward):
        yield (
            f"algorithm.kl: {show(algorithm.kl)} taxes the policy that draws, and {how} are not "
            "made by the policy as it becomes; use in-loss, or a row that draws every step"
        )
    if isinstance(algorithm.critic, Value) or getattr(algorithm.advantage, "per_token", False):
        yield (
            f"algorithm.advantage: {show(algorithm.advantage)} compares each draw with what was "
            f"expected when it was made, and {how} are older; use a row that draws every step"
        )
    for field, value in (
        ("algorithm.refill", algorithm.refill),
        ("rounds.restart", config.rounds.restart),
        ("rounds.merge", config.rounds.merge),
    ):
        if value:
            yield f"{field}: {how} come in no rounds; leave it out, or draw every step"


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
    reading = [t.tempered for t in algorithm.objective if {"ref", "kl"} & set(t.reads)]
    reading += [True] * isinstance(algorithm.kl, InReward)
    if len(set(reading)) > 1 and config.sampling.temperature != 1:
        yield (
            "algorithm.kl: this loss compares with the reference at temperature 1 and the KL at "
            f"sampling.temperature = {config.sampling.temperature:g}; sample at 1, or drop the KL"
        )
    if config.phases:
        return  # what one phase does not use another may
    if config.reference != "start" and "ref" not in algorithm.needs:
        yield (
            f"reference: {algorithm.name} compares with none; set algorithm.kl (such as "
            "'in-loss(0.04)'), or leave it out"
        )
    if config.critic != CriticConfig() and "values" not in algorithm.needs:
        yield f"critic: {algorithm.name} has none; leave it out, or use ppo"


def _rounds(config: Config, algorithm: Algorithm) -> Iterator[str]:
    if config.eval.patience and not (config.eval.every and config.eval.size):
        yield (
            "eval.patience: stopping early needs held-out evaluations on the way; set eval.every "
            "and eval.size"
        )
    if config.eval.patience and config.phases:
        yield "eval.patience: a run in phases goes through all of them; leave one of the two out"
    if config.lora.merge and not config.lora.rank:
        yield "lora.merge: there are no adapters to merge; set lora.rank"


def _sizes(config: Config, algorithm: Algorithm) -> Iterator[str]:
    if config.minibatch_prompts > config.prompts_per_step:
        yield (
            f"minibatch_prompts = {config.minibatch_prompts} is more than prompts_per_step = "
            f"{config.prompts_per_step}; an update cannot hold more prompts than a step draws"
        )
