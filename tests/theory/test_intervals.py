"""The interval of resamples; those of rates are tested where they are used."""

from __future__ import annotations

import math

import numpy as np

from winnow.theory.intervals import resampled_interval


def test_of_resamples_it_is_the_middle_95_percent():
    values = np.arange(201) / 2
    assert resampled_interval(values) == (2.5, 97.5)
    assert resampled_interval(np.array([*values, math.nan, math.inf])) == (2.5, 97.5)
    assert all(map(math.isnan, resampled_interval(np.array([math.nan]))))
