"""Fits a reward model to preferences: a causal language model with a head of one number.

fit_reward_model("smollm2-135m", pairs, FitSettings(), out=Path("reward"), device=device)
RewardModel("reward", device=...).score([(prompt, completion), ...])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from winnow.engines.models.loading import load_tokenizer, resolve, take_in
from winnow.engines.reward_models.model import (
    Encoder,
    Row,
    batches,
    load_classifier,
    read,
    read_all,
    widest,
)
from winnow.engines.reward_models.preferences import FitSettings, Pair, bradley_terry
from winnow.errors import UserError, WinnowError
from winnow.storage.atomic import refuse
from winnow.storage.digests import whole_model
from winnow.theory.intervals import clustered_interval

Progress = Callable[[int, int, float], None]
"""Called after each step with: steps done, steps in all, the step's loss."""

_MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, slots=True)
class FitResult:
    """The result of a fit.

    Attributes:
        folder: Where the reward model is.
        steps: Updates made.
        pairs: Training pairs that could be read.
        left_out: Pairs that could not, of both kinds: too long, or the same tokens twice.
        first_loss, last_loss: Mean loss of the first and of the last batch, before its update, in
            nats a pair; log 2 is that of a model without preferences.
        accuracy: Share of the training pairs whose better text now scores higher; a tie is wrong.
        held_out: Held-out pairs that could be read.
        held_out_accuracy: Their accuracy; ``None`` where there are none.
        held_out_low, held_out_high: Its 95 % interval, over prompts: pairs of one go together.
    """

    folder: Path
    steps: int
    pairs: int
    left_out: int
    first_loss: float
    last_loss: float
    accuracy: float
    held_out: int
    held_out_accuracy: float | None
    held_out_low: float | None
    held_out_high: float | None


@dataclass(frozen=True, slots=True)
class _Rows:
    """A pair as the model reads it, and what tells its prompt apart."""

    better: Row
    worse: Row
    prompt: tuple[str, str] = ("", "")

    @property
    def tokens(self) -> int:
        return 2 * max(len(self.better), len(self.worse))


def fit_reward_model(
    base: str,
    pairs: Sequence[Pair],
    how: FitSettings,
    *,
    out: Path,
    device: torch.device,
    held_out: Sequence[Pair] = (),
    progress: Progress | None = None,
    field: str = "model",
) -> FitResult:
    """Fit a reward model by maximum likelihood (Bradley-Terry) and write it to a folder.

    The head starts at zero: no text is preferred at first, whatever the seed, and no random head
    distorts the trunk (Kumar et al. 2022, 2202.10054). A base that is a reward model with one label
    keeps its head and is fitted further. AdamW, its learning rate falling linearly to 0; the loss
    of a batch is the mean over its pairs. No dropout. On a CPU the same seed gives the same
    weights.

    Args:
        base: Folder or hub id of a causal language model, ``.gguf`` file, or the built-in one.
        pairs: Preferences to learn. See :func:`winnow.engines.reward_models.preferences.pairs`.
        out: Folder to be made. It appears when it is complete.
        held_out: Pairs to measure by, not trained on, of other prompts than `pairs`.
        progress: See :data:`Progress`.
        field: The setting that names the base, for messages.

    Raises:
        UserError: ``out`` exists or cannot be made, a setting is out of range, the base cannot be
            loaded or has no plain head, or fewer than two pairs can be read.
        WinnowError: loss or gradient are not finite, or the disk is full: nothing is written; or
            ``out`` exists by the end: what was written is next to it.
    """
    how.check()
    _check_number(len(pairs))
    refuse(out)
    source = resolve(base, field)
    tokenizer = load_tokenizer(source, field)
    model = _with_head(source, how.layers, field).eval()
    take_in(model, device)
    _agree_on_padding(model, tokenizer)
    encode = Encoder(tokenizer, model.config, field)
    rows, held_rows = _readable(encode, pairs), _readable(encode, held_out)
    _check_number(len(rows), len(pairs))
    losses = []
    steps = how.epochs * math.ceil(len(rows) / how.batch_pairs)
    dtype = getattr(torch, how.dtype)
    order = _order(rows, how.epochs, how.batch_pairs, how.seed)
    for loss in _train(model, order, steps, how.lr, dtype, how.microbatch_tokens):
        losses.append(loss)
        if progress is not None:
            progress(len(losses), steps, loss)
    model.to(dtype)  # measured as it will be read
    right = _right(model, rows, how.microbatch_tokens)
    held_right = _right(model, held_rows, how.microbatch_tokens)
    share, low, high = clustered_interval(held_right, _numbers(held_rows))

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    whole_model(out, write)
    return FitResult(
        folder=out,
        steps=steps,
        pairs=len(rows),
        left_out=len(pairs) + len(held_out) - len(rows) - len(held_rows),
        first_loss=losses[0],
        last_loss=losses[-1],
        accuracy=float(right.mean()),
        held_out=len(held_rows),
        held_out_accuracy=share,
        held_out_low=low,
        held_out_high=high,
    )


