"""What a run takes on the disk: estimated from numbers of parameters, and measured. Pure, but for
`measured`, which looks at files.

A checkpoint has the weights and the optimizer's state: AdamW keeps two float32 numbers for each
weight that is trained, and where those weights are in bfloat16 the float32 copies that it steps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BYTES = {"float32": 4, "bfloat16": 2}
"""Of a weight, by its data type."""
_MOMENTS, _MASTER = 8, 4
_TOKEN, _SAMPLE = 16, 150
"""Of a token: its id, log-prob, entropy and text. Of a sample: all the rest, compressed."""


@dataclass(frozen=True)
class ModelSize:
    """How large a model is, by numbers of parameters.

    Attributes:
        parameters: All of its weights, those that two layers share once.
        trained: Those that are trained: all, or adapters.
        adapters: Whether those are adapters, whose checkpoints lack the rest.
        copies_base: Whether the run keeps a copy of what adapters are over.
        tokenizer: Bytes of the tokenizer.
    """

    parameters: int
    trained: int
    adapters: bool = False
    copies_base: bool = False
    tokenizer: int = 0


_BESIDE = 300_000
"""Of the small files of a checkpoint, and of what formats add to numbers."""


def weights_bytes(size: ModelSize, dtype: str) -> int:
    """Of the model in a checkpoint; adapters are float32 whatever the model is in."""
    weights = size.trained if size.adapters else size.parameters
    own = "float32" if size.adapters else dtype
    return BYTES[own] * weights + size.tokenizer + _BESIDE


def optimizer_bytes(
    size: ModelSize,
    dtype: str,
    *,
    critic: int = 0,
    critic_dtype: str = "float32",
    ema: bool = False,
) -> int:
    """Of the state that a run resumes with: AdamW's, and an average that the reference is.

    Args:
        critic: Parameters that a critic trains of its own.
        critic_dtype: Their data type.
        ema: Whether the reference is an average of the policy.
    """
    own = "float32" if size.adapters else dtype
    found = size.trained * (_MOMENTS + (_MASTER if own != "float32" else 0))
    found += critic * (_MOMENTS + (_MASTER if critic_dtype != "float32" else 0))
    return found + (BYTES["float32"] * size.trained if ema else 0)


def samples_bytes(samples: int, max_tokens: int) -> int:
    """Of so many samples that all reach their limit of tokens, roughly; prompts aside."""
    return samples * (_SAMPLE + _TOKEN * max_tokens)


@dataclass(frozen=True)
class Estimate:
    """What a run will take on the disk at most, in bytes.

    Attributes:
        checkpoint: Of one.
        checkpoints: How many there are at a time.
        others: A final model that is no checkpoint, and the base of adapters.
        samples: All samples, roughly.
    """

    checkpoint: int
    checkpoints: int
    others: int = 0
    samples: int = 0

    @property
    def total(self) -> int:
        return self.checkpoint * self.checkpoints + self.others + self.samples

    def __str__(self) -> str:
        parts = [f"{self.checkpoints} x {human(self.checkpoint)} of checkpoints"]
        if self.checkpoints == 1:
            parts = [f"1 checkpoint of {human(self.checkpoint)}"]
        parts += [f"{human(self.others)} of other models"] if self.others else []
        parts += [f"about {human(self.samples)} of samples"] if self.samples else []
        return f"up to {human(self.total)} ({', '.join(parts)})"


def most_checkpoints(saved: Sequence[int], keep: int, protected: int) -> int:
    """How many checkpoints there are at a time: a new one is whole before an old one goes.

    Args:
        saved: The steps after which one is saved.
        keep: Newest ones that are kept.
        protected: Others that must be.
    """
    number = len(set(saved))
    return min(number, keep + protected + (number > keep))


def measured(folder: Path) -> int:
    """Bytes of all files in a folder, or of a file; what vanishes meanwhile counts nothing."""
    found = 0
    for path in [folder, *folder.rglob("*")]:
        with suppress(OSError):
            if path.is_symlink() or path.is_file():
                found += os.lstat(path).st_size
    return found


def human(number: float) -> str:
    """`1.6 GB`: two digits at least, in powers of 1000."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while number >= 999.5 and len(units) > 1:
        number /= 1000
        units.pop(0)
    unit = units[0]
    return f"{number:.0f} {unit}" if unit == "B" or number >= 9.95 else f"{number:.1f} {unit}"


def told(folder: Path) -> str:
    """What a run has taken on the disk, by its parts."""
    checkpoints = sorted((folder / "checkpoints").glob("step-*"))
    of_checkpoints = sum(map(measured, checkpoints))
    others = sum(measured(folder / name) for name in ("final", "base"))
    samples = sum(measured(folder / name) for name in ("rollouts", "superseded", "skipped"))
    number = f"{len(checkpoints)} checkpoint{'s' if len(checkpoints) != 1 else ''}"
    parts = [f"{number} {human(of_checkpoints)}"]
    parts += [f"other models {human(others)}"] if others else []
    return f"{human(measured(folder))} ({', '.join(parts)}, samples {human(samples)})"
