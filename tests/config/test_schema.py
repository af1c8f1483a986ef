"""Settings: what is accepted, what it means, and that a run folder can repeat it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.algorithms.advantages import LeaveOneOut
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.denominators import Constant, SampleMeans
from winnow.algorithms.losses import NLL, Clipped
from winnow.algorithms.objective import Term
from winnow.algorithms.registry import ADVANTAGES, RULES
from winnow.algorithms.selection import Best, Correct, Everything
from winnow.algorithms.spec import Own
from winnow.algorithms.table import ALGORITHMS
from winnow.config.recipe import dumps, load, load_folder, recipes
from winnow.config.schema import Config, from_dict
from winnow.config.schema.describe import describe
from winnow.config.schema.engine import EngineConfig
from winnow.config.secrets import is_bare
from winnow.config.validation import cautions, check
from winnow.errors import UserError

FREE_TEXT = st.text(max_size=20)
NAME = FREE_TEXT.filter(str.strip)
AT_SEVEN_TENTHS = {"sampling": {"temperature": 0.7}}
NEEDED = {
    "at-most": "(3)",
    "gibbs": "(beta=0.5, r_max=sample)",
    "rso": "(0.5)",
    "softmax": "(2, over=group)",
}
"""Arguments of the cells that cannot go without."""
WRITTEN_RULES = [name + NEEDED.get(name, "") for name in RULES]
WRITTEN_ADVANTAGES = [name + NEEDED.get(name, "") for name in ADVANTAGES]


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "model": NAME,
        "samples_from": NAME,
        "dtype": st.sampled_from(["float32", "bfloat16"]),
        "seed": st.integers(0, 2**63 - 1),
        "steps": st.integers(1, 10**6),
        "algorithm": st.fixed_dictionaries(
            {"name": st.sampled_from(list(ALGORITHMS))},
            optional={
                "select": st.lists(st.sampled_from(WRITTEN_RULES), min_size=1, max_size=3),
                "advantage": st.sampled_from(WRITTEN_ADVANTAGES),
                "reward_scale": st.sampled_from(["0/1", "-1/+1"]),
                "loss": st.builds(Clipped, st.floats(1e-12, 1), st.floats(1e-12, 9)).map(str),
                "denominator": st.floats(0.1, 1e6).map(lambda x: str(Constant(x))),
                "resample": st.sampled_from(["every-step", "once"]),
                "epochs": st.integers(1, 9),
            },
        ),
        "prompts": st.fixed_dictionaries(
            {},
            optional={
                "source": NAME,
                "template": NAME,
                "chat": st.just(True),
                "limit": st.integers(1, 10**9),
                "operations": st.lists(st.sampled_from("+-*"), min_size=1, max_size=3),
                "digits": st.lists(st.integers(1, 12), min_size=1, max_size=3),
            },
        ),
        "reward": st.fixed_dictionaries(
            {},
            optional={
                "name": NAME,
                "options": st.dictionaries(
                    FREE_TEXT, FREE_TEXT | st.booleans() | st.integers() | st.lists(st.integers())
                ),
                "right_at": st.floats(-1e9, 1e9).filter(lambda x: x or str(x) == "0.0"),
            },
        ),
        "sampling": st.fixed_dictionaries(
            {},
            optional={
                "temperature": st.floats(0.01, 100),
                "top_p": st.floats(1e-6, 1),
                "stop": st.lists(st.text(min_size=1, max_size=5), max_size=3),
            },
        ),
        "engine": st.fixed_dictionaries(
            {"sampler": st.just("openai"), "url": NAME.filter(is_bare)},
            optional={"served_model": NAME, "concurrency": st.integers(1, 99)},
        ),
        "optimizer": st.fixed_dictionaries(
            {}, optional={"lr": st.floats(1e-20, 10), "betas": st.just([0.5, 0.25])}
        ),
        "eval": st.fixed_dictionaries(
            {}, optional={"source": NAME, "temperature": st.floats(0.1, 2)}
        ),
    },
)


def reread(config: Config, algorithm: Algorithm | None = None) -> Config:
    return from_dict(tomllib.loads(dumps(config, algorithm)))


@settings(max_examples=200)
@given(SETTINGS)
def test_settings_survive_toml(given_settings) -> None:
    config = from_dict(given_settings)
    assert reread(config) == config
    resolved = reread(config, config.algorithm.build())
    assert resolved.algorithm.build() == config.algorithm.build()
    unsaid = {"algorithm"}
    assert resolved.model_dump(exclude=unsaid) == config.model_dump(exclude=unsaid)
    assert reread(resolved, resolved.algorithm.build()) == resolved


@pytest.mark.parametrize("row", ALGORITHMS)
@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_and_row_is_repeated_from_its_file(recipe, row, tmp_path) -> None:
    config = load(recipe, [f"algorithm={row}"])
    path = tmp_path / "config.toml"
    path.write_text(dumps(config, config.algorithm.build()), encoding="utf-8")
    again = load(str(path))
    assert again.algorithm.build() == ALGORITHMS[row]
    assert again.algorithm.model_dump() == {"name": row, **ALGORITHMS[row].cells()}
    assert dumps(again, again.algorithm.build()) == path.read_text(encoding="utf-8")


def test_every_number_has_a_range_and_every_string_is_filled() -> None:
    """Not those of a table that holds anything, nor a system message, which may be empty."""
    numbers = [row for row in describe() if re.search("^(int|float)", row["type"])]
    assert len(numbers) > 35
    for row in numbers:
        assert re.search(r"from [-\d.e,]+ to (below )?[\de.+,]+$", row["type"]), row
    for row in describe():
        if row["type"] == "str" and row["key"] != "prompts.system":
            *tables, key = row["key"].split(".")
            values: dict[str, object] = {key: ""}
            for table in reversed(tables):
                values = {table: values}
            with pytest.raises(UserError, match=re.escape(row["key"]) + ": must not be empty"):
                from_dict(values)


def test_every_setting_is_described_once() -> None:
    rows = describe()
    keys = [row["key"] for row in rows]
    assert len(set(keys)) == len(keys) > 50
    for row in rows:
        assert re.fullmatch(r"[^\n]{5,80}\.", row["help"]), row
        assert row["type"]
        assert "typing" not in row["type"]
        assert "[" not in row["type"]
    leaves = {}
    for section, value in Config().model_dump().items():
        table = value if isinstance(value, dict) else None
        leaves |= {f"{section}.{k}": v for k, v in table.items()} if table else {section: value}
    leaves["reward.parts"] = []  # not written where there are none
    assert leaves.keys() == set(keys)
    assert {row["key"]: row["default"] for row in rows} == {
        key: list(value) if isinstance(value, tuple) else value for key, value in leaves.items()
    }


class TestShortForms:
    """`algorithm = "x"` for `[algorithm] name = "x"`; likewise prompts and reward."""

    def test_in_a_recipe_and_on_the_command_line(self) -> None:
        long = {"algorithm": {"name": "raft"}, "prompts": {"source": "a"}, "reward": {"name": "b"}}
        short = {"algorithm": "raft", "prompts": "a", "reward": "b"}
        assert from_dict(short) == from_dict(long)
        assert load(sets=["algorithm=grpo"]).algorithm.name == "grpo"
        assert load(sets=["algorithm.name=grpo"]).algorithm.name == "grpo"

    def test_a_cell_laid_over_a_short_form_keeps_the_name(self) -> None:
        algorithm = load(sets=["algorithm=grpo", "algorithm.epochs=2"]).algorithm
        assert (algorithm.name, algorithm.epochs) == ("grpo", 2)
        assert load(sets=["algorithm.epochs=2"]).algorithm.name == "raft++"  # the recipe's

    def test_a_short_form_laid_over_a_table_starts_it_anew(self, tmp_path) -> None:
        recipe = tmp_path / "r.toml"
        recipe.write_text('[algorithm]\nname = "raft"\nloss = "importance"\n')
        kept = load(str(recipe), ["algorithm.name=grpo"]).algorithm
        assert (kept.name, kept.loss) == ("grpo", "importance")
        anew = load(str(recipe), ["algorithm=grpo"]).algorithm
        assert (anew.name, anew.loss) == ("grpo", None)

    def test_tables_are_merged_key_by_key_and_the_last_word_holds(self) -> None:
        config = load(
            "gsm8k",
            ["prompts.limit=7", "sampling.max_tokens=5", "sampling.max_tokens=6"],
            over={"prompts": {"limit": 8}, "eval": {"size": 3}},
        )
        assert (config.prompts.limit, config.prompts.prompt_column) == (8, "question")
        assert (config.sampling.max_tokens, config.eval.size) == (6, 3)

    def test_what_is_laid_over_is_not_changed(self) -> None:
        over = {"prompts": {"limit": 8}}
        load(sets=["prompts.limit=7"], over=over)
        assert over == {"prompts": {"limit": 8}}


@pytest.mark.parametrize(
    ("item", "key", "value"),
    [
        ("steps=7", "steps", 7),
        (" steps = 7 ", "steps", 7),
        ("optimizer.lr=1e-5", "optimizer.lr", 1e-5),
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("optimizer.betas=[0.5, 0.6]", "optimizer.betas", (0.5, 0.6)),
        ("prompts.chat=true", "prompts.chat", True),
        ("model=a=b", "model", "a=b"),
        ("model='7'", "model", "7"),
        ("prompts.template={question} = ", "prompts.template", "{question} = "),
        ('sampling.stop="\\n"', "sampling.stop", ["\n"]),
        ("sampling.stop=.", "sampling.stop", ["."]),
        ("sampling.stop= ", "sampling.stop", [" "]),
        ("sampling.stop=['a', 'b']", "sampling.stop", ["a", "b"]),
        ("prompts.digits=3", "prompts.digits", [3]),
        ("prompts.digits=[1, 2]", "prompts.digits", [1, 2]),
        ("algorithm.select=correct", "algorithm.select", ["correct"]),
        ("algorithm.select=['correct', 'best(2)']", "algorithm.select", ["correct", "best(2)"]),
        ("reward.options.pattern=(\\d+)", "reward.options", {"pattern": "(\\d+)"}),
        ("model=1\nsteps = 2", "model", "1\nsteps = 2"),  # one setting, not two
    ],
)
def test_set(item: str, key: str, value: object) -> None:
    found: object = load(sets=[item])
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("sets", "key", "value"),
    [
        (["sampling.max_tokens="], "sampling.max_tokens", 256),
        (["prompts.source="], "prompts.source", "arithmetic"),
        (["prompts="], "prompts.digits", [2]),
        (["algorithm=grpo", "algorithm.name="], "algorithm.name", "raft++"),
        (["algorithm=grpo", "algorithm.loss=nll", "algorithm.loss="], "algorithm.loss", None),
        (["eval.source=", "eval.source="], "eval.source", None),
        (["reward.options.pattern=x", "reward.options.pattern="], "reward.options", {}),
    ],
)
def test_set_to_nothing_is_the_default_again(sets, key: str, value: object) -> None:
    found: object = load(sets=sets)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_system_message_of_a_recipe_can_be_taken_out(tmp_path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('[prompts]\nchat = true\nsystem = "Be brief."\n')
    with pytest.raises(UserError, match=r"^prompts\.system: needs prompts\.chat = true .*; set it"):
        load(str(recipe), ["prompts.chat=false"])
    assert load(str(recipe), ["prompts.chat=false", "prompts.system="]).prompts.system is None


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            "steps",
            "--set: its value is not of the form key=value; write it like --set optimizer.lr=1e-5",
        ),
        ("=3", "--set: its value is not of the form key=value"),
        ("stpes=3", "unknown setting 'stpes'; did you mean 'steps'?"),
        ("stpes=", "unknown setting 'stpes'; did you mean 'steps'?"),
        ("optimiser.lr=3", "unknown setting 'optimiser.lr'; did you mean 'optimizer.lr'?"),
        ("optimizer.lrr=3", "unknown setting 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ("lr=3", "unknown setting 'lr'; did you mean 'optimizer.lr' or 'critic.lr'?"),
        ("temperature=3", "did you mean 'sampling.temperature' or 'eval.temperature'?"),
        (
            "eval.stop=3",
            "unknown setting 'eval.stop'; did you mean 'sampling.stop' or 'alarms.stop'?",
        ),
        ("steps.x=1", "steps: it is a single value and has no setting 'x' of its own"),
        ("steps.x=", "steps: it is a single value and has no setting 'x' of its own"),
        ("optimizer.betas.x=1", "optimizer.betas: it is a single value and has no setting 'x'"),
        ("a..b=3", "unknown setting 'a..b'"),
        ("steps=abc", "steps: must be an int (got 'abc')"),
        ("steps=1.5", "steps: must be an int (got 1.5)"),
        ("steps=true", "steps: must be an int (got True)"),
        ("steps=0", "steps: must be from 1 to 1,000,000,000 (got 0)"),
        ("seed=-1", "seed: must be from 0 to 9,223,372,036,854,775,807 (got -1)"),
        ("model=7", "model: must be a str (got 7)"),
        ("dtype=float16", "dtype: unknown dtype 'float16'; use 'float32' or 'bfloat16'"),
        ("prompts.chat=maybe", "prompts.chat: must be a bool, true or false (got 'maybe')"),
        ("prompts.digits=[]", "prompts.digits: must not be empty (got [])"),
        ("prompts.digits=13", "prompts.digits.0: must be from 1 to 12 (got 13)"),
        (
            "prompts.operations=/",
            "prompts.operations.0: unknown operation '/'; use '+', '-' or '*'",
        ),
        ("prompts=3", "prompts: must be a table of settings, such as prompts.source (got 3)"),
        ("eval=x", "eval: must be a table of settings, such as eval.source (got 'x')"),
        ("algorithm.select=[]", "algorithm.select: must not be empty (got [])"),
        (
            "algorithm.resample=twice",
            "algorithm.resample: unknown resample 'twice'; use 'every-step' or 'once'",
        ),
        ("sampling.temperature=-1", "sampling.temperature: must be 0, or from 0.001 to 1,000"),
        ("sampling.temperature=inf", "sampling.temperature: must be a finite float (got inf)"),
        ("sampling.top_p=1.5", "sampling.top_p: must be from 1e-06 to 1 (got 1.5)"),
        ("sampling.stop=['']", "sampling.stop: an empty stop string would end every completion"),
        ("sampling.stop=3", "sampling.stop.0: must be a str (got 3)"),
        ("optimizer.lr=nan", "optimizer.lr: must be a finite float (got nan)"),
        ("optimizer.betas=[0.9]", "optimizer.betas.1: is missing"),
        ("optimizer.betas=[0.9, 1.5]", "optimizer.betas.1: must be from 0 to below 1 (got 1.5)"),
        ("optimizer.betas=0.9", "optimizer.betas: must be a list (got 0.9)"),
        (
            "engine.sampler=far",
            "engine.sampler: unknown sampler 'far'; use 'local', 'openai' or 'vllm'",
        ),
        ("engine.learner=far", "engine.learner: unknown learner 'far'; use 'local'"),
        ("url=x", "unknown setting 'url'; did you mean 'engine.url'?"),
        ("server.url=x", "server.url: is now engine.url, with engine.sampler = 'openai'"),
        ("server.url=", "server.url: is now engine.url, with engine.sampler = 'openai'"),
        ("server=x", "server: is now engine, with engine.sampler = 'openai'"),
        ("server.no=x", "server: is now engine, with engine.sampler = 'openai'"),
        (
            "server.api=chat",
            "server.api: is now engine.api, with engine.sampler = 'openai'; without server.url it "
            "did nothing: leave it out",
        ),
        ("reward.right_at=nan", "reward.right_at: must be a finite float"),
        ("reward.options=3", "reward.options: must be a table (got 3)"),
        ("threads=2147483648", "threads: must be from 0 to 1,000 (got 2147483648)"),
        (
            "seed=18446744073709551616",
            "seed: must be from 0 to 9,223,372,036,854,775,807 (got 1844",
        ),
        ("steps=9223372036854775808", "steps: must be from 1 to 1,000,000,000 (got 92233720368547"),
        ("steps=" + "9" * 5000, "steps: must be an int (got '999"),
        (
            "steps=0x" + "f" * 5000,
            "steps: must be from 1 to 1,000,000,000 (got an integer of thous",
        ),
        ("prompts_per_step=1000001", "prompts_per_step: must be from 1 to 1,000,000 (got 1000001)"),
        ("cycles=1000000000000", "cycles: must be from 1 to 1,000 (got 1000000000000)"),
        ("algorithm.epochs=1001", "algorithm.epochs: must be from 1 to 1,000 (got 1001)"),
        ("lora.rank=1000000000", "lora.rank: must be from 0 to 4,096 (got 1000000000)"),
        (
            "sampling.cache_gib=1e308",
            "sampling.cache_gib: must be from 0.001 to 100,000 (got 1e+308)",
        ),
        ("sampling.max_tokens=1e9", "sampling.max_tokens: must be an int (got 1000000000.0)"),
        (
            "sampling.temperature=1e-9",
            "sampling.temperature: must be 0, or from 0.001 to 1,000 (got 1e-09)",
        ),
        (
            "sampling.temperature=1e30",
            "sampling.temperature: must be 0, or from 0.001 to 1,000 (got 1e+30)",
        ),
        ("optimizer.eps=1e308", "optimizer.eps: must be from 1e-20 to 1 (got 1e+308)"),
        ("optimizer.lr=1e300", "optimizer.lr: must be 0, or from 1e-20 to 10 (got 1e+300)"),
        ("optimizer.lr=-0.0", "optimizer.lr: must be 0, or from 1e-20 to 10 (got -0.0)"),
        ("optimizer.lr='1e-5'", "optimizer.lr: must be a float (got '1e-5')"),
        ("optimizer.lr=true", "optimizer.lr: must be a float (got True)"),
        ("optimizer.betas=[1, 0.9]", "optimizer.betas.0: must be from 0 to below 1 (got 1)"),
        ("engine.timeout=1e308", "engine.timeout: must be from 0.001 to 86,400 (got 1e+308)"),
        ("reward.time_limit=1e308", "reward.time_limit: must be from 0.001 to 86,400 (got 1e+308)"),
        ("model=''", "model: must not be empty (got '')"),
        ("prompts.source='  '", "prompts.source: must not be empty (got '  ')"),
        ("lora.targets=['']", "lora.targets.0: must not be empty (got '')"),
        ("phases=[" + "{}," * 1001 + "]", "phases: has too many entries"),
        ("reward.options" + ".a" * 3000 + "=1", "--set: a key has 3002 parts; 32 are the"),
        ("reward.options.a=" + "[" * 40 + "]" * 40, "0: it is nested more than 32 deep"),
        ("model=\udcff", "--set: its value is not in UTF-8; write it in UTF-8"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(item: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(sets=[item])
    said = str(caught.value)
    assert message in said
    assert "\n" not in said
    assert len(said) < 400


def test_an_unknown_key_of_one_of_several_rewards() -> None:
    first, second = {"name": "number"}, {"name": "length", "options": {"max": 9}}
    for wrong, said in (
        ("weigth", r"unknown setting 'reward\.parts\.2\.weigth'; did you mean '.*2\.weight'\?$"),
        ("right_at", r"parts\.2\.right_at'; did you mean 'reward\.right_at'\?$"),
        ("xyz", r"parts\.2\.xyz'; available: reward\.parts\.2\.name, .*reward\.parts\.2\.weight"),
    ):
        with pytest.raises(UserError, match=said):
            from_dict({"reward": [first, {**second, wrong: 1}]})


@pytest.mark.parametrize(
    ("kept", "changed"),
    [
        ("right_at = 0.5\n[[reward.parts]]\nname = 'number'", "[reward]\n"),
        ("[[reward.parts]]\nname = 'number'\n[reward]\nright_at = 0.5", ""),
    ],
)
def test_what_the_message_says_to_write_beside_several_rewards_works(
    kept, changed, tmp_path
) -> None:
    (tmp_path / "r.toml").write_text(changed + kept)
    found = load(str(tmp_path / "r.toml")).reward
    assert (found.right_at, [part.name for part in found.parts]) == (0.5, ["number"])


def test_a_list_of_rewards_is_not_blamed_for_another_mistake(tmp_path) -> None:
    (tmp_path / "r.toml").write_bytes(b"steps = = 2\nreward = 'number'\n" + LIST)
    with pytest.raises(UserError, match=r"Invalid value \(at line 1, column 9\)$"):
        load(str(tmp_path / "r.toml"))


def test_options_that_no_file_can_hold_are_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"reward\.options: must be what TOML can hold"):
        from_dict({"reward": {"options": {"pattern": re.compile("x")}}})


def test_what_no_file_can_hold_is_refused_at_once() -> None:
    endless: dict[str, object] = {}
    endless["a"] = endless
    for values, said in (
        ({"model": "\udcff"}, "model: must be text in UTF-8"),
        ({"sampling": {"stop": ["\udcff"]}}, r"sampling\.stop\.0: must be text in UTF-8"),
        ({"reward": {"options": endless}}, "it is nested more than 32 deep"),
        ({"reward": {"options": {"\udcff": 1}}}, r"reward\.options: must be text in UTF-8"),
    ):
        with pytest.raises(UserError, match=said):
            from_dict(values)


LIST = b"[[reward]]\nname = 'number'\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.toml", b"steps = " + b"9" * 5000, "r.toml is not valid TOML: Exceeds the limit"),
        ("r.toml", b"steps = " + b"[" * 5000, "r.toml is nested too deep to be read"),
        ("r.toml", b"steps = ", "r.toml is not valid TOML: Invalid value (at"),
        ("r.toml", b"steps = 1\nsteps = 2", "is not valid TOML: Cannot overwrite a value"),
        (
            "r.toml",
            b"reward = 'number'\n[reward]\nright_at = 0.5",
            'write name = "x" in [reward], not reward = "x"',
        ),
        (
            "r.toml",
            b"prompts = 'a.jsonl'\nprompts.limit = 5",
            'write prompts.source = "x", not prompts = "x"',
        ),
        (
            "r.toml",
            b"[reward]\nright_at = 0.5\n" + LIST,
            "write each [[reward]] as [[reward.parts]]",
        ),
        ("r.toml", LIST + b"[reward]\nright_at = 0.5", "write each [[reward]] as [[reward.parts]]"),
        ("r.toml", b"reward.right_at = 0.5\n" + LIST, "write each [[reward]] as [[reward.parts]]"),
        ("r.toml", b"reward = 'number'\n" + LIST, "give the one of 'reward = ...' a [[reward]] of"),
        ("r.toml", b"\xff\xfe\x00", "r.toml: it is not text in UTF-8"),
        ("r.toml", None, "recipe: no file /"),
        ("folder.toml", "folder", "folder.toml: Is a directory"),
        ("x" * 300 + ".toml", None, "File name too long"),
    ],
)
def test_a_recipe_that_cannot_be_read(name, text, message, tmp_path) -> None:
    path = tmp_path / name
    if isinstance(text, bytes):
        path.write_bytes(text)
    elif text:
        path.mkdir()
    with pytest.raises(UserError) as caught:
        load(str(path))
    said = str(caught.value)
    assert said.startswith("recipe: ")
    assert message in said
    assert "\n" not in said


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(UserError, match="recipe: unknown recipe 'arithmetics'; did you mean 'arit"):
        load("arithmetics")
    with pytest.raises(UserError, match="recipe: unknown recipe ''; available: arithmetic, gsm8k"):
        load("")


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbfsteps = 3")
    assert load(str(tmp_path / "r.toml")).steps == 3


OF_PARTS = ("cpu_offload",)
OPENAI = {
    "url": "http://host/v1",
    "served_model": "m",
    "api": "chat",
    "concurrency": 3,
    "requests_per_minute": 60.0,
    "timeout": 9.0,
    "retries": 2,
    "key_env": "MY_KEY",
}
"""What only a server reads, none of it the default."""
STARTED = {
    "start_timeout": 9.0,
    "vllm_python": "python",
    "vllm_memory": 0.5,
    "vllm_context": 512,
    "vllm_port": 8100,
    "vllm_devices": ["1", "2"],
    "vllm_args": ["--enforce-eager"],
}
VLLM = {
    "urls": [],
    "servers": 2,
    "transfer": "lora",
    "transfer_dir": "/tmp",
    "pause": "abort",
    "canary": 0.1,
    "vllm_dtype": "bfloat16",
    **STARTED,
}
"""What only vLLM's servers read; of `urls` and `servers` one is set."""
BOTH = ("served_model", "timeout", "retries")


