"""Every name that a cell of a recipe may be written with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winnow.algorithms.advantages import (
    GAE,
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
    DrawMeans,
    GroupMeans,
    PromptMeans,
    SurvivorMeans,
    SurvivorSums,
    SurvivorTokens,
    Tokens,
)
from winnow.algorithms.kl import InLoss, InReward, NoKL
from winnow.algorithms.losses import (
    DPO,
    NLL,
    Clipped,
    Importance,
    NoCritic,
    SequenceClipped,
    SequenceImportance,
    Truncated,
    Value,
)
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
    Length,
    Mixed,
)
from winnow.algorithms.spec import by_name

RULES = by_name(
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
        AtMost,
        Band,
        Gibbs,
        RSO,
    ]
)


ADVANTAGES = by_name([One, Reward, Centred, Standardised, LeaveOneOut, Softmax, Extremes, GAE])


LOSSES = by_name([NLL, Clipped, Importance, Truncated, SequenceClipped, SequenceImportance, DPO])


DENOMINATORS = by_name(
    [
        DrawMeans,
        SurvivorMeans,
        PromptMeans,
        GroupMeans,
        SurvivorSums,
        Tokens,
        SurvivorTokens,
        Constant,
    ]
)


PENALTIES = by_name([NoKL, InReward, InLoss])


CRITICS = by_name([NoCritic, Value])


_VOCABULARIES: Mapping[str, Any] = {
    "advantage": ADVANTAGES,
    "loss": LOSSES,
    "denominator": DENOMINATORS,
    "kl": PENALTIES,
    "critic": CRITICS,
}
