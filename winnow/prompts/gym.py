"""Reasoning Gym tasks: generated problems that bring their own verifier."""

from __future__ import annotations

from winnow.cells import nearest
from winnow.config import PromptsConfig
from winnow.errors import UserError
from winnow.prompts.rows import fill
from winnow.types import Prompt


def gym(config: PromptsConfig, seed: int) -> list[Prompt]:
    """`gym:TASK`: `prompts.size` problems of that task. Score them with `reward = "gym"`.

    Raises:
        UserError: Reasoning Gym is not installed, or has no such task.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(
            "prompts.source: gym tasks need Reasoning Gym: pip install 'winnow-rl[gym]'"
        ) from error
    name = config.source.removeprefix("gym:")
    if name not in DATASETS:
        raise UserError(f"prompts.source: no gym task {name!r}; {nearest(name, DATASETS)}")
    made = []
    for number, entry in enumerate(reasoning_gym.create_dataset(name, size=config.size, seed=seed)):
        question, answer = str(entry["question"]), entry["answer"]
        row = {"question": question, "answer": answer}
        text = question if config.template is None else fill(config.template, row)
        messages = None
        if config.chat:
            system = [{"role": "system", "content": config.system}] if config.system else []
            messages = (*system, {"role": "user", "content": text})
        made.append(
            Prompt(
                id=f"{name}-{number}",
                text=text,
                answer=None if answer is None else str(answer),
                difficulty=name,
                data={"gym": name, "entry": dict(entry)},
                messages=messages,
                family=question,
            )
        )
    return made