def _check_number(readable: int, given: int | None = None) -> None:
    if readable < 2:
        out_of = "" if given is None else f" of {given} that the model can read and tell apart"
        raise UserError(
            "pairs", f"a reward model is fitted to at least 2, and there are {readable}{out_of}"
        )


def _with_head(source: Any, layers: int | None, field: str) -> Any:
    """The base with one label, in float32; a head that its file lacks is zero."""

    def shape(config: Any) -> None:
        config.num_labels = 1
        if layers is not None:
            _cut(config.get_text_config(), layers)

    model, missing = load_classifier(source, "float32", field, shape)
    head = {name: weight for name, weight in model.named_parameters() if name in missing}
    trunk = model.base_model_prefix + "."
    lost = [name for name in missing if name not in head or name.startswith(trunk)]
    if lost or len({name.rpartition(".")[0] for name in head}) > 1:
        problem = f"{source.name!r} lacks the weight {(lost or missing)[0]}"
        raise UserError(field, problem, "use a causal language model")
    with torch.no_grad():
        for weight in head.values():
            weight.zero_()
    return model


def _cut(config: Any, layers: int) -> None:
    """Make a config that of a model with fewer layers; a `UserError` if it has not as many."""
    if not 1 <= layers <= config.num_hidden_layers:
        raise UserError(
            "layers", f"must be from 1 to the base's {config.num_hidden_layers} (got {layers})"
        )
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    config.num_hidden_layers = layers


def _agree_on_padding(model: Any, tokenizer: Any) -> None:
    """Give tokenizer and config one padding token, if possible none that ends a text.

    Winnow needs none (see `model.read`), but others will read the folder.
    """
    names = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token)
    there = [name for name in names if name is not None]
    if there:
        tokenizer.pad_token = next((n for n in there if n != tokenizer.eos_token), there[0])
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = tokenizer.pad_token_id if there else 0


def _readable(encode: Encoder, pairs: Sequence[Pair]) -> list[_Rows]:
    """The pairs that the model can read and tell apart."""
    better = encode([(pair.prompt, pair.better) for pair in pairs])
    worse = encode([(pair.prompt, pair.worse) for pair in pairs])
    return [
        _Rows(b, w, (pair.prompt.text, str(pair.prompt.messages)))
        for pair, b, w in zip(pairs, better, worse, strict=True)
        if not isinstance(b, str) and not isinstance(w, str) and b != w
    ]


def _order(rows: Sequence[_Rows], epochs: int, batch: int, seed: int) -> Iterator[list[_Rows]]:
    rng = Random(f"preference {seed}")
    for _ in range(epochs):
        shuffled = rng.sample(rows, len(rows))
        yield from (shuffled[i : i + batch] for i in range(0, len(rows), batch))


def _train(
    model: Any,
    order: Iterator[list[_Rows]],
    steps: int,
    lr: float,
    dtype: torch.dtype,
    microbatch_tokens: int,
) -> Iterator[float]:
    """Make an update of each batch; yield the loss of each."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    adam = torch.optim.AdamW(weights, lr=lr)
    for step, batch in enumerate(order):
        adam.zero_grad(set_to_none=True)
        loss = _accumulate(model, batch, dtype, microbatch_tokens)
        norm = float(torch.nn.utils.clip_grad_norm_(weights, _MAX_GRAD_NORM))
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise WinnowError(
                f"the reward model has diverged: loss or gradient of step {step + 1} are not "
                f"finite; nothing is written; try a lower lr than {lr:g}"
            )
        for group in adam.param_groups:
            group["lr"] = lr * (1 - step / steps)
        adam.step()
        yield loss
    adam.zero_grad(set_to_none=True)


def _accumulate(
    model: Any, batch: Sequence[_Rows], dtype: torch.dtype, microbatch_tokens: int
) -> float:
    """Gradient of the mean loss over the batch's pairs; returns that mean."""
    device = model.get_input_embeddings().weight.device
    total = 0.0
    most = max(1, widest(model) // 2)
    for part in batches(batch, lambda pair: pair.tokens, microbatch_tokens, most):
        rows = [pair.better for pair in part] + [pair.worse for pair in part]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            better, worse = read(model, rows)[:, 0].chunk(2)
        loss = bradley_terry(better, worse).sum() / len(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _numbers(rows: Sequence[_Rows]) -> NDArray[np.int64]:
    """The number of each pair's prompt."""
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(row.prompt, len(numbers)) for row in rows], dtype=np.int64)


def _right(model: Any, rows: Sequence[_Rows], batch_tokens: int) -> np.ndarray[Any, Any]:
    """For each pair whether the better text scores higher, 1 or 0, shape (pairs,)."""
    better = read_all(model, [pair.better for pair in rows], batch_tokens)
    worse = read_all(model, [pair.worse for pair in rows], batch_tokens)
    return np.array([float(b > w) for b, w in zip(better, worse, strict=True)])
