"""What is said of a reward that fails, and the one prompt that is scored before anything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields

from winnow.errors import UserError
from winnow.rewards.base import AnyReward, scores_of
from winnow.rewards.factory import no_answers
from winnow.rewards.in_process import InProcessReward
from winnow.rewards.several import WeightedSum, of_part, without_part
from winnow.rewards.worker import ONE_COMPLETION
from winnow.rewards.worker_pool import IsolatedReward
from winnow.types import Group, Prompt, Sample, Score

_NO_RETURN = "the verifier returned None"
_NO_NUMBER = ", not a number"
"""Of a verifier that returned something else, such as a list."""
_WRONG_CALL = "positional argument"
_OF_PROMPT = ("AttributeError", "KeyError", "TypeError")
"""What is raised where a prompt has not what a verifier asks of it."""


def failures(errors: Sequence[str], total: int, what: str = "samples") -> str | None:
    """The commonest of some scores' errors on one line; ``None`` without an error.

    Errors of one type and one line of code are one, whatever values their messages name.

    Args:
        total: Number of scores.
        what: What was scored.
    """
    if not errors:
        return None
    ((kind, count),) = Counter(map(_kind, errors)).most_common(1)
    error = next(each for each in errors if _kind(each) == kind)
    often = "" if count == len(errors) else f", on {count} of them by this"
    return f"{error}: the reward failed on {len(errors)} of {total} {what}{often}{_hint(error)}"


def _hint(error: str) -> str:
    """What a reward is given, where an error says that its author thought of something else."""
    if _NO_NUMBER in error or (_WRONG_CALL in error and not error.endswith(")")):
        return f"; {ONE_COMPLETION}"
    if not without_part(error).startswith(_OF_PROMPT):
        return ""
    return f"; a prompt has {', '.join(f.name for f in fields(Prompt))}"


def failures_of(groups: Iterable[Group]) -> str | None:
    """`failures` of the scores of groups."""
    scores = [score for group in groups for score in group.scores]
    return failures(errors_of(scores), len(scores))


def errors_of(scores: Iterable[Score]) -> list[str]:
    """The errors among scores."""
    return [score.error for score in scores if score.error is not None]


def _kind(error: str) -> tuple[str, str]:
    """Type and place of an error, and the part of the reward that it is of."""
    rest = without_part(error)
    kind = error.removesuffix(rest) + rest.partition(":")[0]
    return kind, error.rpartition(" (")[2] if error.endswith(")") else ""


def is_probed(reward: AnyReward) -> bool:
    """Whether it is tried before a run; of several rewards, whether any is."""
    if isinstance(reward, WeightedSum):
        return any(is_probed(part.reward) for part in reward.parts)
    return isinstance(reward, InProcessReward | IsolatedReward)


def plain_completions(prompt: Prompt) -> list[str]:
    """What a verifier is tried on: the answer, nothing, and a sentence."""
    answer = prompt.answer or ""
    return list(dict.fromkeys((answer, "", f"The answer is {answer or 'this'}.")))


def plain_sample(text: str) -> Sample:
    """A text as a sample of which nothing else is known."""
    return Sample((), (), text, "eos", length=1)


def probe(reward: AnyReward, prompt: Prompt) -> None:
    """Try a reward, each part of several, on one prompt: `_probe`."""
    if not isinstance(reward, WeightedSum):
        _probe(reward, prompt, "")
        return
    for part in reward.parts:
        _probe(part.reward, prompt, part.label)


def _probe(reward: AnyReward, prompt: Prompt, label: str) -> None:
    """Score plain completions of one prompt until one has a number: an error costs no model.

    They are the prompt's answer, nothing, and a sentence. A verifier that makes an error of all of
    them is broken, whatever a model would write, and so is one that returns None, as a function
    does that forgot to return. Reward models and ready-made rewards are not asked: their scores may
    cost money.

    Raises:
        UserError: every score was an error, or the verifier returned None; where the prompt has no
            answer, since its source has no such column, that is what is told.
    """
    if not is_probed(reward):
        return
    answer, texts = prompt.answer or "", plain_completions(prompt)
    errors: list[str] = []
    tried = 0
    for text in texts:
        tried += 1
        (score,) = scores_of(reward, [(prompt, plain_sample(text))])
        if score.error is not None:
            errors.append(of_part(label, score.error) if label else score.error)
            if _NO_RETURN in score.error:
                break
        elif text != answer:
            return
    else:
        if len(errors) < len(texts):
            return
    failed = without_part(errors[0]).startswith(_OF_PROMPT)
    if failed and (missing := no_answers(prompt)) is not None:
        missing.add_note(f"without one the reward failed: {errors[0]}")
        raise missing
    what = f"plain completions of prompt {prompt.id!r:.60}"
    remedy = "fix it or, if only a model's completions can be scored, set reward.probe = false"
    raise UserError("reward", str(failures(errors, tried, what)), remedy)
