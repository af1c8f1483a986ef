"""Text -> the tokens that a model sees."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.meta import find_undeclared_variables
from tokenizers.decoders import DecodeStream

from winnow.errors import UserError
from winnow.storage.messages import tools_of
from winnow.types import Prompt

NO_TEMPLATE = (
    "use a model that has one (an instruct model), or save one as chat_template.jinja in its "
    "folder, or make the prompts texts: prompts.chat = false, with a column of text or a template"
)
"""What to do about conversations for a model without a chat template."""


class TemplateFailure(Exception):
    """A chat template that does not render a conversation: why, and what to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class PromptEncoder:
    """Prompt -> token ids, through the chat template where the prompt is a conversation.

    Attributes:
        unread: Keys of messages that the template does not read, each with where it was first seen.

    Args:
        options: For the template (`prompts.chat_template_options`).
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self._options = dict(options or {})
        self._ignored: dict[str, str] = {}
        self.unread: dict[str, str] = {}
        self._tried: set[tuple[str, str]] = set()
        self._tried_options: set[str] = set()

    def __call__(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids.

        Raises:
            UserError: the tokenizer has no chat template, or one that does not render this
                conversation or leaves out a turn or its tool calls; no token comes of the prompt.
        """
        if prompt.messages is None:
            ids = encode(self.tokenizer, prompt.text, special=True)
            ids = _unended(self.tokenizer, ids, prompt.text)
        else:
            ids = encode(self.tokenizer, self._rendered(prompt, prompt.messages), special=False)
        if not ids:
            raise UserError("prompts", f"prompt {prompt.id!r} has no tokens", "leave it out")
        return ids

    def _rendered(self, prompt: Prompt, messages: Sequence[Mapping[str, Any]]) -> str:
        if not has_template(self.tokenizer):
            problem = (
                f"this model's tokenizer has no chat template, and prompt {prompt.id!r} is a "
                "conversation"
            )
            raise UserError("prompts.chat", problem, NO_TEMPLATE)
        try:
            given = self._given(prompt)
            text = render(self.tokenizer, messages, answered=False, given=given)
        except TemplateFailure as error:
            problem = f"the model's chat template fails on prompt {prompt.id!r}: {error.reason}"
            raise UserError("prompts", problem, error.remedy) from error
        self._check_read(prompt.id, messages, text, given)
        return text

    def _given(self, prompt: Prompt) -> dict[str, Any]:
        """What the template is given beside the messages; what it does not read is noted."""
        tools = tools_of(prompt.data)
        given = self._options if tools is None else {**self._options, "tools": tools}
        if given.keys() - self._tried_options:
            read = variables_of(self.tokenizer)
            for name in given if read is not None else ():
                if name not in (read or ()):
                    column = f"column 'tools' (prompt {prompt.id!r})"
                    option = f"prompts.chat_template_options.{name}"
                    self._ignored.setdefault(name, column if name == "tools" else option)
            self._tried_options |= given.keys()
        return given

    def _check_read(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        text: str,
        given: Mapping[str, Any],
    ) -> None:
        """Try, once for each key of each role, whether the text changes with it."""
        for number, message in enumerate(messages):
            for key, value in message.items():
                role = message["role"]
                if key == "role" or not value or (role, key) in self._tried:
                    continue
                self._tried.add((role, key))
                if not self._reads(messages, number, key, text, given):
                    self._not_read(f"prompt {name!r} turn {number + 1}", message, key)

    def _reads(
        self,
        messages: Sequence[Mapping[str, Any]],
        number: int,
        key: str,
        text: str,
        given: Mapping[str, Any],
    ) -> bool:
        other = dict(messages[number])
        if key == "content":
            other[key] += "x"
        else:
            del other[key]
        try:
            changed = [*messages[:number], other, *messages[number + 1 :]]
            return render(self.tokenizer, changed, answered=False, given=given) != text
        except TemplateFailure:
            return True  # it cannot do without

    def _not_read(self, where: str, message: Mapping[str, Any], key: str) -> None:
        if key == "tool_calls" or (key == "content" and not message.get("tool_calls")):
            what = (
                "the tool_calls" if key == "tool_calls" else f"what role {message['role']!r} says"
            )
            raise UserError(
                "prompts",
                f"{where}: the model's chat template leaves out {what}",
                "use a model whose template has it, or change the conversation",
            )
        self.unread.setdefault(key, where)

    def notes(self) -> list[str]:
        """What of the prompts the model does not see, in sentences."""
        return [
            f"its chat template does not read the key {key!r} of messages ({where})"
            for key, where in self.unread.items()
        ] + [f"its chat template does not read {what}" for what in self._ignored.values()]


