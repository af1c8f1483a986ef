"""`winnow` with the fake engine in the local one's place: a run takes no second and needs no torch.

A study's runs are processes of their own, so the engine is put there in each of them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TRAIN = (sys.executable, str(Path(__file__)), "train")
COMPARE = (sys.executable, str(Path(__file__)), "compare")
SLOW = "FAKED_SECONDS"
"""Of the environment: how long each sampling takes, so that a kill falls into a run."""
BASE: dict[str, Any] = {
    "reward": "exact",
    "steps": 6,
    "prompts_per_step": 4,
    "samples_per_prompt": 8,
    "minibatch_prompts": 2,
    "sampling": {"max_tokens": 4},
    "optimizer": {"lr": 2.0},
    "eval": {"size": 4, "samples": 4, "every": 2},
    "checkpoint": {"every": 2, "keep": 2},
    "report": False,
}


def study(folder: Path, variants: Any = ("raft", "rloo"), **table: Any) -> dict[str, Any]:
    """The tables of a study of the fake engine; its model and prompts are written to a folder."""
    model, prompts = folder / "model", folder / "prompts.jsonl"
    model.mkdir(exist_ok=True)
    (model / "logits.json").write_text(json.dumps([0.1 * i for i in range(10)]))
    rows = [{"prompt": f"{i}?", "answer": "7"} for i in range(12)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {**BASE, "model": str(model), "prompts": str(prompts)}
    own = dict(variants) if isinstance(variants, dict) else list(variants)
    return {
        "study": {"seeds": 2, "parallel": 2, "threads": 1, **table},
        "base": base,
        "variants": own,
    }


def main(arguments: Sequence[str]) -> None:
    """The command line with the fake engine."""
    sys.path.insert(0, str(ROOT))
    from tests.fake_engine import Engine, Sampler
    from winnow.cli import main as command
    from winnow.engines import factory
    from winnow.studies import children, running

    sample = Sampler._sample

    def slowly(self: Sampler, requests: Any) -> Any:
        time.sleep(float(os.environ.get(SLOW, "0")))
        yield from sample(self, requests)

    Sampler._sample = slowly  # type: ignore[method-assign]
    factory.ENGINES["local"] = factory.Kind(Engine, lambda *_: None)  # type: ignore[arg-type]
    children.TRAIN = TRAIN  # type: ignore[misc,assignment]
    running.run_study.__kwdefaults__["train"] = TRAIN
    sys.argv = ["winnow", *arguments]
    command.main()


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(ROOT)
    main(sys.argv[1:])
