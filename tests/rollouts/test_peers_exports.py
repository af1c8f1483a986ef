"""Exports as others read them: `datasets` loads each form, TRL's checks know it, TRL trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests import tiny
from tests.build import group
from winnow.rollouts.select import select
from winnow.storage.schema import write_groups
from winnow.types import Group, Prompt

pytestmark = pytest.mark.peers

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
ASKED = [{"role": "system", "content": "add"}, {"role": "user", "content": "1 + 1 ="}]


@pytest.fixture(scope="module")
def peers() -> SimpleNamespace:
    import datasets
    import trl
    from trl.data_utils import is_conversational, maybe_apply_chat_template

    return SimpleNamespace(
        datasets=datasets,
        trl=trl,
        is_conversational=is_conversational,
        maybe_apply_chat_template=maybe_apply_chat_template,
    )


def groups(talk: bool) -> list[Group]:
    """Eight prompts, each with a right and two wrong samples; the first answer is unknown."""
    made = []
    for i in range(8):
        messages = (ASKED[0], {"role": "user", "content": f"{i} + 1 ="}) if talk else None
        answer = None if i == 0 else str(i + 1)
        prompt = Prompt(f"p{i}", f"{i} + 1 =", answer, messages=messages)
        one = group([0.0, 1.0, 0.5], texts=[f" {i}", f" {i + 1}", " 0"])
        made.append(one.with_(prompt=prompt))
    return made


def load(peers: Any, folder: Path, talk: bool, form: str) -> Any:
    write_groups(folder / "in.parquet", "sample", 0, groups(talk))
    select(folder / "in.parquet", ["correct"], out=folder / "kept.jsonl", form=form)
    files = str(folder / "kept.jsonl")
    return peers.datasets.load_dataset(
        "json", data_files=files, split="train", cache_dir=str(folder / "cache")
    )


KEYS = {
    "messages": {"messages"},
    "prompt-completion": {"prompt", "completion"},
    "preference": {"prompt", "chosen", "rejected"},
}


@pytest.mark.parametrize("talk", [False, True])
@pytest.mark.parametrize("form", ["auto", *KEYS])
def test_every_form_is_what_trl_takes_it_for(peers, tmp_path, form, talk) -> None:
    """TRL's own check of keys raises for what it does not know; it ignores what is carried."""
    data = load(peers, tmp_path, talk, form)
    assert len(data) == 8
    wanted = KEYS.get(form) or KEYS["messages" if talk else "prompt-completion"]
    carried = {"score_chosen", "score_rejected"} if form == "preference" else {"reward"}
    assert set(data.column_names) == wanted | carried | {"prompt_id", "answer"}
    assert [row["answer"] for row in data] == [None, *[str(i + 1) for i in range(1, 8)]]
    tokenizer = AutoTokenizer.from_pretrained(tiny.save(tmp_path / "model"))
    tokenizer.chat_template = TEMPLATE
    for row in data:
        assert peers.is_conversational(row) == (talk or form == "messages")
        text = peers.maybe_apply_chat_template(row, tokenizer)
        if peers.is_conversational(row):
            said = text.get("text") or text.get("completion") or text["chosen"]
            assert said.endswith(f" {int(row['prompt_id'][1:]) + 1}\n")


@pytest.mark.filterwarnings("ignore:::(trl|transformers|torch)")  # theirs about each other
@pytest.mark.parametrize("talk", [False, True])
def test_trl_trains_on_pairs(peers, tmp_path, talk) -> None:
    """Two steps of its DPO trainer, from a file as it is, change the weights by a finite loss."""
    data = load(peers, tmp_path, talk, "preference")
    folder = tiny.save(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    model = tiny.model(seed=1)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    trainer = peers.trl.DPOTrainer(
        model=model,
        ref_model=tiny.model(seed=1),
        args=peers.trl.DPOConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            logging_steps=1,
        ),
        train_dataset=data,
        processing_class=tokenizer,
    )
    assert trainer.train().global_step == 2
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # log 2: policy and reference are one
    assert len(losses) == 2
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.isfinite(after).all()
    assert (after - before).abs().max() > 1e-5
