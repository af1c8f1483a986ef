"""What a GPU is asked for, and what is said when it is full; without one."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch.utils import deterministic

import winnow
from tests import kills, local
from winnow.config.schema import from_dict
from winnow.engines.devices import (
    collector_paused,
    is_slow_in_bfloat16,
    peak_memory,
    reproducible,
    room,
    sampling_dtype,
    without_plans,
)
from winnow.engines.learning import learner
from winnow.engines.local import decoding
from winnow.engines.process_state import own_state, take_threads
from winnow.training.setup import plan


@pytest.mark.parametrize(("capability", "slow"), [((7, 0), True), ((7, 5), True), ((8, 0), False)])
def test_a_gpu_that_emulates_bfloat16_is_slow_in_it(monkeypatch, capability, slow):
    """A V100 and a T4 compute it in float32; torch counts that as support, unless it is asked."""
    properties = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device=None: properties)
    monkeypatch.setattr("torch.cuda._check_bf16_tensor_supported", lambda device: True)
    device = torch.device("cuda")
    assert is_slow_in_bfloat16(device) == slow
    assert sampling_dtype("auto", device) == ("float32" if slow else "bfloat16")


def test_threads_that_one_run_asked_for_are_not_those_of_the_next(tiny_model):
    """`threads = 0` is torch's choice; what the caller sets in between is theirs."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for asked, threads in ((0, 3), (1, 1), (2, 2), (0, 3), (0, 3)):
            local.engine(tiny_model, threads=asked)
            assert torch.get_num_threads() == threads
        take_threads(1)
        torch.set_num_threads(4)
        take_threads(0)
        assert torch.get_num_threads() == 4
        with own_state():
            take_threads(1)
        torch.set_num_threads(1)  # as the run had asked for
        with own_state():
            take_threads(0)
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_gradients_on_a_gpu_are_added_up_in_one_order_and_all_is_as_before_afterwards():
    def now():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            deterministic.fill_uninitialized_memory,
        )

    before = now()
    with reproducible(torch.device("cpu")):
        assert now() == before
    with reproducible(torch.device("cuda")):
        assert now() == (True, False, False)
    with reproducible(torch.device("cuda"), strict=False):
        assert now() == (True, True, False)
    assert now() == before


def test_a_model_without_an_order_for_its_sums_is_trained_without_one(
    monkeypatch, tmp_path, tiny_model
):
    config = kills.config(tiny_model, tmp_path)
    want = kills.go(config, tmp_path / "want", kills.FIRST)
    accumulate, made, asked = learner.accumulate, [], []

    def once(*args):
        made.append(accumulate(*args))  # gradients that are to be thrown away
        if len(made) == 1:
            raise RuntimeError("cumsum does not have a deterministic implementation, but you set")
        return made[-1]

    def reproducible_(device, strict):
        asked.append(strict)
        return reproducible(device, strict)

    monkeypatch.setattr(learner, "accumulate", once)
    monkeypatch.setattr(learner, "reproducible", reproducible_)
    got = kills.go(config, tmp_path / "got", kills.FIRST)
    kills.check_same(got.folder, want.folder)
    assert asked == [True] + [False] * (len(asked) - 1)
    assert len(asked) > 2


def test_attention_that_plans_is_off_in_the_block_alone():
    now = torch.backends.cuda.cudnn_sdp_enabled
    assert now()
    with without_plans(torch.device("cpu")):
        assert now()
    with without_plans(torch.device("cuda")):
        assert not now()
        with without_plans(torch.device("cuda")):
            assert not now()
        assert not now()
    assert now()


