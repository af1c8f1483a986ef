"""The config, typed; unknown keys are refused with the nearest name.

Each table of settings has a file here, each field a type, a default and a line of help: together
they are the manual that `docs/config.md` and `winnow train --help` point at. Importing it does not
import torch. `recipe.py` reads one from TOML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from winnow.config.messages import complaint
from winnow.config.schema.algorithm import AlgorithmConfig
from winnow.config.schema.anchor import AnchorConfig
from winnow.config.schema.base import Section
from winnow.config.schema.checkpoint import CheckpointConfig
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.engine import EngineConfig
from winnow.config.schema.eval import EvalConfig
from winnow.config.schema.lora import LoraConfig
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.config.schema.prompts import PromptsConfig
from winnow.config.schema.reward import RewardConfig
from winnow.config.schema.rounds import RoundsConfig
from winnow.config.schema.sampling import SamplingConfig

SHORT = {"algorithm": "name", "prompts": "source", "reward": "name"}
"""Tables that may be written as one string, and the key that the string then stands for."""


class Config(Section):
    """Everything that a run is made of."""

    model: str = Field("smollm2-135m", description="Hub id, folder, .gguf file, 'smollm2-135m'.")
    samples_from: str | None = Field(
        None, description="Model to sample from, with resample 'once'. Default: `model`."
    )
    samples_file: str | None = Field(
        None, description="Train on this file or folder of scored samples instead of sampling."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Data type of the weights."
    )
    device: str = Field("auto", description="'auto', 'cpu', 'cuda', 'cuda:1'.")
    threads: int = Field(0, ge=0, description="CPU threads; 0: torch's choice.")
    seed: int = Field(0, ge=0, description="Everything random follows from it.")
    steps: int = Field(
        30,
        ge=1,
        description="Steps; with resample 'once', per epoch; a file of samples is read whole.",
    )
    prompts_per_step: int = Field(16, ge=1, description="Prompts sampled for each step.")
    samples_per_prompt: int = Field(8, ge=1, description="Samples per prompt.")
    minibatch_prompts: int = Field(16, ge=1, description="Prompts in one update.")
    microbatch_tokens: int = Field(
        1024, ge=1, description="Most tokens in a forward pass; bounds memory."
    )
    reference: str = Field(
        "start",
        description="For KL, DPO: 'start', 'phase' (as the phase began), 'ema(0.99)', a model.",
    )
    phases: list[dict[str, Any]] = Field(
        [], description="Settings of each phase, as [[phases]]; see docs/phases.md."
    )
    cycles: int = Field(1, ge=1, description="Times to go through the phases.")
    algorithm: AlgorithmConfig = AlgorithmConfig()
    prompts: PromptsConfig = PromptsConfig()
    reward: RewardConfig = RewardConfig()
    sampling: SamplingConfig = SamplingConfig()
    engine: EngineConfig = EngineConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    critic: CriticConfig = CriticConfig()
    lora: LoraConfig = LoraConfig()
    rounds: RoundsConfig = RoundsConfig()
    anchor: AnchorConfig = AnchorConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def sampling_model(self) -> str:
        """What the engine's sampler samples from, as the samples name it."""
        return self.engine.served_model or self.model

    @property
    def minibatches(self) -> int:
        """Mini-batches in one pass over the samples of a step."""
        return -(-self.prompts_per_step // self.minibatch_prompts)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        """`algorithm = "grpo"` for `[algorithm] name = "grpo"`, and so on."""
        if not isinstance(values, dict):
            return values
        return {
            key: {SHORT[key]: value} if key in SHORT and isinstance(value, str) else value
            for key, value in values.items()
        }


def from_dict(values: Mapping[str, Any]) -> Config:
    """A config from nested settings; the first thing wrong becomes one line."""
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise complaint(error, Config) from error
