"""The check-up of a recipe whose samples come from a server."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from winnow.config.phases import phases_of
from winnow.config.schema import Config
from winnow.config.schema.engine import EngineConfig
from winnow.config.validation import check_answers
from winnow.engines.base import Engine, Sampler
from winnow.engines.factory import engine_for, sampler_for
from winnow.errors import UserError, WinnowError
from winnow.prompts.loading import load_prompts
from winnow.reporting.observer import Observers, Progress
from winnow.rollouts.rewards import reward_for
from winnow.rollouts.scoring import score
from winnow.training.preflight.budget import PROMPTS
from winnow.training.preflight.check import Check, failing, guarded, passed, skipped, warned
from winnow.training.preflight.prompts import data_checks
from winnow.training.preflight.sampled import First, endings, sampled, scores, signal
from winnow.training.preflight.verifier import asks_a_judge, verifier_check
from winnow.types import Group, Sample

_COMPARED = 2
"""Groups whose log-probs are compared with the local model's."""
_LIKE = 0.02
"""Nats a token, on average, that another engine's arithmetic may explain."""


def serving(config: Config, progress: Progress) -> Iterator[Check]:
    """Is there a server, does it give log-probs, are they those of the model that is named?"""
    prompts = load_prompts(config.prompts, config.eval, config.seed)
    progress("ask the server", 0, 1)
    try:
        check_answers(config, prompts.every)
        sampler = sampler_for(config, prompts.every, Observers())
    except UserError as error:
        yield failing("server", error)
        return
    yield passed("server", f"{config.engine.url} answers")
    yield from data_checks(prompts)
    with reward_for(config, None, prompts.every[0]) as reward:
        yield verifier_check(config, reward, prompts.every)
        try:
            first = sampled(config, sampler, prompts.train[:PROMPTS], progress)
        except UserError as error:
            yield failing("samples", error)
            return
        for note in sampler.notes():
            yield warned("server's notes", note, "see docs/samples.md on servers")
        if asks_a_judge(config):
            yield skipped("signal", "each score is a question to a server, so none is asked here")
        else:
            groups = score(first.groups, reward, config.reward.bound)
            first = replace(first, groups=groups)
            yield scores(first)
            (phase, *_) = phases_of(config.model_copy(update={"engine": EngineConfig()}))
            yield signal(first, phase)
    yield endings(first, config)
    yield from guarded("log-probs", lambda: [_logprobs(config, sampler, first)])


def _logprobs(config: Config, sampler: Sampler, first: First) -> Check:
    name = "log-probs"
    given = [one for group in first.groups for one in group.samples if one.logprobs]
    if not given:
        remedy = "none is needed for rft, raft and winnow select (a ratio or a KL needs them)"
        return warned(name, "the server gives none", remedy)
    try:
        engine = engine_for(config.model_copy(update={"engine": EngineConfig()}))
    except WinnowError as error:
        why = failing(name, error)
        return skipped(name, f"the server gives some, not compared: {why.text}", why.remedy)
    heat = config.sampling.temperature or 1.0
    raw = difference(engine, first.groups[:_COMPARED], 1.0)
    tempered = raw if heat == 1 else difference(engine, first.groups[:_COMPARED], heat)
    if raw is None or tempered is None:
        return skipped(name, "the server gives some, for no whole sample that ended by itself")
    told = (
        f"the server's differ from those of {config.model!r} here by {min(raw, tempered):.1e} nats"
    )
    at = 1.0 if raw <= tempered else heat
    if min(raw, tempered) > _LIKE:
        text = f"{told} a token: other weights, another template or other sampling settings"
        return warned(name, text, "check engine.served_model, and the server's settings")
    beside = "" if heat == 1 else f", at temperature {at:g}; samples are at {heat:g}"
    return passed(name, f"{told} a token{beside}")


def difference(engine: Engine, groups: Sequence[Group], temperature: float) -> float | None:
    """Mean |log pi_here - log pi_server| of a sample over its tokens; its text is encoded here.

    Samples whose text has another number of tokens here, as of an end that the server does not
    count, are left out; ``None`` if none is left.
    """
    found = []
    for group in groups:
        asked = engine.encode(group.prompt)
        for one in group.samples:
            for ended in (True, False):
                ids = engine.encode_completion(one.text, ended=ended)
                if len(ids) == len(one.logprobs):
                    again = Sample(ids, one.logprobs, one.text, one.finish_reason)
                    ((own,),) = engine.logprobs([Group(group.prompt, asked, (again,))], temperature)
                    found.append(abs(own - math.fsum(one.logprobs)) / one.length)
                    break
    return float(np.mean(found)) if found else None
