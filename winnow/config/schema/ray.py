"""`[ray]`: what `winnow train --ray` places on a cluster."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import Name, Parallel, Range, Seconds, Times

Amount = Annotated[float, Range(0.0001, 1e9, zero=True)]
"""Of a resource, as Ray counts it."""


class RayConfig(Section):
    """What `winnow train --ray` places on a cluster; nothing else reads it."""

    ranks: Parallel = Field(
        1, description="Learner processes; several need engine.learner = 'fsdp'."
    )
    learner: dict[Name, Amount] = Field(
        {}, description="Resources of each, e.g. {CPU = 4, GPU = 1}. Default: a CPU, or a GPU too."
    )
    server: dict[Name, Amount] = Field(
        {}, description="Resources of each vLLM server. Default: a CPU, or a GPU too."
    )
    attempts: Times = Field(
        3, description="Times that the run is begun or resumed: again where a learner was lost."
    )
    wait: Seconds = Field(600.0, description="Seconds that the resources may take to be free.")

    @field_validator("learner", "server")
    @classmethod
    def _can_be_had(cls, value: dict[str, float], others: ValidationInfo) -> dict[str, float]:
        for name, amount in value.items():
            if amount > 1 and not float(amount).is_integer():
                problem = f"has {name} = {amount:g}, and above 1 Ray counts in whole numbers"
                raise PydanticCustomError("no_amount", problem, {"remedy": "round it"})
        if others.field_name == "learner" and value.get("GPU", 1) not in (0, 1):
            problem = f"gives a learner process {value['GPU']:g} GPUs, and it uses one or none"
            raise PydanticCustomError("no_amount", problem, {"remedy": "set ray.ranks instead"})
        if value and not any(value.values()):
            problem = "asks for nothing"
            raise PydanticCustomError(
                "no_amount", problem, {"remedy": "give it a CPU, as {CPU = 1}"}
            )
        return value
