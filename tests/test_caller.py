"""What a caller has set for its process changes no run, and is left as it was."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
import transformers

import winnow
from tests import tiny
from tests.test_api import ROWS, small, weights


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny.save(tmp_path_factory.mktemp("model") / "tiny", tiny.model()))


def as_it_was() -> dict[str, object]:
    """What a caller has set for its process."""
    logging = transformers.utils.logging
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
        "level": logging.get_verbosity(),
        "bars": logging.is_progress_bar_enabled(),
    }


@contextmanager
def by_default(setter, there, value):
    before = there()
    setter(value)
    try:
        yield
    finally:
        setter(before)


@pytest.mark.parametrize(
    "caller",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu"),
        lambda: torch.device("meta"),
        lambda: by_default(torch.set_default_dtype, torch.get_default_dtype, torch.float16),
        lambda: by_default(torch.set_default_device, lambda: None, "meta"),
    ],
    ids=["no grad", "inference", "autocast", "device", "dtype", "default device"],
)
def test_what_the_caller_has_set_changes_no_result(caller, model, tmp_path) -> None:
    """Without gradients nothing was learned, and nothing said so."""
    given = {"algorithm": "reinforce", "reward": lambda prompt, said: float(len(said) % 2)}
    alone = small(model, tmp_path / "alone", **given)
    assert alone.metrics[0]["grad_norm"] > 0
    folder = winnow.sample(
        model=model, prompts=ROWS, n=4, out=tmp_path / "samples", quiet=True,
        reward=given["reward"], sampling={"max_tokens": 2},
    ).folder  # fmt: skip
    fitted = winnow.fit_reward(folder, out=tmp_path / "fitted", model=model)
    with caller():
        before = as_it_was()
        run = small(model, tmp_path / "run", **given)
        again = winnow.fit_reward(folder, out=tmp_path / "again", model=model)
        assert as_it_was() == before
        with pytest.raises(winnow.UserError):
            small(model, tmp_path / "wrong", reward="nowhere:x")
        assert as_it_was() == before
    assert run.metrics[0]["loss"] == alone.metrics[0]["loss"]
    assert weights(run.checkpoint) == weights(alone.checkpoint)
    assert weights(again.folder) == weights(fitted.folder)


def test_a_run_leaves_its_process_as_it_was(model, tmp_path) -> None:
    """A critic's head is not made of the caller's random numbers, nor are threads left changed."""
    logging = transformers.utils.logging
    logging.enable_progress_bar()
    with by_default(logging.set_verbosity, logging.get_verbosity, logging.INFO):
        before = as_it_was()
        small(model, tmp_path / "run", algorithm="ppo", threads=torch.get_num_threads() + 1)
        assert as_it_was() == before


def test_a_callback_that_turns_gradients_off_stops_no_learning(model, tmp_path) -> None:
    class Careless(winnow.Observer):
        def on_samples(self, samples: winnow.SamplesScored) -> None:
            torch.set_grad_enabled(False)

    given = {"algorithm": "reinforce", "reward": lambda prompt, said: float(len(said) % 2)}
    alone = small(model, tmp_path / "alone", **given)
    run = small(model, tmp_path / "run", callbacks=[Careless()], **given)
    assert torch.is_grad_enabled()
    assert weights(run.checkpoint) == weights(alone.checkpoint)
