"""Rounding to bfloat16 that is right on average, against the two neighbours of each number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests import tiny
from winnow.engines.models.lora import plain_state
from winnow.engines.models.rounding import rounded, rounded_each

LOW = torch.bfloat16
NORMAL = st.floats(2.0**-100, 2.0**100, width=32) | st.floats(-(2.0**100), -(2.0**-100), width=32)


def neighbours(x: float) -> tuple[float, float]:
    """The numbers with 8 bits about a number, nearer to zero and farther from it."""
    step = 2.0 ** (math.frexp(x)[1] - 8)
    near = math.trunc(x / step) * step
    return near, near + math.copysign(step, x) * (near != x)


@given(NORMAL)
def test_a_number_becomes_one_of_its_neighbours_as_often_as_it_is_near(x: float) -> None:
    """Of n draws k are up; their share is off by 5 standard deviations once in a million."""
    n = 20_000
    near, far = neighbours(x)
    found = rounded(torch.full((n,), x)).double()
    ups = int((found == far).sum()) if far != near else 0
    assert ups + int((found == near).sum()) == n
    p = (x - near) / (far - near) if far != near else 0.0
    assert abs(ups - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1


@given(st.floats(2.0**-14, 60_000, width=32) | st.floats(-60_000, -(2.0**-14), width=32))
def test_in_float16_too(x: float) -> None:
    """Its numbers have 11 bits."""
    n = 20_000
    step = 2.0 ** (math.frexp(x)[1] - 11)
    near = math.trunc(x / step) * step
    far = near + math.copysign(step, x) * (near != x)
    found = rounded(torch.full((n,), x), torch.float16).double()
    ups = int((found == far).sum()) if far != near else 0
    assert ups + int((found == near).sum()) == n
    p = (x - near) / (far - near) if far != near else 0.0
    assert abs(ups - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 5  # by eighths of a draw


@given(st.floats(width=16, allow_nan=False))
def test_numbers_of_float16_stay(x: float) -> None:
    low = torch.tensor(x).to(torch.float16)
    assert torch.equal(rounded(low.float().repeat(300_000), torch.float16), low.repeat(300_000))


@given(st.floats(width=16, allow_nan=False))
def test_numbers_of_bfloat16_stay(x: float) -> None:
    low = torch.tensor(x).to(LOW)
    assert torch.equal(rounded(low.float().repeat(300_000)), low.repeat(300_000))


def test_nan_and_infinity_stay() -> None:
    """Any NaN, those with all bits set too, which GPUs make."""
    nans = torch.tensor([0x7FC00000, 0x7FFFFFFF, -1, -0x400000], dtype=torch.int32)
    ends = torch.tensor([math.inf, -math.inf])
    given = torch.cat([nans.view(torch.float32), ends]).repeat(1000)
    for dtype in (LOW, torch.float16):
        found = rounded(given, dtype).view(1000, 6)
        assert found[:, :4].isnan().all()
        assert (found[:, 4] == math.inf).all()
        assert (found[:, 5] == -math.inf).all()


def test_what_moves_less_than_bfloat16_can_is_seen_on_average() -> None:
    """From numbers in 8 bits, as they are stored, by a hundredth or two of what lies between two.

    A move is seen where a number jumps, once in 100 to 200 of 576,000 places, so the sum of what is
    seen has a standard deviation of at most sqrt(200 / 576,000) = 1.9 % of itself.
    """
    torch.manual_seed(0)
    before = torch.randint(-127, 128, (1000, 576)).double() / 1024
    move = before * 2.0**-8 / 100
    pair = [x.float() for x in (before + move, before)]
    seen, nearest = (
        float((move * (one.double() - other.double())).sum() / (move * move).sum())
        for one, other in ([*map(rounded, pair)], [x.to(LOW) for x in pair])
    )
    assert seen == pytest.approx(1, abs=0.1)
    assert nearest == 0


def test_a_place_is_rounded_alike_each_time_whatever_its_tensor_looks_like() -> None:
    torch.manual_seed(0)
    weight = torch.randn(700, 576)
    once = rounded(weight)
    assert torch.equal(rounded(weight), once)
    assert torch.equal(rounded(weight.t().contiguous().t()), once)
    assert torch.equal(rounded(weight.view(-1)).view_as(once), once)
    assert not torch.equal(once, weight.to(LOW))
    rows = once[:, 0] != weight[:, 0].to(LOW)
    assert 0 < int(rows.sum()) < len(rows)  # no column has one draw


@given(st.integers(0, 600_000), st.integers(1, 300_000))
def test_a_part_is_rounded_as_it_is_in_the_whole(start: int, size: int) -> None:
    weight = torch.linspace(1, 2, 600_000)
    part = slice(start, start + size)
    assert torch.equal(rounded(weight[part], start=start), rounded(weight)[part])


@pytest.mark.parametrize(
    ("had", "wanted"), [(torch.float32, torch.float32), (LOW, LOW), (LOW, torch.float32)]
)
def test_other_data_types_are_as_torch_has_them(had: torch.dtype, wanted: torch.dtype) -> None:
    weight = torch.randn(50).to(had)
    assert torch.equal(rounded(weight, wanted), weight.to(wanted))


def test_tied_weights_stay_tied(tmp_path) -> None:
    net = tiny.model(3, tie_word_embeddings=True)
    net.save_pretrained(tmp_path, state_dict=rounded_each(plain_state(net), LOW))
    (file,) = tmp_path.glob("*.safetensors")
    own = net.get_input_embeddings().weight
    names = [name for name, weight in load_file(file).items() if weight.shape == own.shape]
    assert len(names) == 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, rounded(own))


@pytest.mark.parametrize("kind", [torch.int64, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [LOW, torch.float32])
def test_what_is_not_float32_is_as_it_was(kind, dtype) -> None:
    """Counts in buffers, and weights that are no larger for a server that computes in more bits."""
    given = torch.arange(300).to(kind)
    assert rounded_each({"one": given}, dtype)["one"] is given


def test_without_a_data_type_they_are_as_they_were() -> None:
    weights = {"one": torch.randn(4)}
    assert rounded_each(weights, None)["one"] is weights["one"]
