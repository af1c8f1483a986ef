"""Every setting is read by something, or refused: the table of readers, key by key."""

from __future__ import annotations

import pytest

from winnow.algorithms.table import ALGORITHMS
from winnow.config.phases import phases_of
from winnow.config.recipe import load, recipes
from winnow.config.schema import Config, from_dict
from winnow.config.schema.describe import describe
from winnow.config.unread import ALWAYS, TRAINING, unread, unused
from winnow.errors import UserError

FILE = {"source": "a.jsonl"}
HUB = {"source": "hub:a/b"}
GYM = {"source": "gym:chain_sum"}
GREEDY = {"sampling": {"temperature": 0.0}}
TWO = {"parts": [{"name": "math"}, {"name": "length"}]}
CASES = [
    # key, a value, a config in which nothing reads it, one in which something does
    ("prompts.split", "test", {"prompts": FILE}, {"prompts": HUB}),
    ("prompts.split", "test", {}, {"eval": HUB}),
    ("prompts.prompt_column", "q", {}, {"prompts": FILE}),
    ("prompts.answer_column", "a", {"prompts": GYM}, {"prompts": HUB}),
    ("prompts.difficulty_column", "d", {"prompts": GYM}, {"eval": FILE}),
    ("prompts.operations", ["*"], {"prompts": FILE}, {}),
    ("prompts.digits", [3], {"prompts": GYM, "eval": FILE}, {"eval": {"source": "arithmetic"}}),
    ("prompts.size", 99, {"prompts": HUB}, {"prompts": GYM}),
    ("reward.time_limit", 1.0, {"reward": {"name": "gsm8k"}}, {"reward": {"name": "math"}}),
    ("reward.time_limit", 1.0, {"reward": {"name": "model:judge"}}, {"reward": {"name": "math"}}),
    ("reward.name", "exact", {"reward": TWO}, {}),
    ("reward.options", {"ignore_case": True}, {"reward": TWO}, {"reward": {"name": "exact"}}),
    ("reward.workers", 3, {"reward": TWO}, {"reward": {"name": "math"}}),
    ("reward.probe", False, {"reward": {"parts": [{"name": "length"}]}}, {"reward": TWO}),
    ("reward.workers", 3, {}, {"reward": {"name": "module:function"}}),
    ("reward.import_seconds", 3.0, {}, {"reward": {"name": "module:function"}}),
    ("reward.probe", False, {"reward": {"name": "model:judge"}}, {}),
    ("reward.memory_gib", 3.0, {"reward": {"name": "gsm8k"}}, {"reward": {"name": "math"}}),
    *[
        (f"lora.{key}", value, {}, {"lora": {"rank": 4}})
        for key, value in {"alpha": 8.0, "targets": ["q_proj"], "merge": True}.items()
    ],
    ("optimizer.precision", "mixed", {"dtype": "bfloat16"}, {}),
    ("optimizer.precision", "mixed", {"engine": {"learner": "fsdp"}}, {}),
    ("anchor.split", "test", {"anchor": FILE}, {"anchor": HUB}),
    ("anchor.split", "test", {}, {"anchor": HUB}),
    ("anchor.prompt_column", "q", {"anchor": {"source": "arithmetic"}}, {"anchor": FILE}),
    ("anchor.completion_column", "c", {"anchor": GYM}, {"anchor": HUB}),
    ("anchor.template", "{q}", {}, {"anchor": FILE}),
    ("anchor.ratio", 0.5, {}, {"anchor": FILE}),
    ("anchor.coefficient", 0.5, {}, {"anchor": FILE}),
    ("cycles", 2, {}, {"phases": [{"algorithm": "raft"}]}),
    ("eval.samples", 2, {"eval": {"size": 0}}, {}),
    ("eval.temperature", 0.5, {"eval": {"size": 0}}, {}),
    ("eval.top_k", 5, {"eval": {"size": 0}}, {}),
    ("eval.top_p", 0.5, {"eval": {"size": 0}}, {}),
    ("eval.top_k", 5, {"eval": {"temperature": 0.0}}, {"eval": {"temperature": 0.5}}),
    ("eval.top_p", 0.5, GREEDY, {**GREEDY, "eval": {"temperature": 0.5}}),
    ("eval.max_tokens", 5, {"eval": {"size": 0}}, GREEDY),
    ("sampling.top_k", 5, GREEDY, {**GREEDY, "eval": {"temperature": 0.5}}),
    ("sampling.top_p", 0.5, {**GREEDY, "eval": {"temperature": 0.0}}, {}),
    ("sampling.dtype", "bfloat16", {"engine": {"learner": "fsdp"}}, {}),
    ("eval.every", 5, {"eval": {"size": 0}}, {"eval": {"size": 1}}),
    ("eval.kl_prompts", 5, {"eval": {"size": 0}}, {"eval": {"size": 1}}),
]


