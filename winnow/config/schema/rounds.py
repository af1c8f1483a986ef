"""`[rounds]`: what becomes of earlier rounds."""

from __future__ import annotations

from pydantic import Field

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import TimesOrNone


class RoundsConfig(Section):
    """What becomes of earlier rounds; a round is a step that makes its own samples."""

    restart: bool = Field(
        False, description="Train each round from the starting weights again (ReST-EM)."
    )
    merge: TimesOrNone = Field(
        0,
        description="Earlier rounds whose samples are trained on again.",
    )
