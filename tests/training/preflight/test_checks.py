"""Each check by a small sick thing: what passes, what is warned of, what fails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from winnow.algorithms.table import ALGORITHMS
from winnow.config.phases import phases_of
from winnow.config.schema import from_dict
from winnow.prompts.loading import PromptSet
from winnow.rewards.factory import make_reward
from winnow.training.forecast import Disk, Memory, Work
from winnow.training.preflight import importing, machine
from winnow.training.preflight.budget import SAMPLING, WHOLE, Plan, first_sample, that_fit
from winnow.training.preflight.check import Check
from winnow.training.preflight.forecast import seconds_of_update, time_check, times
from winnow.training.preflight.importing import broken
from winnow.training.preflight.learned import Step, agreement, unmoved
from winnow.training.preflight.prompts import answers, plain, repeats, room_check
from winnow.training.preflight.sampled import First, endings, scores, signal
from winnow.training.preflight.verifier import verifier_check
from winnow.types import Group, Prompt, Sample, Score, StepStats

CONFIG = from_dict({"algorithm": "raft", "samples_per_prompt": 4, "sampling": {"max_tokens": 8}})
(PHASE,) = phases_of(CONFIG)


def prompts(*texts: str, answer: str | None = None) -> list[Prompt]:
    return [Prompt(f"p{i}", text, answer or str(i)) for i, text in enumerate(texts)]


# machine


def test_a_library_of_another_version_fails() -> None:
    own = version("numpy")
    assert machine.library("numpy", {"numpy": Requirement(f"numpy>={own}")}).status == "passed"
    old = machine.library("numpy", {"numpy": Requirement("numpy>=99")})
    assert (old.status, old.text) == ("failed", f"{own}, and >=99 is needed")
    assert machine.library("nothing-of-this-name", {}).status == "failed"


def test_what_is_installed_and_cannot_be_imported(tmp_path, monkeypatch) -> None:
    (tmp_path / "fine.py").write_text("print('noise')")
    (tmp_path / "sick.py").write_text("import no_such_thing")
    (tmp_path / "fatal.py").write_text("import os; os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (tmp_path / "after.py").write_text("raise OSError('no library')")
    assert broken(["fine", "sick", "fatal", "after", "fine"]) == {
        "sick": "ModuleNotFoundError: No module named 'no_such_thing'",
        "fatal": "importing it ends Python (exit 7)",
        "after": "OSError: no library",
    }
    assert broken([]) == {}


def test_extras(monkeypatch) -> None:
    there = {"pandas": "2.2", "peft": "0.1", "openai": "2.0"}

    def of(name: str) -> str:
        if name not in there:
            raise machine.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(machine, "version", of)
    monkeypatch.setattr(machine, "broken", lambda _: {"pandas": "ImportError: libx"})
    admitted = {"peft": Requirement("peft>=0.20")}
    found = {check.name: check for check in machine.extras(admitted)}
    told = {name: check.status for name, check in found.items()}
    assert told == {
        "pandas": "warned",
        "peft": "warned",
        "openai": "passed",
        "datasets": "skipped",
        "reasoning-gym": "skipped",
    }
    assert "does not work: ImportError: libx" in found["pandas"].text


def test_an_extra_that_is_slow_to_import_may_work(tmp_path, monkeypatch) -> None:
    (tmp_path / "slow_one.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(importing, "_LONGEST", 0.5)
    assert broken(["slow_one"]) == {"slow_one": importing.SLOW}
    monkeypatch.setattr(machine, "version", lambda _: "1.0")
    monkeypatch.setattr(machine, "broken", lambda _: {"peft": importing.SLOW})
    peft = next(check for check in machine.extras({}) if check.name == "peft")
    assert peft.status == "warned"
    assert "does not work" not in peft.text
    assert "pip" not in peft.remedy


def test_threads_against_cores(monkeypatch) -> None:
    monkeypatch.setattr(machine, "_load", lambda: 0.0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.processor(4, 4).status == "passed"
    assert machine.processor(8, 4).remedy == "set threads = 4"
    assert machine.processor(2, 4).status == "passed"  # it may be meant
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.processor(1, 4).status == "warned"
    monkeypatch.setattr(machine, "_load", lambda: 3.2)
    assert "other work runs here (load 3.2)" in machine.processor(2, 2).text


def test_a_gpu_that_does_not_compute(monkeypatch) -> None:
    assert machine.gpu([]).status == "passed"
    monkeypatch.setattr(machine, "gpu_fault", lambda: "")
    assert machine.gpu(["card"]).text == "card; multiplies matrices"
    monkeypatch.setattr(machine, "gpu_fault", lambda: "no kernel image")
    assert machine.gpu(["card"]).status == "failed"


def test_memory_and_disk_against_what_is_free(tmp_path, monkeypatch) -> None:
    need = Memory(4, 4, 8, 0, 0, 4)  # 20 in all, 16 without the cache
    assert machine.memory_check(need, (100, 100), "cpu").status == "passed"
    assert machine.memory_check(need, (20, 100), "cpu").status == "warned"
    assert machine.memory_check(need, (10, 15), "cpu").status == "failed"
    assert machine.memory_check(need, None, "cpu").status == "skipped"
    # 24: 4 of a copy, which waits in the host's memory beside a GPU
    copied = Memory(4, 4, 8, 4, 0, 4, aside=4)
    assert machine.memory_check(copied, (17, 17), "cpu").status == "failed"
    assert machine.memory_check(copied, (17, 17), "cuda:0").status == "warned"
    assert machine.memory_check(copied, (26, 26), "cpu").status == "warned"
    assert machine.memory_check(copied, (26, 26), "cuda:0").status == "passed"
    # 50, of which 30 are gone before 4 + 8 of gradients and averages come: 34 without the cache
    passing = Memory(4, 4, 8, 0, 30, 4, passing=30)
    assert machine.memory_check(passing, (33, 33), "cpu").status == "failed"
    assert machine.memory_check(passing, (34, 34), "cpu").status == "warned"
    want = Disk(checkpoint=10, checkpoints=2, models=0, samples=5)
    for free, total, status in (
        (100, 500, "passed"),
        (20, 500, "warned"),
        (9, 500, "failed"),
        (0, 500, "failed"),
        (0, 0, "skipped"),  # a file system that does not count
    ):
        usage = SimpleNamespace(free=free, total=total)
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, found=usage: found)
        assert machine.disk_check(want, tmp_path / "not" / "made").status == status


# prompts


class Characters:
    """An engine's tokenizer: one token a character."""

    context: int | None = 12

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(map(ord, prompt.text))


