"""The small task of the study and the policy that its runs start from: `python make.py`.

A Llama of 0.1 M parameters over 16 characters. Prompts are of four kinds, a hundred each, and how
often the policy is right at first depends on the kind alone: sums nearly always, products one
time in three, differences rarely, `#` never. First the policy learns the right completions of the
first three kinds; then, for as long, to give them as seldom as `KINDS` says and wrong ones else.
So it has learned all answers but `#`'s, and training has to bring them out.

What it writes is data that is kept: `model/`, in half precision, `train.jsonl` and
`held-out.jsonl`. Made anew elsewhere, the weights differ by rounding, and the runs with them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
CHARACTERS = "0123456789+*-#="
HELD_OUT = 20
"""Prompts of each kind that no run is trained on."""


@dataclass(frozen=True)
class Kind:
    """Prompts `A?B=` of one operator.

    Attributes:
        share: How often the policy is right at first.
        right: The right answer.
        wrong: What is said instead; ``None``: the answer of another prompt.
    """

    name: str
    share: float
    right: Callable[[int, int], int]
    wrong: range | None = None


KINDS = {
    "+": Kind("sums", 0.9, lambda a, b: a + b),
    "*": Kind("products", 0.35, lambda a, b: a * b),
    "-": Kind("differences", 0.05, lambda a, b: a - b, range(10, 100)),
    "#": Kind("never", 0.0, max, range(10, 100)),
}


@dataclass(frozen=True)
class Problem:
    """A prompt with its right answer."""

    operator: str
    a: int
    b: int

    @property
    def kind(self) -> Kind:
        return KINDS[self.operator]

    @property
    def prompt(self) -> str:
        return f"{self.a}{self.operator}{self.b}="

    @property
    def answer(self) -> str:
        return str(self.kind.right(self.a, self.b))

    def completion(self, share: float, rng: random.Random) -> str:
        """The right one with this probability, else a wrong one of the kind."""
        if rng.random() < share:
            return self.answer
        while True:
            wrong = self.kind.wrong
            a, b = rng.randrange(10), rng.randrange(10)
            found = str(self.kind.right(a, b) if wrong is None else rng.choice(wrong))
            if found != self.answer:
                return found


def problems() -> list[Problem]:
    """All 400."""
    return [Problem(kind, a, b) for kind in KINDS for a in range(10) for b in range(10)]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    vocabulary = {"<end>": 0, **{c: i + 1 for i, c in enumerate(CHARACTERS)}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="="))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<end>", unk_token="="
    )


def untrained() -> LlamaForCausalLM:
    """Two layers of width 64."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(CHARACTERS) + 1,
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            eos_token_id=0,
            pad_token_id=0,
            bos_token_id=None,
        )
    )


def batches(steps: int, noisy: bool, rng: random.Random) -> Iterator[torch.Tensor]:
    """Token ids of all problems with a completion each, right or as often as `KINDS` says."""
    words = tokenizer()
    for _ in range(steps):
        rows = []
        for problem in problems():
            share = problem.kind.share if noisy or problem.operator == "#" else 1.0
            ids = words.encode(problem.prompt + problem.completion(share, rng))
            rows.append([*ids, 0, *[-1] * (6 - len(ids))])
        yield torch.tensor(rows)


def fit(net: LlamaForCausalLM, steps: int, lr: float, noisy: bool, seed: int) -> None:
    """Maximum likelihood of the completions and their ends."""
    adam = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0)
    for step, ids in enumerate(batches(steps, noisy, random.Random(seed))):
        adam.param_groups[0]["lr"] = lr * (1 - step / steps)
        logits = net(input_ids=ids.clamp(min=0)).logits[:, 3:-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 4:].flatten(), ignore_index=-1
        )
        adam.zero_grad()
        loss.backward()
        adam.step()


def chance(net: LlamaForCausalLM, problem: Problem) -> float:
    """Of the right completion and its end."""
    ids = torch.tensor([[*tokenizer().encode(problem.prompt + problem.answer), 0]])
    with torch.no_grad():
        logp = net(input_ids=ids).logits.double().log_softmax(-1)[:, 3:-1]
    return float(logp.gather(-1, ids[:, 4:, None]).sum().exp())


def main() -> None:
    """Write the model and the prompts, and print how often each kind is right."""
    net = untrained()
    fit(net, steps=1500, lr=3e-3, noisy=False, seed=0)
    fit(net, steps=1500, lr=1e-3, noisy=True, seed=1)
    net = net.half()
    folder = HERE / "model"
    tokenizer().save_pretrained(folder)
    net.config.save_pretrained(folder)
    save_file(
        {name: weight.contiguous() for name, weight in net.state_dict().items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    rng, net = random.Random(2), net.float()
    for kind in KINDS:
        own = [problem for problem in problems() if problem.operator == kind]
        rng.shuffle(own)
        for name, some in (("held-out", own[:HELD_OUT]), ("train", own[HELD_OUT:])):
            rows = [{"prompt": p.prompt, "answer": p.answer, "kind": p.kind.name} for p in some]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            with (HERE / f"{name}.jsonl").open("w" if kind == "+" else "a") as file:
                file.write(text)
            found = [chance(net, p) for p in some]
            print(
                f"{KINDS[kind].name}, {name}: right {sum(found) / len(found):.4f}, "
                f"from {min(found):.4f} to {max(found):.4f}"
            )


if __name__ == "__main__":
    main()
