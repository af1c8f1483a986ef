"""The command line as a person meets it: help, results, and mistakes in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import tiny
from winnow.algorithms.table import ALGORITHMS
from winnow.cli import main
from winnow.cli.render import settings_recipe
from winnow.config.recipe import recipes
from winnow.config.schema import Config, from_dict
from winnow.config.schema.describe import describe
from winnow.errors import WinnowError

COMMANDS = (
    *("train", "eval", "sample", "select", "show", "report", "watch", "compare", "best-of"),
    *("overoptimisation", "fit-reward", "coefficients", "audit-reward", "clean"),
    *("algorithms", "settings", "doctor"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """An untrained model with room for 128 tokens, and no chat template."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory) -> Path:
    """A folder of modules before which a command must end that needs no model."""
    folder = tmp_path_factory.mktemp("no_torch")
    for name in ("torch", "transformers"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    return folder


def winnow(
    args: list[str], cwd: Path, path: Path | None = None, script: str = "-m winnow", given: str = ""
) -> subprocess.CompletedProcess:
    """`python -m winnow` with arguments, or another script, before whose modules come those of
    `path`."""
    unset = ("PYTHONPATH",)
    env = {k: v for k, v in os.environ.items() if k not in unset}
    env |= {"COLUMNS": "100", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(path or "")}
    return subprocess.run(
        [sys.executable, *script.split(), *args],
        cwd=cwd,
        env=env,
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
    )


def forked(asked: Sequence[tuple[list[str], Path]], path: Path) -> list[Done]:
    """Many command lines, each in a folder, none of which may import a model library."""
    rows = json.dumps([{"args": args, "cwd": str(cwd)} for args, cwd in asked])
    script = str(Path(__file__).parent / "forks.py")
    done = winnow([script], path, path, script="-W error", given=rows)
    assert done.returncode == 0, done.stderr
    return [Done(row["code"], row["out"], row["err"]) for row in json.loads(done.stdout)]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Case:
    """A command line, what its one line must say, and whether it may import a model library."""

    args: str | list[str]
    says: str
    models: bool = False


def train(*sets: str, **how: bool) -> list[str]:
    """`winnow train` with settings, and a model that can only be looked for, not found."""
    given = ["train", "--set", "model=nobody/nothing", "--out", "run"]
    return [*given, *(part for item in sets for part in ("--set", item))]


FILE = ("prompts.source=good.jsonl", "eval.size=0")
TINY = ("model={model}", *FILE, "minibatch_prompts=1", "prompts_per_step=1")

MISTAKES = {
    # unknown: key, algorithm, cell, model, file, column, reward, recipe, command
    "key": Case(train("stpes=3"), "unknown setting 'stpes'; did you mean 'steps'?"),
    "algorithm": Case(
        train("algorithm=grop"), "algorithm: unknown algorithm 'grop'; did you mean 'grpo'?"
    ),
    "algorithm in capitals": Case(
        train("algorithm=GRPO"), "algorithm: unknown algorithm 'GRPO'; did you mean 'grpo'?"
    ),
    "algorithm of others": Case(
        train("algorithm=sft"),
        "algorithm: unknown algorithm 'sft'; to train on a file of completions use 'rft' with sam",
    ),
    "algorithm, eval": Case("eval --set algorithm=grop", "algorithm: unknown algorithm 'grop'"),
    "cell": Case(train("algorithm.loss=clippd"), "algorithm.loss: unknown loss 'clippd'; did you"),
    "model": Case("train --set model=nowhere", "model: 'nowhere' is not a folder, a .gguf file or"),
    "model file": Case("train --set model=no.gguf", "model: no file no.gguf"),
    "model folder": Case("train --set model=folder", "model: folder folder has no config.json"),
    "file": Case(train("prompts.source=no.jsonl"), f"prompts.source: no file no.jsonl in {os.sep}"),
    "eval file": Case(train("eval.source=no.parquet"), "eval.source: no file no.parquet"),
    "folder": Case(
        train("prompts.source=folder.jsonl"), "prompts.source: folder.jsonl is a folder"
    ),
    "column": Case(
        train(*FILE, "prompts.prompt_column=promt"),
        "prompts.prompt_column: row 1 of 'good.jsonl' has no column 'promt'; did you mean 'prom",
    ),
    "template column": Case(
        train(*FILE, "prompts.template={promt}"), "prompts.template: row 1 of 'good.jsonl' has no c"
    ),
    "template without a column": Case(
        train(*FILE, "prompts.template=Solve: {{prompt}}"),
        "prompts.template: it fills in no column, so that all prompts would be 'Solve: {{prompt}}'",
    ),
    "message": Case(
        train("prompts.source=talk.jsonl", "eval.size=0"),
        "prompts.prompt_column: row 2 of 'talk.jsonl' has a turn 2 whose key 'content' has a part",
    ),
    "samples as JSON": Case(
        train("samples_file=good.jsonl", "algorithm=rft", "eval.size=0"),
        "samples_file: good.jsonl line 1 has no 'chosen'; a .jsonl file of samples holds pairs",
    ),
    "a sample without a text": Case(
        train("samples_file=null.parquet", "algorithm=dpo", "eval.size=0"),
        "samples_file: null.parquet: row 2 has a null in column text; leave out samples that fai",
    ),
    "a sample without a text, select": Case(
        "select null.parquet --rule correct --out kept.jsonl",
        "samples: null.parquet: row 2 has a null in column text",
    ),
    "preferences": Case(
        train("samples_file=preferences.parquet", "algorithm=dpo", "eval.size=0"),
        "rejected: write pairs to a .jsonl file, or a pair as two rows of one prompt, chosen as",
    ),
    "reward": Case(train("reward=nummber"), "reward: unknown reward 'nummber'; did you mean 'nu"),
    "reward module": Case(
        train("reward=no_such:f"), "reward: cannot load 'no_such:f': ModuleNotFound"
    ),
    "reward option": Case(
        train("reward.options.x=1"), "reward.options: unknown option 'x' of number"
    ),
    "reward without answers": Case(
        train("prompts.source=unanswered.jsonl", "eval.size=0"), "set prompts.answer_column to the"
    ),
    "reward of another source": Case(train("reward=gym"), "reward: 'gym' scores gym tasks"),
    "recipe": Case(
        "train arithmetics", "recipe: unknown recipe 'arithmetics'; did you mean 'arith"
    ),
    "recipe file": Case("train no.toml", f"recipe: no file no.toml in {os.sep}"),
    "recipe, bad TOML": Case("train bad.toml", "recipe: bad.toml is not valid TOML: "),
    "recipe, wrong key": Case("train wrong.toml", "unknown setting 'sampling.top_q'; did"),
    "command": Case("trian", "no such command 'trian'"),
    "option": Case("train --stes 3", "no such option: --stes"),
    "option, a setting": Case("train --steps 3", "a setting is given as --set steps=VALUE"),
    "option of another trainer": Case(
        "train --learning_rate=1e-5", "no such option: --learning_rate; here it is optimizer.lr;"
    ),
    "setting without --set": Case(
        "train steps=3", "recipe: steps=... is a setting; give it as --set steps=..."
    ),
    "option without its value": Case("train --out", "'--out' requires an argument"),
    "too many arguments": Case("train a b", "unexpected extra argument"),
    # data
    "empty": Case(train("prompts.source=empty.jsonl"), "prompts.source: 'empty.jsonl' holds no pr"),
    "empty parquet": Case(
        train("prompts.source=empty.parquet"), "'empty.parquet' holds no prompts"
    ),
    "empty, eval": Case(
        "eval --set eval.source=empty.jsonl", "eval.source: 'empty.jsonl' holds no"
    ),
    "bad line": Case(
        train("prompts.source=bad.jsonl"), "prompts.source: bad.jsonl line 3 is not a JSON object: "
    ),
    "binary": Case(train("prompts.source=binary.jsonl"), "binary.jsonl is not text in UTF-8"),
    "no parquet": Case(
        train("prompts.source=no_parquet.parquet"), "cannot read no_parquet.parquet"
    ),
    "two columns": Case(train("prompts.source=twice.parquet"), "two columns 'prompt'; rename one"),
    "two keys": Case(
        train("prompts.source=twice.jsonl"), "line 1 is not a JSON object: it has two key"
    ),
    "held out": Case(
        train("prompts.source=good.jsonl", "eval.size=9"), "eval.size: it holds out 3 of 3"
    ),
    "eval.size": Case("eval --set eval.size=0", "eval.size: it is 0, so there is nothing to"),
    "eval.source": Case(
        train(*FILE, "eval.source=good.jsonl"), "eval.source: every prompt of 'good.jsonl' is in"
    ),
    # settings that do not go together
    "one sample": Case(
        train("algorithm=grpo", "samples_per_prompt=1"),
        "samples_per_prompt: it is 1, and advantage standardised(sample) compares",
    ),
    "one sample, mixed": Case(
        train("algorithm=reinforce-rej", "samples_per_prompt=1"),
        "samples_per_prompt: it is 1, and select m",
    ),
    "top_k": Case(
        train("sampling.top_k=5"), "sampling.top_k: raft++ divides by the probability of"
    ),
    "top_p": Case(train("sampling.top_p=0.9"), "sampling.top_p: raft++ divides by the probability"),
    "minibatch": Case(
        train("minibatch_prompts=99"), "minibatch_prompts: an update cannot hold more"
    ),
    "samples_from": Case(
        train("samples_from=a/b"), "samples_from: only an algorithm that samples once"
    ),
    "system": Case(train("prompts.system=Hi"), "prompts.system: needs prompts.chat = true"),
    # values
    "no equals sign": Case(train("steps"), "--set: its value is not of the form key=value; write"),
    "text for a number": Case(train("steps=many"), "steps: must be an int (got 'many')"),
    "device": Case(train("device=gpu"), "device: unknown device 'gpu'; use 'cpu', 'cuda' or 'a"),
    "below a value": Case(train("steps.x=1"), "steps: it is a single value and has no setting 'x'"),
    "empty list": Case(train("algorithm.select=[]"), "algorithm.select: must not be empty"),
    "not finite": Case(train("optimizer.lr=nan"), "optimizer.lr: must be a finite float"),
    "not in UTF-8": Case(train("model=\udcff"), "--set: its value is not in UTF-8"),
    # the run folder
    "out is a run": Case("train --out old", "out: old exists already; choose another --out, or r"),
    "out is a run, eval": Case("eval --out old", "out: old exists already"),
    "out is a file": Case(
        "train --out good.jsonl", "out: good.jsonl exists already; choose another"
    ),
    "out below a file": Case("train --out good.jsonl/run", "out: cannot make good.jsonl/run: "),
    "out too long": Case(["train", "--out", "x" * 300], "File name too long"),
    "resume nothing": Case("train --resume nowhere", "resume: nowhere is not a run folder"),
    "resume another folder": Case("train --resume folder", "resume: folder is not a run folder"),
    "resume an evaluation": Case("train --resume tried", "resume: tried holds an evaluation"),
    "resume with --set": Case(
        "train --resume old --set steps=3",
        "--resume: a run keeps its settings; give no recipe, --set or --out, and to make the run "
        "longer raise steps in old/config.toml",
    ),
    "resume nothing with --set": Case(
        "train --resume nowhere --set steps=3", "resume: nowhere is not a run folder"
    ),
    "resume no samples with --set": Case(
        "sample --resume nowhere --set steps=3", "resume: nowhere is not a folder of winnow sample"
    ),
    "resume with --out": Case("train --resume old --out new", "--resume: a run keeps its settings"),
    "resume, file spoilt": Case("train --resume spoilt", "steps: must be an int"),
    "too long a prompt": Case(
        train(*TINY, "prompts.source=long.jsonl", "sampling.max_tokens=8"),
        "prompts: prompt 'the-long-one' has 125 tokens and leaves no room for sampling.max_",
        models=True,
    ),
}


LATE_MISTAKES = {
    "hub model": Case(train(*FILE), "model: cannot load 'nobody/nothing': "),
    "device without memory": Case(train(*TINY, "device=meta"), "device: cannot use 'meta' here: "),
    "no gpu": Case(train(*TINY, "device=cuda"), "device: torch finds no GPU for 'cuda'"),
    "no chat template": Case(
        train(*TINY, "prompts.chat=true"),
        "prompts.chat: this model's tokenizer has no",
    ),
    "no chat template, conversations": Case(
        train("model={model}", "prompts.source=spoken.jsonl", "eval.size=0"),
        "prompts.chat: this model's tokenizer has no chat template, and prompt '0' is a conversat",
    ),
    "chat template that refuses": Case(
        train(*TINY, "model=strict", "prompts.chat=true", "prompts.system=x"),
        "prompts: the model's chat template fails on prompt '0': no system here; leave the syst",
    ),
    "chat template that drops": Case(
        train("model=mute", "prompts.source=spoken.jsonl", "eval.size=0"),
        "prompts: prompt '0' turn 2: the model's chat template leaves out the tool_calls",
    ),
    "weights that are no numbers": Case(
        train(*TINY, "model=spoilt-weights"),
        "spoilt-weights': 64 of 64 weights of model.norm.weight are not finite; take an",
    ),
    "no weights": Case(train(*FILE, "model=hollow"), "hollow': Error no file named"),
    "other vocabulary": Case(
        train(*TINY, "algorithm=rft", "samples_from=other"),
        "other' has another vocabulary than",
    ),
}
"""What only torch, the tokenizer or the weights can tell. These run in this process."""


IMAGE = [
    {"role": "system", "content": "x"},
    {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
]
CALLED = [
    {"role": "user", "content": "warm?"},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
    {"role": "tool", "content": "12 c"},
]


def models_with_faults(folder: Path) -> None:
    """A chat template that refuses, one that leaves out tool calls, weights that are NaN."""
    said = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for name, template in (("strict", "{{ raise_exception('no system here') }}"), ("mute", said)):
        words = tiny.tokenizer()
        words.chat_template = template
        words.save_pretrained(folder / name)
        tiny.model().save_pretrained(folder / name)
    spoilt = tiny.model()
    spoilt.model.norm.weight.data.fill_(float("nan"))
    spoilt.save_pretrained(folder / "spoilt-weights")
    tiny.tokenizer().save_pretrained(folder / "spoilt-weights")


def furnish(folder: Path) -> None:
    """What the mistakes above stumble over."""
    good = '{"prompt": "1+1=", "answer": 2}\n{"prompt": "1+2=", "answer": 3}\n'
    texts: Mapping[str, str | bytes] = {
        "good.jsonl": good + '{"prompt": "1+3=", "answer": 4}\n',
        "bad.jsonl": good + '{"prompt": \n',
        "empty.jsonl": "",
        "binary.jsonl": b"\x89PNG\r\n\x1a\n\xff",
        "no_parquet.parquet": good,
        "twice.jsonl": '{"prompt": "a", "prompt": "b"}\n',
        "unanswered.jsonl": '{"prompt": "Tell me a story."}\n',
        "long.jsonl": json.dumps({"prompt": "1" * 125, "answer": "1", "id": "the-long-one"}),
        "talk.jsonl": good.splitlines()[0] + "\n" + json.dumps({"prompt": IMAGE}),
        "spoken.jsonl": json.dumps({"prompt": CALLED, "answer": "12"}),
        "good.csv": "prompt,answer\n",
        "bad.toml": "steps = \n",
        "wrong.toml": "[sampling]\ntop_q = 3\n",
    }
    for name, text in texts.items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / name).write_bytes(data)
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), folder / "empty.parquet")
    rows = {"prompt": ["1+1=", "1+1="], "text": ["2", None], "reward": [1.0, 0.0]}
    pq.write_table(pa.table(rows), folder / "null.parquet")
    pairs = {"prompt": ["1+1="], "chosen": ["2"], "rejected": ["3"]}
    pq.write_table(pa.table(pairs), folder / "preferences.parquet")
    twice = pa.table([["a"], ["b"]], names=["prompt", "prompt"])
    pq.write_table(twice, folder / "twice.parquet")
    for name in ("folder", "folder.jsonl", "old/checkpoints", "spoilt/checkpoints", "tried"):
        (folder / name).mkdir(parents=True)
    for name, text in (("old", "steps = 1"), ("spoilt", "steps = 'x'"), ("tried", "steps = 1")):
        (folder / name / "config.toml").write_text(text)
    (folder / "old" / "metrics.jsonl").write_text('{"step": 1}\n{"st')