def test_prompts_that_do_not_fit() -> None:
    """12 tokens of context: 4 and 8 fit, 5 and 8 do not, a held-out 5 with 4 does."""
    config = from_dict({"sampling": {"max_tokens": 8}, "eval": {"max_tokens": 4}})
    fits = PromptSet(tuple(prompts("abcd")), tuple(prompts("abcde")))
    assert room_check(Characters(), config, fits, 8).status == "passed"
    long = PromptSet(tuple(prompts("abcd", "abcde")), ())
    found = room_check(Characters(), config, long, 8)
    assert found.status == "failed"
    assert (
        "1 of 2 prompts do not fit 12 tokens; the longest prompt (id 'p1') has 5 tokens"
        in found.text
    )
    assert room_check(Characters(), config, PromptSet((), ()), 8).status == "skipped"
    unknown = Characters()
    unknown.context = None
    assert room_check(unknown, config, long, 8).status == "passed"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What is 1 + 2?", "what is  1+2", True),
        ("Compute 3.5.", "compute 3.5", True),
        ("1 - 2", "1 + 2", False),
        ("add 1 12", "add 11 2", False),
        ("(3 * 2) + 1", "3 * (2 + 1)", False),
        ("Is it (really) so?", "is it ( really ) so", True),
        ("3.5", "35", False),
        ("«Oui», dit-il", "oui dit-il", True),
    ],
)
def test_what_makes_two_prompts_one(one, other, same) -> None:
    assert (plain(Prompt("a", one)) == plain(Prompt("b", other))) is same


