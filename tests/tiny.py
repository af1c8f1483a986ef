"""A language model small enough to learn in seconds: a Llama of 0.2 M parameters over characters.

It is built in code and given a few seconds of supervised warm-up on single-digit addition, with
answers that are right only one time in five, so that a run starts from a poor, calibrated policy.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHARACTERS = "0123456789+-*= \nabcdefghijklmnopqrstuvwxyz#,."
PAD_AND_END = "<end>"


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character. Padding *is* the end-of-sequence token, as in many real models."""
    vocabulary = {PAD_AND_END: 0, "<other>": 1, **{c: i + 2 for i, c in enumerate(CHARACTERS)}}
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


def problems() -> list[dict[str, str]]:
    """The 25 additions whose operands are below five and whose sum is a single digit."""
    return [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)]


def warm_up(net: LlamaForCausalLM, steps: int, right: float, seed: int = 0) -> None:
    """Supervised steps on answers of which `right` are right and the others are any sum."""
    rng = random.Random(seed)
    words = tokenizer()
    adam = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = []
        for row in rng.choices(problems(), k=50):
            answer = row["answer"] if rng.random() < right else str(rng.randint(0, 8))
            rows.append((row["prompt"], answer))
        inputs = [[*words.encode(p + a), 0] for p, a in rows]
        longest = max(map(len, inputs))
        ids = torch.tensor([x + [0] * (longest - len(x)) for x in inputs])
        labels = torch.full_like(ids, -100)
        for i, (p, _) in enumerate(rows):
            labels[i, len(words.encode(p)) : len(inputs[i])] = ids[
                i, len(words.encode(p)) : len(inputs[i])
            ]
        loss = net(input_ids=ids, labels=labels).loss
        adam.zero_grad()
        loss.backward()
        adam.step()


def save(folder: Path) -> Path:
    """A warmed-up model with its tokenizer, as a folder that `model = ...` can name.

    Right answers first, so that it can read the operands; then mostly wrong ones, so that it
    starts low.
    """
    net = model()
    warm_up(net, steps=100, right=1.0)
    warm_up(net, steps=25, right=0.25, seed=1)
    net.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
