"""Text -> the tokens that a model sees: prompts, and recorded samples without tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from winnow.errors import UserError
from winnow.types import Group, Prompt, Sample


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

    def check(self, prompts: Sequence[Prompt], max_tokens: int, context: int | None) -> None:
        """Raise a `UserError` where the longest prompt leaves no room for a completion."""
        if not prompts:
            return
        length, name = max((len(self(prompt)), prompt.id) for prompt in prompts)
        if context is not None and length + max_tokens > context:
            raise UserError(
                "prompts",
                f"prompt {name!r} has {length} tokens and leaves no room for sampling.max_tokens = "
                f"{max_tokens} in the model's context of {context}",
                "shorten or drop the prompt, or lower sampling.max_tokens",
            )


class Retokeniser:
    """Completes the groups of a file: token ids of prompts and samples where they are not known.

    A sample's end follows from its finish reason: the end-of-sequence token after `eos`, the stop
    string after `stop` if only one is possible, nothing after `length`.

    Args:
        anew: Whether the file's tokens are another model's, so that only its text can be used.
        context: Most tokens that the model takes; ``None`` if it does not say.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], *, anew: bool, context: int | None
    ) -> None:
        self._tokenizer = tokenizer
        self._encode = PromptEncoder(tokenizer)
        self._stop = stop[0] if len(stop) == 1 else ""
        self._anew = anew
        self._context = context

    def __call__(self, group: Group) -> Group:
        """The group, complete.

        Raises:
            UserError: a sample that is longer than the model's context, or of no token at all.
        """
        known = bool(group.prompt_ids) and not self._anew
        prompt_ids = group.prompt_ids if known else self._encode(group.prompt)
        samples = tuple(
            sample if sample.token_ids and not self._anew else self._complete(group, sample)
            for sample in group.samples
        )
        longest = len(prompt_ids) + max(len(sample.token_ids) for sample in samples)
        if self._context is not None and longest > self._context:
            raise UserError(
                "samples_file",
                f"a sample of prompt {group.prompt.id!r} is {longest} tokens long with its prompt, "
                f"more than the model's context of {self._context}",
                "leave it out with winnow select --rule 'length(high=...)'",
            )
        return group.with_(prompt_ids=prompt_ids, samples=samples)

    def _complete(self, group: Group, sample: Sample) -> Sample:
        end = self._stop if sample.finish_reason == "stop" else ""
        ids = self._tokenizer.encode(sample.text + end, add_special_tokens=False)
        if sample.finish_reason == "eos" and self._tokenizer.eos_token_id is not None:
            ids.append(self._tokenizer.eos_token_id)
        if not ids:
            problem = f"an answer to prompt {group.prompt.id!r} is empty, with nothing to learn"
            raise UserError("samples_file", problem, "leave it out with winnow select")
        return replace(sample, token_ids=tuple(ids), logprobs=(), entropies=(), length=len(ids))