def contents(folder: Path) -> dict[str, tuple[bytes | None, int]]:
    return {
        str(path): (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in sorted([folder, *folder.rglob("*")])
    }


@dataclass(frozen=True)
class Outcome:
    done: Done
    harmed: bool


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory, model, no_torch) -> dict[str, Outcome]:
    """Those of the mistakes that are asked for."""
    asked = [
        item.callspec.params.get("mistake")
        for item in request.session.items
        if item.path == Path(__file__) and hasattr(item, "callspec")
    ]
    lines: dict[str, tuple[list[str], Path]] = {}
    before = {}
    for mistake in [name for name in MISTAKES if name in asked]:
        folder = tmp_path_factory.mktemp("cwd")
        furnish(folder)
        before[mistake] = contents(folder)
        args = MISTAKES[mistake].args
        words = args.split() if isinstance(args, str) else args
        lines[mistake] = [word.replace("{model}", str(model)) for word in words], folder
    quick = [name for name in lines if not MISTAKES[name].models]
    done = dict(zip(quick, forked([lines[name] for name in quick], no_torch), strict=True))
    for name in lines.keys() - done.keys():
        ended = winnow(*lines[name])
        done[name] = Done(ended.returncode, ended.stdout, ended.stderr)
    return {
        name: Outcome(done[name], contents(folder) != before[name])
        for name, (_, folder) in lines.items()
    }


