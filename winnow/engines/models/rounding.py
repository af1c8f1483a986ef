"""Weights in 16 bits, right on average: rounded up as often as they are near the number above.

An update moves a weight by much less than two numbers of bfloat16 are apart, and weights that were
once stored in few bits lie where the nearest of them stays the same for long. To the nearest,
products would not see what was learned: of SmolLM2-135M in 8 bits they saw 85 % of four steps, and
log-probs were 0.12 nats off. Up or down by chance they see all of it (Gupta et al. 2015, section
3.1), and are 0.007 off. What decides is drawn once for each place in a tensor, so weights that do
not change are not rounded otherwise the next time, by whom ever. What is made of rounded weights,
such as their average with others, takes other draws (`ANEW`): by the same ones, what was raised
would be raised again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

LOW = torch.bfloat16
_DRAWN = 262_139
"""Draws, repeated over a tensor: prime, so that they are other ones in each row, and few enough for
a cache."""
ANEW = _DRAWN // 2
"""``start`` of other draws than those of whole weights."""
_TIMES = 64
"""On a GPU, which takes as long for a few numbers as for many."""
_LACKS = {torch.bfloat16: 16, torch.float16: 13}
"""Bits of a float32 that a data type lacks."""
_MOST = max(_LACKS.values())


def rounded(weight: Tensor, dtype: torch.dtype = LOW, start: int = 0) -> Tensor:
    """A weight in a data type; from float32 to 16 bits up or down, so that it is right on average.

    Numbers that the data type has stay as they are. Below 2^-14 float16 has fewer bits, and what is
    there is less right on average.

    Args:
        start: The place of its first number, where it is a part of a tensor; `ANEW` beyond it.

    Returns:
        A tensor of its own where the data type is another.
    """
    weight = weight.detach()
    if weight.dtype != torch.float32 or dtype not in _LACKS:
        return weight.to(dtype)
    lacks = _LACKS[dtype]
    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    numbers, flat = weight.contiguous().view(-1), out.view(-1)
    bits = numbers.view(torch.int32)
    draws = _draws(weight.device)
    room = torch.empty(min(len(draws), len(bits)), dtype=torch.int32, device=weight.device)
    done = 0
    while done < len(bits):
        own = draws[(start + done) % len(draws) :][: len(bits) - done]
        part, raised = slice(done, done + len(own)), room[: len(own)]
        if lacks == _MOST:
            torch.add(bits[part], own, out=raised)  # carries where it is rounded up
            flat[part].view(torch.int16).copy_(raised.bitwise_right_shift_(lacks))
        else:
            torch.bitwise_right_shift(own, _MOST - lacks, out=raised).add_(bits[part])
            flat[part] = raised.bitwise_and_(-(2**lacks)).view(torch.float32)
        flat[part].masked_fill_(numbers[part].isnan(), torch.nan)  # some of which become 0
        done = part.stop
    return out


def rounded_each(weights: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Weights by name, those in float32 rounded; one tensor by two names stays one.

    Args:
        dtype: ``None``: as they are.
    """
    if dtype is None:
        return dict(weights)
    made: dict[tuple[int, torch.Size], Tensor] = {}
    for weight in weights.values():
        key = weight.data_ptr(), weight.shape
        if key not in made:
            made[key] = rounded(weight, dtype) if weight.dtype == torch.float32 else weight
    return {name: made[weight.data_ptr(), weight.shape] for name, weight in weights.items()}


@lru_cache
def _draws(device: torch.device) -> Tensor:
    """Uniform in [0, 2^16), the same everywhere; a GPU has them several times in a row."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(2**_MOST, (_DRAWN,), generator=generator, dtype=torch.int32)
    return drawn.to(device) if device.type == "cpu" else drawn.to(device).repeat(_TIMES)
