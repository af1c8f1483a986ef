"""Reasoning Gym tasks: generated problems that bring their own verifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winnow.config.schema.prompts import PromptsConfig
from winnow.errors import UserError, install_extra, nearest
from winnow.prompts.columns import RowError
from winnow.prompts.rows import conversation, fill
from winnow.types import Prompt


def gym(config: PromptsConfig, seed: int, field: str = "prompts.source") -> list[Prompt]:
    """`gym:TASK`: `prompts.size` problems of that task. Score them with `reward = "gym"`.

    A template may fill in `question` and `answer`.

    Raises:
        UserError: Reasoning Gym is not installed, has no such task, or cannot make it.
    """
    try:
        from reasoning_gym import create_dataset
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(field, "gym tasks need Reasoning Gym", install_extra("gym")) from error
    name = config.source.removeprefix("gym:")
    if name not in DATASETS:
        raise UserError(field, f"unknown gym task {name!r}", nearest(name, DATASETS))
    try:
        entries = list(create_dataset(name, size=config.size, seed=seed))
    except (AssertionError, ValueError, TypeError) as error:  # how its tasks refuse their settings
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(field, f"cannot make the gym task {name!r}: {reason}") from error
    return [_prompt(name, number, entry, config) for number, entry in enumerate(entries)]


def _prompt(name: str, number: int, entry: Mapping[str, Any], config: PromptsConfig) -> Prompt:
    question, answer = str(entry["question"]), entry["answer"]
    text = question
    if config.template is not None:
        try:
            text = fill(config.template, {"question": question, "answer": answer})
        except RowError as error:
            raise UserError(error.field, f"gym task {name!r} {error.what}", error.remedy) from error
    return Prompt(
        id=f"{name}-{number}",
        text=text,
        answer=None if answer is None else str(answer),
        difficulty=name,
        data={"gym": name, "entry": dict(entry)},
        messages=conversation(text, config),
        family=" ".join(question.split()),
    )
