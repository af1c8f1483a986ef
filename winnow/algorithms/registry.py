"""Every name that a cell of a recipe may be written with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    SurvivorMeans,
    SurvivorSums,
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
    Value,
)
from winnow.algorithms.rejection import Gibbs
from winnow.algorithms.selection import BestWorst, Correct, Distinct, Everything, Mixed
from winnow.algorithms.spec import by_name

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

from winnow.algorithms.denominators import (
    PromptMeans,
    SurvivorTokens,
)

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from winnow.algorithms.losses import (
    SequenceImportance,
    Truncated,
)
from winnow.algorithms.rejection import RSO
from winnow.algorithms.selection import (
    AsRecorded,
    AtMost,
    Band,
    Best,
    DistinctText,
    DropAllRight,
    DropAllWrong,
    Length,
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


_VOCABULARIES: Mapping[str, Any] = {
    "advantage": ADVANTAGES,
    "loss": LOSSES,
    "denominator": DENOMINATORS,
    "kl": PENALTIES,
    "critic": CRITICS,
}