class TestEngine:
    """What the sampler does not read is refused; what it cannot go without is asked for."""

    def test_the_model_in_this_process_is_the_default(self) -> None:
        engine = Config().engine
        assert (engine.sampler, engine.learner) == ("local", "local")
        of_learners = {"sampler", "learner", "activation_checkpointing", *OF_PARTS}
        assert engine.model_dump().keys() == {*of_learners, *OPENAI, *VLLM}

    @pytest.mark.parametrize("key", OPENAI)
    def test_what_only_a_server_reads(self, key) -> None:
        with pytest.raises(UserError) as caught:
            from_dict({"engine": {key: OPENAI[key]}})
        readers = "'openai' or 'vllm'" if key in BOTH else "'openai'"
        assert str(caught.value) == (
            f"engine.{key}: does nothing with engine.sampler = 'local'; set engine.sampler = "
            f"{readers}, or leave it out"  # without the value, which may be a key or a password
        )
        default = Config().engine.model_dump()[key]
        assert from_dict({"engine": {"sampler": "local", key: default}}) == Config()

    def test_a_server_needs_its_address(self) -> None:
        with pytest.raises(UserError) as caught:
            load(sets=["engine.sampler=openai", "engine.url=x", "engine.url="])
        assert str(caught.value) == (
            "engine.url: is missing, and engine.sampler = 'openai' needs it; set it, such as "
            "'http://localhost:8000/v1'"
        )

    def test_a_server_reads_them_all(self) -> None:
        """In any order on the command line."""
        sets = [f"engine.{key}={value}" for key, value in OPENAI.items()]
        engine = load(sets=[*sets, "engine.sampler=openai"]).engine
        default = EngineConfig().model_dump()
        assert engine.model_dump() == {**default, "sampler": "openai", **OPENAI}

    @pytest.mark.parametrize("key", VLLM)
    def test_what_only_vllm_reads(self, key) -> None:
        value = VLLM[key] or ["http://host"]
        for sampler, more in (("local", {}), ("openai", {"url": "http://host/v1"})):
            with pytest.raises(UserError) as caught:
                from_dict({"engine": {"sampler": sampler, key: value, **more}})
            assert str(caught.value) == (
                f"engine.{key}: does nothing with engine.sampler = '{sampler}'; set "
                "engine.sampler = 'vllm', or leave it out"
            )

    def test_vllm_reads_them_all(self) -> None:
        shared = {key: OPENAI[key] for key in BOTH}
        engine = from_dict({"engine": {"sampler": "vllm", **VLLM, **shared}}).engine
        assert engine.model_dump().items() >= {**VLLM, **shared}.items()

    @pytest.mark.parametrize("key", STARTED)
    def test_what_only_servers_read_that_are_started(self, key) -> None:
        with pytest.raises(UserError) as caught:
            from_dict({"engine": {"sampler": "vllm", "urls": ["http://h"], key: STARTED[key]}})
        assert str(caught.value) == (
            f"engine.{key}: does nothing with servers that run already; set engine.servers, or "
            "leave it out"
        )

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({}, "servers: is missing, and engine.sampler = 'vllm' needs it or engine.urls"),
            ({"urls": ["http://h"], "servers": 1}, "servers: starts servers, and engine.urls name"),
            ({"servers": 1}, "vllm_python: is missing, and engine.servers needs it"),
            ({"urls": ["host:8000"]}, "urls: must be addresses"),
            ({"urls": ["http://a:b@h"]}, "urls: it holds a password or a query"),
        ],
    )
    def test_vllm_needs_servers(self, given, said) -> None:
        with pytest.raises(UserError) as caught:
            from_dict({"engine": {"sampler": "vllm", **given}})
        assert str(caught.value).startswith(f"engine.{said}")
        assert "a:b" not in str(caught.value)

    @pytest.mark.parametrize("key", OF_PARTS)
    def test_what_only_a_sharded_learner_reads(self, key) -> None:
        how = {key: True}
        assert from_dict({"engine": {"learner": "fsdp", **how}}).engine.model_dump()[key]
        with pytest.raises(UserError) as caught:
            from_dict({"engine": how})
        assert str(caught.value) == (
            f"engine.{key}: does nothing with engine.learner = 'local'; set "
            "engine.learner = 'fsdp', or leave it out"
        )

    def test_what_samples_is_what_the_server_calls_it(self) -> None:
        for called, name in (({}, "a"), ({"served_model": "b"}, "b")):
            server = {"sampler": "openai", "url": "http://host/v1", **called}
            assert from_dict({"model": "a", "engine": server}).sampling_model == name

    def test_training_needs_the_model(self) -> None:
        config = from_dict({"engine": {"sampler": "openai", **OPENAI}})
        with pytest.raises(UserError) as caught:
            check(config, ALGORITHMS["rft"])
        assert str(caught.value) == (
            "engine.sampler: training needs the model itself; sample from the server with winnow "
            "sample, then train with --set samples_file=FOLDER"
        )


