"""A run before it is begun: what it would do, see and need. Nothing is written, no weights read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from winnow.config.located import located_config, naming_places
from winnow.config.phases import cautions_of
from winnow.config.schema import SHORT, Config
from winnow.config.schema.reward import PartConfig
from winnow.engines.base import Engine
from winnow.engines.factory import engine_for, longest_of_evaluation
from winnow.prompts.loading import clashes
from winnow.rewards.base import AnyReward, scores_of
from winnow.rewards.factory import JUDGE, LEARNED
from winnow.rollouts.generate import evaluation_params
from winnow.rollouts.inputs import flat
from winnow.rollouts.remarks import alike
from winnow.rollouts.reward_errors import is_probed, plain_completions, plain_sample
from winnow.rollouts.rewards import check_reward, reward_for
from winnow.storage.paths import located
from winnow.storage.run_folder import RunStore
from winnow.training.forecast import Disk, Memory, Work, work
from winnow.training.needs import needs
from winnow.training.setup import Plan, plan
from winnow.training.summary import opening
from winnow.types import Prompt


@dataclass(frozen=True)
class Setting:
    """A setting that is not at its default, and what set it."""

    key: str
    value: Any
    source: str


@dataclass(frozen=True)
class Seen:
    """A prompt as the model sees it: its tokens as text, special ones written out."""

    id: str
    text: str
    tokens: int
    answer: str | None


@dataclass(frozen=True)
class Lengths:
    """Tokens of all prompts, training, held-out and test.

    Attributes:
        context: Most tokens that the model takes; ``None`` if it does not say.
        too_long: Prompts that leave no room for a completion; a run refuses to begin with them.
    """

    prompts: int
    shortest: int
    median: float
    longest: int
    context: int | None
    too_long: int


@dataclass(frozen=True)
class Tried:
    """A plain completion and its score, or the verifier's error."""

    completion: str
    score: float | None
    error: str | None


@dataclass(frozen=True)
class Preview:
    """What a run would begin with.

    Attributes:
        settings: Those that are not at their defaults.
        summary: What a run prints first.
        prompt: The first prompt; ``None`` where a file of samples has all.
        lengths: Of prompts; ``None`` likewise.
        tried: The scores of plain completions of the first prompt; empty of a reward that is not
            tried before a run.
        recorded: Samples of files that are trained on.
        parameters, trained: Of the model.
        notes: What a run would say at its beginning, as far as it is known without the weights.
    """

    folder: Path
    device: str
    settings: Sequence[Setting]
    summary: str
    prompt: Seen | None
    lengths: Lengths | None
    reward: str
    tried: Sequence[Tried]
    training: int
    held_out: int
    test: int
    work: Work
    recorded: int
    parameters: int
    trained: int
    disk: Disk
    memory: Memory
    notes: Sequence[str]


def preview(config: Config, *, out: Path, recipe: str | None, sets: Sequence[str]) -> Preview:
    """Check a config as a run does before it loads a model, and estimate what the run will need.

    Args:
        out: The folder that the run would have.
        recipe, sets: Where the config is from, for the table of settings.

    Raises:
        UserError: what a run raises before it loads a model.
    """
    given = config
    out, config = located(out, "out"), located_config(config)
    RunStore.refuse(out)
    with naming_places(config), no_bytecode():
        checked = plan(config)
        first = next(iter(checked.prompts.every), None)
        with reward_for(config, None, first) if not _learned(config) else _checked(config) as made:
            tried = _tried(made, first) if made is not None and config.reward.probe else ()
        engine = engine_for(config)
        return _preview(checked, engine, out, tried, _settings(given, recipe, sets))


def _preview(
    checked: Plan, engine: Engine, out: Path, tried: Sequence[Tried], settings: Sequence[Setting]
) -> Preview:
    config, prompts, phases = checked.config, checked.prompts, checked.phases
    tokens = {prompt.id: engine.encode(prompt) for prompt in prompts.every[:1]}
    first = next(iter(prompts.every), None)
    size = engine.size()
    lengths = _lengths(checked, engine, size.context)
    longest = lengths.longest if lengths else 0
    held_out, test = len(prompts.held_out), len(prompts.test)
    needed = needs(size, config, phases, prompts, longest)
    return Preview(
        folder=out,
        device=engine.device,
        settings=settings,
        summary=opening(config, phases, prompts),
        prompt=None
        if first is None
        else Seen(first.id, engine.decode(tokens[first.id]), len(tokens[first.id]), first.answer),
        lengths=lengths,
        reward=", ".join(table.name for _, table in config.reward.each),
        tried=tried,
        training=len(prompts.train),
        held_out=held_out,
        test=test,
        work=work(config, phases, held_out, test),
        recorded=sum({p.file.path: p.file.table.rows for p in phases if p.file}.values()),
        parameters=size.parameters,
        trained=size.trained,
        disk=needed.disk,
        memory=needed.memory,
        notes=_notes(checked),
    )


