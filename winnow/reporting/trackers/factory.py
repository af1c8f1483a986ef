"""The trackers by the names of the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from winnow.errors import UserError, install_extra
from winnow.reporting.observer import Observer
from winnow.reporting.trackers.tensorboard import TensorBoard
from winnow.reporting.trackers.trackio import Trackio
from winnow.reporting.trackers.wandb import Wandb

TRACKERS = {each.name: each for each in (TensorBoard, Trackio, Wandb)}


def check_trackers(names: Sequence[str]) -> None:
    """Look for the library of each tracker, without importing it.

    Raises:
        UserError: it is not installed.
    """
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder `wandb` in the working folder has none
            remedy = f"{install_extra('trackers')}, or leave {name!r} out"
            raise UserError("trackers", f"{name} is not installed", remedy)


def make_trackers(names: Sequence[str], note: Callable[[str], None]) -> dict[str, Observer]:
    """The observers that tell the trackers, by their names."""
    return {name: TRACKERS[name](note) for name in names}
