"""GPUs by name, as their makers describe them, and how much of that a program gets: assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from winnow.errors import UserError, choices


@dataclass(frozen=True)
class Device:
    """A GPU, eight of which share a host.

    Attributes:
        flops: FLOP/s of bfloat16 matrix products, without sparsity.
        bandwidth: Bytes a second from its memory.
        memory: Bytes of it.
        link: Bytes a second that it receives from GPUs of its host.
        network: Bytes a second that its host receives from others; of the host, not the GPU.
        source: Of the numbers.
    """

    flops: float
    bandwidth: float
    memory: float
    link: float
    network: float
    source: str


PER_HOST = 8
_NETWORK = 8 * 50e9
"""Eight adapters of 400 Gb/s, as in a DGX H100."""
_OLDER = 8 * 25e9
"""Eight of 200 Gb/s, as in a DGX A100."""
DEVICES: Mapping[str, Device] = {
    "a100": Device(312e12, 2.039e12, 80e9, 300e9, _OLDER, "NVIDIA A100 data sheet, 80GB SXM"),
    "h100": Device(989e12, 3.35e12, 80e9, 450e9, _NETWORK, "NVIDIA H100 data sheet, SXM"),
    "h200": Device(989e12, 4.8e12, 141e9, 450e9, _NETWORK, "NVIDIA H200 data sheet, SXM"),
}
"""Data sheets also give FLOP/s with sparsity, twice these, and a link's two directions together."""


@dataclass(frozen=True)
class Efficiency:
    """Shares of a device's numbers that are assumed to be reached.

    Attributes:
        update: Of its FLOP/s in forward and backward passes; two updates measured on an H200
            (docs/fsdp.md) reached 0.40 and 0.41.
        prefill: Of its FLOP/s while prompts are encoded; not measured.
        decode: Of its bandwidth while tokens are sampled; not measured.
        network: Of links and network; not measured.
        memory: Of its memory that tensors can fill before fragments and libraries take the rest.
    """

    update: float = 0.4
    prefill: float = 0.4
    decode: float = 0.6
    network: float = 0.7
    memory: float = 0.9


ASSUMED = Efficiency()


def device_named(name: str) -> Device:
    """A device of the table.

    Raises:
        UserError: no device has that name.
    """
    found = DEVICES.get(name.lower())
    if found is None:
        raise UserError("--device-model", f"unknown device {name!r}", choices(list(DEVICES)))
    return found
