"""One typed config; unknown keys are refused with the nearest name.

Each field has a type, a default and one line: this file is the manual that `docs/config.md` and
`winnow train --help` point at. Importing it does not import torch. `recipe.py` reads one from TOML.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.table import ALGORITHMS
from winnow.config.messages import one_line
from winnow.errors import UserError, nearest

SHORT = {"algorithm": "name", "prompts": "source", "reward": "name"}
"""Tables that may be written as one string, and the key that the string then stands for."""


OWN = "own:"
"""Before the recorded name of an algorithm that was made in Python and no cells can restore."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


def _listed(value: object) -> object:
    """One value stands for a list of it."""
    if isinstance(value, tuple):
        return list(value)
    return [value] if isinstance(value, str | int) else value


class AlgorithmConfig(_Section):
    """A row of the table, and cells over it. `algorithm = "x"` is short for `algorithm.name`."""

    name: str = Field("raft++", description="A row of `winnow algorithms`.")
    select: list[str] | None = Field(
        None, min_length=1, description="Rules in order, e.g. ['correct']."
    )
    advantage: str | None = Field(None, description="What a survivor weighs, e.g. 'centred'.")
    reward_scale: Literal["0/1", "-1/+1"] | None = Field(None, description="r, or 2 r - 1.")
    loss: str | None = Field(None, description="E.g. 'clipped(low=0.2, high=0.28)'.")
    denominator: str | None = Field(None, description="E.g. 'draw-means'.")
    draws: Literal["every-step", "once"] | None = Field(None, description="When draws are made.")
    epochs: int | None = Field(None, ge=1, description="Passes over each set of draws.")
    kl: str | None = Field(None, description="E.g. 'none', 'in-reward(0.05)', 'in-loss(0.04, k3)'.")
    entropy: float | None = Field(None, ge=0, description="Coefficient of the entropy bonus.")
    critic: str | None = Field(None, description="E.g. 'none', 'value(clip=0.2, coefficient=0.5)'.")
    refill: int | None = Field(
        None, ge=0, description="How often prompts are drawn for those without a survivor."
    )

    _one_rule = field_validator("select", mode="before")(_listed)

    @property
    def made_in_python(self) -> bool:
        """Whether it stands for an algorithm that only its maker can pass again."""
        return self.name.startswith(OWN)

    def build(self, table: Mapping[str, Algorithm] = ALGORITHMS) -> Algorithm:
        """The algorithm: the named row with these cells over it, or a new row made of all cells.

        Raises:
            UserError: an unknown row, or a cell that does not parse.
        """
        if self.made_in_python:
            raise UserError(
                f"algorithm: {self.name.removeprefix(OWN)!r} was made in Python and is more than "
                "a recipe can say; pass it again: winnow.train(resume=..., algorithm=...)"
            )
        cells = self.model_dump(exclude={"name"})
        if None not in cells.values():
            return table.get(self.name, Algorithm(self.name)).with_cells(cells)
        if self.name not in table:
            raise UserError(
                f"algorithm: no row {self.name!r}; {nearest(self.name, table)} "
                "(`winnow algorithms` prints the table)"
            )
        given = {key: value for key, value in cells.items() if value is not None}
        return table[self.name].with_cells(given)


class PromptsConfig(_Section):
    """Where prompts come from. `prompts = "x"` is short for `prompts.source = "x"`."""

    source: str = Field(
        "arithmetic",
        description="'arithmetic', a .jsonl or .parquet file, 'hub:NAME[:CONFIG]', 'gym:TASK'.",
    )
    split: str = Field("train", description="Split of a hub data set.")
    prompt_column: str = Field("prompt", description="Column with the question (or messages).")
    answer_column: str = Field("answer", description="Column that verifiers compare with.")
    difficulty_column: str | None = Field(None, description="Column to break success down by.")
    template: str | None = Field(
        None, description="Prompt text with {column} filled in; {{ and }} are braces."
    )
    chat: bool = Field(False, description="Send the prompt through the model's chat template.")
    system: str | None = Field(None, description="System message, with `chat`.")
    limit: int | None = Field(None, ge=1, description="At most so many training prompts.")
    operations: list[Literal["+", "-", "*"]] = Field(
        ["+"], min_length=1, description="Arithmetic operations."
    )
    digits: list[Annotated[int, Field(ge=1, le=12)]] = Field(
        [2], min_length=1, description="Arithmetic operand lengths, mixed evenly."
    )
    size: int = Field(10_000, ge=1, description="Training prompts that a generator makes.")

    _one = field_validator("operations", "digits", mode="before")(_listed)

    @model_validator(mode="after")
    def _system_needs_chat(self) -> PromptsConfig:
        if self.system is not None and not self.chat:
            raise ValueError(
                "prompts.system needs prompts.chat = true; or leave it out "
                "(--set prompts.system= does)"
            )
        return self


