"""`[optimizer]`: AdamW and its learning rate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from winnow.config.schema.base import Section

_Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """AdamW. With bfloat16 weights it steps a float32 copy, so that small steps are not lost."""

    lr: float = Field(1e-5, ge=0, description="Peak learning rate.")
    warmup: int = Field(0, ge=0, description="Updates of linear warm-up.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Learning rate after the warm-up, to the last step."
    )
    betas: tuple[_Decay, _Decay] = Field(
        (0.9, 0.999), strict=False, description="Decay rates of Adam's two averages."
    )
    eps: float = Field(1e-8, gt=0, description="Added to Adam's denominator.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Larger gradients are scaled down to it.")