SERVER = """\
steps = 3

[server]
api = "chat"
concurrency = 3
requests_per_minute = 60.0
timeout = 9.0
retries = 2
"""
"""What a folder held before there was `[engine]`."""
AT = 'url = "http://host/v1"\nmodel = "m"\nkey_env = "MY_KEY"\n'


class TestTheTableServer:
    """What is in a file of an earlier version is read as it was meant; a setting has to be new."""

    def test_a_recipe(self, tmp_path) -> None:
        """Such as the config.toml of an earlier run, to repeat it."""
        (tmp_path / "r.toml").write_text(SERVER + AT)
        config = load(str(tmp_path / "r.toml"))
        assert config == from_dict({"steps": 3, "engine": {"sampler": "openai", **OPENAI}})
        with pytest.raises(UserError, match=r"^server\.api: is now engine\.api"):
            load(str(tmp_path / "r.toml"), ["server.api=chat"])

    @pytest.mark.parametrize("key", ["model", *OPENAI])
    def test_each_key_says_where_it_went(self, key) -> None:
        now = {"model": "served_model"}.get(key, key)
        said = f"server.{key}: is now engine.{now}, with engine.sampler = 'openai'"
        if key == "served_model":
            said = "server: is now engine, with engine.sampler = 'openai'"
        with pytest.raises(UserError, match=f"^{re.escape(said)}"):
            from_dict({"server": {key: "x"}})

    def test_a_folder_of_a_server(self, tmp_path) -> None:
        (tmp_path / "config.toml").write_text(SERVER + AT)
        config = load_folder(tmp_path)
        assert config == from_dict({"steps": 3, "engine": {"sampler": "openai", **OPENAI}})

    def test_a_folder_of_the_model_in_this_process(self, tmp_path) -> None:
        """Without an address nothing of the table was read."""
        (tmp_path / "config.toml").write_text(SERVER)
        assert load_folder(tmp_path) == from_dict({"steps": 3})

    @pytest.mark.parametrize("engine", [{}, {"sampler": "openai", **OPENAI}])
    def test_a_folder_of_today(self, engine, tmp_path) -> None:
        config = from_dict({"engine": engine})
        (tmp_path / "config.toml").write_text(dumps(config))
        assert load_folder(tmp_path) == config

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[server]\n[engine]\n", "^server: is now engine"),
            (SERVER + AT + "speed = 9", r"^unknown setting 'engine.speed'"),
        ],
    )
    def test_a_folder_that_somebody_wrote_into(self, text, said, tmp_path) -> None:
        (tmp_path / "config.toml").write_text(text)
        with pytest.raises(UserError, match=said):
            load_folder(tmp_path)


