"""The arithmetic of the benchmarks: what they print must follow from what they measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import tiny

BENCH = Path(__file__).parent.parent / "bench"
MODULES = [path.stem for path in BENCH.glob("*.py")]


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def step(sample, update, reward, error=0.1, tokens=100):
    return {
        "sample": sample, "update": update, "step": sample + update, "reward": reward,
        "error": error,
        "tokens": tokens,
    }  # fmt: skip


def test_the_comparison_reads_settled_steps_and_the_time_until_half():
    import compare

    side = {
        "steps": [step(9, 9, 0.1), step(1, 2, 0.4), step(1, 3, 0.6), step(2, 5, 0.8)],
        "peak_gib": 2.0,
        "gpu_gib": None,
    }
    assert compare.settled(side, "update") == 5  # the later of the two middle ones, 3 and 5
    # .1 .4 .6 is .37, .4 .6 .8 is .6: passed at the fourth step
    assert compare.until_half(side) == 18 + 3 + 4 + 7
    assert compare.until_half({"steps": side["steps"][:3]}) is None
    assert compare.memory(side) == pytest.approx(2.147483648)
    other = {"steps": [step(1, 1, r - 0.05, error=0.3) for r in (0.1, 0.4, 0.6, 0.8)]}
    # four differences of .05; sqrt(4 (.01 + .09)) / 4 = .158
    assert compare.agreement(side, other).endswith("+0.050, standard error 0.158")


def test_the_error_of_a_mean_reward_is_over_prompts():
    from jobs import spread

    # two prompts of 8 samples, means 1 and 0: mean .5, variance .5, error sqrt(.5 / 2)
    assert spread([1.0] * 8 + [0.0] * 8) == (0.5, 0.5)
    assert spread([1.0, 0.0] * 8) == (0.5, 0.0)


def test_the_words_of_random_prompts_are_one_token_each():
    """A special token that begins a word, as t1 does t12, would cut it."""
    from gpu import UNKNOWN, words
    from jobs import job

    tokenizer = words(512)
    tokenizer.eos_token = tokenizer.pad_token = UNKNOWN
    for row in job("tokens", 1).rows:
        ids = [int(word[1:]) for word in row["prompt"].split()]
        assert tokenizer(row["prompt"])["input_ids"] == ids
        assert len(ids) == 128


def test_both_jobs_have_the_lengths_that_they_say():
    from jobs import job, score

    assert len(job("addition", 2).rows) == 32
    assert len(job("reasoning", 3).rows) == 12
    assert job("addition", 3).rows[:16] == job("addition", 1).rows
    assert score(" 54\n8 + 65 = 73", "54") == 1.0
    assert score(" 5 apples", "54") == 0.0
    assert score(" 3 * 9 = 27. The answer is 27", "27") == 1.0
    assert score(" 3 * 9 = 27. The answer is 28", "27") == 0.2


def test_a_floor_counts_every_token_once():
    import floors
    from machine import Rates

    from winnow.types import Group, Outcome, Prompt, Sample, Score

    def group(prompt, answers):
        samples = tuple(Sample(tuple(a), (-1.0,) * len(a), "", "length") for a in answers)
        n = len(answers)
        return Group(
            Prompt(id="x", text="x"), tuple(prompt), samples,
            (Score(1.0),) * n, (Outcome(True, "survived"),) * n, (1.0,) * n,
        )  # fmt: skip

    groups = [group([1, 2, 3], [[4, 5, 6], [4, 5, 7]]), group([1, 2, 9], [[4]])]
    rate = Rates((10,), (10.0,), (1.0,))  # a second a token for the layers, a tenth for the head
    floor = floors.update_floor(groups, rate, adam=0.5)
    # 6 prompt tokens, 7 answer tokens; distinct: 1 2 3, 4 5, 9; heads at 3, 4, 5 and at 9
    assert floor.each == pytest.approx(6 + 7 + 0.7 + 0.5)
    assert floor.distinct == pytest.approx(6 + 0.4 + 0.5)
    linear = Rates((1, 100), (1.0, 100.0), (0.1, 10.0))
    sampling = floors.sampling_floor(groups, [4, 2], linear)
    # 3 + 2 + 2 answers under way at each token; the second floor: passes of 4 and of 2 tokens
    assert sampling.each == pytest.approx(6 + 1.1 * (3 + 2 + 2))
    assert sampling.distinct == pytest.approx(4 + 1.1 * 2)
    assert linear.seconds(50, "body") == pytest.approx(50)
    assert linear.seconds(200, "body") == pytest.approx(200)


def test_survivors_are_spread_over_the_groups():
    import floors

    from winnow.types import Group, Prompt, Sample

    samples = (Sample((1, 2), (-1.0, -1.0), "", "length"),) * 8
    groups = [Group(Prompt(id="x", text="x"), (1,), samples)] * 5
    kept = [sum(w != 0 for w in g.advantages) for g in floors.with_advantages(groups, 0.3)]
    assert sum(kept) == 12
    assert set(kept) == {2, 3}
    assert all(sum(w != 0 for w in g.advantages) == 8 for g in floors.with_advantages(groups, 1.0))


@pytest.mark.parametrize("backward", [False, True])
def test_rates_run_the_products_of_a_model(backward):
    from machine import rates, sizes

    model = tiny.model()
    size = sizes(model)
    assert size.head == model.get_output_embeddings().weight.numel()
    measured = rates(model, (2, 3), backward=backward)
    assert len(measured.body) == len(measured.head) == 2
    assert all(seconds > 0 for seconds in (*measured.body, *measured.head))


@pytest.fixture
def check(monkeypatch, capsys):
    """Runs some checks of the GPU on the CPU: the exit code, and the lines that are printed."""
    import check_gpu

    def run(*names):
        asked = ["check_gpu.py", "--device", "cpu", "--rows", "grpo", "--only", *names]
        monkeypatch.setattr(sys, "argv", asked)
        with pytest.raises(SystemExit) as ended:
            check_gpu.main()
        return ended.value.code, capsys.readouterr().out.splitlines()

    return run


def test_a_check_of_the_gpu_passes_on_the_cpu(check):
    code, lines = check("gradient grpo")
    assert (code, lines[-1]) == (0, "1 passed, 0 failed")


@pytest.mark.long
def test_the_gpu_check_passes_on_the_cpu_and_fails_where_numbers_differ(monkeypatch, check):
    import gpu_cases

    names = ("sampler random", "gradient", "update ppo, own", "train grpo")
    code, lines = check(*names)
    assert code == 0
    assert "17 passed, 0 failed" in lines
    # each policy is moved a little further than the one before it, as if by another device
    true, calls = gpu_cases.nudged, iter(range(1, 100))
    monkeypatch.setattr(
        gpu_cases, "nudged", lambda weights, seed, size: true(weights, seed, size * next(calls))
    )
    code, lines = check("gradient", "update ppo, own")
    assert code == 1
    # one device alone repeats its own gradient, wherever it is
    assert [line[:4] for line in lines[1:]] == ["FAIL", "PASS", "PASS", "PASS", "FAIL", "3 pa"]


class Graph:
    """Runs what a captured graph holds, one step, with what its input says now."""

    def __init__(self, run, given, length, logits):
        self._all = run, given, length, logits

    def replay(self):
        run, given, length, logits = self._all
        logits.copy_(run(given[0], given[1], length))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """A CPU multiplies in the types of a GPU's branches, and steps are captured and replayed.

    What differs on a GPU still: its kernels, and the lists of `autocast`.
    """
    import gpu_precision

    from winnow.engines.local import kv_cache, replays, sampler
    from winnow.engines.models import chunked_logprobs
    from winnow.engines.models.forward import PolicyForward

    def product(a, b):
        return a.bfloat16().float() @ b.bfloat16().float().t()  # as torch.mm with out_dtype

    def capture(self, given, length, logits):
        graph = Graph(self._run, given, length, logits)
        self._captured[given.shape[1], length] = replays._Captured(graph, given, logits)

    class Rounded(kv_cache.Slots):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self._replays = replays.Replays(
                self._step, self._grow, self.capacity, self._forward.agree
            )
            self._replays._captures = True

    monkeypatch.setattr(PolicyForward, "attends_low", lambda self: False)
    monkeypatch.setattr(chunked_logprobs, "wide_product", product)
    monkeypatch.setattr(gpu_precision, "captures", lambda device: True)
    monkeypatch.setattr(replays.Replays, "_capture", capture)
    monkeypatch.setattr(sampler, "Slots", Rounded)


def test_the_gpus_checks_of_bfloat16_pass_in_its_types(as_on_a_gpu, check):
    names = ("mixed gradient grpo", "own copy bfloat16, replayed")
    code, lines = check(*names)
    assert (code, lines[-1]) == (0, "2 passed, 0 failed")
    assert "; 1 graphs" in lines[-2]


@pytest.mark.long
def test_the_gpus_checks_of_bfloat16_fail_where_something_is_wrong(as_on_a_gpu, monkeypatch, check):
    import gpu_cases
    import gpu_precision

    from winnow.engines.local.own_copy import OwnCopy
    from winnow.engines.models import chunked_logprobs

    right, mixed = chunked_logprobs.wide_product, gpu_precision.MIXED
    names = ("mixed", "own copy", "train grpo mixed, all")
    code, lines = check(*names)
    assert (code, lines[-1]) == (0, "14 passed, 0 failed")
    # logits that are rounded, a copy of weights that were, graphs that read what they once read
    monkeypatch.setattr(
        chunked_logprobs, "wide_product", lambda a, b: right(a, b).bfloat16().float()
    )
    monkeypatch.setattr(OwnCopy, "outdate", lambda self: None)
    monkeypatch.setattr(Graph, "replay", lambda self: None)
    code, lines = check("mixed head", "own copy")
    assert code == 1
    assert {line[:4] for line in lines[1:-1]} == {"FAIL"}
    # products that are not rounded at all, and logits that are a little too large
    monkeypatch.setattr(gpu_precision, "MIXED", gpu_cases.ADAM)
    code, lines = check("mixed gradient")
    assert [line[:4] for line in lines[1:]] == [*["FAIL"] * 6, "0 pa"]
    assert all("gradient 0.0e+00" in line for line in lines[1:-1])
    monkeypatch.setattr(gpu_precision, "MIXED", mixed)
    monkeypatch.setattr(chunked_logprobs, "wide_product", lambda a, b: 1.1 * right(a, b))
    code, lines = check("mixed gradient grpo")
    assert (code, lines[1][:4]) == (1, "FAIL")
    assert "float32" in lines[1]  # by what it measured


def test_the_gpu_bench_prints_each_side_and_the_ratio_of_a_step(monkeypatch, capsys):
    """With costs as given: 16 samples of 2 tokens, a step of 2 + 3 or 2 + 1 against 4 + 8; with a
    copy and in mixed precision all of ours takes half."""
    import gpu
    import torch

    work = gpu.Work("tiny", "float32", torch.device("cpu"), 2, 3, 2, (16,), (512,))
    gpu.measure(work)
    stages = [line.split(" | ")[1:3] for line in capsys.readouterr().out.splitlines()]
    said = [[stage, *what.split(", ")] for stage, what in stages]
    assert [[one for one in line if not one[0].isdigit() or "%" in one] for line in said] == [
        ["sample", "winnow"], ["sample", "winnow", "copy in bfloat16"], ["sample", "generate"],
        ["update", "winnow", "all trained"], ["update", "winnow", "30 % trained"],
        ["update", "winnow", "all trained", "mixed"], ["update", "winnow", "30 % trained", "mixed"],
        ["update", "plain"], ["step", "all trained"], ["step", "30 % trained"],
        ["step", "all trained", "copy in bfloat16", "mixed"],
        ["step", "30 % trained", "copy in bfloat16", "mixed"],
    ]  # fmt: skip
    costs = {"generated": 4.0, "trained": 8.0}
    fixed = {name: gpu.Cost(seconds, None, "n") for name, seconds in costs.items()}
    monkeypatch.setattr(
        gpu, "sampled", lambda _, copied=False: ([], gpu.Cost(1.0 if copied else 2.0, None, "n"))
    )
    monkeypatch.setattr(gpu, "generated", lambda _: fixed["generated"])
    monkeypatch.setattr(gpu, "trained", lambda *_: fixed["trained"])

    def learned(work, groups, precision="float32"):
        share = 0.5 if precision == "mixed" else 1.0
        return [
            ("winnow, all", gpu.Cost(3.0 * share, 1.5, "n")),
            ("winnow, some", gpu.Cost(share, None, "n")),
        ]

    monkeypatch.setattr(gpu, "learned", learned)
    gpu.measure(work)
    assert capsys.readouterr().out.splitlines() == [
        "| tiny, float32 | sample | winnow, n | 2.000 | 16 | - | 1.00 |",
        "| tiny, float32 | sample | winnow, copy in bfloat16, n | 1.000 | 32 | - | 0.50 |",
        "| tiny, float32 | sample | generate, n | 4.000 | 8 | - | 2.00 |",
        "| tiny, float32 | update | winnow, all, n | 3.000 | 11 | 1.5 | 1.00 |",
        "| tiny, float32 | update | winnow, some, n | 1.000 | 32 | - | 0.33 |",
        "| tiny, float32 | update | winnow, all, mixed, n | 1.500 | 21 | 1.5 | 0.50 |",
        "| tiny, float32 | update | winnow, some, mixed, n | 0.500 | 64 | - | 0.17 |",
        "| tiny, float32 | update | plain, n | 8.000 | 4 | - | 2.67 |",
        "| tiny, float32 | step | all trained | 5.000 against 12.000 | | | 2.40 |",
        "| tiny, float32 | step | 30 % trained | 3.000 against 12.000 | | | 4.00 |",
        "| tiny, float32 | step | all trained, copy in bfloat16, mixed | 2.500 against 12.000 "
        "| | | 4.80 |",
        "| tiny, float32 | step | 30 % trained, copy in bfloat16, mixed | 1.500 against 12.000 "
        "| | | 8.00 |",
    ]


def test_learners_are_compared_by_their_largest_differences_and_later_steps():
    from learners import Cost, Side

    def row(loss, seconds, device=None):
        return {"loss": loss, "seconds": {"update": seconds}, "memory_device_gib": device}

    first = Cost([row(2.0, 9), row(1.0, 3), row(0.5, 1)], [1.5, 0.2])
    other = Cost([row(2.0, 9), row(1.1, 2), row(0.6, 4, 3.0)], [1.0])
    assert other.apart(first, "loss") == pytest.approx(0.2)  # .1 of .5, the last
    assert (first.median("update"), other.median("update")) == (2, 3)  # of the later two
    assert (first.memory(), Cost(other.rows[2:], []).memory()) == (1.5, 3.0)
    words = Side("fsdp", 2, ("a=1",)).command(["--out", "x"])
    assert words[-6:] == ["--out", "x", "--set", "engine.learner=fsdp", "--set", "a=1"]
    assert "--nproc-per-node" in words
    assert Side("local", 0).command(["--out", "x"])[1:] == ["-m", "winnow", "train", "--out", "x"]


def test_the_stages_of_a_start_add_up():
    from start import durations, table

    marks = [("interpreter", 10.5, 0.25), ("libraries", 14.0, 4.25), ("model", 14.5, 5.0)]
    one = durations(marks, begun=10.0)
    assert one == {
        "interpreter": (0.5, 0.25), "libraries": (3.5, 4.0), "model": (0.5, 0.75), "all": (4.5, 5.0)
    }  # fmt: skip
    other = {stage: (wall + 1, cpu + 2) for stage, (wall, cpu) in one.items()}
    third = {stage: (wall + 9, cpu + 9) for stage, (wall, cpu) in one.items()}
    # medians are of the second, the least of the first
    lines = [line.split() for line in table([third, one, other])]
    assert lines[2][:5] == ["libraries", "4.50", "3.50", "6.00", "4.00"]
    assert lines[-1] == ["all", "5.50", "4.50", "7.00", "5.00"]
