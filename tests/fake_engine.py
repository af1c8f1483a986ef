"""An engine without torch: ten logits, whatever the prompt; a sample is a digit."""

import json
from pathlib import Path

import numpy as np

from winnow.algorithms.objective import factors, learned_from
from winnow.engines.base import PRESENT, START, Capabilities, Conventions, ModelSize, WeightsRef
from winnow.engines.queueing import QueuedSampler
from winnow.rollouts.generate import random_stream
from winnow.types import Group, Sample, StepStats


def read(folder):
    return np.array(json.loads((Path(folder) / "logits.json").read_text()))


def logp(logits, heat=1.0):
    return logits / heat - np.log(np.exp(logits / heat).sum())


class Engine:
    device, context, vocabulary = "nowhere", 64, "characters"

    def __init__(self, config, field="model", checkpoint=None, folder=None):
        self.kept, self.now = {START: read(config.model)}, read(checkpoint or config.model)
        self.encode = lambda prompt: tuple(map(ord, prompt.text))
        self.encode_completion = lambda text, ended: (*map(ord, text), *([0] * ended))
        self.sampler, self.learner = lambda _: Sampler(self), lambda plan: Learner(self, plan)
        self.of = lambda weights: self.kept[weights] if weights in self.kept else read(weights)
        self.notes, self.load, self.close = lambda: ["fake"], lambda: None, lambda: None
        self.decode = lambda ids: "".join(map(chr, ids))
        self.token_ends = lambda ids, text: (*[min(i + 1, len(text)) for i in range(len(ids))],)
        self.size = lambda: ModelSize(10, 10, 8, 1, 1, 64, 0, True)
        self.conventions = lambda: Conventions(
            False, "", None, (0, 0), None, {0: "<end>"}, 0, None, {}
        )
        self.peak_memory = lambda: None
        self.check_critic = lambda critic: None
        self.publish = lambda version: WeightsRef(version, PRESENT, hash=str(version))

    def snapshot(self, name, of=PRESENT, *, aside=False):
        self.kept[name] = (self.now if of == PRESENT else self.of(of)).copy()

    def restore(self, weights):
        self.now = self.of(weights).copy()

    def average(self, weights, share):
        self.now = (1 - share) * self.now + share * self.of(weights)

    def save(self, folder, *, merged=False):
        (folder / "logits.json").write_text(json.dumps([*self.now]))

    def logprobs(self, groups, heat, of=PRESENT):
        logits = self.now if of == PRESENT else self.of(of)
        return [[logp(logits, heat)[int(s.text)] for s in g.samples] for g in groups]


class Sampler(QueuedSampler):
    capabilities, device, notes = Capabilities(True, True, True), "nowhere", lambda _: []

    def __init__(self, engine):
        super().__init__()
        self.engine, self.version = engine, 0

    def load(self, weights):
        assert weights.hash == str(weights.version)
        self.version = weights.version

    def _sample(self, requests):
        for place, ask in [*enumerate(requests)][::-1]:  # as they finish
            own, samples = logp(self.engine.now, ask.params.temperature), []
            for number in range(ask.n):
                digit = int(random_stream(ask.seed, number).choice(10, p=np.exp(own)))
                text, ids = str(digit), (48 + digit,)
                samples.append(
                    Sample(ids, (float(np.float32(own[digit])),), text, "stop", self.version)
                )
            ids = self.engine.encode(ask.prompt)
            yield place, Group(ask.prompt, ids, tuple(samples), step=ask.step)


class Learner:
    def __init__(self, engine, plan):
        self.engine, self.lr, self.version = engine, plan.optimizer.lr, plan.version
        self.reference = plan.reference and engine.of(plan.reference).copy()
        self.restart, self.close = engine.restore, lambda: None

    def reference_logprobs(self, groups, asked, heat):
        own = logp(self.reference, heat)
        return [[(own[int(s.text)],) for s in g.samples] for g in groups]

    def step(self, groups, terms, totals, heat, auxiliary=None):
        """REINFORCE, whatever the loss: factor x advantage x grad log pi, summed."""
        done, policy = (
            StepStats(applied=True, grad_norm=1.0, lr=self.lr),
            np.exp(logp(self.engine.now)),
        )
        now = logp(self.engine.now, heat)
        for group in groups:
            weights = np.multiply(factors(group, terms[0], totals), group.advantages)
            for sample, weight in zip(group.samples, weights, strict=True):
                self.engine.now += self.lr * weight * (np.eye(10)[int(sample.text)] - policy)
            done.influence.append([*abs(weights)])
            done.samples += len(learned_from(group, terms))
            own = [s for s in group.samples if s.policy_version == self.version and s.logprobs]
            done.gap_sum += sum(abs(now[int(s.text)] - s.logprobs[0]) for s in own)
            done.gap_tokens += len(own)
        self.version += 1
        return done

    def save(self, folder):
        self.engine.save(folder)
        (folder / "version").write_text(str(self.version))

    def load(self, folder):
        self.version = int((folder / "version").read_text())
