"""Supervised examples mixed into every update, so that what is not rewarded is not forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from winnow.algorithms.denominators import SurvivorMeans
from winnow.algorithms.losses import NLL
from winnow.algorithms.objective import Term, totals
from winnow.config.schema.anchor import AnchorConfig
from winnow.config.schema.prompts import PromptsConfig
from winnow.engines.base import AuxiliaryBatch
from winnow.errors import UserError
from winnow.prompts.loading import read
from winnow.rollouts.generate import random_stream
from winnow.storage.messages import TurnError, conversation
from winnow.types import Group, Outcome, Prompt, Sample, Score


@dataclass(frozen=True)
class Anchor:
    """Supervised examples, and how many of them go with an update.

    Attributes:
        groups: Each example as a group of one sample.
        ratio: Examples for each prompt of an update, rounded up.
        coefficient: Of the mean over examples of their mean -log pi of a token.
    """

    groups: Sequence[Group]
    ratio: float
    coefficient: float

    def encoded(self, complete: Callable[[Group], Group]) -> Anchor:
        """The same with token ids, an end-of-sequence token after each completion.

        Raises:
            UserError: an example that is longer than the model's context, or a conversation that
                its chat template does not take.
        """
        try:
            groups = [complete(group) for group in self.groups]
        except UserError as error:
            raise error.with_(setting="anchor.source") from error
        return Anchor(groups, self.ratio, self.coefficient)

    def auxiliary_batch(self, prompts: int, most: int, seed: int, update: int) -> AuxiliaryBatch:
        """The examples of an update, by its number: pass after pass, each in its own order.

        Args:
            prompts: Prompts of the update.
            most: Most prompts of any update; a smaller one skips some examples.
        """
        first = update * self._number(most)
        chosen = []
        for position in range(first, first + self._number(prompts)):
            epoch, place = divmod(position, len(self.groups))
            chosen.append(self.groups[_order(len(self.groups), seed, epoch)[place]])
        terms = (Term(NLL(), SurvivorMeans(), self.coefficient),)
        return AuxiliaryBatch(chosen, terms, totals(chosen))

    def _number(self, prompts: int) -> int:
        """Examples for so many prompts. The ratio is as it is written: 25 x 0.28 is 7, not 8."""
        return math.ceil(Fraction(repr(self.ratio)) * prompts)


def open_anchor(config: AnchorConfig, prompts: PromptsConfig, seed: int) -> Anchor | None:
    """The examples that the settings name; ``None`` where they name none.

    Args:
        prompts: Settings whose chat template and system message the examples share.

    Raises:
        UserError: a source that cannot be read, or a row without a completion.
    """
    if config.source is None:
        return None
    where = PromptsConfig(
        source=config.source,
        split=config.split,
        prompt_column=config.prompt_column,
        answer_column=config.completion_column,
        template=config.template,
        chat=prompts.chat,
        system=prompts.system,
    )
    try:
        rows = read(where, seed, "anchor.source", completions=True)
    except UserError as error:
        own = _NAMES.get(error.setting, error.setting)
        raise error.with_(setting=own) from error
    return Anchor([_example(row, config) for row in rows], config.ratio, config.coefficient)


_NAMES = {
    "prompts.prompt_column": "anchor.prompt_column",
    "prompts.answer_column": "anchor.completion_column",
    "prompts.template": "anchor.template",
}
"""The examples' settings that stand for those of prompts."""


@lru_cache(maxsize=2)  # an update may straddle two passes
def _order(size: int, seed: int, epoch: int) -> list[int]:
    order: list[int] = random_stream(seed, "anchor", epoch).permutation(size).tolist()
    return order


def _example(prompt: Prompt, config: AnchorConfig) -> Group:
    column = "anchor.completion_column"
    where = f"the example {prompt.text[-60:]!r} of {config.source}"
    said = prompt.data.get(config.completion_column)
    completion = prompt.answer
    if isinstance(said, list):  # as `winnow select` writes it for other trainers
        completion = _of_messages(said, where)
    if not completion:
        raise UserError(column, f"{where} has nothing in {config.completion_column!r}")
    return Group(
        prompt=prompt,
        prompt_ids=(),
        samples=(Sample((), (), completion, "eos", length=1),),
        scores=(Score(1.0),),
        outcomes=(Outcome(True, "anchor"),),
        advantages=(1.0,),
    )


def _of_messages(turns: list[object], where: str) -> str:
    """The text of a completion that is written as one message of the assistant's."""
    column = "anchor.completion_column"
    try:
        messages = conversation(turns)
    except TurnError as error:
        raise UserError(column, f"{where} {error.problem}", error.remedy) from error
    if len(messages) != 1 or messages[0]["role"] != "assistant" or len(messages[0]) > 2:
        problem = f"{where} has a completion that is not one text of the assistant's"
        raise UserError(column, problem, "give one message with role and content, or a text")
    return str(messages[0]["content"])
