"""What a model's files say, against how it will be used. None of it needs a pass of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from winnow.config.schema import Config
from winnow.engines.base import Conventions
from winnow.training.preflight.check import Check, failed, passed, skipped, warned
from winnow.types import Prompt


def conventions_checks(
    told: Conventions, config: Config, prompts: Sequence[Prompt]
) -> Iterator[Check]:
    """Template, end tokens, padding, beginning of sequence, settings of sampling."""
    chat = [prompt for prompt in prompts if prompt.messages is not None]
    yield template(told, chat)
    yield from end(told, config.sampling.stop, bool(chat))
    yield padding(told)
    if told.template and not told.broken:
        yield beginning(told, bool(chat))
    yield generation(told)


def template(told: Conventions, chat: Sequence[Prompt]) -> Check:
    """Whether there is a chat template where prompts need one, and what it does to system turns."""
    name = "chat template"
    if not chat:
        there = "there is one, and" if told.template else "none;"
        return passed(name, f"{there} the prompts are texts, which need none")
    if not told.template:
        remedy = "use an instruct model, save a chat_template.jinja in its folder, or make the "
        return failed(name, "none, and the prompts are conversations", f"{remedy}prompts texts")
    if told.broken:
        remedy = "repair chat_template in the model's tokenizer, or use another model"
        return failed(name, f"it does not render a conversation: {told.broken}", remedy)
    system = any(turn["role"] == "system" for one in chat for turn in one.messages or ())
    if system and told.system != "read":
        text = f"system messages are {told.system} by it, and the prompts have some"
        remedy = "say it in the user's turn, or use a model that takes them"
        # Refused ones cannot be rendered; without those left out a run is sound, if not as meant.
        return (failed if told.system == "refused" else warned)(name, text, remedy)
    return passed(name, f"renders the prompts; system messages are {told.system}")


def end(told: Conventions, stop: Sequence[str], chat: bool) -> Iterator[Check]:
    """Whether a completion can end by itself."""
    name = "end tokens"
    ends = ", ".join(f"{text!r} ({token})" for token, text in told.ends.items())
    closes = told.closes
    if not told.ends and not stop:
        remedy = "set sampling.stop, or eos_token_id in the model's generation_config.json"
        yield warned(name, "none, and no stop strings: each sample runs to max_tokens", remedy)
    elif not told.ends:
        yield passed(name, f"none; samples end at the stop strings {', '.join(map(repr, stop))}")
    elif chat and closes is not None and closes[0] not in told.ends:
        text = (
            f"{ends}, and the chat template closes a turn with {closes[1]!r} ({closes[0]}): the "
            "model will talk on past the end of its turn"
        )
        remedy = f"add {closes[0]} to eos_token_id in the model's generation_config.json"
        yield warned(name, text, remedy)
    elif chat and closes is not None:
        yield passed(name, f"{ends}; {closes[1]!r} closes a turn of the chat template")
    else:
        yield passed(name, ends)


def padding(told: Conventions) -> Check:
    """Padding: nothing here reads it, and other programs may."""
    name = "pad token"
    if told.pad is None:
        return passed(name, "none; lengths say what is padding here, so none is needed")
    if told.pad in told.ends:
        text = told.ends[told.pad]
        harmless = "harmless here, as lengths say what is padding"
        return passed(name, f"{text!r} ({told.pad}), an end token too: {harmless}")
    return passed(name, f"{told.pad}, which ends nothing")


def beginning(told: Conventions, chat: bool) -> Check:
    """Beginning-of-sequence tokens in front of a conversation."""
    name = "bos token"
    here, others = told.opens
    if here > 1:
        text = f"the chat template writes it {here} times"
        used = warned if chat else skipped
        return used(name, text, "repair chat_template in the model's tokenizer")
    if others > 1:
        return passed(
            name,
            f"{here} in front of a conversation, as the chat template writes it; a program that "
            f"lets the tokenizer add its own has {others}",
        )
    return passed(name, f"{here} in front of a conversation")


def generation(told: Conventions) -> Check:
    """Settings of sampling that only other programs read."""
    name = "generation config"
    if not told.sampling:
        return passed(name, "has no settings of sampling")
    listed = ", ".join(f"{key} = {value:g}" for key, value in told.sampling.items())
    text = (
        f"{listed}: not read here, where [sampling] alone counts; generate and vLLM apply it "
        "unless told not to, and sample from another distribution"
    )
    remedy = "remove it from generation_config.json, or give vLLM --generation-config vllm"
    return warned(name, text, remedy)
