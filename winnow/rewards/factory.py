r"""Makes rewards, which score completions (:class:`winnow.rewards.base.Reward`).

    reward = make_reward("gsm8k")
    reward = make_reward("regex", options={"pattern": r"answer: (\d+)"})
    reward = make_reward("my_module:my_function", time_limit=5.0, workers=4)
    reward = make_reward(lambda prompt, completion: len(completion) < 100)
    scores = reward.score([(prompt, completion), ...])

A score is a number or an error. A verifier that raises, hangs past its time limit, dies, or returns
no finite number gives that sample an error, and never a zero.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeGuard

from winnow import user_code
from winnow.errors import UserError, install_extra, nearest, no_file
from winnow.rewards import answer_extraction, formulas, verifiers
from winnow.rewards.base import Reward
from winnow.rewards.child import Limits
from winnow.rewards.in_process import InProcessReward, Verifier
from winnow.rewards.source import Source, StartError, pickled
from winnow.rewards.worker_pool import IsolatedReward
from winnow.types import Prompt

__all__ = ["REWARDS", "Reward", "Verifier", "make_reward"]


@dataclass(frozen=True)
class _Builtin:
    """A reward with a name.

    Attributes:
        summary: One line for lists.
        verifier: The function, if it can run in this process: pure, in time linear in the text.
        target: Else ``module:function``, for a worker.
        options: The type of each option.
        required: The options that have no default.
        library: What it imports, and how to install that.
    """

    summary: str
    verifier: Verifier | None = None
    target: str = ""
    options: Mapping[str, type] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    library: tuple[str, str] | None = None


_BUILTINS: Mapping[str, _Builtin] = {
    "number": _Builtin("the completion ends with the answer's number", verifiers.number),
    "exact": _Builtin(
        "the completion is the answer (option: ignore_case)",
        verifiers.exact,
        options={"ignore_case": bool},
    ),
    "regex": _Builtin(
        "a pattern is found, and its group 1 is the answer (option: pattern)",
        target="winnow.rewards.verifiers:regex",
        options={"pattern": str},
        required=("pattern",),
    ),
    "gsm8k": _Builtin(
        "the same number after ####, in \\boxed{}, or last in the completion", verifiers.gsm8k
    ),
    "math": _Builtin(
        "the last formula equals the answer: numbers exactly, formulas by math-verify",
        target="winnow.rewards.math_equivalence:math",
        library=("math_verify", "pip install math-verify"),
    ),
    "gym": _Builtin(
        "the verifier of the Reasoning Gym data set that the prompt comes from, 0 to 1",
        target="winnow.rewards.reasoning_gym:gym",
        library=("reasoning_gym", install_extra("gym")),
    ),
}

_KINDS: Mapping[type, str] = {bool: "a bool, true or false", str: "a str"}

MEMORY_GIB = 4.0
"""The limit of a verifier's memory on Linux, where none is set."""

LENGTH, JUDGE = "length", "judge"
"""Rewards by the length of a sample, and by a model behind a server: see `rollouts/rewards.py`."""

REWARDS: Mapping[str, str] = MappingProxyType(
    {name: builtin.summary for name, builtin in _BUILTINS.items()}
    | {
        LENGTH: "a penalty for long completions, -1 to 0 (options: max, cache)",
        JUDGE: "what a model behind a server says (options: url, model, template, ...)",
    }
)
"""Each named reward and what is right by it, in a line; a user's function is another."""


def make_reward(
    reward: str | Callable[[Prompt, str], float] | Reward,
    *,
    options: Mapping[str, object] = MappingProxyType({}),
    time_limit: float = 10.0,
    workers: int = 2,
    import_seconds: float = 60.0,
    memory_gib: float | None = None,
) -> Reward:
    """The reward of a name or a function; a ready-made reward as it is.

    ``number``, ``exact`` and ``gsm8k`` run in this process; all others in worker processes. One is
    started here, so that a verifier that cannot be loaded is known at once.

    Args:
        reward: A name of :data:`REWARDS`; ``module:function``, also from the current folder, or
            ``folder/file.py:function``; a function of a :class:`~winnow.types.Prompt` and a
            completion; or a :class:`~winnow.rewards.base.Reward`, which is returned as it is.
        options: Of the named reward; a function takes none.
        time_limit: Seconds that a sample may take where the verifier has a process of its own.
        workers: How many such processes.
        import_seconds: Seconds that such a process may take to import the verifier.
        memory_gib: GiB of memory that each of them, with all that it has started, may use. Only
            Linux keeps it; its default there is :data:`MEMORY_GIB`.

    Raises:
        UserError: The name or an option is unknown or wrong, a library is missing, or the function
            cannot be loaded or sent to a process.
    """
    limits = _limits(time_limit, import_seconds, memory_gib)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise UserError("reward.workers", f"must be an int of at least 1 (got {workers})")
    if isinstance(reward, str) and reward in _BUILTINS:
        builtin = _BUILTINS[reward]
        _check_options(reward, builtin, options)
        if builtin.verifier is not None:
            return InProcessReward(reward, functools.partial(builtin.verifier, **options))
        _check_library(reward, builtin)
        source = Source(target=builtin.target, options=options, user=False)
        return _started(reward, source, limits, workers)
    if options:
        raise UserError(
            f"reward.options.{next(iter(options))}", f"{_name(reward)} takes no options"
        )
    if isinstance(reward, str):
        return _started(reward, Source(target=_target(reward)), limits, workers)
    if _is_reward(reward):
        return reward
    if not callable(reward):
        raise UserError("reward", f"must be a name or a function (got {reward!r:.80})")
    name = _name(reward)
    try:
        source = Source(function=pickled(reward))
    except StartError as error:
        raise UserError("reward", f"cannot use {name!r}: {error}") from error
    return _started(name, source, limits, workers)