class TestCheck:
    """What no run should begin with, found before anything is loaded."""

    @pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
    @pytest.mark.parametrize(("key", "value"), [("top_k", 5), ("top_p", 0.9)])
    def test_truncated_sampling_with_a_ratio(self, row, key, value) -> None:
        config = from_dict({"algorithm": row.name, "sampling": {key: value}})
        if "old" not in row.needs:
            check(config, row)
            return
        with pytest.raises(UserError, match=rf"^sampling\.{key}: {re.escape(row.name)} divides by"):
            check(config, row)

    @pytest.mark.parametrize("text", [*WRITTEN_ADVANTAGES, "softmax(2, over=set)"])
    def test_one_sample_with_a_group_baseline(self, text) -> None:
        algorithm = ALGORITHMS["raft"].with_cells({"advantage": text})
        config = from_dict({"samples_per_prompt": 1})
        if text in ("one", "reward", "gae", "softmax(2, over=set)"):
            check(config, algorithm)
            return
        with pytest.raises(
            UserError, match=rf"^samples_per_prompt: it is 1, and advantage {text[:7]}"
        ):
            check(config, algorithm)
        check(from_dict({"samples_per_prompt": 2}), algorithm)

    def test_one_sample_with_a_rule_over_groups(self) -> None:
        with pytest.raises(
            UserError, match=r"^samples_per_prompt: it is 1, and select mixed compares"
        ):
            check(from_dict({"samples_per_prompt": 1}), ALGORITHMS["reinforce-rej"])

    def test_the_remedy_for_one_sample_is_one(self) -> None:
        sets = ["algorithm=grpo", "samples_per_prompt=1"]
        sets += ["algorithm.advantage='reward'", "algorithm.select=['everything']"]
        config = load(sets=sets)
        check(config, config.algorithm.build())

    def test_samples_of_another_model_every_step(self) -> None:
        with pytest.raises(UserError, match=r"^samples_from: only an algorithm that samples once"):
            check(from_dict({"samples_from": "a/b"}), ALGORITHMS["raft"])
        check(from_dict({"samples_from": "a/b"}), ALGORITHMS["rft"])

    def test_more_prompts_in_an_update_than_are_sampled(self) -> None:
        config = from_dict({"prompts_per_step": 4, "minibatch_prompts": 5})
        with pytest.raises(UserError, match=r"^minibatch_prompts: an update cannot hold more"):
            check(config, ALGORITHMS["raft"])

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"algorithm": {"name": "raft", "kl": "in-reward"}}, "algorithm.kl: .* does not read"),
            ({"algorithm": {"name": "grpo", "kl": "in-reward"}}, "algorithm.kl: .* scales any"),
            (
                {"algorithm": {"name": "dpo", "resample": "every-step", "kl": "in-reward"}},
                "algorithm.kl",
            ),
            (
                {"algorithm": {"name": "rloo", "resample": "once"}},
                "algorithm.kl: .* samples made once",
            ),
            ({"algorithm": "rloo", "rounds": {"merge": 1}}, "algorithm.kl: .* of earlier rounds"),
            ({"algorithm": {"name": "ppo", "kl": "none"}, "rounds": {"merge": 1}}, "algorithm.adv"),
            ({"algorithm": {"name": "ppo", "advantage": "centred"}}, "algorithm.critic: it needs"),
            ({"algorithm": {"name": "grpo", "loss": "dpo"}}, "algorithm.loss: dpo compares"),
            (
                {"algorithm": {"name": "dpo", "select": ["best-worst", "correct"]}},
                "algorithm.loss: dpo compares",
            ),
            ({"algorithm": "gspo", "dtype": "bfloat16"}, "algorithm.loss: sequence-clipped"),
            (
                {"algorithm": "rft", "rounds": {"restart": True}},
                "rounds.restart: samples made once",
            ),
            ({"algorithm": {"name": "rft", "refill": 1}}, "algorithm.refill: samples made once"),
            (
                {"algorithm": {"name": "raft", "select": ["distinct", "as-recorded"]}},
                "algorithm.select: as-recorded keeps what a file says, and this run samples its",
            ),
            ({"algorithm": "raft", "reference": "phase"}, "reference: raft does not compare"),
            ({"algorithm": "raft", "critic": {"lr": 1.0}}, "critic: raft has no critic"),
            (
                {"algorithm": {"name": "grpo", "reward_scale": "-1/+1"}},
                r"algorithm.reward_scale: advantage standardised\(sample\) is the same with either",
            ),
            (
                {"algorithm": {"name": "rloo", "kl": "in-reward(0.1, horizon=9)"}},
                "algorithm.kl: only an adaptive",
            ),
            ({"eval": {"patience": 2}}, "eval.patience: stopping early needs"),
            ({"eval": {"test_size": 2}}, "eval.test_size: without early stopping no checkpoint"),
            (
                {"prompts_per_step": 10**5, "samples_per_prompt": 101},
                "prompts_per_step: with samples_per_prompt, a step would hold 10,100,000 samples",
            ),
            (
                {"algorithm": "rft", "prompts_per_step": 10**4, "steps": 10**6},
                "steps: all 80,000,000,000 samples would be held in memory",
            ),
            (
                {"anchor": {"source": "a.jsonl", "ratio": 100.0}, "prompts_per_step": 10**5}
                | {"minibatch_prompts": 10**5},
                "anchor.ratio: an update would hold 10,000,000 examples",
            ),
            (
                {
                    "algorithm": {"name": "dpo", "resample": "every-step", "kl": "in-loss(0.1)"},
                    "sampling": {"temperature": 0.7},
                },
                "algorithm.kl: the KL is at temperature 0.7",
            ),
            (
                {"algorithm": {"name": "raft", "kl": "in-loss(0.1)"}, **AT_SEVEN_TENTHS},
                "algorithm.kl: the KL is at temperature 0.7, and nll at temperature 1; set",
            ),
            (
                {
                    "algorithm": {"name": "grpo", "loss": "nll", "advantage": "centred"}
                    | {"kl": "in-reward(0.1)"},
                    **AT_SEVEN_TENTHS,
                },
                "algorithm.kl: the KL is at temperature 0.7, and nll at temperature 1; set",
            ),
            (
                {"algorithm": {"name": "raft", "entropy": 0.1}, **AT_SEVEN_TENTHS},
                "algorithm.entropy: it is at temperature 0.7, and nll at temperature 1; set",
            ),
        ],
    )
    def test_what_does_not_go_together_or_does_nothing(self, settings, said) -> None:
        config = from_dict(settings)
        with pytest.raises(UserError, match=f"^{said}"):
            check(config, config.algorithm.build())

    @pytest.mark.parametrize(
        ("rule", "least"),
        [("best(2)", 3), ("rso(0.5, 4)", 5), ("gibbs(0.5)", 2), ("gibbs(0.5, 1)", 1)],
    )
    def test_a_rule_that_keeps_all_is_told_of(self, rule, least) -> None:
        """The k best of k or fewer, and of one sample the one whose reward is the largest."""
        for n in range(1, 7):
            config = from_dict(
                {"algorithm": {"name": "rft", "select": [rule]}, "samples_per_prompt": n}
            )
            row = config.algorithm.build()
            told = [text for text in cautions(config, row) if "whatever the rewards" in text]
            assert len(told) == (n < least)
            assert not list(cautions(config.model_copy(update={"samples_file": "a.jsonl"}), row))

    def test_a_rule_that_leaves_one_gives_refill_nothing_to_do(self) -> None:
        for rule, refused in (("gibbs(0.5)", True), ("gibbs(0.5, 1)", False)):
            config = from_dict({"algorithm": {"name": "raft", "select": [rule], "refill": 1}})
            if not refused:
                check(config, config.algorithm.build())
                continue
            with pytest.raises(UserError, match=r"^algorithm\.refill: every prompt has survivors"):
                check(config, config.algorithm.build())

    def test_adapters_at_a_small_learning_rate_are_told_of_without_rounds(self) -> None:
        config = from_dict({"algorithm": "rft", "lora": {"rank": 4}})
        (said,) = cautions(config, ALGORITHMS["rft"], rounds=False)
        assert said.startswith("adapters learn little")

    @pytest.mark.parametrize(
        ("cells", "heat"),
        [
            ({"name": "raft", "kl": "in-loss(0.1)"}, 1.0),
            ({"name": "raft", "entropy": 0.1}, 1.0),
            ({"name": "raft"}, 0.7),
            ({"name": "grpo", "kl": "in-loss(0.1)", "entropy": 0.1}, 0.7),  # all at 0.7
            ({"name": "raft", "loss": "capped", "kl": "in-loss(0.1)"}, 0.7),
        ],
    )
    def test_a_likelihood_and_a_kl_at_one_temperature_go_together(self, cells, heat) -> None:
        config = from_dict({"algorithm": cells, "sampling": {"temperature": heat}})
        check(config, config.algorithm.build())

    def test_a_penalty_or_critic_of_ones_own_is_refused(self) -> None:
        """One would be imported and then do nothing."""
        for key in ("kl", "critic"):
            config = from_dict({"algorithm": {"name": "grpo", key: "winnow.algorithms.losses:NLL"}})
            with pytest.raises(UserError, match=rf"^algorithm\.{key}: unknown (KL|critic) 'winnow"):
                config.algorithm.build()

    @pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
    def test_the_defaults_are_in_order_for_every_row(self, row) -> None:
        check(Config(), row)
        for recipe in recipes():  # bfloat16 is too coarse for the narrowest clip
            check(load(recipe, ["dtype=float32"]), row)


