"""Servers get the weights that several processes hold in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests import local
from tests.engines.fsdp.ragged import groups
from tests.engines.fsdp.spawned import led
from tests.engines.fsdp.test_crew import RFT, flat
from tests.fake_vllm import FakeVLLM, choice, tops
from winnow.algorithms.objective import totals
from winnow.config.schema import from_dict
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.engines.base import Engine, LearnerPlan, Request, SamplingParams
from winnow.engines.factory import policy_sampler
from winnow.engines.fsdp.engine import ShardedEngine
from winnow.engines.fsdp.worker import Worker
from winnow.engines.vllm import delivery
from winnow.errors import NoServer
from winnow.storage.digests import damage_of
from winnow.types import Prompt

PLAN = LearnerPlan(OptimizerConfig(lr=1e-2), 20, 40)
UPDATES = 3
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, as it reads adapters


class Served(FakeVLLM):
    """The fake server with a real model, which transformers reads from the folder it is sent."""

    model: Any = None

    def take(self, folder: Path) -> None:
        assert damage_of(folder) is None
        plain = not (folder / "adapter_config.json").is_file()
        self.model = AutoModelForCausalLM.from_pretrained(
            folder if plain else folder.parent / "base"
        )
        if not plain:
            self.model = PeftModel.from_pretrained(self.model, folder)

    @torch.no_grad()
    def sampled(self, body: dict[str, Any]) -> dict[str, Any]:
        how, ids = body["sampling_params"], list(body["token_ids"])
        random = torch.Generator().manual_seed(how.get("seed", 0))
        tokens: list[int] = []
        content = []
        while len(tokens) < how["max_tokens"]:
            logits = self.model(torch.tensor([[*ids, *tokens]])).logits[0, -1]
            own = (logits.float() / (how["temperature"] or 1.0)).log_softmax(-1)
            token = int(torch.multinomial(own.exp(), 1, generator=random))
            tokens.append(token)
            listed = [{"token_id": t, "logprob": float(own[t])} for t in tops(how, token)]
            content.append({**listed[0], "top_logprobs": listed})
            if token in how.get("stop_token_ids", ()):
                return choice(tokens, content, "stop", token, self.label)
        return choice(tokens, content, "length", None, self.label)


def learned(learner: Any) -> None:
    made = groups(RFT)
    learner.step(made, RFT.objective, totals(made), 1.0)


def given(model: Path, sent: Path, urls: list[str], rank: int, transfer: str) -> Any:
    engine = {"learner": "fsdp", "sampler": "vllm", "urls": urls}
    engine |= {"transfer": transfer, "transfer_dir": str(sent)}
    return from_dict(
        {"model": str(model), "device": "cpu", "lora": {"rank": rank}, "engine": engine}
    )


def delivered(worker: Worker, model: Path, sent: Path, rank: int, transfer: str) -> Any:
    """What two servers sample after each of some updates, and what the learner says of it."""
    with Served() as one, Served() as two:
        config = given(model, sent, [one.url, two.url], rank, transfer)
        engine = ShardedEngine(worker, config)
        sampler = policy_sampler(config, engine, ratio=True)
        learner = engine.learner(PLAN)
        found = []
        for version in range(1, UPDATES + 1):
            learned(learner)
            sampler.load(engine.publish(version))
            params = SamplingParams(max_tokens=6)
            sampler.submit([Request(Prompt(str(i), f"{i}+1="), 3, 7 * i, params) for i in range(4)])
            made = [group for _, group in sampler.results()]
            told = [[sum(s.logprobs) for s in group.samples] for group in made]
            versions = {s.policy_version for group in made for s in group.samples}
            found.append((made, told, engine.logprobs(made, 1.0), versions))
        calls = [one.calls, two.calls]
        return found, calls, sampler.notes(), sorted(p.name for p in sent.glob("*/*"))


@pytest.mark.parametrize(
    ("rank", "transfer"),
    [
        (0, "folder"),
        pytest.param(4, "folder", marks=pytest.mark.fsdp),
        pytest.param(4, "lora", marks=pytest.mark.fsdp),
    ],
)
def test_servers_sample_what_all_processes_have_learned(
    tiny_model, tmp_path, rank, transfer
) -> None:
    """Log-probs of the servers, of two processes, and of one after the same updates."""
    settings = tiny_model, tmp_path / "sent", rank, transfer
    found, calls, notes, folders = led(2, delivered, *settings)
    alone: Engine = local.engine(tiny_model, lora={"rank": rank})
    learner = alone.learner(PLAN)
    for version, (made, told, sharded, versions) in enumerate(found, 1):
        before = alone.logprobs(made, 1.0)
        learned(learner)
        assert versions == {version}
        own = alone.logprobs(made, 1.0)
        for servers, all_, mine in zip(told, sharded, own, strict=True):
            assert servers == pytest.approx(all_, abs=1e-4)
            assert servers == pytest.approx(mine, abs=2e-2)
        pairs = zip(flat(before), flat(own), strict=True)
        assert max(abs(a - b) for a, b in pairs) > 0.2  # what an update moves them by
    sent = "/collective_rpc" if transfer == "folder" else "/v1/load_lora_adapter"
    assert [made.count(sent) for made in calls] == [UPDATES, UPDATES]
    assert notes[0].startswith("canaries: the servers' log-probs are at most ")
    kept = [f"00000{n}-version-{n}" for n in (2, 3)]
    assert folders == (kept if transfer == "folder" else [*kept, "base"])


def stale(worker: Worker, model: Path, sent: Path) -> str:
    """A server that answers that it has read weights, and has not."""
    delivery._BETWEEN = 0.01
    with Served() as one:
        config = given(model, sent, [one.url], 0, "folder")
        engine = ShardedEngine(worker, config)
        sampler = policy_sampler(config, engine, ratio=True)
        learner = engine.learner(PLAN)
        request = Request(Prompt("a", "1+1="), 1, 1, SamplingParams(max_tokens=1))
        for version in (0, 1):
            sampler.load(engine.publish(version))
            sampler.submit([request])
            try:
                list(sampler.results())
            except NoServer as error:
                return f"{version}: {error}"
            one.reads = False
            learned(learner)
    return "sampled"


@pytest.mark.fsdp
def test_a_server_without_the_weights_does_not_sample(tiny_model, tmp_path) -> None:
    said = led(2, stale, tiny_model, tmp_path / "sent")
    assert said.startswith("1: ")
    assert "nats from the learner's, more than 0.001" in said
