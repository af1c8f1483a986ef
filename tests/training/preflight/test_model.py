"""What a model's files say, found by trying sick ones, against how prompts are written."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from tests import tiny
from winnow.config.schema import from_dict
from winnow.engines.base import Conventions
from winnow.engines.factory import engine_for
from winnow.engines.models.conventions import conventions_of
from winnow.training.preflight.model import conventions_checks
from winnow.types import Prompt

TEXT = Prompt("t", "1+1=")
CHAT = Prompt("c", "1+1=", messages=({"role": "user", "content": "1+1="},))
TOLD = Prompt("s", "1+1=", messages=({"role": "system", "content": "x"}, *(CHAT.messages or ())))
TURNS = (
    "{% for m in messages %}<s>{{ m.role }} {{ m.content }}<e>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}"
)
NO_SYSTEM = TURNS.replace("<s>{{", "{% if m.role == 'system' %}{% continue %}{% endif %}<s>{{")
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + TURNS
WELL = Conventions(True, "", "read", (0, 0), (7, "<e>"), {7: "<e>"}, 7, 0, {})


def tokenizer(template: str | None = TURNS, **special: str):
    made = tiny.tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<s>", "<e>"], **special})
    made.chat_template = template
    return made


def module(ends=None, **generation):
    config = GenerationConfig(eos_token_id=ends, **generation)
    return SimpleNamespace(config=SimpleNamespace(eos_token_id=None), generation_config=config)


def test_what_a_template_does_is_found_by_rendering() -> None:
    words = tokenizer()
    last = words.convert_tokens_to_ids("<e>")
    found = conventions_of(words, module([last, 0]))
    assert found.closes == (last, "<e>")
    assert found.ends == {0: tiny.PAD_AND_END, last: "<e>"}
    assert (found.template, found.broken, found.system, found.opens) == (True, "", "read", (0, 0))
    assert (found.eos, found.pad) == (0, 0)
    assert conventions_of(tokenizer(NO_SYSTEM), module()).system == "left out"
    assert conventions_of(tokenizer(REFUSES), module()).system == "refused"
    assert conventions_of(tokenizer(None), module()).template is False
    assert "line 1" in conventions_of(tokenizer("{% if %}"), module()).broken


@pytest.mark.parametrize(("own", "opens"), [("", (0, 0)), ("<s>", (1, 1)), ("<s><s>", (1, 2))])
def test_tokens_at_the_beginning_are_counted_as_they_are_encoded(own, opens) -> None:
    """The tokenizer adds none of its own, and `encode` keeps one of several."""
    words = tokenizer(own + TURNS.replace("<s>", ""), bos_token="<s>")
    assert conventions_of(words, module()).opens == opens


@pytest.mark.parametrize(("own", "opens"), [("", (0, 1)), ("<s>", (1, 2))])
def test_a_tokenizer_that_adds_one_doubles_it_for_others(own, opens) -> None:
    """Here a rendered conversation is encoded without what the tokenizer adds."""
    words = tokenizer(own + TURNS.replace("<s>", ""), bos_token="<s>")
    first = words.convert_tokens_to_ids("<s>")
    words.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", None, [("<s>", first)])
    assert conventions_of(words, module()).opens == opens


def test_settings_of_sampling_are_those_that_change_something() -> None:
    given = {"temperature": 1.0, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    found = conventions_of(tokenizer(), module(do_sample=True, min_p=0.0, **given)).sampling
    assert found == {"top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}


def test_a_local_model_says_what_its_files_hold(tmp_path) -> None:
    """Also of a model that ends with nothing."""
    folder = tmp_path / "m"
    tiny.model(eos_token_id=None).save_pretrained(folder)
    words = tiny.tokenizer()
    words.eos_token = None
    words.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"top_k": 5, "do_sample": True}))
    found = engine_for(from_dict({"model": str(folder)})).conventions()
    assert (found.ends, found.eos, found.pad) == ({}, None, 0)
    assert found.sampling == {"top_k": 5}


def of(told: Conventions, prompt: Prompt, stop=()) -> dict[str, tuple[str, str]]:
    config = from_dict({"sampling": {"stop": list(stop)}})
    return {c.name: (c.status, c.text) for c in conventions_checks(told, config, [prompt])}


def with_(**changes) -> Conventions:
    return Conventions(**{**vars(WELL), **changes})


@pytest.mark.parametrize(
    ("told", "prompt", "name", "status", "says"),
    [
        (WELL, CHAT, "chat template", "passed", "system messages are read"),
        (with_(template=False), CHAT, "chat template", "failed", "none, and the prompts are conv"),
        (with_(template=False), TEXT, "chat template", "passed", "which need none"),
        (
            with_(broken="why"),
            CHAT,
            "chat template",
            "failed",
            "does not render a conversation: why",
        ),
        (with_(system="left out"), TOLD, "chat template", "warned", "are left out by it"),
        (with_(system="left out"), CHAT, "chat template", "passed", "are left out"),
        (WELL, CHAT, "end tokens", "passed", "'<e>' closes a turn"),
        (with_(ends={2: "<x>"}), CHAT, "end tokens", "warned", "closes a turn with '<e>' (7)"),
        (with_(ends={2: "<x>"}), TEXT, "end tokens", "passed", "'<x>' (2)"),
        (with_(ends={}), TEXT, "end tokens", "warned", "each sample runs to max_tokens"),
        (with_(pad=None), TEXT, "pad token", "passed", "none is needed"),
        (with_(pad=7), TEXT, "pad token", "passed", "an end token too: harmless here"),
        (WELL, TEXT, "pad token", "passed", "0, which ends nothing"),
        (with_(opens=(2, 2)), CHAT, "bos token", "warned", "writes it 2 times"),
        (with_(opens=(1, 2)), CHAT, "bos token", "passed", "add its own has 2"),
        (with_(opens=(1, 1)), CHAT, "bos token", "passed", "1 in front of a conversation"),
        (WELL, TEXT, "generation config", "passed", "no settings of sampling"),
        (with_(sampling={"top_k": 5}), TEXT, "generation config", "warned", "top_k = 5: not read"),
    ],
)
def test_a_check(told, prompt, name, status, says) -> None:
    found, text = of(told, prompt)[name]
    assert found == status
    assert says in text


def test_stop_strings_are_an_end() -> None:
    assert of(with_(ends={}), TEXT, ["\n"])["end tokens"] == (
        "passed",
        r"none; samples end at the stop strings '\n'",
    )
