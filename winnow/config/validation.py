"""Refuses settings that contradict each other or their algorithm, before a run begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from winnow.algorithms.advantages import Extremes, Standardised
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.kl import InReward
from winnow.algorithms.losses import DPO, NLL, SequenceClipped, Value
from winnow.algorithms.rejection import RSO, Gibbs
from winnow.algorithms.selection import AsRecorded, Best
from winnow.algorithms.spec import show
from winnow.config.schema import Config, from_dict
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.config.unread import unused
from winnow.errors import UserError
from winnow.rewards.factory import JUDGE, check_suited
from winnow.types import Prompt

_MOST_SAMPLES = 10**7
"""Of a step."""
_MOST_ONCE = 10**8
"""Of all steps together, where they are sampled before the first update."""
_MOST_EXAMPLES = 10**6
"""Of an update."""


def check(config: Config, algorithm: Algorithm) -> None:
    """Raise the first complaint about a config, a `UserError`, before any model is loaded."""
    for complaints in (_cells, _samples, _sampling, _references, _rounds, _sizes):
        refuse(complaints(config, algorithm))


def cautions(config: Config, algorithm: Algorithm, *, rounds: bool = True) -> Iterator[str]:
    """What is allowed, and does something that a person may not expect.

    Args:
        rounds: Whether each step makes its own samples.
    """
    heat = config.sampling.temperature
    likelihood = rounds and any(type(term.loss) is NLL for term in algorithm.terms)
    if likelihood and heat == 0:
        yield (
            f"{algorithm.name}: samples are at temperature 0, so each round makes the policy "
            "sharper, whatever the rewards"
        )
    elif likelihood and heat != 1:
        way = "sharper" if heat < 1 else "flatter"
        yield (
            f"{algorithm.name}: nll is at temperature 1 and samples are at {heat:g}, so each round "
            f"makes the policy {way}, whatever the rewards; set algorithm.loss = 'nll-tempered'"
        )
    n = config.samples_per_prompt
    for rule in algorithm.select if config.samples_file is None else ():
        if isinstance(rule, Best | RSO | Gibbs) and rule.keeps_all(n):
            yield (
                f"{algorithm.name}: {show(rule)} keeps all that it is given where "
                f"samples_per_prompt = {n}, whatever the rewards"
            )
    if config.lora.rank and config.optimizer.lr == OptimizerConfig().lr:
        yield (
            f"adapters learn little at optimizer.lr = {config.optimizer.lr:g}, the default for all "
            "weights; 1e-4 to 1e-3 is usual"
        )


def check_answers(config: Config, prompts: Sequence[Prompt]) -> None:
    """Raise a `UserError` for prompts that a reward of the config cannot score."""
    for key, table in config.reward.each:
        try:
            check_suited(table.name, prompts)
        except UserError as error:
            raise error.with_(setting=error.setting.replace("reward", key, 1)) from error
        unanswered = next((prompt.id for prompt in prompts if prompt.answer is None), None)
        asks = table.name == JUDGE and "{answer}" in str(table.options.get("template"))
        if asks and unanswered is not None:
            problem = f"it has {{answer}}, but prompt {unanswered!r} has none"
            remedy = "set prompts.answer_column to the column that holds it"
            raise UserError(f"{key}.options.template", problem, remedy)


def refuse(complaints: Iterator[UserError]) -> None:
    """Raise the first complaint, if there is one."""
    for complaint in complaints:
        raise complaint


def _cells(config: Config, algorithm: Algorithm) -> Iterator[UserError]:
    for term in algorithm.objective:
        narrow = (
            isinstance(term.loss, SequenceClipped) and max(term.loss.low, term.loss.high) < 0.01
        )
        rounds = f"{show(term.loss)} clips at less than what bfloat16 rounds log-probs to"
        if narrow and config.learner_rounds_to == "bfloat16":
            key = "dtype" if config.dtype == "bfloat16" else "optimizer.precision"
            yield UserError("algorithm.loss", rounds, f"set {key} = 'float32', or widen it")
        if narrow and _samples_in_less(config):
            remedy = "leave it out, set 'float32', or widen the clip"
            yield UserError("sampling.dtype", rounds, remedy)
        if isinstance(term.loss, Value) and algorithm.advantage.over != "token":
            problem = (
                f"it needs an advantage by token, and {show(algorithm.advantage)} is by sample"
            )
            remedy = "set algorithm.advantage = 'gae' or algorithm.critic = 'none'"
            yield UserError("algorithm.critic", problem, remedy)
        pairs = algorithm.select[-1].pairs and isinstance(algorithm.advantage, Extremes)
        if isinstance(term.loss, DPO) and not pairs:
            problem = "dpo compares the best sample of a prompt with the worst"
            remedy = "end algorithm.select with 'best-worst', set algorithm.advantage = 'extremes'"
            yield UserError("algorithm.loss", problem, remedy)
    if isinstance(algorithm.kl, InReward):
        if algorithm.kl.horizon != InReward().horizon and not algorithm.kl.target:
            yield UserError("algorithm.kl", "only an adaptive beta has a horizon", "set target too")
        yield from _taxed(algorithm)


def _taxed(algorithm: Algorithm) -> Iterator[UserError]:
    """Advantages that a KL in the reward does not reach, or would be all of."""
    kl, advantage = show(algorithm.kl), show(algorithm.advantage)
    if not algorithm.advantage.of_rewards:
        problem = f"{kl} changes rewards, which {advantage} does not read"
        yield UserError("algorithm.kl", problem, "use in-loss")
    if isinstance(algorithm.advantage, Extremes):
        problem = f"{kl} would change which sample of a pair is better, which only the verifier may"
        remedy = "leave it out (dpo has a KL to the reference itself), or use in-loss"
        yield UserError("algorithm.kl", problem, remedy)
    if isinstance(algorithm.advantage, Standardised):
        problem = f"where a prompt's rewards are equal, {advantage} scales any {kl} up to 1"
        yield UserError("algorithm.kl", problem, "use centred or leave-one-out, or in-loss")


def _samples(config: Config, algorithm: Algorithm) -> Iterator[UserError]:
    if config.samples_from is not None and algorithm.resample != "once" and not config.phases:
        problem = "only an algorithm that samples once can sample from another model"
        remedy = "set algorithm.resample = 'once' (as rft does) or leave samples_from out"
        yield UserError("samples_from", problem, remedy)
    if config.samples_file is not None and config.samples_from is not None:
        yield UserError(
            "samples_from", "samples come from a file", "leave out samples_file or samples_from"
        )
    recorded = [show(rule) for rule in algorithm.select if isinstance(rule, AsRecorded)]
    if recorded and config.samples_file is None:
        problem = f"{recorded[0]} keeps what a file says, and this run samples its own"
        yield UserError("algorithm.select", problem, "leave it out, or set samples_file")
    if config.engine.sampler == "openai":
        remedy = (
            "sample from the server with winnow sample, then train with --set samples_file=FOLDER"
        )
        yield UserError("engine.sampler", "training needs the model itself", remedy)
    if config.samples_file is None and algorithm.resample == "every-step":
        if config.rounds.merge:
            yield from _older(algorithm, "samples of earlier rounds (rounds.merge)")
        return
    how = "samples of a file" if config.samples_file is not None else "samples made once"
    yield from _older(algorithm, how)
    for field, value in (
        ("algorithm.refill", algorithm.refill),
        ("rounds.restart", config.rounds.restart),
        ("rounds.merge", config.rounds.merge),
    ):
        if value:
            yield UserError(field, f"{how} have no rounds", "leave it out, or sample every step")


def _older(algorithm: Algorithm, how: str) -> Iterator[UserError]:
    """Cells that need samples of the present policy."""
    late = f"needs samples of the present policy, and {how} are older"
    if isinstance(algorithm.kl, InReward):
        remedy = "use in-loss, or samples of each step alone"
        yield UserError("algorithm.kl", f"{show(algorithm.kl)} {late}", remedy)
    if isinstance(algorithm.critic, Value) or algorithm.advantage.over == "token":
        problem = f"{show(algorithm.advantage)} {late}"
        yield UserError("algorithm.advantage", problem, "use samples of each step alone")


def _sampling(config: Config, algorithm: Algorithm) -> Iterator[UserError]:
    if config.samples_per_prompt == 1 and algorithm.needs_group:
        problem = f"it is 1, and {algorithm.needs_group} compares the samples of a prompt"
        remedy = (
            "sample more, or set algorithm.advantage = 'reward' and algorithm.select = 'everything'"
        )
        yield UserError("samples_per_prompt", problem, remedy)
    yield from _greedy(config, algorithm)
    if _samples_in_less(config) and algorithm.needs_one_policy:
        problem = (
            f"{algorithm.needs_one_policy} is exact for samples of the policy itself, and those of "
            "a copy in bfloat16 are another's"
        )
        remedy = "leave it out, set 'float32', or use another row (raft, rft)"
        yield UserError("sampling.dtype", problem, remedy)
    if config.sampling.truncated and "old" in algorithm.needs:
        key = "sampling.top_k" if config.sampling.top_k else "sampling.top_p"
        problem = f"{algorithm.name} divides by the probability of each sample, which this changes"
        remedy = "set top_k = 0 and top_p = 1, or use an algorithm without a ratio (raft, rft)"
        yield UserError(key, problem, remedy)


def _samples_in_less(config: Config) -> bool:
    """Whether samples are, or on some machine may be, of less precision than the policy."""
    less = config.sampling.dtype in ("bfloat16", "auto") and config.dtype == "float32"
    return less and config.samples_file is None


def _greedy(config: Config, algorithm: Algorithm) -> Iterator[UserError]:
    """What has no meaning at temperature 0, where a policy has one completion of a prompt."""
    if config.sampling.temperature != 0:
        return
    key = "sampling.temperature"
    above = "set it above 0"
    tempered = [show(term.loss) for term in algorithm.terms if term.tempered]
    tempered += [show(algorithm.kl)] if algorithm.refers_tempered else []
    tempered += ["the entropy bonus"] if algorithm.entropy else []
    if tempered:
        problem = f"{tempered[0]} needs log-probs at the temperature of sampling, and it is 0"
        yield UserError(key, problem, f"{above}, or use an algorithm without a ratio (rft, raft)")
    if algorithm.needs_one_policy:
        problem = f"{algorithm.needs_one_policy} needs samples of the whole distribution"
        yield UserError(key, f"{problem}, and at 0 there is only the likeliest", above)
    if config.samples_file is None and config.samples_per_prompt > 1:
        problem = f"at 0 the {config.samples_per_prompt} samples of a prompt are the same"
        yield UserError(key, problem, f"{above}, or set samples_per_prompt = 1")


def _references(config: Config, algorithm: Algorithm) -> Iterator[UserError]:
    heat = config.sampling.temperature
    if len(algorithm.refers) > 1 and heat != 1:
        problem = f"the KL is at temperature {heat:g}, and this loss compares at temperature 1"
        yield UserError("algorithm.kl", problem, "set sampling.temperature = 1, or drop the KL")
    likely = [t for t in algorithm.objective if "logp" in t.reads and not t.tempered]
    if likely and algorithm.refers_tempered and heat != 1:
        problem = f"the KL is at temperature {heat:g}, and {show(likely[0].loss)} at temperature 1"
        remedy = "set sampling.temperature = 1, drop the KL, or use nll-tempered, clipped, ..."
        yield UserError("algorithm.kl", problem, remedy)
    if likely and algorithm.entropy and heat != 1:
        problem = f"it is at temperature {heat:g}, and {show(likely[0].loss)} at temperature 1"
        remedy = "set sampling.temperature = 1, leave it out, or use nll-tempered, clipped, ..."
        yield UserError("algorithm.entropy", problem, remedy)
    if not config.phases:  # another phase may use what this one does not
        yield from unused(config, [algorithm])


def _rounds(config: Config, algorithm: Algorithm) -> Iterator[UserError]:
    patience = "eval.patience"
    if config.eval.patience and not (config.eval.every and config.eval.size != 0):
        problem = "stopping early needs evaluations on the way"
        yield UserError(patience, problem, "set eval.every and eval.size")
    if config.eval.patience and config.phases:
        problem = "a run in phases goes through all of them"
        yield UserError(patience, problem, "leave one of the two out")
    if config.budget.limits and config.phases:
        problem = "a run in phases goes through all of them"
        yield UserError("budget", problem, "leave one of the two out")
    before = config.samples_file is not None or algorithm.resample == "once"
    for kind in (kind for kind in ("samples", "tokens") if kind in config.budget.limits and before):
        problem = "all samples are there before the first update, so none are left to end with"
        yield UserError(f"budget.{kind}", problem, "set steps, or budget.updates")
    if config.eval.test_size and not config.eval.patience:
        problem = "without early stopping no checkpoint is chosen, so the last evaluation tests it"
        yield UserError("eval.test_size", problem, "leave it out, or set eval.patience")


def _sizes(config: Config, algorithm: Algorithm) -> Iterator[UserError]:
    batch, step = config.prompts_per_update, config.prompts_per_step
    samples = step * config.samples_per_prompt
    if config.samples_file is None and samples > _MOST_SAMPLES:
        problem = f"with samples_per_prompt, a step would hold {samples:,} samples at a time"
        yield UserError("prompts_per_step", problem, f"keep it to {_MOST_SAMPLES:,} or fewer")
    made = samples * config.steps
    if config.samples_file is None and algorithm.resample == "once" and made > _MOST_ONCE:
        problem = f"all {made:,} samples would be held in memory, to be trained on"
        remedy = f"keep them to {_MOST_ONCE:,}, or use winnow sample, then samples_file"
        yield UserError("steps", problem, remedy)
    examples = config.anchor.ratio * batch
    if config.anchor.source is not None and examples > _MOST_EXAMPLES:
        problem = f"an update would hold {examples:,.0f} examples at a time"
        yield UserError("anchor.ratio", problem, f"keep it to {_MOST_EXAMPLES:,} or fewer")
    if batch > step:
        problem = f"an update cannot hold more prompts than a step samples, {batch} > {step}"
        remedy = f"set minibatch_prompts = {step} or less, or prompts_per_step = {batch}"
        yield UserError("minibatch_prompts", problem, remedy)


_DEPENDING: Mapping[str, Mapping[str, Any]] = {
    "reference": {"reference": "phase"},
    "critic": {"critic": {"lr": 1e-3}},
    "samples_from": {"samples_from": "other"},
    "rounds.restart": {"rounds": {"restart": True}},
    "rounds.merge": {"rounds": {"merge": 1}},
    "sampling.top_k, sampling.top_p": {"sampling": {"top_k": 1}},
}
"""Settings that some algorithms read or take, each with a value to try."""


def settings_read(algorithm: Algorithm) -> tuple[list[str], list[str]]:
    """Of the settings that depend on the algorithm, those that it reads, and those it refuses."""
    taken: list[str] = []
    refused: list[str] = []
    for key, values in _DEPENDING.items():
        try:
            check(from_dict(values), algorithm)
        except UserError:
            refused.append(key)
        else:
            taken.append(key)
    return taken, refused
