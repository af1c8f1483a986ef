"""A verifier that fails: now and then, and most of the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.errors import UserError
from winnow.rollouts.scoring import Patience
from winnow.types import Score


@given(st.lists(st.lists(st.booleans(), max_size=5), max_size=12), st.integers(0, 6))
def test_it_ends_at_the_third_time_running_and_never_before(batches, enough):
    """Against scores that are gathered here until they are enough."""
    gathered: list[bool] = []
    mostly: list[bool] = []
    stops = None
    for number, batch in enumerate(batches):
        gathered += batch
        if len(gathered) >= enough:
            mostly.append(sum(gathered) > len(gathered) / 2)
            gathered = []
        if mostly[-3:] == [True] * 3:
            stops = number
            break
    patience = Patience("winnow", enough)
    seen = None
    for number, batch in enumerate(batches):
        try:
            patience([Score.failed("no") if failed else Score(0.0) for failed in batch])
        except UserError:
            seen = number
            break
    assert seen == stops


def test_what_is_said():
    bad = [Score(1.0), Score.failed("first"), Score.failed("last")]
    for step, where in ((None, ""), (4, " of steps 2 to 4")):
        patience = Patience("winnow train --resume runs/a")
        for before in (2, 3):
            patience(bad, step and before)
        with pytest.raises(UserError) as error:
            patience(bad, step)
        assert str(error.value) == (
            f"reward: most scores{where} are errors, the last of them: last; fix the verifier "
            "and resume: winnow train --resume runs/a"
        )
