"""A language model small enough to learn in seconds: a Llama of 0.2 M parameters over characters.

Its weights after a supervised warm-up on single digits are in a file beside this one: a policy that
adds badly, but calibrated, and subtracts well, from which every run of a test starts, on every
machine.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CHARACTERS = "0123456789+-*= \nabcdefghijklmnopqrstuvwxyz#,."
PAD_AND_END = "<end>"
LUCK = 0
"""If not 0, a seed of the order of the characters in the vocabulary: with the same policy, all that
is sampled comes out otherwise (`pytest --luck N`)."""


def characters() -> list[str]:
    """Those of the vocabulary, in its order."""
    found = list(CHARACTERS)
    if LUCK:
        random.Random(LUCK).shuffle(found)
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character. Padding *is* the end-of-sequence token, as in many real models."""
    vocabulary = {PAD_AND_END: 0, "<other>": 1, **{c: i + 2 for i, c in enumerate(characters())}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<other>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    core.decoder = decoders.Fuse()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=PAD_AND_END, pad_token=PAD_AND_END, unk_token="<other>"
    )


def model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """An untrained Llama of about 0.2 M parameters."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def rambling(seed: int = 3) -> LlamaForCausalLM:
    """A random model whose completions ramble, so that they end in every way, at all lengths."""
    net = model(seed)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return net


def problems() -> list[dict[str, str]]:
    """The 25 additions whose operands are below five and whose sum is a single digit."""
    return [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)]


def differences() -> list[dict[str, str]]:
    """A second skill, of which no run is told: subtractions whose result is a digit."""
    return [
        {"prompt": f"{a}-{b}=", "answer": str(a - b), "completion": str(a - b)}
        for a in range(1, 6)
        for b in range(1, a + 1)
    ]


def right(net: LlamaForCausalLM, rows: list[dict[str, str]] | None = None) -> torch.Tensor:
    """Probability of the right answer and its end for each of the problems, by one plain pass."""
    rows = problems() if rows is None else rows
    words = tokenizer()
    ids = torch.tensor([[*words.encode(row["prompt"] + row["answer"]), 0] for row in rows])
    with torch.no_grad():
        logp = copy.deepcopy(net).double()(input_ids=ids).logits.log_softmax(-1)
    return logp[:, 3:-1].gather(-1, ids[:, 4:, None]).sum((1, 2)).exp()


def warm_up(net: LlamaForCausalLM, steps: int, share: float, lr: float, seed: int) -> None:
    """Supervised steps on sums, of which `share` are right and the others any digit up to 8, and
    on right differences."""
    rng = random.Random(seed)
    words = tokenizer()
    adam = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0)
    for step in range(steps):
        texts = [
            row["prompt"] + (row["answer"] if rng.random() < share else str(rng.randint(0, 8)))
            for row in problems() * 4
        ]
        texts += [row["prompt"] + row["answer"] for row in differences() * 3]
        ids = torch.tensor([[*words.encode(text), 0] for text in texts])
        adam.param_groups[0]["lr"] = lr * (1 - step / steps)
        logits = net(input_ids=ids).logits[:, 3:-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 4:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()


WEIGHTS = Path(__file__).with_name("tiny.safetensors")
"""The start of whatever trains, in half precision: data, since where training ends up is for
rounding to decide, and processors round differently. ``python -m tests.tiny`` makes them anew."""


def make_weights() -> None:
    """Right sums first, so that it can read the operands; then mostly any sum, so that every
    problem is answered rightly one time in seven: no prompt is without a signal at the start."""
    net = model()
    warm_up(net, steps=400, share=1.0, lr=2e-3, seed=0)
    warm_up(net, steps=400, share=0.06, lr=5e-4, seed=1)
    save_file({name: weight.half() for name, weight in net.state_dict().items()}, WEIGHTS)
    for rows in (problems(), differences()):
        found = right(warmed_up(), rows)
        print(f"right: {found.mean():.3f}, from {found.min():.3f} to {found.max():.3f}")


def warmed_up() -> LlamaForCausalLM:
    """The model with the weights of the file."""
    net = model()
    weights = {name: weight.float() for name, weight in load_file(WEIGHTS).items()}
    rows = [0, 1, *(CHARACTERS.index(character) + 2 for character in characters())]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][rows]
    net.load_state_dict(weights)
    return net


def save(folder: Path, net: PreTrainedModel | None = None) -> Path:
    """A model, by default the warmed-up one, with its tokenizer: what `model = ...` can name."""
    (warmed_up() if net is None else net).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


if __name__ == "__main__":
    make_weights()