def with_setting(values, key, value) -> Config:
    *tables, last = key.split(".")
    inner = values = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    for table in tables:
        inner = inner.setdefault(table, {})
    inner[last] = value
    return from_dict(values)


@pytest.mark.parametrize(("key", "value", "idle", "busy"), CASES, ids=[case[0] for case in CASES])
def test_a_setting_is_refused_where_nothing_reads_it(key, value, idle, busy) -> None:
    (said,) = unread(with_setting(idle, key, value), training=True)
    assert said.setting == key
    assert said.remedy.endswith(f", or leave it out (--set {key}= does)")
    assert not list(unread(with_setting(busy, key, value), training=True))
    default: object = Config()
    for part in key.split("."):
        default = getattr(default, part)
    assert not list(unread(with_setting(idle, key, default), training=True))  # as folders have it


def test_every_reader_is_tried_above() -> None:
    assert {key for reader in (*ALWAYS, *TRAINING) for key in reader.keys} == {c[0] for c in CASES}


ELSEWHERE = {
    "samples_from": "validation: with resample 'once' alone",
    "reference": "unused",
    "critic.trunk": "unused",
    "critic.lr": "unused",
    "critic.warmup": "unused",
    "rounds.restart": "validation: not of a file, nor with resample 'once'",
    "rounds.merge": "validation: likewise",
    "eval.patience": "validation: needs eval.every and eval.size",
    "eval.test_size": "validation: needs eval.patience",
    "budget.samples": "validation: not of a file, nor with resample 'once'",
    "budget.tokens": "validation: likewise",
    "algorithm.refill": "validation: likewise, and unused",
    "algorithm.kl": "validation: not where the advantage reads no rewards",
    "algorithm.critic": "validation: needs an advantage by token",
    "algorithm.reward_scale": "unused",
    "prompts.system": "the schema: with prompts.chat",
    "prompts.chat_template_options": "the encoder: a note where the template does not read one",
    "engine.cpu_offload": "the schema: with engine.learner = 'fsdp'",
    "reward.right_by": "the schema: with several rewards",
    **{
        f"engine.{key}": "the schema: with engine.sampler = 'openai'"
        for key in ("url", "served_model", "api", "concurrency", "requests_per_minute")
    },
    **{
        f"engine.{key}": "the schema: with engine.sampler = 'openai'"
        for key in ("timeout", "retries", "key_env")
    },
    **{
        f"engine.{key}": "the schema: with engine.sampler = 'vllm'"
        for key in ("urls", "servers", "transfer", "transfer_dir", "pause", "canary")
    },
    "engine.start_timeout": "the schema: with engine.servers",
    **{
        f"engine.vllm_{key}": "the schema: with engine.servers"
        for key in ("python", "dtype", "memory", "context", "port", "devices", "args")
    },
}
READ = {
    *("model", "dtype", "device", "threads", "seed", "phases", "engine.sampler", "engine.learner"),
    *(
        "samples_file",
        "steps",
        "trackers",
        "prompts_per_step",
        "samples_per_prompt",
        "minibatch_prompts",
    ),
    *("microbatch_tokens", "checkpoint.every", "checkpoint.keep", "checkpoint.average"),
    *("checkpoint.keep_optimizer", "report", "trackers", "engine.activation_checkpointing"),
    *("budget.updates", "budget.seconds"),
    *("prompts.source", "prompts.template", "prompts.chat", "prompts.limit"),
    "reward.parts",
    *("reward.right_at", "lora.rank", "anchor.source", "eval.source", "eval.size"),
    *(f"algorithm.{cell}" for cell in ("name", "select", "advantage", "loss", "denominator")),
    *(f"algorithm.{cell}" for cell in ("resample", "epochs", "entropy")),
    *(f"sampling.{key}" for key in ("temperature", "max_tokens", "stop", "batch", "cache_gib")),
}
"""By one command at least, whatever else is set."""


