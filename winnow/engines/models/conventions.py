"""What a model's files say of chat templates, special tokens and sampling, found by trying them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from winnow.engines.base import Conventions
from winnow.engines.models.loading import end_tokens
from winnow.engines.models.tokenization import TemplateFailure, encode, has_template, render

_ASKED = {"role": "user", "content": "How many are twelve dozen?"}
_SAID = "One gross, I should think"
_TOLD = "Be terse, and count twice."
"""Texts that no template has of its own."""
_NEUTRAL = {
    "temperature": (1.0,),
    "top_k": (0,),
    "top_p": (1.0,),
    "min_p": (0.0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
}
"""Settings of a generation config that change what is sampled, with the values that do not."""


def conventions_of(tokenizer: Any, module: Any) -> Conventions:
    """The conventions of a model that is read."""
    system = closes = None
    opens, broken = (0, 0), ""
    if has_template(tokenizer):
        try:
            asked = render(tokenizer, [_ASKED], answered=False)
        except TemplateFailure as error:
            broken = error.reason
        else:
            system = _system(tokenizer)
            opens = _opens(tokenizer, asked)
            closes = _closes(tokenizer)
    ends = end_tokens(module, tokenizer)
    return Conventions(
        template=has_template(tokenizer),
        broken=broken,
        system=system,
        opens=opens,
        closes=closes,
        ends={token: _text(tokenizer, token) for token in sorted(ends)},
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        sampling=_sampling(getattr(module, "generation_config", None)),
    )


def _system(tokenizer: Any) -> Literal["read", "left out", "refused"]:
    told = {"role": "system", "content": _TOLD}
    try:
        text = render(tokenizer, [told, _ASKED], answered=False)
    except TemplateFailure:
        return "refused"
    return "read" if _TOLD in text else "left out"


def _opens(tokenizer: Any, text: str) -> tuple[int, int]:
    """How many beginning-of-sequence tokens are in front, encoded here and with special tokens."""
    first = tokenizer.bos_token_id
    here = encode(tokenizer, text, special=False)
    other = tokenizer.encode(text, add_special_tokens=True)
    return _leading(here, first), _leading(other, first)


def _leading(ids: Sequence[int], first: int | None) -> int:
    count = 0
    while first is not None and count < len(ids) and ids[count] == first:
        count += 1
    return count


def _closes(tokenizer: Any) -> tuple[int, str] | None:
    """The first special token behind an assistant's turn; another turn follows, as some templates
    close only what is not the last."""
    turns = [_ASKED, {"role": "assistant", "content": _SAID}, _ASKED]
    try:
        text = render(tokenizer, turns, answered=False)
    except TemplateFailure:
        return None
    _, said, behind = text.partition(_SAID)
    ids = tokenizer.encode(behind, add_special_tokens=False) if said else []
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    token = next((one for one in ids if one in special), None)
    return None if token is None else (token, _text(tokenizer, token))


def _text(tokenizer: Any, token: int) -> str:
    text = tokenizer.decode([token], skip_special_tokens=False)
    assert isinstance(text, str)
    return text


def _sampling(generation: Any) -> dict[str, float]:
    """What the file sets to a number that is not neutral, as servers read it."""
    given = {} if generation is None else generation.to_diff_dict()
    return {
        key: value
        for key, neutral in _NEUTRAL.items()
        if isinstance(value := given.get(key), int | float) and value not in neutral
    }