_MARKS = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
"""A tag that transformers adds to templates."""


def variables_of(tokenizer: Any) -> set[str] | None:
    """The names that a tokenizer's chat template reads; ``None`` if it cannot be told."""
    template = tokenizer.chat_template
    texts = list(template.values()) if isinstance(template, dict) else [template or ""]
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])  # parsed, never rendered
    try:
        parsed = [environment.parse(_MARKS.sub("", text)) for text in texts]
    except TemplateSyntaxError:
        return None
    return set[str]().union(*map(find_undeclared_variables, parsed))


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    answered: bool,
    given: Mapping[str, Any] | None = None,
) -> str:
    """A conversation as the text that the chat template makes of it.

    Args:
        answered: Whether the last turn is the assistant's; else the text ends where that begins.
        given: What else the template reads: `tools`, and options of its own.

    Raises:
        TemplateFailure: the template is broken, or refuses the conversation.
    """
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=not answered,
                tokenize=False,
                **(given or {}),
            )
        )
    except TemplateSyntaxError as error:
        remedy = "repair chat_template in the model's tokenizer, or use another model"
        reason = f"syntax error in its line {error.lineno}: {(error.message or '').rstrip('.')}"
        raise TemplateFailure(_line(reason), remedy) from error
    except UndefinedError as error:
        remedy = "give the messages what the template reads, or repair the template"
        raise TemplateFailure(_line(str(error)), remedy) from error
    except TemplateError as error:  # what a template raises itself
        remedy = "change the conversation, or use a model whose template takes it"
        if any(message["role"] == "system" for message in messages):
            remedy = "leave the system message out if it is that, or use a model that takes it"
        raise TemplateFailure(_line(str(error)), remedy) from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        remedy = "give the messages what the template reads, or repair the template"
        raise TemplateFailure(_line(f"{type(error).__name__}: {error}"), remedy) from error


def encode(tokenizer: Any, text: str, *, special: bool) -> tuple[int, ...]:
    """Token ids of a text, with one beginning-of-sequence token where it is written out as well.

    Args:
        special: Whether the tokenizer adds its own special tokens.
    """
    ids = list(tokenizer.encode(text, add_special_tokens=special))
    first, written = tokenizer.bos_token_id, tokenizer.bos_token
    if first is not None and text.startswith(written):
        while ids[:2] == [first, first]:
            del ids[0]
    return tuple(ids)


def _unended(tokenizer: Any, ids: tuple[int, ...], text: str) -> tuple[int, ...]:
    """Token ids of a text that goes on: without an end-of-sequence token that is not written out.

    Some tokenizers add one, such as those saved as a model was trained with them, add_eos_token.
    """
    last, written = tokenizer.eos_token_id, tokenizer.eos_token
    added = last is not None and ids[1:] and ids[-1] == last and not text.endswith(written)
    return ids[:-1] if added else ids


def token_ends(tokenizer: Any, ids: Sequence[int], text: str) -> tuple[int, ...]:
    """Where each token ends in the text of a completion, as `types.Sample.token_ends` has it.

    Of a tokenizer of the library `tokenizers`, whose stream gives each character with the token
    that completes it.

    Args:
        text: What the tokens are decoded to, special tokens left out, or its beginning.

    Returns:
        As many as there are tokens, the last at the end of the text. Empty for another tokenizer,
        or where what the tokens add does not make up the text.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces = None if backend is None else _pieces(backend, ids)
    if not pieces:
        return ()
    told = "".join(pieces)
    if not (told.startswith(text) or text.startswith(told)):  # a half character is in no piece
        return ()
    ends = [min(end, len(text)) for end in accumulate(map(len, pieces))]
    return (*ends[:-1], len(text))


def _pieces(backend: Any, ids: Sequence[int]) -> list[str] | None:
    """What each token adds to the text; ``None`` where a decoder changes what was said before."""
    stream = DecodeStream(skip_special_tokens=True)
    try:
        return [stream.step(backend, token) or "" for token in ids]
    except Exception:  # noqa: BLE001 (`tokenizers` raises no narrower one)
        return None


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
