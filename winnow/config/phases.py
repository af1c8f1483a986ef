"""The phases of a run: one, or what [[phases]] says, each with its own algorithm and settings.

[[phases]]
algorithm = "raft"
steps = 10

[[phases]]
algorithm = "ppo"
steps = 20
optimizer.lr = 2e-6
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from winnow.algorithms.algorithm import Algorithm
from winnow.config.former import FORMER_BATCH
from winnow.config.messages import keys_of, shown, unknown, unknown_in
from winnow.config.recipe import cells_of, merge
from winnow.config.schema import MOST_PHASES, Config, from_dict
from winnow.config.unread import unused
from winnow.config.validation import cautions, check, refuse
from winnow.errors import UserError, number_of
from winnow.storage.sample_table import SampleTable

_OWN = (
    "algorithm",
    "steps",
    "samples_file",
    "prompts_per_step",
    "samples_per_prompt",
    "minibatch_prompts",
    "microbatch_tokens",
    "reference",
    "sampling",
    "optimizer",
    "critic",
    "rounds",
    "anchor",
)
"""What a phase may set; the model, prompts and rewards are the run's."""
_COUNTS = ("prompts_per_step", "samples_per_prompt", "minibatch_prompts", "microbatch_tokens")
_FROM = "start_from"
"""Where a phase starts: at `policy`, as the phase before left it, or at `start`."""