def test_a_gpu_that_is_not_there_is_missed_with_the_other_settings(monkeypatch):
    """Before prompts are read, a verifier is started or a model is looked for."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = from_dict({"device": "cuda", "model": "nowhere", "prompts": "none.jsonl"})
    with pytest.raises(winnow.UserError, match=r"^device: torch finds no GPU for 'cuda'"):
        plan(config)
    with pytest.raises(winnow.UserError, match=r"^model: "):
        plan(config.model_copy(update={"device": "cpu"}))


def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")


@pytest.mark.parametrize(
    ("place", "name", "remedy"),
    [(learner, "accumulate", "microbatch_tokens"), (decoding, "choose", "sampling.batch")],
)
def test_a_full_gpu_is_one_line_with_a_remedy(
    place, name, remedy, monkeypatch, tmp_path, tiny_model
):
    monkeypatch.setattr(place, name, full)
    with pytest.raises(winnow.WinnowError, match=f"GPU's memory is full; .*{remedy}") as raised:
        kills.go(kills.config(tiny_model, tmp_path), tmp_path / "run", kills.FIRST)
    assert "\n" not in str(raised.value)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^shape$"), room("buy one"):
        raise RuntimeError("shape")


def test_the_peak_of_a_gpu_is_counted_anew_each_time(monkeypatch):
    taken, anew = [3 * 2**30, 2**29], []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: taken.pop(0))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", anew.append)
    device = torch.device("cuda", 0)
    assert [peak_memory(device), peak_memory(device)] == [3.0, 0.5]
    assert anew == [device, device]
    assert peak_memory(torch.device("cpu")) is None


class Cycle:
    def __init__(self):
        self.own = self


def test_the_collector_rests_in_the_block_and_finds_afterwards_what_was_left():
    with collector_paused(), collector_paused():
        assert not gc.isenabled()
        left = weakref.ref(Cycle())
    assert gc.isenabled()
    assert left() is not None
    gc.collect()
    assert left() is None, "what the block left is no longer looked at"


def test_the_collector_is_back_after_an_error_and_stays_off_where_it_was():
    with pytest.raises(KeyError), collector_paused():
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_somebody_else_froze_stays_frozen():
    gc.freeze()
    try:
        with collector_paused():
            pass
        assert gc.get_freeze_count() > 0  # not the same: some of it may have been let go of
    finally:
        gc.unfreeze()


SPINS = """
import os, sys
from winnow.cli.main import main

sys.argv = ["winnow", "--version"]
try:
    main()
except SystemExit:
    pass
print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_a_command_shares_its_cores_unless_somebody_has_chosen(given, spins):
    """Before torch is imported, whose OpenMP reads it as it is loaded."""
    others = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", SPINS]
    told = subprocess.run(
        command, env={**others, **given}, capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines()[-1] == f"{spins} False"


SHAPES = """
import sys, torch
from winnow.engines.devices import keep_pages
if sys.argv[1] == "keep":
    keep_pages()
weight = torch.ops.mkldnn._reorder_linear_weight(torch.zeros(8, 8), 1)
for rows in (1, *range(2, 300), 1):
    torch.ops.mkldnn._linear_pointwise(torch.zeros(rows, 8), weight, None, "none", [], "")
"""


@pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch has no oneDNN here"
)
def test_kernels_of_shapes_that_are_not_seen_again_are_let_go_of():
    """oneDNN's own account: after 298 other shapes the first one is made again."""

    def made(how):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ONEDNN_")}
        command = [sys.executable, "-c", SHAPES, how]
        environment["ONEDNN_VERBOSE"] = "profile_create"
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        rows = [line for line in told.stdout.splitlines() if "mb1ic8oc8" in line]
        return ["cache_miss" in row for row in rows]

    assert made("plain") == [True, False]
    assert made("keep") == [True, True]


PHASES = """
import os, sys
from contextlib import nullcontext
from pathlib import Path
import torch
from winnow.engines.devices import for_a_while, keep_pages

if "keep" in sys.argv:
    keep_pages()

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

before = held()
with for_a_while() if "while" in sys.argv else nullcontext():
    one = torch.ones(2**24)  # 64 MiB
after = torch.ones(2**22)
del one
used_after = held() - before
more = torch.ones(2**23)  # not in the block any more
del more
print(used_after, held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(
    ("how", "there", "kept"), [("keep", 80, 80), ("keep while", 16, 48), ("while", 16, 16)]
)
def test_what_is_for_a_while_goes_back_and_the_rest_stays(how, there, kept):
    """MiB held with 16 in use after 64 are freed, and after 32 more that came and went.

    Those fit in what is kept of the 64, and are kept by themselves where that went back. In a
    process of its own, which has nothing to use again.
    """
    command = [sys.executable, "-c", PHASES, *how.split()]
    others = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "THP_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert [float(x) for x in told.stdout.split()] == pytest.approx([there, kept], abs=12)
