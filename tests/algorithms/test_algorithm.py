"""What an algorithm may be made of in Python."""

from __future__ import annotations

import numpy as np
import pytest

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.denominators import SampleMeans
from winnow.algorithms.kl import InReward
from winnow.algorithms.losses import NLL
from winnow.algorithms.objective import Term
from winnow.errors import UserError


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kl": "in-loss(0.1)"}, r"kl: 'in-loss\(0\.1\)' is of type str; use NoKL\(\), InReward"),
        ({"kl": InReward}, r"kl: <class .*InReward'> is of type type; use NoKL\(\)"),
        ({"kl": None}, "kl: None is of type NoneType"),
        ({"critic": "value"}, r"critic: 'value' is of type str; use NoCritic\(\) or Value\(\)$"),
        ({"reward_scale": "-1/1"}, "reward_scale: unknown '-1/1'; use 0/1 or -1/\\+1$"),
        ({"resample": "never"}, "resample: unknown 'never'; use every-step or once$"),
        ({"terms": (NLL(),)}, r"terms: \(NLL\(\),\) is no list of terms"),
        ({"epochs": 2.0}, r"epochs: must be an int \(got 2\.0\)"),
        ({"refill": "1"}, r"refill: must be an int \(got '1'\)"),
        ({"entropy": "0.1"}, r"entropy: must be a finite number \(got '0\.1'\)"),
        ({"entropy": float("nan")}, r"entropy: must be a finite number \(got nan\)"),
        ({"name": 3}, r"name: must be a str \(got 3\)"),
    ],
)
def test_a_cell_that_would_be_passed_over_is_refused(given, said) -> None:
    """A KL as a recipe writes it was no KL, and nothing said so."""
    with pytest.raises(UserError, match=rf"^algorithm\.{said}"):
        Algorithm(**{"name": "mine"} | given)


def test_a_coefficient_is_a_finite_number() -> None:
    for given in ("2", None, float("inf"), True):
        with pytest.raises(UserError, match=r"^algorithm\.coefficient: must be a finite number"):
            Term(NLL(), SampleMeans(), coefficient=given)
    assert Term(NLL(), SampleMeans(), coefficient=np.float32(2)).coefficient == 2


def test_terms_are_a_tuple_whatever_they_are_given_as() -> None:
    term = Term(NLL(), SampleMeans())
    for given in (term, [term], (term,)):
        assert Algorithm("mine", terms=given).terms == (term,)
