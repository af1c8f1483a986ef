"""When a completion ends, and what its text is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from winnow.engines.models.tokenization import token_ends
from winnow.types import FinishReason


class Stopper:
    """Decides after each token whether a completion has ended.

    A stop string may lie anywhere in the text, across tokens or inside one. Only a token whose own
    text holds the last character of a stop string can complete it: only then is the text decoded.
    """

    def __init__(self, tokenizer: Any, end_ids: frozenset[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._stop = tuple(stop)
        self._known: dict[int, bool] = {}  # of tokens as they come: of all it takes a second

    def reason(self, tokens: Sequence[int], max_tokens: int) -> FinishReason | None:
        """Why the completion ends with the last of these tokens; ``None`` if it does not."""
        if tokens[-1] in self._end_ids:
            return "eos"
        if self._may_complete(tokens[-1]):
            text = self._decode(tokens)
            if any(stop in text for stop in self._stop):
                return "stop"
        return "length" if len(tokens) >= max_tokens else None

    def text(self, tokens: Sequence[int], reason: FinishReason) -> str:
        """The completion without its end-of-sequence token, cut before the first stop string."""
        text = self._decode(tokens[:-1] if reason == "eos" else tokens)
        ends = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def ends(self, tokens: Sequence[int], text: str) -> tuple[int, ...]:
        """Where each token ends in the text that `text` gave; empty where that is not known."""
        return token_ends(self._tokenizer, tokens, text)

    def _decode(self, tokens: Sequence[int]) -> str:
        decoded = self._tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(decoded, str)
        return decoded

    def _may_complete(self, token: int) -> bool:
        """Whether a token's text holds the last character of a stop string.

        A token's text is what it adds after another one: alone, some tokenizers strip its leading
        space. A token that is part of a character (shown as U+FFFD) may complete any.
        """
        if not self._stop:
            return False
        known = self._known.get(token)
        if known is None:
            anchor, before, lasts = self._anchored
            text = self._decode([*anchor, token])
            known = not text.startswith(before) or not lasts.isdisjoint(text[len(before) :])
            self._known[token] = known
        return known

    @cached_property
    def _anchored(self) -> tuple[list[int], str, frozenset[str]]:
        """A token, its text, and the last characters of stop strings."""
        anchor = self._tokenizer.encode("a", add_special_tokens=False)[-1:]
        return anchor, self._decode(anchor), frozenset(stop[-1] for stop in self._stop) | {"\ufffd"}
