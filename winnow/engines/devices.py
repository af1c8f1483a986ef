"""The device: picked, recorded, and its memory kept.

Large tensors are made and freed all the time; on a CPU, getting their pages anew costs most.
Without `keep_pages`, which acts on the whole process, an update takes about a third longer.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from winnow import __version__
from winnow.errors import UserError, WinnowError

if TYPE_CHECKING:
    import torch

    Device = torch.device

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MAPPINGS = 65536
"""Most blocks that are mapped by themselves: the C library's own."""
_LARGE = 2**20
"""Bytes of the least block that is."""
_SPINS = 3000
"""About 0.05 ms, more than threads of one program wait for one another."""
_KERNELS = 128
"""A pass needs about thirty at a time."""


def hardware() -> tuple[int, list[str]]:
    """The CPU threads that torch uses, and the names of its GPUs.

    Raises:
        ImportError: torch is not installed.
    """
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return torch.get_num_threads(), gpus


def launched() -> tuple[int, int]:
    """The number of this process among those that were started together, and how many they are.

    By the environment, which `torchrun` sets.
    """
    ranks = int(os.environ.get("WORLD_SIZE") or 1)
    return (int(os.environ.get("RANK") or 0), ranks) if ranks > 1 else (0, 1)


_LAUNCHER = re.compile(
    r"((GROUP_|ROLE_|LOCAL_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+)"
)
"""Variables by which `torchrun` tells a process which one it is."""


def by_itself(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that is not one of those that were started together.

    With `torchrun`'s variables torch would take it for one, and wait for the others.
    """
    return {name: value for name, value in environment.items() if not _LAUNCHER.fullmatch(name)}


def gpu_fault() -> str:
    """Why torch's first GPU does not multiply two small matrices right; empty if it does."""
    import torch

    try:
        ones = torch.ones(64, 64, device="cuda")
        found = float((ones @ ones).sum())
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:160]
    return "" if found == 64.0**3 else f"64 x 64 ones times themselves sum to {found:g}"


@dataclass(frozen=True)
class Processor:
    """What Linux says of the CPU; empty elsewhere.

    Attributes:
        maker: Such as `AuthenticAMD` or `GenuineIntel`.
        flags: Its instructions, such as `avx512_bf16`.
    """

    maker: str = ""
    flags: frozenset[str] = frozenset()


@cache
def processor() -> Processor:
    """The CPU of this machine."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Processor()
    told: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    flags = told.get("flags") or told.get("Features") or ""
    return Processor(told.get("vendor_id", ""), frozenset(flags.split()))


_BFLOAT16 = {"avx512_bf16", "amx_bf16"}
"""Instructions of a CPU with which products in bfloat16 are faster than in float32."""


def sampling_dtype(name: str, device: torch.device) -> str:
    """The data type that a sampler's copy has; `auto` is bfloat16 where a device is fast in it."""
    if name != "auto":
        return name
    return "bfloat16" if _is_fast_in_bfloat16(device) else "float32"


def is_slow_in_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are known to be slower on a device than in float32."""
    if device.type == "cpu" and "sse2" not in processor().flags:
        return False  # no PC's, or it does not say
    return device.type in ("cpu", "cuda") and not _is_fast_in_bfloat16(device)


def _is_fast_in_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(_BFLOAT16 & processor().flags)


def gpu_memory(device: str) -> tuple[int, int] | None:
    """Bytes of a GPU's memory that are free, and all; ``None`` of another device."""
    if not device.startswith("cuda"):
        return None
    import torch

    free, total = torch.cuda.mem_get_info(torch.device(device))
    return int(free), int(total)


def spin_briefly() -> None:
    """Have threads of GNU's OpenMP wait for one another in a loop for a moment, then asleep.

    To be called before torch is imported, which reads it; what somebody has set stays. Its own
    choice is milliseconds: free where nothing else runs, but where cores are shared, as by two
    runs, a loop keeps the core from the thread that it waits for.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(_SPINS)


def keep_pages() -> None:
    """Ask torch for large pages, and the C library to keep freed memory for the next tensor.

    Pages are kept where the C library is glibc: memory once used stays with the process, what is
    made in `for_a_while` aside. What oneDNN keeps is bounded: it makes a kernel of about 0.7 MB for
    every shape, and would keep 1024.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))  # at its first product
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not _kept:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
        _kept.append(mallopt)


