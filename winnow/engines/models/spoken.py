"""How an engine speaks: prompts to tokens, tokens to text, the conventions of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from winnow.engines.models.tokenization import PromptEncoder, token_ends
from winnow.types import Prompt


class Spoken:
    """The part of an `Engine` that a tokenizer answers for."""

    tokenizer: Any
    _encode: PromptEncoder

    def speak(self, tokenizer: Any, options: Mapping[str, Any]) -> None:
        """Take a tokenizer.

        Args:
            options: For the chat template (`prompts.chat_template_options`).
        """
        self.tokenizer = tokenizer
        self._encode = PromptEncoder(tokenizer, options)

    @cached_property
    def vocabulary(self) -> str:
        words = sorted(self.tokenizer.get_vocab().items())
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        return self._encode(prompt)

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def token_ends(self, tokens: Sequence[int], text: str) -> tuple[int, ...]:
        return token_ends(self.tokenizer, tokens, text)

    def encode_completion(self, text: str, *, ended: bool) -> tuple[int, ...]:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        last = self.tokenizer.eos_token_id
        return (*ids, last) if ended and last is not None else tuple(ids)
