"""What a column of answers may hold, and as what text."""

from __future__ import annotations

import json
import math
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.config.schema.prompts import PromptsConfig
from winnow.errors import UserError
from winnow.prompts.answers import answer_text
from winnow.prompts.rows import from_rows, read_jsonl, read_parquet


def answers(rows: list[dict[str, Any]], **settings: Any) -> list[str | None]:
    config = PromptsConfig(source="f.jsonl", **settings)
    return [prompt.answer for prompt in from_rows(rows, config)]


def refusal(value: object, **settings: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        answers([{"prompt": "q", "answer": "1"}, {"prompt": "r", "answer": value}], **settings)
    assert caught.value.setting == "prompts.answer_column"
    assert caught.value.problem.startswith("row 2 of 'f.jsonl' has ")
    return caught.value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  18 ", "  18 "),
        (18, "18"),
        (18.0, "18"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (0.00001, "0.00001"),
        (1e16, "10000000000000000"),
        (1e300, "1E+300"),
        (True, "True"),
        (Decimal("2.50"), "2.5"),
        (np.float32(0.1), "0.1"),
        (np.int64(7), "7"),
        (None, None),
        (math.nan, None),
        (np.float64("nan"), None),
    ],
)
def test_as_it_would_be_written(value: object, text: str | None) -> None:
    assert answers([{"prompt": "q", "answer": value}]) == [text]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_keeps_its_value_and_has_no_needless_zero(value: float) -> None:
    """`float` of the text is the number again; a whole one has no point."""
    text = answer_text(value, "answer")
    assert text is not None
    assert float(text) == value
    if value == int(value) and abs(value) < 1e15:
        assert text == str(int(value))
    assert not ("." in text and "E" not in text and text.endswith("0"))


@given(st.integers(-(10**6), 10**6), st.integers(0, 6))
def test_a_decimal_of_single_precision_is_its_shortest(digits: int, places: int) -> None:
    """Up to seven digits survive single precision, and come back as they were written."""
    value = Fraction(digits, 10**places)
    text = answer_text(np.float32(float(value)), "answer")
    assert text is not None
    assert Fraction(text) == value


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (["18", "19"], "a list"),
        ({"ground_truth": "18", "style": "rule"}, "a struct"),
        (b"18", "bytes"),
        (math.inf, "no number"),
        (datetime(2024, 11, 26), "a value of type datetime"),
    ],
)
def test_what_is_no_answer_is_refused_with_its_row_and_column(value: object, kind: str) -> None:
    assert f"{kind} in column 'answer'" in refusal(value).problem


def test_a_struct_says_how_to_name_its_field() -> None:
    assert "answer.ground_truth" in refusal({"ground_truth": "18"}).remedy


class TestFields:
    ROWS = ({"prompt": "q", "model": {"truth": {"value": 18.0}, "style": "rule"}},)

    def test_a_path_into_a_struct(self) -> None:
        assert answers(list(self.ROWS), answer_column="model.truth.value") == ["18"]
        assert answers([{"prompt": "q", "model": None}], answer_column="model.truth") == [None]

    def test_a_column_of_that_name_goes_first(self) -> None:
        rows = [{"prompt": "q", "model.truth": "1", "model": {"truth": "2"}}]
        assert answers(rows, answer_column="model.truth") == ["1"]

    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("modle.truth", "no column 'modle'"),
            ("model.trut", "no column 'trut'"),
            ("model.style.name", "a value of type str in 'model.style', which has no field 'name'"),
            ("model.truth", "a struct in column 'model.truth'"),
        ],
    )
    def test_a_wrong_path(self, path: str, problem: str) -> None:
        with pytest.raises(UserError) as caught:
            answers(list(self.ROWS), answer_column=path)
        assert caught.value.setting == "prompts.answer_column"
        assert problem in caught.value.problem


def test_from_files(tmp_path: Path) -> None:
    """Numbers of single precision lose theirs when Python reads them; those of a struct too."""
    table = pa.table(
        {
            "prompt": ["q", "r", "s"],
            "answer": pa.array([0.1, None, 18.0], pa.float32()),
            "half": pa.array([np.float16(0.1), None, np.float16(2)], pa.float16()),
            "model": pa.array(
                [{"truth": 0.3}, None, {"truth": 5.0}], pa.struct([("truth", pa.float32())])
            ),
        }
    )
    pq.write_table(table, tmp_path / "f.parquet")
    rows = list(read_parquet(str(tmp_path / "f.parquet")))
    assert answers(rows) == ["0.1", None, "18"]
    assert answers(rows, answer_column="half") == ["0.1", None, "2"]
    assert answers(rows, answer_column="model.truth") == ["0.3", None, "5"]
    path = tmp_path / "f.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": "q", "answer": a}) + "\n" for a in (math.nan, 2.0))
    )
    assert answers(list(read_jsonl(str(path)))) == [None, "2"]
