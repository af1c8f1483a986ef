"""`[rounds]`: what becomes of earlier rounds."""

from __future__ import annotations

from pydantic import Field

from winnow.config.schema.base import Section


class RoundsConfig(Section):
    """What becomes of earlier rounds; a round is a step that makes its own samples."""

    restart: bool = Field(
        False, description="Train each round from the starting weights again (ReST-EM)."
    )
    merge: int = Field(
        0,
        ge=0,
        description="Earlier rounds whose samples are trained on again.",
    )
