"""A reward from any sequence classifier: a reward model scores (prompt, completion).

    reward = RewardModel("owner/name", device=torch.device("cpu"))
    reward.score([(prompt, completion), ...])

The score is one logit at the last token of the text. The text is the prompt with the completion
right after it, or, for a conversation, what the reward model's own chat template makes of it with
the completion as the assistant's message. Fitting reads a reward model by the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from winnow.engines.models.loading import (
    ModelSource,
    check_finite,
    context_length,
    load_tokenizer,
    plain_weights,
    reading,
    resolve,
    take_in,
)
from winnow.engines.models.made_again import made_again
from winnow.engines.models.tokenization import (
    NO_TEMPLATE,
    TemplateFailure,
    encode,
    has_template,
    render,
)
from winnow.errors import UserError, WinnowError
from winnow.types import Prompt, Score

Row = tuple[int, ...]
"""The token ids of one text."""

_T = TypeVar("_T")


class RewardModel:
    """A sequence classifier as a :class:`winnow.rewards.base.Reward`.

    Equal texts are read once, however many samples they are; a text gets the same score in any
    company, up to rounding. A text that is longer than the model's context, or for which the model
    gives no finite number, is that sample's error.

    Args:
        name: Folder or hub id.
        dtype: ``float32`` or ``bfloat16``; the latter leaves a score about three digits.
        label: Whose logit is the score, by index or by name in the model's ``id2label``; not
            needed where there is one label only. It is the logit, not a probability.
        batch_tokens: Tokens read at a time, padding counted. A longer text is read alone.
        field: The setting that names the model, for messages.

    Raises:
        UserError: it cannot be loaded, its head is not among its weights (its scores would be
            random), or it has several labels of which none is named.
    """

    def __init__(
        self,
        name: str,
        *,
        device: torch.device,
        dtype: str = "float32",
        label: int | str | None = None,
        batch_tokens: int = 16384,
        field: str = "reward.model",
    ) -> None:
        source = resolve(name, field)
        if source.gguf is not None:
            raise UserError(
                field, f"{name!r} is not a reward model: GGUF files have no head that scores"
            )
        tokenizer = load_tokenizer(source, field)
        model, missing = load_classifier(source, dtype, field)
        if missing:
            problem = f"{name!r} is not a reward model: its weights lack {missing[0]}"
            raise UserError(field, problem)
        self.name = name
        self._column = _column(model.config, label, name, field)
        take_in(model, device)
        self._model: Any = model.eval()
        self._encode = Encoder(tokenizer, model.config, field)
        self._batch_tokens = batch_tokens

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score an item, in order.

        Raises:
            UserError: a prompt is a conversation and the model's tokenizer has no chat template.
            WinnowError: it is closed.
        """
        if self._model is None:
            raise WinnowError("the reward model is closed")
        encoded = self._encode(items)
        rows = [row for row in encoded if not isinstance(row, str)]
        values = iter(read_all(self._model, rows, self._batch_tokens, self._column))
        return [
            Score.failed(row) if isinstance(row, str) else _score(next(values)) for row in encoded
        ]

    def close(self) -> None:
        """Let go of the model."""
        self._model = None


class Encoder:
    """(prompt, completion) -> token ids: what a reward model is trained on and scores.

    Args:
        config: The model's, which tells its context.
        field: The setting that names the model, for messages.
    """

    def __init__(self, tokenizer: Any, config: Any, field: str) -> None:
        self._tokenizer = tokenizer
        self._field = field
        # Where positions begin above 0 (RoBERTa), the tokenizer alone knows what is left of them.
        limits = (context_length(config.get_text_config()), tokenizer.model_max_length)
        self._context = min(limit for limit in limits if limit is not None)

    def __call__(self, items: Sequence[tuple[Prompt, str]]) -> list[Row | str]:
        """For each item its token ids, or a line on why the model cannot read it.

        Raises:
            UserError: a prompt is a conversation, and there is no chat template.
        """
        encoded: list[Row | str] = [""] * len(items)
        plain: dict[tuple[str, bool], list[int]] = {}
        for i, (prompt, completion) in enumerate(items):
            if prompt.messages is None:
                plain.setdefault((prompt.text + completion, True), []).append(i)
                continue
            try:
                text = self._conversation(prompt.messages, completion)
            except TemplateFailure as error:
                encoded[i] = f"the reward model's chat template refuses it: {error.reason}"
            else:
                plain.setdefault((text, False), []).append(i)
        for (text, special), places in plain.items():
            row = self._row(text, special)
            for i in places:
                encoded[i] = row
        return encoded

    def _conversation(self, messages: Sequence[Any], completion: str) -> str:
        if not has_template(self._tokenizer):
            problem = "its tokenizer has no chat template, and the prompts are conversations"
            raise UserError(self._field, problem, NO_TEMPLATE)
        said = {"role": "assistant", "content": completion}
        return render(self._tokenizer, [*messages, said], answered=True)

    def _row(self, text: str, special: bool) -> Row | str:
        row = encode(self._tokenizer, text, special=special)
        if not row:
            return "the text has no tokens"
        if len(row) > self._context:
            return f"{len(row)} tokens, more than the reward model's context of {self._context}"
        return row


