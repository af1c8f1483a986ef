"""The result of selection: an outcome for each row of a file, and what each rule did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from winnow.rollouts.scoring import Scores
from winnow.storage.sample_table import SampleTable
from winnow.types import Group


@dataclass
class Tally:
    """What one rule did.

    Attributes:
        seen: Samples alive before it.
        removed: Samples that it rejected.
        prompts_removed: Prompts whose last sample it rejected.
        reasons: How often it gave each reason, without the sample that this named.
    """

    rule: str
    seen: int = 0
    removed: int = 0
    prompts_removed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, repr=False)
class Selected:
    """The outcomes on a file of samples.

    Attributes:
        survived: For each row of the files, in their order, whether it survives.
        reasons: For each row the number of its reason in `words`.
        words: Reasons; the first is that of survivors.
        tallies: For each rule what it did, verifier errors first where there were any.
        notes: What a person should know, such as whether survivors are exact samples.
        scores: New rewards and errors of each row, where the samples were scored anew.
    """

    samples: int
    prompts: int
    survivors: int
    prompts_left: int
    survived: NDArray[np.bool_]
    reasons: NDArray[np.int32]
    words: list[str]
    tallies: list[Tally]
    notes: list[str]
    scores: Scores | None

    def group(self, table: SampleTable, number: int) -> Group:
        """A group of the file, with the new scores where there are any."""
        group = table.group(number)
        if self.scores is None:
            return group
        own = self.scores.of(table.rows_of(number))
        return group.with_(scores=own, right_at=self.scores.right_at)

    def __repr__(self) -> str:
        share = self.survivors / self.samples
        return (
            f"{self.survivors} of {self.samples} samples survive ({share:.1%}), of "
            f"{self.prompts_left} of {self.prompts} prompts"
        )
