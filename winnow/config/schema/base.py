"""What every table of settings has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of settings: frozen, of exact types, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        hide_input_in_errors=True,  # it may be a key; `messages` shows those that cannot be
    )


def listed(value: object) -> object:
    """A list; one value becomes a list of it."""
    if isinstance(value, tuple):
        return list(value)
    return [value] if isinstance(value, str | int) else value