def test_every_setting_has_a_reader() -> None:
    """A new one is put into the table, or is said here to be read always."""
    table = {key for reader in (*ALWAYS, *TRAINING) for key in reader.keys}
    of_tables = ("optimizer.", "alarms.", "ray.")
    always = READ | {
        row["key"]
        for row in describe()
        if row["key"].startswith(of_tables) and row["key"] != "optimizer.precision"
    }
    assert not always & table
    assert not table & ELSEWHERE.keys()
    assert always | table | ELSEWHERE.keys() == {row["key"] for row in describe()}


@pytest.mark.parametrize(("name", "read"), [("math", True), ("exact", False), ("length", False)])
def test_limits_of_one_of_several_rewards(name, read) -> None:
    parts = [{"name": "number"}, {"name": name, "time_limit": 3.0}]
    said = [str(error) for error in unread(from_dict({"reward": parts}))]
    refused = [] if read else ["reward.parts.2.time_limit"]
    assert [line.partition(":")[0] for line in said] == refused


@pytest.mark.parametrize("recipe", recipes())
def test_recipes_set_nothing_that_nothing_reads(recipe) -> None:
    assert not list(unread(load(recipe), training=True))


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
def test_rows_written_out_are_not_refused(row) -> None:
    """As a run folder has them: its scale is the row's own."""
    (phase,) = phases_of(from_dict({"algorithm": {"name": row.name, **row.cells()}}))
    assert phase.algorithm == row


@pytest.mark.parametrize(
    ("cells", "refused"),
    [
        ({"name": "grpo", "refill": 2}, True),
        ({"name": "raft", "select": ["best(1)"], "refill": 2}, True),
        ({"name": "dapo", "select": ["everything"], "refill": 2}, True),
        ({"name": "dapo", "select": ["everything"], "refill": 3}, False),  # its own, written out
        ({"name": "grpo", "select": ["best(4)", "mixed"], "refill": 2}, False),
        ({"name": "raft", "refill": 2}, False),
    ],
)
def test_no_prompts_are_sampled_again_where_all_have_survivors(cells, refused) -> None:
    config = from_dict({"algorithm": cells})
    said = [error.setting for error in unused(config, [config.algorithm.build()])]
    assert said == ["algorithm.refill"] * refused


@pytest.mark.parametrize(
    "settings",
    [
        {"critic": {"lr": 0.5}, "phases": [{"algorithm": "ppo"}, {"algorithm": "dpo"}]},
        {
            "critic": {"lr": 0.5},
            "phases": [{"algorithm": "ppo"}, {"algorithm": "dpo", "reference": "phase"}],
        },
    ],
)
def test_a_phase_is_not_blamed_for_what_is_above_it(settings) -> None:
    assert len(phases_of(from_dict(settings))) == 2


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ({"algorithm": "raft", "critic": {"lr": 0.5}}, r"phases\.2\.critic: raft has no critic"),
        ({"algorithm": "raft", "reference": "phase"}, r"phases\.2\.reference: raft does not comp"),
        (
            {"algorithm": {"name": "raft", "reward_scale": "-1/+1"}},
            r"phases\.2\.algorithm\.reward_scale: advantage one is the same with either scale",
        ),
        (
            {"algorithm": {"name": "grpo", "refill": 1}},
            r"phases\.2\.algorithm\.refill: every prompt has survivors with algorithm\.select = ",
        ),
    ],
)
def test_a_phase_is_told_what_it_does_not_read(phase, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        phases_of(from_dict({"phases": [{"algorithm": "ppo"}, phase]}))
