"""Policies that sampled, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from winnow.errors import number_of


def described(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Descriptions of policies, those of a model in the order of its updates.

    Args:
        rows: `model`, and if known `policy_version`, `temperature` and `truncated`, of each.

    Returns:
        Nothing where no model is named.
    """
    if all(row["model"] is None for row in rows):
        return []
    order = sorted(rows, key=lambda row: (_model(row), row.get("policy_version") or 0, _told(row)))
    return list(dict.fromkeys(map(_told, order)))


def many(policies: Sequence[str]) -> str:
    """The number of policies, and the names of the first."""
    named = "; ".join(policies[:3]) + (" and others" if len(policies) > 3 else "")
    return f"{len(policies)} policies ({named})"


def _model(row: dict[str, Any]) -> str:
    return row["model"] or "(no model named)"


def _told(row: dict[str, Any]) -> str:
    updates = row.get("policy_version")
    version = f" after {number_of(updates, 'update')}" if updates else ""
    heat = row.get("temperature")
    return (
        f"{_model(row)}{version}"
        + ("" if heat is None else f" at temperature {heat:g}")
        + (", truncated" if row.get("truncated") else "")
    )
