"""A copy of the word embeddings as the head of its own that a model with tied weights lacks."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from winnow.storage.atomic import write_text

_CONFIG, _INDEX, _HEAD = "config.json", "model.safetensors.index.json", "head.safetensors"
_NAME, _FROM = "lm_head.weight", "embed_tokens.weight"


def untie(folder: Path) -> None:
    """Give a saved model a head of its own; one that has it is left as it is.

    vLLM's build for CPUs packs the weights of the head when it starts, and packs them again only if
    a head is read: sent a model whose head is its embeddings, it keeps the head that it had.
    """
    config = json.loads((folder / _CONFIG).read_text())
    if not config.get("tie_word_embeddings"):
        return
    from safetensors import safe_open
    from safetensors.torch import save_file

    index = json.loads((folder / _INDEX).read_text()) if (folder / _INDEX).is_file() else None
    with ExitStack() as opened:
        for path in sorted(folder.glob("*.safetensors")):
            file = opened.enter_context(safe_open(path, "pt"))
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                if name.endswith(_FROM):
                    save_file({_NAME: file.get_tensor(name)}, folder / _HEAD, {"format": "pt"})
    if index is not None:
        index["weight_map"][_NAME] = _HEAD
        write_text(folder / _INDEX, json.dumps(index))
    write_text(folder / _CONFIG, json.dumps({**config, "tie_word_embeddings": False}))
