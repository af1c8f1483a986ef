"""Settings that nothing would read: who reads each, and when.

A setting that differs from its default and would do nothing is refused, so that nobody believes in
it. Not here: `[engine]` and `prompts.system`, whose tables know it alone, and options of verifiers,
which `rewards` knows. Nor is a setting refused that one command reads and another does not, since
one recipe is for `winnow sample`, `winnow eval` and `winnow train`: `[sampling]` beside
`samples_file`, say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter

from winnow.algorithms.advantages import Extremes, One, Standardised
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.spec import show
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import Config
from winnow.config.schema.reward import PartConfig
from winnow.errors import UserError
from winnow.rewards.factory import isolated, tried


@dataclass(frozen=True)
class Reader:
    """When some settings are read.

    Attributes:
        keys: The settings.
        reads: Whether a config has them read.
        problem: Why they would do nothing.
        remedy: What to do, beside leaving them out.
    """

    keys: tuple[str, ...]
    reads: Callable[[Config], bool]
    problem: str
    remedy: str

    def unread(self, config: Config) -> Iterator[UserError]:
        """A complaint for each of the settings that is not at its default, if nothing reads it."""
        if self.reads(config):
            return
        for key in self.keys:
            if attrgetter(key)(config) != attrgetter(key)(_defaults()):
                remedy = f"{self.remedy}, or leave it out (--set {key}= does)"
                yield UserError(key, self.problem, remedy)


@cache
def _defaults() -> Config:
    return Config()


def _generates(source: str) -> bool:
    return source == "arithmetic" or source.startswith("gym:")


def _has_rows(source: str) -> bool:
    return not _generates(source)


def _of_prompts(config: Config, test: Callable[[str], bool]) -> bool:
    """Whether a test holds of the source of training or of held-out prompts."""
    return any(test(each) for each in (config.prompts.source, config.eval.source) if each)


def _of_anchor(config: Config, test: Callable[[str], bool]) -> bool:
    return config.anchor.source is None or test(config.anchor.source)


def _eval_temperature(config: Config) -> float:
    own = config.eval.temperature
    return config.sampling.temperature if own is None else own


LIMITS = ("time_limit", "workers", "import_seconds", "memory_gib")
"""Settings of verifiers that have processes of their own."""
_WITHOUT_LIMITS = (
    "this verifier runs in the process of the run, without a limit",
    "use a verifier with processes of its own (math, regex, gym, module:function)",
)
ALWAYS = (
    Reader(
        ("prompts.split",),
        lambda config: _of_prompts(config, lambda source: source.startswith("hub:")),
        "only data sets of the hub have splits",
        "set prompts.source = 'hub:NAME'",
    ),
    Reader(
        ("prompts.prompt_column", "prompts.answer_column", "prompts.difficulty_column"),
        lambda config: _of_prompts(config, _has_rows),
        "prompts that are generated have no columns",
        "set prompts.source to a file or 'hub:NAME'",
    ),
    Reader(
        ("prompts.operations", "prompts.digits"),
        lambda config: _of_prompts(config, lambda source: source == "arithmetic"),
        "no prompts are 'arithmetic'",
        "set prompts.source = 'arithmetic'",
    ),
    Reader(
        ("prompts.size",),
        lambda config: _of_prompts(config, _generates),
        "no prompts are generated",
        "set prompts.limit",
    ),
    Reader(
        ("reward.name", "reward.options", *(f"reward.{limit}" for limit in LIMITS)),
        lambda config: not config.reward.parts,
        "the parts of a reward have their own",
        "set it in [[reward]]",
    ),
    Reader(
        tuple(f"reward.{limit}" for limit in LIMITS),
        lambda config: bool(config.reward.parts) or isolated(config.reward.name),
        *_WITHOUT_LIMITS,
    ),
    Reader(
        ("reward.probe",),
        lambda config: any(tried(each.name) for _, each in config.reward.each),
        "a reward model is not tried before the run",
        "use a verifier",
    ),
    Reader(
        ("optimizer.precision",),
        lambda config: config.dtype == "float32",
        "weights in bfloat16 are multiplied in bfloat16 as it is",
        "set dtype = 'float32'",
    ),
    Reader(
        ("optimizer.precision",),
        lambda config: config.engine.learner == "local",
        "engine.learner = 'fsdp' has float32 weights and bfloat16 products with dtype = 'bfloat16'",
        "set that",
    ),
    Reader(
        ("lora.alpha", "lora.targets", "lora.merge"),
        lambda config: config.lora.rank > 0,
        "without a rank there are no adapters",
        "set lora.rank",
    ),
    Reader(
        (
            "anchor.split",
            "anchor.prompt_column",
            "anchor.completion_column",
            "anchor.template",
            "anchor.ratio",
            "anchor.coefficient",
        ),
        lambda config: config.anchor.source is not None,
        "no examples are named",
        "set anchor.source",
    ),
    Reader(
        ("anchor.split",),
        lambda config: _of_anchor(config, lambda source: source.startswith("hub:")),
        "only data sets of the hub have splits",
        "set anchor.source = 'hub:NAME'",
    ),
    Reader(
        ("anchor.prompt_column", "anchor.completion_column"),
        lambda config: _of_anchor(config, _has_rows),
        "examples that are generated have no columns",
        "set anchor.source to a file or 'hub:NAME'",
    ),
    Reader(
        ("sampling.top_k", "sampling.top_p"),
        lambda config: config.sampling.temperature > 0 or bool(config.eval.temperature),
        "at temperature 0 the likeliest token is taken",
        "set sampling.temperature above 0",
    ),
    Reader(
        ("eval.top_k", "eval.top_p"),
        lambda config: _eval_temperature(config) > 0,
        "at temperature 0 the likeliest token is taken",
        "set eval.temperature above 0",
    ),
    Reader(
        ("sampling.dtype",),
        lambda config: (config.engine.sampler, config.engine.learner) == ("local", "local"),
        "only the local sampler beside the local learner samples from a copy",
        "set engine.sampler and engine.learner to 'local' (vLLM has engine.vllm_dtype)",
    ),
    Reader(
        ("cycles",),
        lambda config: bool(config.phases),
        "there are no phases to repeat",
        "set phases, or more steps",
    ),
)
"""Of every command."""
TRAINING = (
    Reader(
        (
            "eval.samples",
            "eval.temperature",
            "eval.top_k",
            "eval.top_p",
            "eval.max_tokens",
            "eval.every",
            "eval.kl_prompts",
        ),
        lambda config: config.eval.size != 0,
        "with eval.size = 0 there are no evaluations",
        "set eval.size",
    ),
)
"""Of training alone: `winnow sample` may have other held-out prompts, or none."""
_ANY_SCALE = (One, Standardised, Extremes)
"""Advantages that are the same of rewards r and 2 r - 1."""


def unread(config: Config, *, training: bool = False) -> Iterator[UserError]:
    """Settings that nothing reads, whatever the algorithm."""
    for reader in (*ALWAYS, *(TRAINING if training else ())):
        yield from reader.unread(config)
    for number, part in enumerate(config.reward.parts, start=1):
        for limit in LIMITS if not isolated(part.name) else ():
            if getattr(part, limit) != PartConfig.model_fields[limit].default:
                problem, remedy = _WITHOUT_LIMITS
                yield UserError(
                    f"reward.parts.{number}.{limit}", problem, f"{remedy}, or leave it out"
                )


def unused(config: Config, algorithms: Sequence[Algorithm]) -> Iterator[UserError]:
    """Settings that none of the algorithms reads."""
    names = ", ".join(dict.fromkeys(row.name for row in algorithms))
    if config.reference != "start" and not any("ref" in row.needs for row in algorithms):
        remedy = "set algorithm.kl (such as 'in-loss(0.04)'), or leave it out"
        yield UserError("reference", f"{names} does not compare with a reference", remedy)
    if config.critic != _defaults().critic and not any("values" in row.needs for row in algorithms):
        remedy = "leave it out, or use an algorithm with a critic (ppo)"
        yield UserError("critic", f"{names} has no critic", remedy)
    usual = Algorithm("")
    own = ALGORITHMS.get(config.algorithm.name, usual).reward_scale
    if config.algorithm.reward_scale not in (None, own) and all(
        isinstance(row.advantage, _ANY_SCALE) for row in algorithms
    ):
        what = show(algorithms[0].advantage)
        problem = f"advantage {what} is the same with either scale"
        remedy = "leave it out, or use another advantage (reward, centred)"
        yield UserError("algorithm.reward_scale", problem, remedy)
    asked = [r for r in algorithms if r.refill not in (0, ALGORITHMS.get(r.name, usual).refill)]
    if asked and not any(row.may_refill for row in asked):
        rules = [show(rule) for rule in asked[0].select]
        problem = f"every prompt has survivors with algorithm.select = {rules}"
        remedy = "leave it out, or set algorithm.select = ['mixed'], as dapo has"
        yield UserError("algorithm.refill", problem, remedy)
