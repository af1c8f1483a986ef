from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a hub

from pathlib import Path

import pytest
import torch

from tests import tiny

torch.set_num_threads(1)  # the models here are too small to share out


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a warmed-up tiny model; not to be written to."""
    return tiny.save(tmp_path_factory.mktemp("tiny") / "model")
