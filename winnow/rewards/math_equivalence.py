"""Mathematical equality, decided by math-verify.

Runs in a process of its own, and is imported only there: SymPy is slow to load, and can take for
ever on a short formula.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

from math_verify import (  # type: ignore[import-untyped, unused-ignore]
    ExprExtractionConfig,
    LatexExtractionConfig,
    parse,
    verify,
)

from winnow.rewards.verifiers import needed_answer
from winnow.types import Prompt

# The library warns once that its own time limit is off. It is off on purpose: it uses signals,
# which a loop in SymPy's C code or a caught exception defeats. The worker's time limit holds.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_WHAT = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
_DELIMITER = re.compile(r"\$|\\\(|\\\[|\\f?boxed")


def math(prompt: Prompt, completion: str) -> float:
    r"""1 if the completion's last formula equals the answer, as mathematics: ``\frac12`` is 0.5.

    ``\boxed{...}`` goes before other formulas. A completion in which math-verify finds nothing to
    read is wrong. Decimals are compared to six places (math-verify's rule), fractions exactly.

    Raises:
        ValueError: The prompt has no answer, or it cannot be read as mathematics; or the comparison
            itself fails.
    """
    gold = _gold(needed_answer(prompt))
    said = _parse(completion, raise_on_error=False)
    # its order is (gold, target), and it is not symmetric
    return float(verify(gold, said, timeout_seconds=None, raise_on_error=True))


@functools.lru_cache(maxsize=4096)
def _gold(answer: str) -> list[Any]:
    """The answer as formulas; cached, as a prompt has many samples."""
    parsed = _parse(answer, raise_on_error=True)
    if not parsed:
        raise ValueError(f"the prompt's answer cannot be read as mathematics: {answer!r:.80}")
    return parsed


def _parse(text: str, *, raise_on_error: bool) -> list[Any]:
    # Without delimiters math-verify reads "2\sqrt{3}" as 2, so a text that is one formula gets them
    parsed: list[Any] = parse(
        f"\\boxed{{{text.strip()}}}" if _is_formula(text) else text,
        extraction_config=_WHAT,
        fallback_mode="no_fallback",
        parsing_timeout=None,
        raise_on_error=raise_on_error,
    )
    return parsed


def _is_formula(text: str) -> bool:
    """Whether it is one bare formula: one line, no delimiter, no word (``18 dollars`` has one)."""
    line = text.strip()
    if not line or "\n" in line or "**" in line or _DELIMITER.search(line):
        return False
    return not any(len(part) > 1 and part.isalpha() for part in line.split())
