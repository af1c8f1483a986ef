"""Who of several processes takes which groups."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests import build
from winnow.engines.learning.microbatches import ALONE, Rank, balanced, cut, dealt, turns

SIZES = st.lists(st.integers(1, 50), max_size=12)


@given(SIZES, st.integers(1, 4))
def test_everything_goes_to_one_rank(sizes, ranks) -> None:
    """No rank has more than a fair share and one of the largest: it had least before its last."""
    shares = balanced(sizes, ranks)
    assert sorted(i for share in shares for i in share) == list(range(len(sizes)))
    most = max(sum(sizes[i] for i in share) for share in shares)
    assert most <= sum(sizes) / ranks + max(sizes, default=0)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), max_size=6), st.integers(1, 4))
def test_ranks_make_equally_many_passes(lengths, ranks) -> None:
    """And each sample that is asked for is in one that counts, once."""
    groups = [build.group([1.0] * len(each), lengths=each) for each in lengths]
    asked = [range(number % 2, len(each)) for number, each in enumerate(lengths)]
    found = [turns(groups, asked, 12, Rank(n, ranks), share=True) for n in range(ranks)]
    assert len({len(own) + len(idle) for own, idle in found}) == 1
    seen = [(p.place, i) for own, _ in found for parts in own for p in parts for i in p.samples]
    assert sorted(seen) == [(place, i) for place, own in enumerate(asked) for i in own]


def test_a_process_alone_cuts_all() -> None:
    groups = [build.group([1.0, 0.0], lengths=[3, 5]), build.group([1.0], lengths=[2])]
    asked = [(1,), ()]
    own, idle = turns(groups, asked, 12, ALONE, share=True)
    assert (own, idle) == (cut(groups, asked, 12, share=True), [])
    assert dealt(groups, asked, 1) == [[(1,), ()]]
