"""What is rounding and what is a difference, format by format."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from winnow.theory import best_of_n_weights, kl_best_of_n_plugin
from winnow.theory.ties import _significant_bits, all_equal, centred, levels, rounding

finite = st.floats(-1e6, 1e6)
several = st.integers(1, 8).flatmap(lambda n: arrays(np.float64, n, elements=finite))


def bfloat16(values) -> np.ndarray:
    """As a reward model in bfloat16 gives them: torch's own rounding, widened."""
    return torch.tensor(values, dtype=torch.float64).bfloat16().double().numpy()


class TestByHand:
    @pytest.mark.parametrize(
        "values",
        [
            [0.3, 0.1 + 0.2],  # 1 unit in the last place
            [1.0, sum([0.1] * 10)],
            [0.8, 0.7 + 0.1],
            [10.0, sum([0.01] * 1000)],  # 1e-13: a thousand parts
            [1.0, 1 - 1e-16, 1 + 2e-16],
            [0.1 + 0.2, 0.3, -0.3 + 0.6],
            [],
            [7.0],
            [5e-324, 5e-324],
        ],
    )
    def test_sums_in_another_order(self, values) -> None:
        assert all_equal(values)
        assert set(levels(values).tolist()) <= {0}

    @pytest.mark.parametrize(
        "values",
        [
            [0.3, 0.3001],
            [0.3, 0.3 + 1e-9],
            [1e-200, 2e-200],  # small is not equal
            [200.0, 201.0],  # 8 bits, neighbours in bfloat16: but points are counted, not rounded
            [16_777_215.0, 16_777_214.0],  # 24 bits, neighbours in float32
            [99.0, 100.0],
            [127 / 128, 1.0],  # tests passed: 7 bits
            [1e16, 1.1e16],
            [-1e308, 1e308],
            [0.0, 5e-324],
        ],
    )
    def test_clear_differences(self, values) -> None:
        assert not all_equal(values)
        assert levels(values).max() == 1

    def test_of_float32(self) -> None:
        """Spacing 2^-23 at 1, eight of them are 2^-20, which is 9.5e-7."""
        one = np.float32(1.1)
        near = [one, one + np.float32(8e-7)]
        assert all_equal(near)
        assert not all_equal([one, one + np.float32(2e-6)])
        assert not all_equal([*near, 1.1])  # a float64 beside them: they are float64s too

    def test_of_bfloat16(self) -> None:
        """Between 2 and 4 its numbers are 1/64 apart; 2^-7 of the largest is 1 to 2 spacings."""
        assert all_equal(bfloat16([2.5 + 1 / 64, 2.5]))
        assert not all_equal(bfloat16([2.5 + 1 / 64, 2.5 - 1 / 64]))
        assert not all_equal(bfloat16([2.5 + 1 / 64, 2.5, 2.0]))

    @pytest.mark.parametrize("rest", [0.1 + 0.2 - 0.3, 1 - 0.9 - 0.1])
    def test_what_cancels_is_a_rounding_of_its_unit(self, rest) -> None:
        assert all_equal([0.0, rest], unit=1.0)
        assert not all_equal([0.0, rest])
        assert not all_equal([0.0, 1e-9], unit=1.0)


@given(finite.filter(bool))
def test_significant_bits_are_those_of_the_fraction(value) -> None:
    """Of the numerator without its factors of 2: the denominator of a float is a power of 2."""
    number = abs(Fraction(value).numerator)
    assert _significant_bits(np.array([value, 0.0])) == (number // (number & -number)).bit_length()


@given(several, st.permutations(range(8)))
def test_levels_say_what_all_equal_says_in_any_order(values, order) -> None:
    found = levels(values)
    assert all_equal(values) == (found.max() == 0)
    assert set(found) == set(range(found.max() + 1))
    order = [i for i in order if i < len(values)]
    assert levels(values[order]).tolist() == found[order].tolist()
    for i in range(len(values)):
        for j in range(len(values)):
            if values[i] > values[j]:
                assert found[i] <= found[j]
                assert found[i] < found[j] or values[i] - values[j] <= rounding(values)


@given(several, st.integers(-60, 60), st.booleans())
def test_a_power_of_two_and_a_sign_change_nothing(values, power, flipped) -> None:
    """They change no bit of the fraction; but one that becomes whole, or a half, becomes exact."""
    values = np.where(np.abs(values) < 1e-200, 0.0, values)  # that none loses bits
    other = values * 2.0**power * (-1 if flipped else 1)
    assume(all((2 * x != np.rint(2 * x)).any() for x in (values, other)))
    assert all_equal(other) == all_equal(values)


@given(st.floats(0.01, 100), st.integers(2, 8), st.floats(-100, 100), st.randoms())
def test_sums_are_equal_in_whatever_order(scale, n, shift, random) -> None:
    """Eight parts added up in eight orders: at most 7 roundings each of a partial sum."""
    parts = [scale / 3, scale / 7, scale, *[scale / 11] * n]
    sums = [abs(shift) + sum(random.sample(parts, len(parts))) for _ in range(8)]
    assert all_equal(sums)


@given(st.floats(0.1, 100))
def test_neighbours_are_equal_in_every_format(value) -> None:
    """A number of the format and the next above it are one rounding apart."""
    here = bfloat16([value])
    bits = torch.tensor(here).bfloat16().view(torch.int16) + 1
    above = bits.view(torch.bfloat16).double().numpy()
    both = np.concatenate([here, above])
    if _significant_bits(both) == 8 and (2 * both != np.rint(2 * both)).any():
        assert all_equal(both)
    single = np.float32(value)
    assume(_significant_bits(np.array([single], dtype=np.float64)) > 8)
    assert all_equal([single, np.nextafter(single, np.float32(1e9))])
    assert all_equal([value, np.nextafter(value, 1e9)]) or 2 * value == round(2 * value)


@pytest.mark.parametrize("points", [[72.5, 73], [99.5, 100], [80, 79.5, 79.5, 80], [64.5, 65]])
def test_half_points_are_no_rounding(points) -> None:
    """Though they have as many bits as a bfloat16."""
    assert not all_equal(points)
    assert len(set(levels(points).tolist())) == 2
    assert all_equal([points[0]] * 3)


@given(several)
def test_what_is_centred_has_mean_0_to_its_own_rounding(values) -> None:
    apart = centred(values)
    assert abs(apart.mean()) <= 16 * 2.3e-16 * np.abs(apart).max()
    exact = [float(Fraction(v) - sum(map(Fraction, values.tolist())) / len(values)) for v in values]
    np.testing.assert_allclose(apart, exact, rtol=0, atol=1e-15 * np.abs(values).max())


def test_large_numbers_that_hardly_differ_are_centred() -> None:
    """Their mean is rounded to a spacing at 1e3, 1.1e-13: up to 6e-14, 1e-5 of the differences."""
    values = 1e3 + 4e-9 * np.array([0.1, 0.6, 0.3, 1.0, 0.2])
    assert abs((values - values.mean()).mean()) > 1e-15
    assert abs(centred(values).mean()) < 1e-23


def test_the_best_of_n_ties_what_rounding_tells_apart() -> None:
    """Of three equal samples each is the best of two with chance 1/3; one level has no KL."""
    scores = [0.3, 0.1 + 0.2, 0.3]
    np.testing.assert_allclose(best_of_n_weights(scores, 2), [1 / 3] * 3, rtol=1e-14)
    assert kl_best_of_n_plugin(scores, 2) == pytest.approx(0, abs=1e-15)
