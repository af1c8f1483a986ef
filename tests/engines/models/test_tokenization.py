"""Chat templates that work, that fail, and that leave something out; one token to begin with."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, processors
from tokenizers.decoders import DecodeStream

from tests import tiny
from winnow.engines.models.loading import load_tokenizer, resolve
from winnow.engines.models.tokenization import PromptEncoder, encode, token_ends
from winnow.errors import UserError
from winnow.types import Prompt

PLAIN = "{% for m in messages %}{{ m['role'] }}.{{ m['content'] }}\n{% endfor %}"
CALLS = (
    "{% for m in messages %}{{ m['role'] }}.{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments.city }}"
    "{% endfor %}#{% endfor %}"
)
KNOWN_ROLES = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}\n{% endif %}{% endfor %}"
)
CALL = {"type": "function", "function": {"name": "f", "arguments": {"city": "x"}}}
TURNS = (
    {"role": "user", "content": "warm"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12", "name": "g"},
)


def encoder(template: str | None) -> PromptEncoder:
    words = tiny.tokenizer()
    words.chat_template = template
    return PromptEncoder(words)


def talk(*turns: dict[str, object]) -> Prompt:
    return Prompt("p7", "x", messages=turns)


def test_the_template_sees_every_key() -> None:
    made = encoder(CALLS + "{{ messages[2].name }}")
    text = made.tokenizer.decode(made(talk(*TURNS)))
    assert text == "user.warm#assistant.fx#tool.12#g"
    assert made.notes() == []


def test_a_key_that_the_template_does_not_read_is_noted() -> None:
    made = encoder(CALLS)
    made(talk(*TURNS))
    made(talk(*TURNS))
    assert made.notes() == [
        "its chat template does not read the key 'name' of messages (prompt 'p7' turn 3)"
    ]


@pytest.mark.parametrize(
    ("template", "turns", "says"),
    [
        (PLAIN, TURNS, "turn 2: the model's chat template leaves out the tool_calls; use a"),
        (KNOWN_ROLES, TURNS[::2], "turn 2: the model's chat template leaves out what role 'tool'"),
    ],
)
def test_what_the_template_leaves_out_is_refused(template, turns, says) -> None:
    with pytest.raises(UserError) as caught:
        encoder(template)(talk(*turns))
    assert str(caught.value).startswith(f"prompts: prompt 'p7' {says}")


SYSTEM = {"role": "system", "content": "be kind"}


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (
            "{{ raise_exception('System role\nnot supported') }}",
            "System role not supported; leave the system message out",
        ),
        ("\n{% for m in messages %}{{ m.content", "syntax error in its line 2: "),
        ("{{ strftime('%d') }}", "'strftime' is undefined; give the messages what the template"),
        ("{{ messages[0].content + messages[0].turns }}", "has no attribute 'turns'"),
        ("{{ messages[0].content + 5 }}", "TypeError: "),
        ("{{ messages[0].content.nothing.of.it }}", "has no attribute 'nothing'"),
        ("{{ 1 // 0 }}", "ZeroDivisionError: "),
    ],
)
def test_a_template_that_fails_is_one_line_with_the_prompt(template, says) -> None:
    with pytest.raises(UserError) as caught:
        encoder(template)(talk(SYSTEM, TURNS[0]))
    said = str(caught.value)
    assert said.startswith("prompts: the model's chat template fails on prompt 'p7': ")
    assert says in said
    assert "\n" not in said
    assert caught.value.remedy


def test_without_a_template_the_advice_helps_conversations_too() -> None:
    with pytest.raises(UserError) as caught:
        encoder(None)(talk(*TURNS))
    said = str(caught.value)
    assert "no chat template, and prompt 'p7' is a conversation" in said
    assert "chat_template.jinja" in said


def test_a_text_that_begins_with_the_first_token_has_it_once() -> None:
    """As with `<s>[INST] ...` in a column of text: the tokenizer adds its own `<s>`."""
    words = tiny.tokenizer()
    words.add_special_tokens({"bos_token": "<s>"})
    first = words.bos_token_id
    words._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", first)]
    )
    one = words.encode("1", add_special_tokens=False)[0]
    assert words.encode("<s>1") == [first, first, one]
    for text in ("1", "<s>1"):
        assert PromptEncoder(words)(Prompt("p", text)) == (first, one)
    assert encode(words, "<s>1", special=False) == (first, one)
    words.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    for text in ("1", "<s>1"):
        assert PromptEncoder(words)(talk({"role": "user", "content": text})) == (first, one)
    assert encode(words, "1<s><s>1", special=False) == (one, first, first, one)


def test_a_prompt_does_not_end_where_a_completion_is_to_begin() -> None:
    """As with a tokenizer that was saved with `add_eos_token`: the model would see a text that has
    ended."""
    words = tiny.tokenizer()
    last = words.eos_token_id
    words._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {tiny.PAD_AND_END}", special_tokens=[(tiny.PAD_AND_END, last)]
    )
    one = words.encode("1", add_special_tokens=False)[0]
    assert words.encode("1") == [one, last]
    assert PromptEncoder(words)(Prompt("p", "1")) == (one,)
    assert PromptEncoder(words)(Prompt("p", f"1{tiny.PAD_AND_END}"))[:2] == (one, last)  # asked for
    words.chat_template = "{{ messages[0].content }}" + tiny.PAD_AND_END
    assert PromptEncoder(words)(talk({"role": "user", "content": "1"})) == (one, last)


@cache
def built_in() -> Any:
    """Byte-level BPE: a character may be several tokens."""
    return load_tokenizer(resolve("smollm2-135m"))


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


TEXTS = st.text(
    st.sampled_from("aé \n1+你好😀👩\u200d\u0301é½#") | st.characters(exclude_categories=["Cs"])
)


@given(TEXTS)
@example("12 + 34 = 46\n😀👩\u200d👩\u200d👧 你好 e\u0301é")
def test_a_token_ends_behind_the_characters_that_are_whole_by_then(text: str) -> None:
    """What tokens up to one decode to by themselves, half a character (U+FFFD) left out."""
    words = built_in()
    ids = words.encode(text, add_special_tokens=False)
    assume(decoded(words, ids) == text and "\ufffd" not in text)  # it lacks some bytes
    ends = token_ends(words, ids, text)
    assert len(ends) == len(ids)
    for number, end in enumerate(ends, start=1):
        assert text[:end] == decoded(words, ids[:number]).rstrip("\ufffd")


@pytest.mark.parametrize("made", [built_in, cache(tiny.tokenizer)])
@given(data=st.data())
def test_whatever_tokens_are_sampled_the_ends_lie_within_what_was_said(
    made: Any, data: st.DataObject
) -> None:
    """Bytes that are no text and special tokens among them; the text may be cut short."""
    words = made()
    some = st.integers(0, len(words) - 1) | st.integers(0, min(300, len(words) - 1))
    ids = data.draw(st.lists(some, min_size=1, max_size=20))
    whole = decoded(words, ids)
    text = whole[: data.draw(st.integers(0, len(whole)))]
    ends = token_ends(words, ids, text)
    assert len(ends) == len(ids)
    assert ends[-1] == len(text)
    assert list(ends) == sorted(ends)
    for number, end in enumerate(ends, start=1):
        assert decoded(words, ids[:number]).startswith(text[:end])


def test_a_decoder_that_takes_back_what_it_said_gives_no_ends() -> None:
    """Llama's: a row of bytes is a text as a whole or not at all."""
    bytes_ = {f"<0x{byte:02X}>": byte for byte in "你".encode()}
    vocabulary = {name: number for number, name in enumerate(["<unk>", *bytes_, "a"])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])

    class Words:
        backend_tokenizer = backend

    def ends(*ids: int) -> tuple[int, ...]:
        return token_ends(Words(), ids, backend.decode(ids))

    assert backend.decode([4, 1, 2, 3, 4]) == "a你a"
    assert ends(4, 1, 2, 3, 4) == (1, 1, 1, 2, 3)
    assert backend.decode([1, 2, 3, 1]) == "\ufffd" * 4
    assert ends(1, 2, 3, 1) == ()
    stream = DecodeStream()
    with pytest.raises(Exception, match="Invalid prefix"):
        [stream.step(backend, token) for token in (1, 2, 3, 1, 4)]
    assert ends(1, 2, 3, 1, 4) == ()
    assert token_ends(Words(), [4, 4], "another text") == ()
    assert token_ends(object(), [4, 4], "aa") == ()


