"""A reward as Python gives it: a name, a function, or several of them -> what a config records.

    reward = "math"
    reward = my_function
    reward = ["math", (my_function, 0.2), {"name": "judge", "weight": 0.5, "options": {...}}]

Of a mapping, `name` may be a function too; a mapping with `parts` is the whole `[reward]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from winnow.errors import UserError
from winnow.types import Prompt

RewardFunction = Callable[[Prompt, str], Any]
RewardGiven = (
    str
    | RewardFunction
    | Sequence[str | RewardFunction | tuple[str | RewardFunction, float] | Mapping[str, Any]]
    | Mapping[str, Any]
)


def reward_name(reward: str | RewardFunction | None) -> str | None:
    """The name of a reward in a config; of a function, where it was defined."""
    if reward is None or isinstance(reward, str):
        return reward
    owner = reward if hasattr(reward, "__qualname__") else type(reward)
    return f"{owner.__module__}:{owner.__qualname__}"


def reward_setting(reward: RewardGiven | None) -> Any:
    """The setting `reward` that stands for it: a name, a table or a list of tables; or ``None``.

    Raises:
        UserError: one of several has a wrong type.
    """
    if isinstance(reward, Mapping):
        table = {**reward}
        if "name" in table:
            table["name"] = reward_name(table["name"])
        if "parts" in table:
            table["parts"] = [_table(part) for part in table["parts"]]
        return table
    if is_several(reward):
        return [_table(part) for part in reward]  # type: ignore[union-attr]
    return reward_name(reward)  # type: ignore[arg-type]


def functions_of(reward: RewardGiven | None) -> list[RewardFunction | None]:
    """The function of each reward that was given, in order; ``None`` for one with a name alone."""
    if isinstance(reward, Mapping):
        listed = reward.get("parts", [reward])
    elif is_several(reward):
        listed = reward
    else:
        listed = [reward]
    found = [_split(part)["name"] for part in listed]
    return [None if name is None or isinstance(name, str) else name for name in found]


def is_several(reward: object) -> bool:
    """Whether it is a list of rewards."""
    return isinstance(reward, list | tuple)


def _table(part: object) -> dict[str, Any]:
    """The table of one of several rewards."""
    table = _split(part)
    function = table["name"]
    if not isinstance(function, str):
        named = getattr(function, "__name__", None) or getattr(function, "name", None)
        table.setdefault("label", str(named or type(function).__name__))
        table["name"] = reward_name(function)
    return table


def _split(part: object) -> dict[str, Any]:
    """The keys of a part, its name maybe a function."""
    if isinstance(part, Mapping) and "name" in part:
        return dict(part)
    if isinstance(part, tuple) and len(part) == 2:
        return {"name": part[0], "weight": part[1]}
    if part is None or isinstance(part, str) or callable(part) or hasattr(part, "score"):
        return {"name": part}
    raise UserError(
        "reward",
        f"one of several is {part!r:.80}",
        "give a name, a function, (either, weight) or a dict with 'name'",
    )
