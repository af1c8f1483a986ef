"""Prompts of stored samples as the model saw them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from winnow.engines.factory import decoder
from winnow.errors import UserError, number_of


class PromptTexts:
    """The texts of prompts; of a conversation what the chat template made of it.

    Files hold the tokens of a prompt, not the text that a template made: a model's tokenizer reads
    them back. It is loaded when it is first needed, and only if it is on this machine.
    """

    def __init__(self) -> None:
        self._decoders: dict[str, Callable[[Sequence[int]], str] | str] = {}

    def of(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """What the text of a row's prompt is, in words, and the text."""
        ids, text = row.get("prompt_ids") or (), row.get("prompt")
        tokens = f" ({number_of(len(ids), 'token')})" if ids else ""
        if not row.get("messages"):
            if text is None:
                return "prompt: its text is not in the file", str(row.get("prompt_id") or "")
            return f"prompt{tokens}:", text
        decode = self._decoder(row.get("model"), bool(ids))
        if isinstance(decode, str):
            return f"prompt{tokens}, as messages ({decode}):", _spoken(row["messages"])
        return f"prompt{tokens}, through the chat template:", decode(ids)

    def _decoder(self, model: str | None, known: bool) -> Callable[[Sequence[int]], str] | str:
        """What reads tokens, or why nothing does."""
        if not known:
            return "its tokens are not in the file"
        if model is None:
            return "the file names no model to read its tokens with"
        if model not in self._decoders:
            try:
                self._decoders[model] = decoder(model)
            except UserError:
                self._decoders[model] = f"the tokenizer of {model} is not on this machine"
        return self._decoders[model]


def _spoken(messages: str) -> str:
    """A conversation, a turn after a line with its role."""
    try:
        turns = [(turn["role"], turn.get("content") or turn) for turn in json.loads(messages)]
    except (ValueError, TypeError, KeyError, AttributeError):
        return messages
    return "\n".join(f"[{role}]\n{said}" for role, said in turns)