_kept: list[Callable[[int, int], int]] = []
"""The C library's `mallopt`, once it keeps what is freed."""


@contextmanager
def for_a_while() -> Iterator[None]:
    """Large tensors made in the block go back to the system when they are freed.

    For those that one phase of a step needs and the next does not, where there is no room for them
    in what `keep_pages` keeps: it would grow by them. Acts on all threads; does not nest.
    """
    if not _kept:
        yield
        return
    mallopt = _kept[0]
    mallopt(_MMAP_THRESHOLD, _LARGE)
    mallopt(_MMAP_MAX, _MAPPINGS)
    try:
        yield
    finally:
        mallopt(_MMAP_MAX, 0)


@contextmanager
def collector_paused() -> Iterator[None]:
    """In the block, Python does not look for cyclic garbage.

    Importing torch and transformers makes a million objects that stay: a quarter of the time would
    go to looking at them again and again.
    """
    runs = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if runs:
            if not gc.get_freeze_count():  # none that somebody else has set aside
                gc.freeze()
                gc.unfreeze()  # both at once: what is there counts as old, and is not looked at now
            gc.enable()


def environment(device: str) -> dict[str, Any]:
    """Versions, and where the model runs."""
    return {
        "winnow": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        **{name: version(name) for name in ("torch", "transformers", "numpy", "pyarrow")},
    }


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto` is the GPU where there is one.

    Raises:
        UserError: a device that this machine does not have.
    """
    import torch

    best = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(best if name == "auto" else name)
    except RuntimeError as error:
        raise UserError(
            "device", f"unknown device {name!r}", "use 'cpu', 'cuda' or 'auto'"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device", f"torch finds no GPU for {name!r}", "use 'cpu' or 'auto'")
    if device.type == "cpu":
        keep_pages()
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # `reproducible` asks for it
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:  # how torch says that it has none
        reason = str(error).strip().splitlines()[0]
        raise UserError("device", f"cannot use {name!r} here: {reason:.120}") from error
    return device


def peak_memory(device: torch.device) -> float | None:
    """The most memory that tensors took on a GPU since this was last asked, in GiB; else ``None``.

    Of this process, without what the GPU's libraries take for themselves.
    """
    if device.type != "cuda":
        return None
    import torch

    taken = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return round(taken / 2**30, 3)


@contextmanager
def reproducible(device: torch.device, strict: bool = True) -> Iterator[None]:
    """In the block, a GPU adds up gradients in the same order each time, as a CPU does anyway.

    Else a resumed run would not be the unbroken one. Sampling needs no such block.

    Args:
        strict: An operation that has no such order is an error (see `lacks_order`). Else it runs in
            any order, and so does attention, which has one but takes it in strict blocks only.
    """
    if device.type != "cuda":
        yield
        return
    import torch
    from torch.utils import deterministic

    on = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills: bool = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*deterministic.*")
            yield
    finally:
        torch.use_deterministic_algorithms(on, warn_only=only_warns)
        deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def lacks_order(error: RuntimeError) -> bool:
    """Whether an operation failed in a strict block of `reproducible` for want of an order."""
    return "does not have a deterministic implementation" in str(error)


@contextmanager
def without_plans(device: torch.device) -> Iterator[None]:
    """In the block, attention on a GPU is not cuDNN's.

    That plans each new shape for tens of milliseconds, and here shapes are new all the time.
    """
    import torch

    switch: Any = torch.backends.cuda
    if device.type != "cuda" or not switch.cudnn_sdp_enabled():
        yield
        return
    switch.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        switch.enable_cudnn_sdp(True)


@contextmanager
def room(remedy: str) -> Iterator[None]:
    """In the block, a full GPU is one line with a remedy.

    Raises:
        WinnowError: the GPU has no memory left.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise WinnowError(f"the GPU's memory is full; {remedy}") from error