def repeated(train: list[Prompt], kept: Sequence[Prompt] = ()) -> list[Check]:
    return list(repeats(PromptSet(tuple(train), tuple(kept))))


def test_duplicates_and_leaks() -> None:
    clean = prompts("one", "two", "three")
    assert repeated([*clean, *clean])[0].status == "passed"  # rows that are repeated on purpose
    assert "1 more differ" in repeated([*clean, Prompt("q", "One!")])[0].text
    (found,) = repeated([*clean, Prompt("q", "one")])
    assert (found.status, "1 of 4 training prompts" in found.text) == ("warned", True)
    assert repeated(clean, prompts("four"))[1].status == "passed"
    _, near = repeated(clean, prompts("Two?", "four", "one"))
    assert near.status == "warned"
    assert "2 of 3 held-out prompts are trained on (1 word for word, 1 but for case" in near.text
    assert answers(clean).status == "passed"
    assert answers([*clean, Prompt("q", "one", "9")]).status == "warned"


# verifier


def judged(verifier, *, of: int = 8):
    reward = make_reward("exact")
    reward = replace_verifier(reward, verifier)
    rows = [Prompt(f"p{i}", f"q{i}", str(i)) for i in range(of)]
    return verifier_check(CONFIG, reward, rows)


def replace_verifier(reward, verifier):
    def score(items):
        return [
            Score.of(verifier(p, t)) if verifier(p, t) != "!" else Score.failed("Broken: x")
            for p, t in items
        ]

    return SimpleNamespace(name="own", score=score, close=reward.close)


def test_a_verifier() -> None:
    assert judged(lambda p, t: p.answer == t).text == (
        "right of 8 of 8 gold answers, wrong of 8 of 8 of other prompts"
    )
    always = judged(lambda p, t: 1)
    assert (always.status, always.text[:30]) == ("failed", "it says right to everything: r")
    never = judged(lambda p, t: 0)
    assert (never.status, never.text[:32]) == ("warned", "it says wrong to everything, gol")
    raises = judged(lambda p, t: "!")
    assert (raises.status, "Broken: x: the reward failed on 16 of 16" in raises.text) == (
        "failed",
        True,
    )
    some = judged(lambda p, t: "!" if p.answer == "3" else p.answer == t)
    assert (some.status, "failed on 2 of 16 answers" in some.text) == ("warned", True)
    off = judged(lambda p, t: p.answer == t and t != "3")
    assert off.status == "warned"
    assert "such as '3' for the answer '3', called wrong" in off.text
    assert verifier_check(CONFIG, make_reward("exact"), [Prompt("p", "q")]).status == "skipped"


# a first sample


def group(*values: float | None, reason: str = "eos", length: int = 4) -> Group:
    samples = tuple(
        Sample(tuple(range(length)), (-0.5,) * length, str(i), reason)  # type: ignore[arg-type]
        for i in range(len(values))
    )
    given = tuple(Score(v) if v is not None else Score.failed("Broken: x") for v in values)
    return Group(Prompt("p", "1"), (1, 2), samples, given)


def first(*groups: Group, plan: Plan | None = None, seconds: float = 8.0) -> First:
    return First(list(groups), plan or Plan(len(groups), 4, 8), seconds)


WRONG, MIXED, RIGHT = group(0, 0, 0, 0), group(1, 0, 0, 0), group(1, 1, 1, 1)