def check_line(case: Case, code: int, out: str, err: str) -> None:
    assert code == 2, err
    assert "Traceback" not in err + out
    assert re.fullmatch(r"winnow: [^\n]+\n", err), err
    assert case.says in err
    assert len(err) < 450


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line_and_harms_nothing(mistake: str, outcomes) -> None:
    case, done = MISTAKES[mistake], outcomes[mistake].done
    check_line(case, done.returncode, done.stdout, done.stderr)
    assert case.models or done.stdout == ""
    assert not outcomes[mistake].harmed, "something was made or changed on the disk"


@pytest.mark.parametrize("mistake", LATE_MISTAKES)
def test_a_mistake_found_late_harms_nothing_either(
    mistake: str, model, tmp_path, monkeypatch, capsys
) -> None:
    furnish(tmp_path)
    words = tiny.tokenizer()
    models_with_faults(tmp_path)
    words.save_pretrained(tmp_path / "hollow")
    tiny.model().config.save_pretrained(tmp_path / "hollow")
    words.add_tokens(["zz"])
    words.save_pretrained(tmp_path / "other")
    tiny.model().config.save_pretrained(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    capsys.readouterr()  # how far the models above were written
    before = contents(tmp_path)
    args = [arg.replace("{model}", str(model)) for arg in LATE_MISTAKES[mistake].args]
    check_line(LATE_MISTAKES[mistake], *in_process(monkeypatch, capsys, *args))
    assert contents(tmp_path) == before


def in_process(monkeypatch, capsys, *args: str) -> tuple[int, str, str]:
    """The same entry point, without the cost of another process."""
    monkeypatch.setattr(sys, "argv", ["winnow", *args])
    with pytest.raises(SystemExit) as end:
        main.main()
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


class TestResults:
    """What a command prints when nothing is wrong."""

    def tiny(self, model: Path) -> list[str]:
        sets = [f"model={model}", "prompts.source=good.jsonl", "steps=1", "prompts_per_step=2"]
        sets += ["minibatch_prompts=1", "sampling.max_tokens=2", "eval.size=1"]
        return [part for item in sets for part in ("--set", item)]

    @pytest.fixture
    def here(self, tmp_path, monkeypatch) -> Path:
        furnish(tmp_path)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_train_resume_and_eval(self, model, here, monkeypatch, capsys) -> None:
        code, out, err = in_process(monkeypatch, capsys, "train", *self.tiny(model), "--json")
        assert code == 0
        result = json.loads(out)
        assert result["folder"] == str(Path("runs/arithmetic-raft++-001").absolute())
        assert result["checkpoint"] == f"{result['folder']}/checkpoints/step-1"
        assert result["last_step"]["step"] == 1
        assert {"before", "after", "gain", "gain_low", "gain_high"} <= result.keys()
        assert Path(result["checkpoint"], "model.safetensors").is_file()

        before = contents(here / result["folder"] / "checkpoints")
        code, out, _ = in_process(
            monkeypatch, capsys, "train", "--resume", result["folder"], "--json"
        )
        assert code == 0
        assert json.loads(out) == result
        assert contents(here / result["folder"] / "checkpoints") == before

        checkpoint = f"model={result['checkpoint']}"
        args = ("eval", *self.tiny(model), "--set", checkpoint, "--out", "tried-2")
        code, out, err = in_process(monkeypatch, capsys, *args, "--json")
        assert code == 0
        assert json.loads(out)["samples"] == 1
        assert json.loads(out)["step"] == 0
        assert sorted(p.name for p in (here / "tried-2").iterdir()) == [
            "config.toml",
            "environment.json",
            "evals.jsonl",
            "progress.json",
            "rollouts",
        ]
        code, _, err = in_process(monkeypatch, capsys, "train", "--resume", "tried-2")
        assert code == 2
        assert err.startswith("winnow: resume: tried-2 holds an evaluation")

    def test_train_for_a_person(self, model, here, monkeypatch, capsys) -> None:
        """Paths with brackets in them are no markup."""
        out_folder = "runs/[/x] [bold]"
        args = ("train", *self.tiny(model), "--out", out_folder)
        code, out, err = in_process(monkeypatch, capsys, *args)
        assert (code, err) == (0, "")
        assert f"run folder: {out_folder}" in out
        assert "1 step: 2 prompts x 8 samples = 16 samples; up to 2 updates of 1 prompt" in out
        assert f"model:   {out_folder}/checkpoints/step-1" in out
        assert "[-min(s A, clip(s, 0.8, 1.28) A)]" in out
        assert "held-out accuracy: " in out

    @pytest.mark.parametrize("moment", ["begun", "before", "early"])
    def test_stopped_by_hand(self, model, here, monkeypatch, capsys, moment) -> None:
        def stop(*_, **__):
            raise KeyboardInterrupt

        target = {
            "begun": "winnow.training.run.run_loop",
            "before": "winnow.training.setup.engine_for",
            "early": "winnow.config.recipe.load",
        }
        monkeypatch.setattr(target[moment], stop)
        args = ("train", *self.tiny(model), "--out", "mine")
        code, _, err = in_process(monkeypatch, capsys, *args)
        assert code == 130
        assert (
            err
            == {
                "begun": "winnow: stopped; resume: winnow train --resume mine\n",
                "before": "winnow: stopped before it began\n",
                "early": "winnow: stopped\n",
            }[moment]
        )
        assert (here / "mine").exists() is (moment == "begun")

    def test_a_message_of_several_lines_becomes_one(self, here, monkeypatch, capsys) -> None:
        def fail(*_, **__):
            raise WinnowError("it broke:\n  here\n\n  and there")

        monkeypatch.setattr("winnow.training.run.run", fail)
        code, _, err = in_process(monkeypatch, capsys, "train")
        assert (code, err) == (1, "winnow: it broke: here and there\n")

    def test_algorithms(self, monkeypatch, capsys) -> None:
        code, out, _ = in_process(monkeypatch, capsys, "algorithms", "--json")
        rows = json.loads(out)
        assert code == 0
        assert [row["name"] for row in rows] == list(ALGORITHMS)
        for row in rows:
            cells = ALGORITHMS[row["name"]].cells()
            assert cells.items() <= row.items()
            assert row["paper"]
            assert row["note"]

    @pytest.mark.parametrize("width", [80, 100, 200])
    def test_the_table_shows_every_cell_of_every_row(self, width, monkeypatch, capsys) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        _, out, _ = in_process(monkeypatch, capsys, "algorithms")
        lines = out.splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in out
        table = lines[: lines.index(" " * width) if " " * width in lines else lines.index("")]
        headings = re.findall(r"\S+", table[0])
        starts = [table[0].index(heading) for heading in headings]
        assert headings[0] == "algorithm"
        assert headings[-1] == "denominator"
        shown: dict[str, list[str]] = {}
        name = ""
        for line in table[1:]:
            cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
            name = cells[0] or name
            shown[name] = [a + b for a, b in zip(shown.get(name, [""] * 7), cells, strict=True)]
        assert list(shown) == list(ALGORITHMS)
        for name, row in shown.items():
            cells = ALGORITHMS[name].cells()
            expected = [cells["reward_scale"], ",".join(cells["select"]), cells["advantage"]]
            expected += [cells["loss"], cells["denominator"]]
            assert [c.replace(" ", "") for c in row[2:]] == [e.replace(" ", "") for e in expected]
        notes = re.sub(r"\s+", "", out)
        for algorithm in ALGORITHMS.values():
            for said in (algorithm.formula, algorithm.note, algorithm.paper):
                assert re.sub(r"\s+", "", said) in notes

    def test_settings(self, monkeypatch, capsys, tmp_path) -> None:
        """All of them, as a recipe that says what is so anyway."""
        code, out, _ = in_process(monkeypatch, capsys, "settings")
        assert code == 0
        assert from_dict(tomllib.loads(out)) == Config()
        keys = [re.match(r"(?:# )?([a-z_.]+) = ", line)[1] for line in out.splitlines()]
        assert keys == [row["key"] for row in describe()]
        code, out, _ = in_process(monkeypatch, capsys, "settings", "--json")
        assert code == 0
        assert json.loads(out) == describe()

    @pytest.mark.parametrize("width", [60, 80, 100, 200])
    def test_settings_fit_a_terminal(self, width) -> None:
        """The same recipe, the same help, no line longer than the terminal is wide."""
        lines = list(settings_recipe(describe(), width))
        assert max(map(len, lines)) <= width
        assert from_dict(tomllib.loads("\n".join(lines))) == Config()
        said = re.sub(r"[#\s]+", "", "".join(lines))
        for setting in describe():
            assert any(re.match(rf"(# )?{re.escape(setting['key'])} =", line) for line in lines)
            assert re.sub(r"[#\s]+", "", f"{setting['help']} ({setting['type']})") in said
        (whole, *_) = settings_recipe(describe(), None)
        assert whole.startswith("model = ")

    @pytest.mark.parametrize("width", [40, 60, 76])
    def test_names_of_algorithms_are_whole_however_narrow(self, width, monkeypatch, capsys) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        _, out, _ = in_process(monkeypatch, capsys, "algorithms")
        assert max(map(len, out.splitlines())) <= width
        assert re.findall(r"^algorithm +(\S+)", out, re.MULTILINE) == list(ALGORITHMS)


class TestHelp:
    @pytest.fixture(scope="class")
    def helps(self, tmp_path_factory, no_torch) -> dict[str, Done]:
        folder = tmp_path_factory.mktemp("help")
        asked = [[], ["--help"], *([command, "--help"] for command in COMMANDS)]
        done = forked([(args, folder) for args in asked], no_torch)
        return {" ".join(args): each for args, each in zip(asked, done, strict=True)}

    def test_every_command_has_help_with_an_example(self, helps) -> None:
        assert helps["--help"].stdout == helps[""].stdout
        for args, done in helps.items():
            assert (done.returncode, done.stderr) == (0, ""), args
            assert re.search(r"Example:\s+winnow", done.stdout), args
            assert max(map(len, done.stdout.splitlines())) <= 100
        listed = re.findall(r"^  (\w[\w-]*)  +[A-Z]", helps["--help"].stdout, re.MULTILINE)
        assert listed == list(COMMANDS)

    def test_every_recipe_is_named(self, helps) -> None:
        for command in ("train", "eval"):
            for recipe in recipes():
                assert recipe in helps[f"{command} --help"].stdout

    @pytest.mark.parametrize(
        ("command", "name"), [("train", "ALGORITHM"), ("eval", "eval"), ("sample", "sample")]
    )
    def test_the_default_folder_is_named(self, helps, command, name) -> None:
        text = "".join(helps[f"{command} --help"].stdout.split())
        assert f"Default:runs/NAME-{name}-001" in text

    def test_help_loads_little(self) -> None:
        """Nothing that takes a tenth of a second: models, data, settings, tables."""
        code = (
            "import sys; from winnow.cli.main import main\n"
            "sys.argv = ['winnow', 'train', '--help']\n"
            "try:\n    main()\nexcept SystemExit: pass\n"
            "heavy = {'torch', 'transformers', 'pyarrow', 'numpy', 'rich.table'}\n"
            "heavy |= {'winnow.config.schema'}\n"
            "print('heavy:', sorted(heavy & sys.modules.keys()))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.endswith("heavy: []\n")

    def test_a_pipe_that_closes_early_is_no_fault(self, tmp_path) -> None:
        done = subprocess.run(
            f"{sys.executable} -m winnow settings | true",
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
