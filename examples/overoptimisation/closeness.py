"""How near a completion's number is to the right one: the gold reward of this example."""

import re
from typing import Any


def closeness(prompt: Any, completion: str) -> float:
    """1 - |number - answer| / answer, at least 0; 0 for what is no number alone."""
    said = completion.strip()
    if not re.fullmatch(r"-?\d{1,9}", said):
        return 0.0
    answer = int(prompt.answer)
    return max(0.0, 1.0 - abs(int(said) - answer) / answer)
