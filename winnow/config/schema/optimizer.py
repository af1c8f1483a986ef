"""`[optimizer]`: AdamW and its learning rate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import Coefficient, CountOrNone, Decay, Epsilon, Rate, WeightDecay


class OptimizerConfig(Section):
    """AdamW. With bfloat16 weights it steps a float32 copy, so that small steps are not lost."""

    lr: Rate = Field(1e-5, description="Peak learning rate.")
    warmup: CountOrNone = Field(0, description="Updates of linear warm-up.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Learning rate after the warm-up, to the last step."
    )
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999), strict=False, description="Decay rates of Adam's two averages."
    )
    eps: Epsilon = Field(1e-8, description="Added to Adam's denominator.")
    weight_decay: WeightDecay = Field(0.0, description="Decoupled weight decay.")
    max_grad_norm: Coefficient = Field(1.0, description="Larger gradients are scaled down to it.")
    precision: Literal["float32", "mixed"] = Field(
        "float32", description="Of an update; 'mixed': its matrix products in bfloat16."
    )