def test_naming_a_row_does_not_forget_cells_set_before_it() -> None:
    sets = ["algorithm.kl='in-loss(0.1)'", "algorithm=grpo"]
    with pytest.raises(UserError, match=r"^--set: algorithm=\.\.\. would undo --set algorithm\.kl"):
        load(sets=sets)
    assert load(sets=sets[::-1]).algorithm.build().needs == {"old", "ref", "rejected"}


def test_an_unknown_row_or_cell() -> None:
    with pytest.raises(
        UserError, match=r"^algorithm: unknown algorithm 'grop'; did you mean 'grpo'\?"
    ):
        from_dict({"algorithm": "grop"}).algorithm.build()
    with pytest.raises(UserError, match=r"^algorithm\.loss: unknown loss 'clippd'; did you mean"):
        from_dict({"algorithm": {"loss": "clippd(0.2)"}}).algorithm.build()


def short_ones(group, alive, rng):
    """A rule of one's own, in a module: it can be recorded."""
    return ["long" if len(sample.text) > 9 else None for sample in group.samples]


@dataclass(frozen=True)
class Shorter:
    """One that holds something: its name alone does not restore it."""

    than: int = 9

    def __call__(self, group, alive, rng):
        return [None] * len(alive)


class Plain:
    """One that holds nothing."""

    def __call__(self, group, alive, rng):
        return [None] * len(alive)


