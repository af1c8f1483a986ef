"""The table of distances to pi* in the docs, and what is written below it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.theory import distances

DOCS = Path(__file__).parents[2] / "docs" / "algorithms.md"


def test_the_docs_have_how_near_rows_come() -> None:
    rows = re.findall(r"^\| (\d+) \|((?: [01]\.\d{3} \|){8})$", DOCS.read_text(), re.MULTILINE)
    told = {int(n): [float(cell) for cell in cells.split("|")[:-1]] for n, cells in rows}
    assert list(told) == [count * distances.N for count in distances.PROMPTS]
    (made,) = distances.table([32], 40)
    assert told[256] == pytest.approx([float(c) for c in made.split("|")[2:-1]], abs=0.03)


@pytest.mark.long
@pytest.mark.parametrize("beta", distances.BETAS)
def test_four_times_the_samples_halve_the_distance_except_by_group(beta) -> None:
    gibbs, over_set, over_group, _ = (
        [distances.distance(row, beta, prompts, 120) for prompts in (32, 128)]
        for row in distances.rows(beta)
    )
    for few, many in (gibbs, over_set):
        assert many == pytest.approx(few / 2, rel=0.3)
    assert over_group[1] > 0.9 * over_group[0]


def test_for_a_small_beta_every_row_over_the_set_is_raft() -> None:
    rng = np.random.default_rng(0)
    answers = rng.choice(4, (100, distances.N), p=distances.POLICY)
    gibbs, over_set, _, raft = (
        distances.fitted(row, answers) for row in distances.rows(distances.BETAS[1])
    )
    np.testing.assert_allclose(over_set, raft, atol=1e-6)
    np.testing.assert_allclose(gibbs, raft, atol=1e-6)
