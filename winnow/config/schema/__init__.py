"""The config, typed; unknown keys are refused with the nearest name.

Each table of settings has a file here, each field a type, a default and a line of help: together
they are the manual that `docs/config.md` and `winnow train --help` point at. Importing it does not
import torch. `recipe.py` reads one from TOML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from winnow.config.messages import complaint, shown
from winnow.config.schema.alarms import AlarmsConfig
from winnow.config.schema.algorithm import AlgorithmConfig
from winnow.config.schema.anchor import AnchorConfig
from winnow.config.schema.base import Section, listed
from winnow.config.schema.bounds import Count, Name, ParallelOrNone, Seed, Size, Times
from winnow.config.schema.budget import BudgetConfig
from winnow.config.schema.checkpoint import CheckpointConfig
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.engine import EngineConfig
from winnow.config.schema.eval import EvalConfig
from winnow.config.schema.lora import LoraConfig
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.config.schema.prompts import PromptsConfig
from winnow.config.schema.ray import RayConfig
from winnow.config.schema.reward import RewardConfig
from winnow.config.schema.rounds import RoundsConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.errors import UserError

SHORT = {"algorithm": "name", "prompts": "source", "reward": "name"}
"""Tables that may be written as one string, and the key that the string then stands for."""
LISTED = {"reward": "parts"}
"""Tables that may be written as a list, and the key that the list then stands for."""


MOST_PHASES = 1000
"""Of a run, its cycles included."""
_DEVICE = re.compile(r"auto|(?:cpu|cuda|hip|hpu|meta|mps|mtia|xla|xpu)(?::\d+)?")
"""What torch may know; whether this machine has it is asked when the run is checked."""
_DEEPEST = 32
"""How deep settings may be nested; what writes and merges them descends into each table."""


class Config(Section):
    """Everything that a run is made of."""

    model: Name = Field("smollm2-135m", description="Hub id, folder, .gguf file, 'smollm2-135m'.")
    samples_from: Name | None = Field(
        None, description="Model to sample from, with resample 'once'. Default: `model`."
    )
    samples_file: Name | None = Field(
        None, description="Train on this file or folder of scored samples instead of sampling."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Data type of the weights."
    )
    device: Name = Field("auto", description="'auto', 'cpu', 'cuda', 'cuda:1'.")
    threads: ParallelOrNone = Field(0, description="CPU threads; 0: torch's choice.")
    seed: Seed = Field(0, description="Everything random follows from it.")
    steps: Count = Field(
        30,
        description="Steps; with resample 'once', per epoch; a file of samples is read whole.",
    )
    prompts_per_step: Size = Field(16, description="Prompts sampled for each step.")
    samples_per_prompt: Size = Field(8, description="Samples per prompt.")
    minibatch_prompts: Size | None = Field(
        None, description="Prompts in one update. Default: prompts_per_step."
    )
    microbatch_tokens: Count = Field(
        1024, description="Most tokens in a forward pass; bounds memory."
    )
    reference: Name = Field(
        "start",
        description="For KL, DPO: 'start', 'phase' (as the phase began), 'ema(0.99)', a model.",
    )
    phases: list[dict[str, Any]] = Field(
        [],
        max_length=MOST_PHASES,
        description="Settings of each phase, as [[phases]]; see docs/phases.md.",
    )
    cycles: Times = Field(1, description="Times to go through the phases.")
    report: bool = Field(True, description="Write report.html, the page of a run, at its end.")
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        [], description="Experiment trackers that are told of the run; docs/trackers.md."
    )
    algorithm: AlgorithmConfig = AlgorithmConfig()
    prompts: PromptsConfig = PromptsConfig()
    reward: RewardConfig = RewardConfig()
    sampling: SamplingConfig = SamplingConfig()
    engine: EngineConfig = EngineConfig()
    ray: RayConfig = RayConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    critic: CriticConfig = CriticConfig()
    lora: LoraConfig = LoraConfig()
    rounds: RoundsConfig = RoundsConfig()
    anchor: AnchorConfig = AnchorConfig()
    eval: EvalConfig = EvalConfig()
    budget: BudgetConfig = BudgetConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    alarms: AlarmsConfig = AlarmsConfig()

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, value: str) -> str:
        if _DEVICE.fullmatch(value) is None:
            raise PydanticCustomError(
                "literal_error", "unknown device", {"expected": "'cpu', 'cuda' or 'auto'"}
            )
        return value

    _one = field_validator("trackers", mode="before")(listed)

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("a tracker is named twice")
        return value

    _beside: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def beside(self) -> Mapping[str, str]:
        """The recipe's folder, by each setting of the recipe that names nothing found there."""
        return self._beside

    def looked_beside(self, beside: Mapping[str, str]) -> Config:
        """The same config, made from a recipe; see `beside`."""
        made = self.model_copy()
        made._beside = dict(beside)
        return made

    @property
    def sampling_model(self) -> str:
        """What the engine's sampler samples from, as the samples name it."""
        return self.engine.served_model or self.model

    @property
    def prompts_per_update(self) -> int:
        """`minibatch_prompts`, or its default."""
        return self.minibatch_prompts or self.prompts_per_step

    @property
    def minibatches(self) -> int:
        """Mini-batches in one pass over the samples of a step."""
        return -(-self.prompts_per_step // self.prompts_per_update)

    @property
    def learner_rounds_to(self) -> Literal["float32", "bfloat16"]:
        """The data type of the matrix products that the learner's log-probs are made of."""
        return "bfloat16" if self.optimizer.precision == "mixed" else self.dtype

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        """`algorithm = "grpo"` for `[algorithm] name = "grpo"`, `[[reward]]`, and so on."""
        if not isinstance(values, dict):
            return values
        return {key: table_of(key, value) for key, value in values.items()}


def table_of(key: str, value: Any) -> Any:
    """The table that a short form of it stands for; any other value as it is."""
    if key in SHORT and isinstance(value, str):
        return {SHORT[key]: value}
    return {LISTED[key]: value} if key in LISTED and isinstance(value, list | tuple) else value


def from_dict(values: Mapping[str, Any]) -> Config:
    """A config from nested settings; the first thing wrong becomes one line."""
    _check_plain(values)
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise complaint(error, Config) from error


def _check_plain(values: Mapping[str, Any]) -> None:
    """Raise a `UserError` for what no file can hold: half characters, endless nesting."""
    left: list[tuple[str, object, int]] = [("", values, 0)]
    while left:
        key, value, depth = left.pop()
        if depth > _DEEPEST:
            raise UserError(key, f"it is nested more than {_DEEPEST} deep")
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise UserError(key, f"must be text in UTF-8 (got {shown(value)})")
        if isinstance(value, Mapping):
            for name, inner in value.items():
                path = f"{key}.{name}" if key else str(name)
                left += [(path, inner, depth + 1), (key, name, depth)]
        elif isinstance(value, list | tuple):
            left += [(f"{key}.{place}", inner, depth + 1) for place, inner in enumerate(value)]