def test_signal() -> None:
    found = signal(first(WRONG, MIXED, MIXED, RIGHT), PHASE)
    assert found.status == "passed"
    assert "37.5% of 16 samples right" in found.text
    assert "of 4 groups 2 mixed, 1 all wrong, 1 all right; 3 with something" in found.text
    none = signal(first(*[WRONG] * 16), PHASE)
    # Wilson (1927) of 0 of 16: z^2 / (16 + z^2) = 19.4 %
    assert none.status == "warned"
    assert "0 with something to learn from [0%, 19%]" in none.text
    (grpo,) = phases_of(from_dict({"algorithm": "grpo"}))
    solved = signal(first(*[RIGHT] * 16), grpo)
    assert (solved.status, "harder" in solved.remedy) == ("warned", True)
    (ppo,) = phases_of(from_dict({"algorithm": "ppo"}))
    assert signal(first(*[WRONG] * 16), ppo).status == "warned"  # though a critic moves tokens
    assert signal(first(group(None, None)), PHASE).status == "failed"


def test_what_is_cut_off_for_time_says_nothing_of_rewards() -> None:
    short = Plan(1, 4, 4, "completions at 4 of 8 tokens")
    cut = first(group(0, 0, 0, 0, reason="length"), plan=short)
    assert signal(cut, PHASE).status == "skipped"
    assert endings(cut, CONFIG).status == "passed"
    assert "says little" in endings(cut, CONFIG).text


def test_endings_and_scores() -> None:
    assert endings(first(MIXED), CONFIG).text == (
        "of 4 samples 4 at an end token; 4.0 tokens on average"
    )
    cut = group(0, 0, 0, 0, reason="length", length=8)
    assert endings(first(cut), CONFIG).status == "warned"
    assert scores(first(MIXED)).text == "a number for each of 4 samples, 2 different"
    assert scores(first(group(1, None))).status == "warned"
    assert scores(first(group(None, None))).status == "failed"


# learner


def step(off: float = 0.0, moved: float = 0.0, ratios=(), **stats) -> Step:
    """Four samples of four tokens, -2 nats each by the sampler."""
    given = {"applied": True, "grad_norm": 1.0, "lr": 0.0, "samples": 4, "positions": 18}
    done = StepStats(**{**given, "token_ratios": list(ratios), **stats})
    before = [[-2.0 + off] * 4]
    after = [[-2.0 + off + moved] * 4]
    return Step([MIXED], before, after, done, 3.0, 0.5, False)


def test_log_probs_of_sampler_and_learner() -> None:
    assert agreement(step(), "float32", ratio=True).status == "passed"
    # 0.04 nats over four tokens: 0.01 a token
    slight = agreement(step(off=0.04), "float32", ratio=True)
    assert (slight.status, "differ by 1.0e-02 nats a token" in slight.text) == ("warned", True)
    assert agreement(step(off=0.04), "bfloat16", ratio=True).status == "passed"
    # 0.16 over four tokens, 0.04 a token, is what a copy in bfloat16 rounds to, and 0.08 is not
    for off, status in ((0.16, "passed"), (0.32, "warned")):
        rounded = agreement(step(off=off), "float32", ratio=True, copied="bfloat16")
        assert rounded.status == status
    assert agreement(step(off=0.16), "float32", ratio=True).status == "warned"
    assert agreement(step(off=0.8), "float32", ratio=True).status == "failed"
    assert agreement(step(off=0.8), "float32", ratio=False).status == "warned"
    assert agreement(step(off=math.nan), "float32", ratio=False).status == "failed"
    # what cancels out in the sum of a sample is seen in its tokens
    hidden = step(ratios=[math.exp(0.3), math.exp(-0.3)])
    assert "3.0e-01 at most" in agreement(hidden, "float32", ratio=True).text
    bare = replace(MIXED.samples[0], logprobs=())
    silent = replace(step(), groups=[MIXED.with_(samples=(bare,) * 4)])
    assert agreement(silent, "float32", ratio=False).status == "skipped"