def load_classifier(
    source: ModelSource, dtype: str, field: str, shape: Callable[[Any], None] = lambda config: None
) -> tuple[Any, list[str]]:
    """A sequence classifier, and the names of its weights that were not in the file.

    Those are random: the caller must refuse or replace them. ``shape`` may change the config before
    the model is built.

    Raises:
        UserError: it cannot be loaded, or some of its weights are not finite.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    # of what the file lacks, random numbers are made: the caller keeps its own
    with reading(source, field), torch.random.fork_rng(devices=[]):
        config = AutoConfig.from_pretrained(source.name, gguf_file=source.gguf)
        shape(config)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source.name,
            gguf_file=source.gguf,
            config=config,
            dtype=getattr(torch, dtype),
            ignore_mismatched_sizes=True,  # reported below, with the missing ones
            output_loading_info=True,
        )
    plain_weights(source, model)
    missing = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    check_finite(model, source, field, missing)
    return model, sorted(missing)


def read_all(model: Any, rows: Sequence[Row], batch_tokens: int, column: int = 0) -> list[float]:
    """One logit of each row, in order; equal rows are read once. Not for gradients."""
    values: dict[Row, float] = {}
    with torch.inference_mode():
        for batch in batches(sorted(set(rows)), len, batch_tokens, widest(model)):
            values.update(zip(batch, read(model, batch)[:, column].tolist(), strict=True))
    return [values[row] for row in rows]


def read(model: Any, rows: Sequence[Row]) -> Tensor:
    """Logits at the last token of each row, shape (rows, labels), float32; gradients flow.

    transformers takes the last token of a row that is not padding. Where a text ends in the model's
    padding token (often the end-of-sequence token), its batch is padded with another, in which none
    of its texts ends; masked, it could be any.

    Args:
        rows: At most ``widest(model)``.
    """
    device = model.get_input_embeddings().weight.device
    padding = _padding(model, rows)
    longest = max(map(len, rows))
    ids = [[*row, *[padding] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    with _set(model, pad_token_id=padding, use_cache=False), made_again():
        logits: Tensor = model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
        ).logits
    return logits.float()


def widest(model: Any) -> int:
    """Most rows that `read` takes at a time: one token must be left in which none ends."""
    return max(1, int(model.get_input_embeddings().num_embeddings) - 1)


def batches(
    items: Sequence[_T], length: Callable[[_T], int], tokens: int, most: int
) -> Iterator[list[_T]]:
    """Items of like length side by side, the longest first.

    Args:
        length: Tokens of an item.
        tokens: Room of a batch, padding counted; an item that is longer is a batch of its own.
        most: Most items of a batch.
    """
    batch: list[_T] = []
    room = 1
    for item in sorted(items, key=length, reverse=True):
        if len(batch) >= room:
            yield batch
            batch = []
        if not batch:
            room = min(most, tokens // length(item))
        batch.append(item)
    if batch:
        yield batch


def _padding(model: Any, rows: Sequence[Row]) -> int:
    """The model's own padding where that is a token and no row ends in it; else another token."""
    ends = {row[-1] for row in rows}
    count = int(model.get_input_embeddings().num_embeddings)
    own = model.config.get_text_config().pad_token_id
    if own is not None and 0 <= own < count and own not in ends:
        return int(own)
    return next(i for i in range(count) if i not in ends)


@contextmanager
def _set(model: Any, **settings: Any) -> Iterator[None]:
    """In the block, the model's config has these settings."""
    configs = {id(c): c for c in (model.config, model.config.get_text_config())}.values()
    before = [(c, key, getattr(c, key)) for c in configs for key in settings if hasattr(c, key)]
    try:
        for config, key, _ in before:
            setattr(config, key, settings[key])
        yield
    finally:
        for config, key, value in before:
            setattr(config, key, value)


def _column(config: Any, label: int | str | None, model: str, field: str) -> int:
    """The place of a label among the logits."""
    names = {int(place): str(name) for place, name in config.id2label.items()}
    if label is None and len(names) == 1:
        return 0
    for place, name in names.items():
        if label == name or (type(label) is int and label == place):
            return place
    known = ", ".join(f"{place} {name}" for place, name in sorted(names.items())[:8])
    if label is None:
        remedy = f"name the one whose logit is the score with the option label: {known}"
        raise UserError(field, f"{model!r} has {len(names)} labels", remedy)
    raise UserError(field, f"{model!r} has no label {label!r}", f"known: {known}")


def _score(value: float) -> Score:
    score = Score.of(value)
    return score if score.error is None else Score.failed(f"the reward model returned {value}")
