"""Runs of the fake engine with checkpoints of steps 2 and 4, their last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import Engine
from tests.kills import KillAt
from tests.training.test_fake_engine import SETTINGS, files
from winnow.config.schema import from_dict
from winnow.engines import factory
from winnow.training.run import run


def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a small run, the fake engine put in the local one's place."""
    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))
    return {**SETTINGS, **files(tmp_path), "steps": 4, "checkpoint": {"every": 2, "keep": 2}}


def trained(given: dict[str, Any], out: Path) -> Path:
    return run(from_dict(given), out=out, observers=KillAt()).folder