@dataclass(frozen=True)
class File:
    """A file of samples that a run can train on, checked as far as possible without the model."""

    path: str
    table: SampleTable
    notes: tuple[str, ...]

    def steps(self, prompts_per_step: int) -> int:
        """Steps of one pass over the file."""
        return -(-len(self.table) // prompts_per_step)

    @property
    def summary(self) -> str:
        samples = number_of(self.table.rows, "sample")
        return f"{self.path}: {samples} of {number_of(len(self.table), 'prompt')}"

    def prompts(self) -> list[str]:
        """The distinct prompts, as texts."""
        return self.table.values("prompt")


OpenFile = Callable[[Config, Algorithm], File]


@dataclass(frozen=True)
class Phase:
    """One phase, checked.

    Attributes:
        number: From 1, through all cycles.
        name: What a recipe calls it, such as `phases.2`; empty where there is only one.
        before: Steps of the run before it.
        restarts: Whether it goes back to the run's starting weights.
        first_prompt: Prompts that the phases before it sample, refilling aside.
    """

    number: int
    name: str
    config: Config
    algorithm: Algorithm
    file: File | None
    before: int
    restarts: bool = False
    first_prompt: int = 0

    @property
    def begins_at_start(self) -> bool:
        """Whether its first policy is the run's first."""
        return self.before == 0 or self.restarts

    @property
    def samples_each_step(self) -> bool:
        """Whether each step makes its own samples."""
        return self.file is None and self.algorithm.resample == "every-step"

    @property
    def steps(self) -> int:
        """Its number of steps."""
        rounds = self.config.steps
        if self.file is not None:
            rounds = self.file.steps(self.config.prompts_per_step)
        return rounds if self.samples_each_step else rounds * self.algorithm.epochs

    @property
    def last(self) -> int:
        """The number of its last step."""
        return self.before + self.steps

    @property
    def updates(self) -> int:
        """Updates of its learning-rate schedule, which is that of one round if each restarts."""
        return self._passes * self._most if self.config.rounds.restart else self.all_updates

    @property
    def all_updates(self) -> int:
        """Updates of all its steps, where none is skipped."""
        # The first rounds have fewer earlier ones than are merged, all others as many.
        merge = min(self.config.rounds.merge, self.steps - 1)
        first = sum(map(self._batches, range(1, merge + 1)))
        return self._passes * (first + self._most * (self.steps - merge))

    @property
    def _passes(self) -> int:
        return self.algorithm.epochs if self.samples_each_step else 1

    @property
    def _most(self) -> int:
        return self._batches(min(self.config.rounds.merge, self.steps - 1) + 1)

    def _batches(self, rounds: int) -> int:
        return -(-self.config.prompts_per_step * rounds // self.config.prompts_per_update)

    @property
    def prompts(self) -> int:
        """How many prompts it samples, refilling aside."""
        return 0 if self.file is not None else self.config.steps * self.config.prompts_per_step

    @property
    def refers(self) -> bool:
        return "ref" in self.algorithm.needs

    @property
    def sampled_from(self) -> str:
        """The model that makes its samples."""
        other = self.config.samples_from if self.algorithm.resample == "once" else None
        return other or self.config.model


def phases_of(
    config: Config, algorithm: Algorithm | None = None, open_file: OpenFile | None = None
) -> tuple[Phase, ...]:
    """The phases of a config, in order.

    Args:
        algorithm: One made in Python, instead of the config's.
        open_file: Reads the file of samples that a phase trains on; not needed where none does.

    Raises:
        UserError: whatever is wrong with one of them.
    """
    if not config.phases:
        row = algorithm or config.algorithm.build()
        return (_phase(1, "", config, row, open_file),)
    if algorithm is not None:
        raise UserError("phases", "each phase names its own algorithm", "give no other beside them")
    total = len(config.phases) * config.cycles
    if total > MOST_PHASES:
        problem = f"the phases come to {total:,} with it, and a run has at most {MOST_PHASES:,}"
        raise UserError("cycles", problem, "lower it")
    _check_names(config.phases)
    cycle: list[Phase] = []
    for place, settings in enumerate(config.phases, start=1):
        own, restarts = _over(config, settings, f"phases.{place}")
        with naming(f"phases.{place}"):
            row = own.algorithm.build()
            said = _said(settings)
            refuse(error for error in unused(own, [row]) if error.setting in said)
            cycle.append(_phase(place, f"phases.{place}", own, row, open_file, restarts))
    rows = [phase.algorithm for phase in cycle]
    refuse(unused(config, rows))
    refuse(_overruled(config))
    if config.samples_from is not None and not any(row.resample == "once" for row in rows):
        problem = "only a phase that samples once can sample from another model, and none does"
        remedy = "set algorithm.resample = 'once' in one, or leave samples_from out"
        raise UserError("samples_from", problem, remedy)
    return _in_turn(cycle * config.cycles)


def cautions_of(phases: Sequence[Phase]) -> list[str]:
    """What is allowed and may surprise, each once, with the phases that it is about if not all."""
    found: dict[str, list[str]] = {}
    for phase in phases:
        for caution in cautions(phase.config, phase.algorithm, rounds=phase.samples_each_step):
            found.setdefault(caution, []).append(phase.name)
    every = {phase.name for phase in phases}
    return [
        caution if set(names) == every else f"{', '.join(dict.fromkeys(names))}: {caution}"
        for caution, names in found.items()
    ]


def _check_names(phases: Sequence[Mapping[str, Any]]) -> None:
    """Raise a `UserError` for all the settings of phases that are none."""
    own = [key for key in keys_of(Config) if key.partition(".")[0] in _OWN]
    known = {*own, _FROM, *(key for key in Config.model_fields if key not in _OWN)}
    found = {
        (f"phases.{place}", ".".join(path)): path
        for place, settings in enumerate(phases, start=1)
        for path in unknown_in(settings, known)
    }
    if not found:
        return
    if len({phase for phase, _ in found}) == 1:
        ((phase, _), *_) = found
        raise unknown({key: path for (_, key), path in found.items()}, [*own, _FROM]).with_(
            setting=phase
        )
    raise unknown({f"{phase}.{key}": path for (phase, key), path in found.items()}, [*own, _FROM])


def _said(settings: Mapping[str, Any]) -> set[str]:
    """The settings of a phase, cells of its algorithm by their own keys."""
    cells = settings.get("algorithm")
    inner = cells if isinstance(cells, Mapping) else {}
    return {*settings, *(f"algorithm.{cell}" for cell in inner)}


def _in_turn(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """The phases with their numbers, and with what comes before each."""
    found: list[Phase] = []
    before = sampled = 0
    for number, phase in enumerate(phases, start=1):
        found.append(replace(phase, number=number, before=before, first_prompt=sampled))
        before, sampled = before + phase.steps, sampled + phase.prompts
    return tuple(found)


def _overruled(config: Config) -> Iterator[UserError]:
    """Settings above the phases that each of them sets for itself."""
    for key in ("algorithm", "steps", "samples_file", *_COUNTS, "reference"):
        value = getattr(config, key)
        asked = value != Config.model_fields[key].default and (key, value) != FORMER_BATCH
        if asked and all(_replaces(key, settings.get(key)) for settings in config.phases):
            yield UserError(key, "every phase has its own, so this does nothing", "set it there")


def _replaces(key: str, value: object) -> bool:
    """Whether what a phase sets leaves nothing of the setting above it."""
    cells_alone = key == "algorithm" and isinstance(value, Mapping) and "name" not in value
    return value is not None and not cells_alone


def resolved(config: Config, phases: Sequence[Phase]) -> Config:
    """The config with every cell of the phases' algorithms, and their mini-batches, written out."""
    written = [
        {**settings, "algorithm": cells_of(phase.algorithm), **_batch(phase.config)}
        for settings, phase in zip(config.phases, phases, strict=False)
    ]
    alone = {} if config.phases else _batch(config)
    return config.model_copy(update={"phases": written, **alone})


def _batch(config: Config) -> dict[str, Any]:
    """A mini-batch by default, which another `prompts_per_step` above the phases would change."""
    default = config.minibatch_prompts is None
    return {"minibatch_prompts": config.prompts_per_update} if default else {}


@contextmanager
def naming(name: str) -> Iterator[None]:
    """In the block, errors about a phase's settings name the phase."""
    try:
        yield
    except UserError as error:
        if not name or error.setting.partition(".")[0] not in _OWN:
            raise
        raise error.with_(setting=f"{name}.{error.setting}") from error


def _phase(
    number: int,
    name: str,
    config: Config,
    algorithm: Algorithm,
    open_file: OpenFile | None,
    restarts: bool = False,
) -> Phase:
    """A phase that was checked, as if it were the first."""
    check(config, algorithm)
    file = None
    if config.samples_file is not None:
        assert open_file is not None, "a phase trains on a file, and nobody reads it"
        file = open_file(config, algorithm)
    phase = Phase(number, name, config, algorithm, file, 0, restarts)
    if "values" in algorithm.needs and config.critic.warmup >= phase.updates:
        problem = f"there are only {phase.updates} updates, so the policy would never be trained"
        raise UserError("critic.warmup", problem, "lower it")
    return phase


def _over(config: Config, settings: Mapping[str, Any], name: str) -> tuple[Config, bool]:
    """The config of a phase, and whether it begins with the starting weights."""
    given = dict(settings)
    begin = given.pop(_FROM, "policy")
    if begin not in ("policy", "start"):
        problem = f"unknown start {shown(begin)}"
        raise UserError(f"{name}.{_FROM}", problem, "use 'policy' or 'start'")
    for key in given:
        if key not in _OWN:
            raise UserError(f"{name}.{key}", "a phase cannot set it", "set it above the phases")
    for key in given["sampling"] if isinstance(given.get("sampling"), Mapping) else ():
        if key in ("batch", "cache_gib", "dtype"):
            problem = "it must be the same in all phases"
            raise UserError(f"{name}.sampling.{key}", problem, "set it above them")
    values = config.model_dump(exclude_none=True)
    named = given.get("algorithm")
    if isinstance(named, Mapping) and "name" in named:
        values.pop("algorithm")  # another row: cells that were set for the run's are not its own
    merge(values, given)
    try:
        return from_dict(values), begin == "start"
    except UserError as error:
        setting = f"{name}.{error.setting}" if error.setting else name
        raise error.with_(setting=setting) from error
