"""Reasoning Gym's own verifiers. Imported only where it runs: the library is slow to load.

A prompt made from Reasoning Gym carries in ``data``:

- ``gym``: the name of the data set, as in ``reasoning_gym.create_dataset``;
- ``entry``: the entry itself, with its ``question``, ``answer`` and ``metadata``;
- ``config``: the settings that the data set was made with (optional; some verifiers use them).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import reasoning_gym  # type: ignore[import-untyped, unused-ignore]
from reasoning_gym.utils import (  # type: ignore[import-untyped, unused-ignore]
    extract_answer,
)

from winnow.types import Prompt


def gym(prompt: Prompt, completion: str) -> float:
    """The score of the data set's own verifier, from 0 to 1; some give partial scores.

    The answer is the content of the last ``<answer>...</answer>``, or else the whole completion
    without the white space around it.

    Raises:
        ValueError: The prompt does not come from Reasoning Gym, or the data set is unknown.
    """
    name, entry = prompt.data.get("gym"), prompt.data.get("entry")
    if not isinstance(name, str) or not isinstance(entry, Mapping):
        raise ValueError(f"prompt {prompt.id!r} is not from Reasoning Gym: no data['gym', 'entry']")
    score = _score_fn(name, json.dumps(dict(prompt.data.get("config") or {}), sort_keys=True))
    answer = extract_answer(completion)
    return float(score(completion.strip() if answer is None else answer, dict(entry)))


@functools.lru_cache(maxsize=256)
def _score_fn(name: str, config: str) -> Callable[[str, Mapping[str, Any]], float]:
    """The data set's verifier; cached, as making a data set can read word lists."""
    settings = json.loads(config)
    if not settings:
        return reasoning_gym.get_score_answer_fn(name)  # type: ignore[no-any-return, unused-ignore]
    return reasoning_gym.create_dataset(name, **settings).score_answer  # type: ignore[no-any-return, unused-ignore]