class RewardConfig(_Section):
    """How a completion is scored. `reward = "x"` is short for `reward.name = "x"`."""

    name: str = Field("number", description="A built-in verifier, or 'module:function'.")
    options: dict[str, Any] = Field({}, description="Options of the built-in verifier.")
    time_limit: float = Field(10.0, gt=0, description="Seconds a verifier may take for a draw.")
    workers: int = Field(2, ge=1, description="Verifier processes.")
    right_at: float = Field(1.0, description="A reward of at least this is a right answer.")

    @field_validator("options")
    @classmethod
    def _can_be_recorded(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            tomli_w.dumps(value)
        except TypeError as error:
            raise ValueError(f"must be what TOML can hold: {error}") from error
        return value


class SamplingConfig(_Section):
    """How answers are drawn."""

    temperature: float = Field(1.0, gt=0, description="Of the softmax that draws are made from.")
    top_k: int = Field(0, ge=0, description="Keep the k likeliest tokens; 0: all of them.")
    top_p: float = Field(1.0, gt=0, le=1, description="Keep the nucleus of this mass; 1: all.")
    max_tokens: int = Field(256, ge=1, description="Longest answer, in tokens.")
    stop: list[str] = Field([], description="An answer ends before any of these.")
    batch: int = Field(256, ge=1, description="Most answers under way at a time.")
    cache_gib: float = Field(
        2.0, gt=0, description="Room for their keys and values, GiB; where short, fewer at a time."
    )

    _one = field_validator("stop", mode="before")(_listed)

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: list[str]) -> list[str]:
        if "" in value:
            raise ValueError("an empty stop string would end every answer")
        return value

    @property
    def truncated(self) -> bool:
        return self.top_k > 0 or self.top_p < 1


_Decay = Annotated[float, Field(ge=0, lt=1)]


class ServerConfig(_Section):
    """An OpenAI-compatible server that draws instead of a model in this process."""

    url: str | None = Field(None, description="E.g. 'http://localhost:8000/v1'.")
    model: str | None = Field(None, description="Its name at the server. Default: `model`.")
    api: Literal["completions", "chat"] = Field("completions", description="Which endpoint.")
    concurrency: int = Field(16, ge=1, description="Requests in flight.")
    requests_per_minute: float = Field(0.0, ge=0, description="0: no limit.")
    timeout: float = Field(120.0, gt=0, description="Seconds that a request may take.")
    retries: int = Field(6, ge=0, description="Further attempts at a request, with back-off.")
    key_env: str | None = Field(
        None, description="Environment variable that holds the API key, where one is needed."
    )


class OptimiserConfig(_Section):
    """AdamW. With bfloat16 weights it steps a float32 copy, so that small steps are not lost."""

    lr: float = Field(1e-5, ge=0, description="Peak learning rate.")
    warmup: int = Field(0, ge=0, description="Updates of linear warm-up.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Learning rate after the warm-up, to the last step."
    )
    betas: tuple[_Decay, _Decay] = Field(
        (0.9, 0.999), strict=False, description="Of Adam's two averages."
    )
    eps: float = Field(1e-8, gt=0, description="Added to Adam's denominator.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Longer gradients are scaled down to it.")


class CriticConfig(_Section):
    """What a row with a critic trains beside the policy."""

    trunk: Literal["shared", "own"] = Field(
        "shared", description="Reads the policy's features, or a copy of the model of its own."
    )
    lr: float = Field(1e-4, ge=0, description="Learning rate of the head, and of its own trunk.")
    warmup: int = Field(0, ge=0, description="First updates that train the critic alone.")


class LoraConfig(_Section):
    """Low-rank adapters (2106.09685) instead of all weights, by peft."""

    rank: int = Field(0, ge=0, description="Of the adapters; 0: all weights are trained.")
    alpha: float = Field(16.0, gt=0, description="Their output is scaled by alpha / rank.")
    targets: list[str] = Field(
        ["all-linear"], min_length=1, description="Names of layers, or 'all-linear'."
    )
    merge: bool = Field(False, description="Write a model with the adapters merged in the end.")

    _one = field_validator("targets", mode="before")(_listed)


