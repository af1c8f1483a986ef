"""Whether a verifier tells right from wrong: gold answers, and those of other prompts."""

from __future__ import annotations

from collections.abc import Sequence

from winnow.config.schema import Config
from winnow.errors import number_of
from winnow.evaluation.audit import GOLD, Audit, Labelled, Rate, audit, gold
from winnow.rewards.base import AnyReward
from winnow.rewards.factory import JUDGE
from winnow.rollouts.reward_errors import failures
from winnow.rollouts.rewards import counts_tokens
from winnow.training.preflight.check import Check, failed, passed, skipped, warned
from winnow.types import Prompt

_NAME = "verifier"
MOST = 256
"""Prompts whose answers are tried."""
MOST_OF_A_JUDGE = 4
"""Likewise where each score is a question to a server."""
_SEVERAL = 5
"""From so many answers on, a verifier that says one thing to all of them is called that."""
_MISTAKEN = 0.02
"""Above this share of mistakes, a verifier is warned of."""


def asks_a_judge(config: Config) -> bool:
    """Whether each score of a config's reward is a question to a server."""
    return any(table.name == JUDGE for _, table in config.reward.each)


def verifier_check(config: Config, reward: AnyReward, prompts: Sequence[Prompt]) -> Check:
    """Score each gold answer for its own prompt and for another one."""
    if counts_tokens(config):
        return skipped(_NAME, "it counts tokens, which answers as texts do not have")
    answered = [prompt for prompt in prompts if prompt.answer is not None]
    if not answered:
        return skipped(_NAME, "the prompts have no answers to try it on")
    most = MOST_OF_A_JUDGE if asks_a_judge(config) else MOST
    tried = list({(one.text, one.answer): one for one in answered}.values())[:most]
    items, _ = gold(tried, config.seed)
    told = judged(audit(items, reward, config.reward.bound), config.reward.bound)
    if len(tried) < len(answered):
        return Check(told.name, told.status, f"{told.text} ({len(tried)} tried)", told.remedy)
    return told


def judged(found: Audit, right_at: float) -> Check:
    """What the scores of gold and of shuffled answers say of a verifier."""
    own = next(rate for rate in found.rates if rate.part == GOLD)
    other = next((rate for rate in found.rates if rate.part != GOLD), None)
    rights = own.scored - own.mistaken + (other.mistaken if other else 0)
    scored = own.scored + (other.scored if other else 0)
    told = _told(own, other)
    if not scored:
        errors = [one.score.error or "" for one in found.disagreements]
        return failed(_NAME, str(failures(errors, found.completions, "answers")), "fix it")
    if other is not None and other.scored >= _SEVERAL and rights == scored:
        return failed(
            _NAME, f"it says right to everything: {told}", "fix it, or the columns it reads"
        )
    if own.scored >= _SEVERAL and rights == 0:
        text = f"it says wrong to everything, gold answers too: {told}{_example(found)}"
        remedy = (
            "if completions hold more than the answer that may be meant: try it on labeled ones "
            "with winnow audit-reward --labels"
        )
        return warned(_NAME, text, remedy)
    errors = [one.score.error for one in found.disagreements if one.score.error is not None]
    if errors:
        return warned(_NAME, f"{failures(errors, found.completions, 'answers')}; {told}", "fix it")
    if len(found.disagreements) > _MISTAKEN * scored:
        remedy = "use another reward or correct the answers (winnow audit-reward lists them all)"
        return warned(_NAME, f"{told}{_example(found)}", remedy)
    return passed(_NAME, told)


def _told(own: Rate, other: Rate | None) -> str:
    right = f"right of {own.scored - own.mistaken} of {number_of(own.scored, 'gold answer')}"
    if other is None or not other.scored:
        return right
    return f"{right}, wrong of {other.scored - other.mistaken} of {other.scored} of other prompts"


def _example(found: Audit) -> str:
    if not found.disagreements:
        return ""
    one = found.disagreements[0]
    said = "right" if one.kind == "false right" else "wrong"
    return f", such as {_short(one.labelled)}, called {said}"


def _short(one: Labelled) -> str:
    return f"{one.completion[-40:]!r} for the answer {(one.prompt.answer or '')[-40:]!r}"
