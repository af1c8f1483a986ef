"""TODO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from winnow.algorithms.losses import NoCritic, Value
from winnow.algorithms.spec import by_name

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
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
from winnow.algorithms.losses import (
    DPO,
    NLL,
    Clipped,
    Importance,
    SequenceClipped,
    SequenceImportance,
    Truncated,
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