THINKS = (
    "{% if tools %}tools={% for t in tools %}{{ t.function.name }}.{% endfor %}{% endif %}"
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}#{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "f", "strict": None}}


@pytest.mark.parametrize(
    ("options", "tools", "text"),
    [
        ({}, None, "warm"),
        ({"enable_thinking": True}, None, "warm"),
        ({"enable_thinking": False}, None, "warm#"),
        ({"enable_thinking": False}, [TOOL], "tools=f.warm#"),
        ({}, json.dumps([TOOL]), "tools=f.warm"),
        ({}, [], "warm"),
    ],
)
def test_the_template_is_given_options_and_tools(options, tools, text) -> None:
    words = tiny.tokenizer()
    words.chat_template = THINKS
    made = PromptEncoder(words, options)
    turn = {"role": "user", "content": "warm"}
    prompt = Prompt("p7", "x", messages=(turn,), data={"tools": tools})
    assert words.decode(made(prompt)) == text
    assert made.notes() == []


def test_what_the_template_does_not_read_of_them_is_noted_once() -> None:
    words = tiny.tokenizer()
    words.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    made = PromptEncoder(words, {"enable_thinking": False})
    turn = {"role": "user", "content": "warm"}
    for name in ("p7", "p8"):
        made(Prompt(name, "x", messages=(turn,), data={"tools": [TOOL]}))
    assert made.notes() == [
        "its chat template does not read prompts.chat_template_options.enable_thinking",
        "its chat template does not read column 'tools' (prompt 'p7')",
    ]
