"""`[critic]`: the critic that some algorithms train beside the policy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import CountOrNone, Rate


class CriticConfig(Section):
    """The critic that some algorithms train beside the policy."""

    trunk: Literal["shared", "own"] = Field(
        "shared", description="Use the policy's features, or a copy of the model."
    )
    lr: Rate = Field(1e-4, description="Learning rate of the head, and of its own trunk.")
    warmup: CountOrNone = Field(0, description="Updates at the start that train only the critic.")