class TestOnesOwnAlgorithm:
    """It is recorded if a file can hold it; if not, nothing else is run in its name."""

    @pytest.mark.parametrize(
        "select",
        [(short_ones,), (Correct(), Best(2), short_ones), (Plain(),), (Shorter(),)],
        ids=["function", "several", "object", "dataclass with its defaults"],
    )
    def test_it_is_read_back(self, select) -> None:
        mine = Algorithm("mine", select=select, advantage=LeaveOneOut(), resample="once", epochs=2)
        text = dumps(Config(), mine)
        if select == (short_ones,):
            assert f'"{__name__}:short_ones"' in text
        read = from_dict(tomllib.loads(text)).algorithm
        assert read.name == "mine"
        assert not read.made_in_python
        again = read.build()
        assert again.cells() == mine.cells()
        assert again.name == "mine"
        assert (again.advantage, again.terms) == (mine.advantage, mine.terms)
        held = [rule.function if isinstance(rule, Own) else rule for rule in again.select]
        assert [type(rule) for rule in held] == [type(rule) for rule in select]
        assert (again.select == mine.select) is not isinstance(select[0], Plain)

    def test_a_known_row_with_all_cells_is_those_cells(self) -> None:
        changed = replace(ALGORITHMS["grpo"], select=(Everything(), short_ones))
        again = from_dict(tomllib.loads(dumps(Config(), changed))).algorithm.build()
        assert again == changed

    @pytest.mark.parametrize(
        "change",
        [
            {"select": (Shorter(5),)},
            {"select": (lambda group, alive, rng: [None] * len(alive),)},
            {"terms": (Term(NLL(), SampleMeans()), Term(Clipped(), SampleMeans()))},
            {"terms": (Term(NLL(), SampleMeans(), coefficient=0.5),)},
        ],
        ids=["an argument", "a lambda", "two terms", "a coefficient"],
    )
    @pytest.mark.parametrize("name", ["mine", "grpo"])
    def test_more_than_a_file_can_say_is_asked_for_again(self, change, name) -> None:
        mine = replace(Algorithm(name), **change)
        read = reread(Config(), mine).algorithm
        assert read.made_in_python
        with pytest.raises(UserError, match=rf"algorithm: '{name}' was made in Python, not in"):
            read.build()
