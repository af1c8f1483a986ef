"""`[alarms]`: what of a run is told at once, and what ends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from winnow.config.schema.base import Section, listed
from winnow.config.schema.bounds import Coefficient, Count, Mass, Name
from winnow.errors import nearest
from winnow.reporting.alarms.table import ALARMS, WINDOW


def _of(name: str) -> Any:
    """The setting of an alarm: its threshold."""
    return Field(ALARMS[name].threshold, description=ALARMS[name].measures)


def _plain(text: str) -> Any:
    """A message as it is: braces in a name are no places for values."""
    return text.replace("{", "(").replace("}", ")")


class AlarmsConfig(Section):
    """Alarms: the setting of each is its threshold; see docs/alarms.md."""

    off: list[Name] = Field([], description="Alarms that are not raised.")
    stop: list[Name] = Field([], description="Alarms that end the run, saved, exit code 3.")
    window: Count = Field(WINDOW, description="Steps that most alarms look back over.")
    no_signal: Mass = _of("no_signal")
    starving_prompts: Mass = _of("starving_prompts")
    nothing_kept: Count = Field(3, description=ALARMS["nothing_kept"].measures)
    one_prompt: Mass = _of("one_prompt")
    entropy_collapse: Mass = _of("entropy_collapse")
    entropy_explosion: Coefficient = _of("entropy_explosion")
    distinct_right: Mass = _of("distinct_right")
    cut_off: Mass = _of("cut_off")
    verifier_errors: Mass = _of("verifier_errors")
    identical_samples: Mass = _of("identical_samples")
    retokenised: Mass = _of("retokenised")
    sampler_disagrees: Coefficient = _of("sampler_disagrees")
    ratio: Coefficient = _of("ratio")
    ess: Mass = _of("ess")
    kl_to_sampling_policy: Coefficient = _of("kl_to_sampling_policy")
    kl_to_start: Coefficient = _of("kl_to_start")
    grad_norm: Coefficient = _of("grad_norm")
    updates_skipped: Mass = _of("updates_skipped")
    held_out_falls: Mass = _of("held_out_falls")

    _one = field_validator("off", "stop", mode="before")(listed)

    @field_validator("off", "stop")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in ALARMS:
                problem, remedy = f"unknown alarm {name!r:.60}", nearest(name, ALARMS)
                raise PydanticCustomError("not_read", _plain(problem), {"remedy": remedy})
        return value

    @model_validator(mode="after")
    def _what_stops_is_on(self) -> AlarmsConfig:
        if both := [name for name in self.stop if name in self.off]:
            problem = f"stop names {both[0]!r}, which off switches off"
            raise PydanticCustomError("unreadable", problem, {"remedy": "leave it out of one"})
        return self

    @property
    def thresholds(self) -> Mapping[str, float]:
        """The threshold of each alarm that is on."""
        return {name: getattr(self, name) for name in ALARMS if name not in self.off}