def _lengths(checked: Plan, engine: Engine, context: int | None) -> Lengths | None:
    config, prompts = checked.config, checked.prompts
    train = [len(engine.encode(prompt)) for prompt in prompts.train]
    others = [len(engine.encode(prompt)) for prompt in prompts.held_out + prompts.test]
    every = train + others
    if not every:
        return None
    most = max(phase.config.sampling.max_tokens for phase in checked.phases)
    _, evaluated = longest_of_evaluation(config)
    room = [*(length + most for length in train), *(length + evaluated for length in others)]
    return Lengths(
        prompts=len(every),
        shortest=min(every),
        median=median(every),
        longest=max(every),
        context=context,
        too_long=sum(each > context for each in room) if context is not None else 0,
    )


def _notes(checked: Plan) -> list[str]:
    config, prompts = checked.config, checked.prompts
    found = cautions_of(checked.phases)
    if prompts.held_out:
        same = alike(config.eval.samples, evaluation_params(config), "eval.samples")
        found += [same] if same is not None else []
    return [*found, *clashes([*prompts.train, *prompts.held_out])]


def _learned(config: Config) -> bool:
    """Whether scores cost a model, here or behind a server: nothing is tried then."""
    names = [table.name for _, table in config.reward.each]
    return any(name.startswith(LEARNED) or name == JUDGE for name in names)


@contextmanager
def _checked(config: Config) -> Iterator[None]:
    """A reward model is looked for, and not loaded."""
    check_reward(config)
    yield None


def _tried(reward: AnyReward, prompt: Prompt | None) -> tuple[Tried, ...]:
    """The scores of plain completions, as the probe before a run has them."""
    if prompt is None or not is_probed(reward):
        return ()
    texts = plain_completions(prompt)
    scores = scores_of(reward, [(prompt, plain_sample(text)) for text in texts])
    return tuple(
        Tried(text, score.value, score.error) for text, score in zip(texts, scores, strict=True)
    )


@contextmanager
def no_bytecode() -> Iterator[None]:
    """In the block, importing a user's code leaves no file beside it, in child processes too."""
    name = "PYTHONDONTWRITEBYTECODE"
    before, own = os.environ.get(name), sys.dont_write_bytecode
    os.environ[name], sys.dont_write_bytecode = "1", True
    try:
        yield
    finally:
        sys.dont_write_bytecode = own
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _settings(config: Config, recipe: str | None, sets: Sequence[str]) -> list[Setting]:
    """The settings that are not at their defaults, phases by number, and what follows from them."""
    default = flat(_plain(Config()))
    given = [item.partition("=")[0].strip() for item in sets]
    found = []
    for key, value in flat(_plain(config)).items():
        if value is None or _default(key, default) == value:
            continue
        source = f"recipe {recipe or 'arithmetic'}"
        if any(_names(item, key) for item in given):
            source = "--set"
        elif key == "eval.test_size" and value == config.eval.size:
            source = "eval.size"
        found.append(Setting(key, value, source))
    if config.minibatch_prompts is None and not config.phases:
        batch = Setting("minibatch_prompts", config.prompts_per_update, "prompts_per_step")
        found.append(batch)
    return found


def _default(key: str, default: Mapping[str, Any]) -> Any:
    """The default of a setting; one of several rewards has those of its own table."""
    part = _OF_A_PART.fullmatch(key)
    return default.get(key) if part is None else PartConfig.model_fields[part[1]].default


_OF_A_PART = re.compile(r"reward\.parts\.\d+\.(\w+)")


def _plain(config: Config) -> Mapping[str, Any]:
    return {key: value for key, value in config.model_dump(mode="json").items() if value != []}


def _names(item: str, key: str) -> bool:
    """Whether a key of `--set` is this one, its table, or its short form."""
    return key == item or key.startswith(f"{item}.") or f"{item}.{SHORT.get(item)}" == key