class RoundsConfig(_Section):
    """What becomes of earlier rounds; a round is a step with draws of its own."""

    restart: bool = Field(
        False, description="Train each round from the starting weights again (ReST-EM)."
    )
    merge: int = Field(
        0, ge=0, description="Earlier rounds whose draws are trained on again; older ones are not."
    )


class AnchorConfig(_Section):
    """Supervised examples mixed into every update, so that other skills are kept."""

    source: str | None = Field(None, description="A .jsonl or .parquet file, or 'hub:NAME'.")
    split: str = Field("train", description="Split of a hub data set.")
    prompt_column: str = Field("prompt", description="Column with the prompt.")
    completion_column: str = Field("completion", description="Column with the answer to learn.")
    template: str | None = Field(None, description="As prompts.template.")
    ratio: float = Field(
        0.25, gt=0, description="Examples for each prompt of an update, rounded up."
    )
    coefficient: float = Field(1.0, gt=0, description="Of their mean -log pi of a token.")


class EvalConfig(_Section):
    """Held-out prompts, never trained on."""

    source: str | None = Field(None, description="A source of its own; else held out of prompts.")
    size: int = Field(512, ge=0, description="Held-out prompts; 0: no evaluation.")
    samples: int = Field(1, ge=1, description="Answers a prompt.")
    temperature: float | None = Field(None, gt=0, description="Default: sampling.temperature.")
    every: int = Field(0, ge=0, description="Steps between evaluations; 0: first and last only.")
    patience: int = Field(
        0, ge=0, description="Stop after so many without a better reward, keep the best; 0: never."
    )


class CheckpointConfig(_Section):
    """When weights are saved. The last step always is."""

    every: int = Field(10, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, description="Newest checkpoints kept.")
    average: float = Field(
        0.0, ge=0, lt=1, description="Share of the starting weights in the final model."
    )


class Config(_Section):
    """Everything that a run is made of."""

    model: str = Field("smollm2-135m", description="Hub id, folder, .gguf file, 'smollm2-135m'.")
    draws_from: str | None = Field(
        None, description="Model that draws, where draws are made once. Default: `model`."
    )
    draws: str | None = Field(
        None, description="Train on this file or folder of scored draws instead of making any."
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of the weights.")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda', 'cuda:1'.")
    threads: int = Field(0, ge=0, description="CPU threads; 0: torch's choice.")
    seed: int = Field(0, ge=0, description="Everything random follows from it.")
    steps: int = Field(
        30,
        ge=1,
        description="Sets of draws; with draws 'once', steps per epoch; a file is read whole.",
    )
    prompts_per_step: int = Field(16, ge=1, description="Prompts drawn for each step.")
    samples_per_prompt: int = Field(8, ge=1, description="Answers drawn for each prompt.")
    minibatch_prompts: int = Field(16, ge=1, description="Prompts in one update.")
    microbatch_tokens: int = Field(1024, ge=1, description="Tokens in one forward pass; memory.")
    reference: str = Field(
        "start",
        description="Of KL, DPO: 'start', 'phase' (as the phase began), 'average(0.99)', a model.",
    )
    phases: list[dict[str, Any]] = Field(
        [], description="Settings of each phase over these, as [[phases]]; docs/phases.md."
    )
    cycles: int = Field(1, ge=1, description="How often the phases are gone through.")
    algorithm: AlgorithmConfig = AlgorithmConfig()
    prompts: PromptsConfig = PromptsConfig()
    reward: RewardConfig = RewardConfig()
    sampling: SamplingConfig = SamplingConfig()
    server: ServerConfig = ServerConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    critic: CriticConfig = CriticConfig()
    lora: LoraConfig = LoraConfig()
    rounds: RoundsConfig = RoundsConfig()
    anchor: AnchorConfig = AnchorConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def minibatches(self) -> int:
        """Mini-batches in one pass over the draws of a step."""
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
        raise UserError(one_line(error, Config)) from error


def describe() -> list[dict[str, Any]]:
    """Every setting: its key, type, default and one line of help."""
    return _describe(Config, "")


def _describe(section: type[BaseModel], prefix: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            rows += _describe(annotation, f"{prefix}{name}.")
            continue
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        rows.append(
            {
                "key": prefix + name,
                "type": _kind(annotation),
                "default": default,
                "help": field.description or "",
            }
        )
    return rows


_KINDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    dict: "table",
    NoneType: "",
}


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (list, tuple):
        return f"list of {_kind(inner[0])}"
    if origin in (Union, UnionType):
        return " or ".join(filter(None, map(_kind, inner)))
    return _KINDS[origin or annotation]