def test_a_step_at_learning_rate_0() -> None:
    assert unmoved(step()).status == "passed"
    moved = unmoved(step(moved=1e-6))
    assert (moved.status, "changed 4 of 4 log-probs" in moved.text) == ("failed", True)
    assert unmoved(step(moved=math.nan)).status == "failed"
    assert unmoved(step(applied=False, loss=math.nan)).status == "failed"
    assert unmoved(replace(step(), stats=None)).status == "skipped"


# time


def test_the_forecast_is_what_was_measured_times_what_there_is_to_do() -> None:
    """Two groups of four samples of 4 tokens in 8 s: 1 s a sample. 0.5 s forward over 18 positions
    (2 of the prompt, 16 of its samples), four times that for the 18 of a 3 s step, so 2 of the 3 s
    grow: with 2 prompts an update, each with half of four samples learned from, there are
    2 x (2 + 2 x 4) = 20 positions, 1 + 2 x 20 / 18 s."""
    work = Work(steps=5, updates=10, samples=100, evaluations=1, evaluated=20)
    config = from_dict({**CONFIG.model_dump(exclude_none=True), "minibatch_prompts": 2})
    (phase,) = phases_of(config)
    found = times(work, phase, first(MIXED, MIXED), [2, 2], step())
    assert found.sampling == pytest.approx(100)
    assert found.evaluations == pytest.approx(20)
    assert found.an_update == pytest.approx(1 + 2 * 20 / 18)
    assert found.updates == pytest.approx(10 * found.an_update)
    assert seconds_of_update(step(), 0) == pytest.approx(1)
    told = time_check(work, found, first(MIXED), dealt=False).text
    assert told.startswith("about 2:32 for 5 steps (sampling 1:40, updates 0:32, evaluations 0:20)")


def test_what_was_cut_off_for_time_is_taken_to_go_on() -> None:
    """Eight tokens where four took 8 s, 2 of which for the prompt: 6 x 2 + 2 s for four samples."""
    short = Plan(1, 4, 4, "completions at 4 of 8 tokens")
    cut = replace(first(group(0, 0, 0, 0, reason="length"), plan=short), prefill=2.0)
    work = Work(steps=1, updates=0, samples=4, evaluations=0, evaluated=0)
    assert times(work, PHASE, cut, [0], None).sampling == pytest.approx(14)


@pytest.mark.parametrize("prefill", [0.0, 0.1, 2.0, 30.0])
@pytest.mark.parametrize("token", [0.0, 0.01, 0.3, 5.0])
@pytest.mark.parametrize("most", [1, 8, 200, 4096])
def test_a_first_sample_is_planned_to_end_in_time(prefill, token, most) -> None:
    made = first_sample(100, 8, most, prefill, token)
    assert 1 <= made.prompts <= 16
    assert made.max_tokens <= most
    one = prefill + made.max_tokens * token
    assert made.prompts == 1 or made.max_tokens == most
    assert made.prompts == 1 or made.prompts * prefill + most * token <= SAMPLING
    assert one <= WHOLE or made.max_tokens <= 8 or token == 0
    assert bool(made.capped) is (made.max_tokens < most or made.prompts < 16)


def test_samples_that_fit_a_step() -> None:
    """Prompts of 2: the first group has two samples whatever they take, the others what is left."""
    assert that_fit([[4, 4, 4], [4, 4]], [2, 2], 100) == [3, 2]
    assert that_fit([[4, 4, 4], [4, 4]], [2, 2], 3) == [2, 0]
    assert that_fit([[4, 4, 4], [4, 4]], [2, 2], 20) == [3, 0]
    assert that_fit([[4, 4, 4], [4, 4]], [2, 2], 24) == [3, 2]


def test_every_row_can_be_asked_for_a_signal() -> None:
    for name in ALGORITHMS:
        settings = {"algorithm": name, "samples_per_prompt": 4}
        (phase,) = phases_of(from_dict(settings))
        assert signal(first(MIXED, WRONG), phase).status in ("passed", "warned"), name