def judge_reader(parse: str | None, scores: Mapping[str, float]) -> Reward:
    """Reads the score out of a judge's answer: `verifiers.said`.

    A pattern may take for ever, so with one it has a process of its own, as `regex` has.
    """
    if parse is None:
        return InProcessReward(JUDGE, functools.partial(verifiers.said, scores=dict(scores)))
    options = {"parse": parse, "scores": dict(scores)}
    source = Source(target="winnow.rewards.verifiers:said", options=options, user=False)
    return _started(JUDGE, source, _limits(10.0, 60.0, None), 1)


def _limits(time_limit: float, import_seconds: float, memory_gib: float | None) -> Limits:
    """The limits of a verifier's processes; a `UserError` for one that cannot be."""
    for key, value, unit in (
        ("time_limit", time_limit, "seconds"),
        ("import_seconds", import_seconds, "seconds"),
        ("memory_gib", MEMORY_GIB if memory_gib is None else memory_gib, "GiB"),
    ):
        if isinstance(value, bool) or not (value > 0 and math.isfinite(value)):
            raise UserError(f"reward.{key}", f"must be a number of {unit} above 0 (got {value})")
    if sys.platform != "linux":
        if memory_gib is not None:
            raise UserError("reward.memory_gib", "only Linux keeps it", "leave it out")
        return Limits(time_limit, import_seconds)
    return Limits(time_limit, import_seconds, memory_gib or MEMORY_GIB)


def _started(name: str, source: Source, limits: Limits, workers: int) -> Reward:
    reward = IsolatedReward(name, source, limits=limits, workers=workers)
    try:
        reward.start()
    except StartError as error:
        reward.close()
        raise UserError("reward", f"cannot load {name!r}: {error}") from error
    return reward


def _check_options(name: str, builtin: _Builtin, options: Mapping[str, object]) -> None:
    for key, value in options.items():
        kind = builtin.options.get(key)
        if kind is None:
            raise UserError(
                "reward.options", f"unknown option {key!r} of {name}", nearest(key, builtin.options)
            )
        if not isinstance(value, kind):
            raise UserError(f"reward.options.{key}", f"must be {_KINDS[kind]} (got {value!r:.80})")
    for key in builtin.required:
        if key not in options:
            raise UserError(f"reward.options.{key}", f"{name} needs this option")
    if "pattern" in options:
        _check_pattern(str(options["pattern"]))


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern.replace("{answer}", "0"))
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            "reward.options.pattern", f"{pattern!r:.80} is not a regular expression: {error}"
        ) from None


def _check_library(name: str, builtin: _Builtin) -> None:
    # looked for, not imported: SymPy and Reasoning Gym take a second and more
    if builtin.library and importlib.util.find_spec(builtin.library[0]) is None:
        module, install = builtin.library
        raise UserError("reward", f"{name!r} needs {module}", install)


def _target(reward: str) -> str:
    """A ``module:function`` as it is, a file's with its whole path; else a `UserError`."""
    if reward in REWARDS:
        problem = f"{reward!r} is made from the settings of a run, and not by make_reward"
        raise UserError("reward", problem, "name it in [reward]")
    module, colon, function = reward.rpartition(":")
    if not colon:
        problem = f"unknown reward {reward!r}"
        raise UserError(
            "reward", problem, f"{nearest(reward, REWARDS)} (or module:function, file.py:function)"
        )
    if not module or not function:
        raise UserError(
            "reward",
            f"{reward!r} lacks the module or the function",
            "write it as module:function or file.py:function",
        )
    if not user_code.names_file(reward):
        return reward
    found = user_code.absolute(reward)
    if not os.path.isfile(found.rpartition(":")[0]):
        raise UserError("reward", no_file(module))
    return found


