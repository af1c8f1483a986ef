"""Text -> the tokens that a model sees."""

from __future__ import annotations

from typing import Any

from winnow.errors import UserError
from winnow.types import Prompt


class PromptEncoder:
    """Prompt -> token ids, through the chat template where the prompt is a conversation."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids.

        Raises:
            UserError: the tokenizer has no chat template, or it makes no token of the prompt.
        """
        if prompt.messages is None:
            ids = self.tokenizer.encode(prompt.text)
        else:
            if not getattr(self.tokenizer, "chat_template", None):
                problem = "this model's tokenizer has no chat template"
                remedy = "set prompts.chat = false and write prompts.template"
                raise UserError("prompts.chat", problem, remedy)
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in prompt.messages],
                add_generation_prompt=True,
                tokenize=False,
            )
            ids = self.tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            raise UserError("prompts", f"prompt {prompt.id!r} has no tokens", "leave it out")
        return tuple(ids)
