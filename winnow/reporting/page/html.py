"""Puts a page together: a skeleton, styles, scripts and packed data, in one file."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from winnow import __version__
from winnow.reporting.page.blocks import ENTROPY_TOP, LOGPROB_TOP, Block, pack
from winnow.reporting.page.budget import Embedded
from winnow.reporting.page.verdict import sentences, time_of
from winnow.reporting.page.view import View, columns_of, finite, graded

SCRIPTS = ("uPlot", "format", "data", "charts", "prompts", "rollouts", "tables", "main")
"""In this order: each uses those before it."""
_WEB = files("winnow.reporting.page").joinpath("web")


@dataclass(frozen=True)
class Shown:
    """One run of a page: what is known of it, its blocks, and which parts of them are there."""

    view: View
    blocks: Sequence[Block]
    embedded: Embedded


def head_of(shown: Shown, parts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """All of a run but its samples, as the page reads it.

    Args:
        parts: By block's name, the parts of it that can be had.
    """
    view = shown.view
    return {
        "name": view.name,
        "folder": view.folder,
        "kind": view.kind,
        "progress": view.progress,
        "verdict": sentences(view),
        "metrics": columns_of(view.metrics),
        "evaluations": [finite(row) for row in view.evaluations],
        "alarms": [finite(row) for row in view.alarms],
        "before": finite(view.before),
        "after": finite(view.after),
        "graded": graded(view),
        "time": time_of(view),
        "phases": [list(phase) for phase in view.phases],
        "settings": [
            {
                "key": one.key,
                "value": one.value,
                "default": one.default,
                "changed": one.changed,
                "help": one.help,
            }
            for one in view.settings
        ],
        "environment": view.environment,
        "again": view.again,
        "rule": shown.embedded.rule,
        "blocks": [
            {
                "name": block.name,
                "rows": block.rows,
                "files": [
                    [path.name, count]
                    for path, count in zip(block.files, block.counts, strict=True)
                ],
                "parts": list(parts.get(block.name, ())),
            }
            for block in shown.blocks
        ],
    }


def page(runs: Sequence[Shown], *, live: bool = False) -> str:
    """The page of one run, or of several side by side.

    Nothing of a run is HTML in it: all is packed data, which scripts show as text.

    Args:
        live: Whether it is served, and asks for data instead of holding them.
    """
    title = ", ".join(run.view.name for run in runs)
    packed = {} if live else {"head": pack(heads(runs))}
    for number, run in enumerate(() if live else runs):
        for (name, part), block in run.embedded.parts.items():
            packed[f"{number}/{name}/{part}"] = block
    data = "\n".join(element(key, made) for key, made in packed.items())
    return assembled(title, "body", SCRIPTS, data, live=live)


def element(key: str, made: bytes) -> str:
    """The element that holds packed data."""
    return f'<script type="text/plain" data-part="{key}">{base64.b64encode(made).decode()}</script>'


def assembled(
    title: str, body: str, scripts: Sequence[str], data: str, *, live: bool = False
) -> str:
    """A page from its parts.

    Args:
        body, scripts: Names of files under web/.
        data: Elements that hold what the scripts read.
        live: Whether it is served.
    """
    script = "\n".join(["", '"use strict";', *(_read(f"{name}.js") for name in scripts), ""])
    filled = {
        "title": html.escape(f"{title} - Winnow"),
        "policy": _policy(script, live),
        "style": _read("uPlot.css") + _read("page.css"),
        "body": _read(f"{body}.html"),
        "data": data,
        "script": script,
        "live": "true" if live else "false",
    }
    # all at once: nothing that is filled in is read again
    return re.sub(r"\{\{(\w+)\}\}", lambda place: filled[place[1]], _read("page.html"))


def heads(runs: Sequence[Shown]) -> dict[str, Any]:
    """What the page reads first."""
    made = []
    for run in runs:
        parts: dict[str, list[str]] = {}
        for name, part in run.embedded.parts:
            parts.setdefault(name, []).append(part)
        made.append(head_of(run, parts))
    return {
        "version": __version__,
        "tops": {"logprobs": LOGPROB_TOP, "entropies": ENTROPY_TOP},
        "runs": made,
    }


def _policy(script: str, live: bool) -> str:
    """What the page may run and load: its one script, and if it is served what that asks for."""
    own = "'self'" if live else "'none'"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        f"img-src data:; connect-src {own}; base-uri 'none'; form-action 'none'"
    )


def _read(name: str) -> str:
    return _WEB.joinpath(name).read_text(encoding="utf-8")