def _is_reward(reward: object) -> TypeGuard[Reward]:
    return all(hasattr(reward, part) for part in ("name", "score", "close"))


def _name(reward: object) -> str:
    if isinstance(reward, str):
        return repr(reward)
    return str(getattr(reward, "__qualname__", type(reward).__qualname__))


LEARNED = "model:"
"""Prefix of a reward that is a reward model."""


def isolated(reward: str) -> bool:
    """Whether its verifier has processes of its own, with limits."""
    if reward in REWARDS:
        return reward in _BUILTINS and bool(_BUILTINS[reward].target)
    return not reward.startswith(LEARNED)


def tried(reward: str) -> bool:
    """Whether a reward of that name is tried on a prompt before a run."""
    return reward != LENGTH and not reward.startswith(LEARNED)


_COMPARING = ("number", "exact", "gsm8k", "math")
_READING: Mapping[str, str] = {
    "number": "as one number",
    "gsm8k": "as one number",
    "math": "as mathematics",
}
_REMEDIES: Mapping[str, str] = {
    "number": "use reward 'math' or 'exact', or correct or remove these rows",
    "gsm8k": "write them as '#### 18', use reward 'math', or correct or remove these rows",
    "math": "use reward 'exact', or correct or remove these rows",
}


def check_suited(reward: str, prompts: Sequence[Prompt]) -> None:
    """Raise a `UserError` for prompts that a built-in verifier cannot score.

    Each answer must be right of itself: one that cannot be read would make an error of every
    sample, and one that is misread would reward wrong ones.
    """
    none = reward in _COMPARING and prompts and all(p.answer is None for p in prompts)
    if none and (missing := no_answers(prompts[0])) is not None:
        raise missing
    for prompt in prompts:
        if reward in _COMPARING and prompt.answer is None:
            problem = f"{reward!r} compares with an answer, but prompt {prompt.id!r} has none"
            remedy = "set prompts.answer_column to the column that holds it"
            raise UserError("reward", problem, remedy)
        if reward == "gym" and "gym" not in prompt.data:
            problem = f"'gym' scores gym tasks, but prompt {prompt.id!r} is not from one"
            remedy = "set prompts.source = 'gym:TASK' (and eval.source, if any), or another reward"
            raise UserError("reward", problem, remedy)
    if reward in _READING:
        _check_answers(reward, prompts)


def no_answers(prompt: Prompt) -> UserError | None:
    """That prompts have no answers, where the rows they are made of lack the column; else none.

    A column that was asked for by name is missed when the rows are read.
    """
    if prompt.answer is not None or not prompt.data or "answer" in prompt.data:
        return None
    columns = ", ".join(map(str, prompt.data))
    problem = f"the prompts have no column 'answer' (available: {columns:.200})"
    return UserError("prompts", problem, "set prompts.answer_column to the one that holds it")


def _check_answers(reward: str, prompts: Sequence[Prompt]) -> None:
    """Raise a `UserError` that counts the prompts whose answer is not right of itself."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.answer or "", prompt)
    unread = {answer for answer in first if not _right_of_itself(reward, answer)}
    if reward == "math" and unread:
        unread = _unequal(unread)
    if not unread:
        return
    wrong = [prompt for prompt in prompts if (prompt.answer or "") in unread]
    shown = ", ".join(f"{p.answer!r:.60} (prompt {p.id!r})" for p in wrong[:3])
    problem = (
        f"{reward!r} cannot read the answers of {len(wrong)} of {len(prompts)} prompts "
        f"{_READING[reward]}, such as {shown}"
    )
    raise UserError("reward", problem, _REMEDIES[reward])


def _right_of_itself(reward: str, answer: str) -> bool:
    """Whether text alone shows that an answer can be read."""
    if reward == "math":
        formula = formulas.gold_formula(answer)
        return formula is not None and formulas.is_plain(formula)
    return answer_extraction.gold_number(answer) is not None


def _unequal(answers: Collection[str]) -> set[str]:
    """The answers that math-verify cannot read, or that do not equal themselves by it."""
    ordered = sorted(answers)
    equal = make_reward("math")
    try:
        scores = equal.score([(Prompt("gold", "", a), f"\\boxed{{{a}}}") for a in ordered])
    finally:
        equal.close()
    return {a for a, score in zip(ordered, scores, strict=True) if score.value != 1}
