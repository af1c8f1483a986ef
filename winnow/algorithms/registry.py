"""Every name that a cell of a recipe may be written with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winnow.algorithms.advantages import (
    GAE,
    Advantage,
    Centred,
    Extremes,
    LeaveOneOut,
    One,
    Reward,
    Softmax,
    Standardised,
)
from winnow.algorithms.denominators import (
    Constant,
    Denominator,
    GroupMeans,
    PromptMeans,
    SampleMeans,
    SurvivorMeans,
    SurvivorSums,
    SurvivorTokens,
    Tokens,
)
from winnow.algorithms.kl import InLoss, InReward, NoKL
from winnow.algorithms.losses import (
    DPO,
    NLL,
    Capped,
    Clipped,
    Importance,
    Loss,
    NoCritic,
    SequenceClipped,
    SequenceImportance,
    TemperedNLL,
    Value,
)
from winnow.algorithms.predicates import Predicate
from winnow.algorithms.rejection import RSO, Gibbs
from winnow.algorithms.selection import (
    AsRecorded,
    AtMost,
    Band,
    Best,
    BestWorst,
    Correct,
    Distinct,
    DistinctText,
    DropAllRight,
    DropAllWrong,
    Everything,
    Finished,
    Length,
    Mixed,
    Rule,
)
from winnow.algorithms.spec import Cell, Vocabulary

RULES = Vocabulary(
    "selection rule",
    [
        Everything,
        AsRecorded,
        Correct,
        Best,
        BestWorst,
        Distinct,
        DistinctText,
        DropAllWrong,
        DropAllRight,
        Mixed,
        Length,
        Finished,
        AtMost,
        Band,
        Gibbs,
        RSO,
    ],
    Rule,
    given=("group", "alive", "rng"),
    other={("sample",): Predicate},
)
ADVANTAGES = Vocabulary(
    "advantage",
    [One, Reward, Centred, Standardised, LeaveOneOut, Softmax, Extremes, GAE],
    Advantage,
    given=("rewards",),
)
LOSSES = Vocabulary(
    "loss",
    [NLL, TemperedNLL, Clipped, Importance, Capped, SequenceClipped, SequenceImportance, DPO],
    Loss,
    given=("logp", "old", "advantage"),
)
DENOMINATORS = Vocabulary(
    "denominator",
    [
        SampleMeans,
        SurvivorMeans,
        PromptMeans,
        GroupMeans,
        SurvivorSums,
        Tokens,
        SurvivorTokens,
        Constant,
    ],
    Denominator,
    given=("length", "siblings", "totals"),
)
PENALTIES: Vocabulary[Cell] = Vocabulary("KL", [NoKL, InReward, InLoss])
CRITICS: Vocabulary[Cell] = Vocabulary("critic", [NoCritic, Value])

VOCABULARIES: Mapping[str, Vocabulary[Any]] = {
    "advantage": ADVANTAGES,
    "loss": LOSSES,
    "denominator": DENOMINATORS,
    "kl": PENALTIES,
    "critic": CRITICS,
}
