"""What has changed between two parts of a run is named, and refused unless it is accepted."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import winnow
from tests import fake_engine
from tests.kills import KillAt, Killed, check_same, lines
from tests.training.faked import settings, trained
from tests.training.test_fake_engine import ROWS
from winnow.config.recipe import load_folder
from winnow.config.schema import from_dict
from winnow.errors import UserError, WinnowError, notes
from winnow.prompts.loading import load_prompts
from winnow.rollouts.inputs import check_inputs, inputs_of, text_of
from winnow.training.run import run


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return settings(tmp_path, monkeypatch)


def resumed(folder: Path, **how: Any) -> list[str]:
    listener = KillAt()
    run(resume=folder, observers=listener, **how)
    return listener.notes


def edit(folder: Path, pattern: str, new: str) -> None:
    path = folder / "config.toml"
    text, times = re.subn(pattern, new, path.read_text(), flags=re.MULTILINE)
    assert times == 1
    path.write_text(text)


EDITS = {
    "samples_per_prompt 8 -> 4": (r"^samples_per_prompt = 8$", "samples_per_prompt = 4"),
    "sampling.temperature 1.0 -> 0.5": (r"^temperature = 1.0$", "temperature = 0.5"),
    "optimizer.lr 2.0 -> 0.5": (r"^lr = 2.0$", "lr = 0.5"),
    "seed 0 -> 1": (r"^seed = 0$", "seed = 1"),
    "steps 4 -> 3": (r"^steps = 4$", "steps = 3"),
    "prompts.limit unset -> 7": (r"^size = 10000$", "size = 10000\nlimit = 7"),
    "sampling.max_tokens 4 -> 256": (r"^max_tokens = 4\n", ""),
}
BY_ANOTHER_CHECK = {"sampling.max_tokens 4 -> 256": "leaves no room"}
"""What is refused all the same when the change is accepted."""


@pytest.mark.parametrize("said", EDITS)
def test_a_setting(given: dict[str, Any], tmp_path: Path, said: str) -> None:
    folder = trained(given, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints/step-4")
    edit(folder, *EDITS[said])
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"^resume: .* \(--accept-changes\)$") as caught:
        resumed(folder)
    assert said in str(caught.value)
    assert (folder / "metrics.jsonl").read_bytes() == before
    if said in BY_ANOTHER_CHECK:
        with pytest.raises(UserError, match=BY_ANOTHER_CHECK[said]):
            resumed(folder, accept_changes=True)
        return
    (note, *_) = resumed(folder, accept_changes=True)
    assert said in note
    changes = json.loads((folder / "inputs.json").read_text())["changes"]
    assert len(changes) == 1
    assert said in changes[0]
    assert not [n for n in resumed(folder) if n.startswith("changed")]  # they are known


def test_data(given: dict[str, Any], tmp_path: Path) -> None:
    folder = trained(given, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints/step-4")
    source = tmp_path / "prompts.jsonl"
    rows = [{**row, "answer": "8"} for row in ROWS]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as caught:
        resumed(folder)
    for part in ("training", "held-out"):
        assert f"the answers of the {part} prompts" in str(caught.value)
        assert f"the texts of the {part} prompts" not in str(caught.value)
    moved = tmp_path / "moved.jsonl"
    moved.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    edit(folder, re.escape(str(source)), str(moved))
    (note, *_) = resumed(folder)  # the same in another place
    assert note.startswith(f"changed since {folder} was begun: prompts.source ")


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_more_steps(given: dict[str, Any], tmp_path: Path, average: float) -> None:
    """A run that has ended, made longer, ends as one that was as long from the start."""
    given["checkpoint"] = {"every": 2, "keep": 9, "average": average}
    given["eval"] = {"size": 4, "samples": 8, "every": 1}
    whole = trained({**given, "steps": 6}, tmp_path / "whole")
    folder = trained(given, tmp_path / "run")
    assert resumed(folder)[0].startswith(
        "all 4 steps are done, so nothing is trained; for more, raise steps in "
    )
    edit(folder, r"^steps = 4$", "steps = 6")
    notes = resumed(folder)
    assert notes[0] == f"changed since {folder} was begun: steps 4 -> 6"
    assert lines(folder, "metrics.jsonl") == lines(whole, "metrics.jsonl")
    if average:
        assert [row["split"] for row in lines(folder, "evals.jsonl")].count("final") == 1
        (folder / "rollouts/final-000004.parquet").unlink()
    check_same(whole, folder)


def test_more_steps_of_another_schedule(given: dict[str, Any], tmp_path: Path) -> None:
    """The learning rates of the steps before would have been others."""
    given["optimizer"] = {"lr": 2.0, "schedule": "cosine"}
    folder = trained(given, tmp_path / "run")
    edit(folder, r"^steps = 4$", "steps = 6")
    with pytest.raises(UserError, match=r"\(steps 4 -> 6\)"):
        resumed(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"settings": 1, "data": {}}'])
def test_a_damaged_record(given: dict[str, Any], tmp_path: Path, text: str) -> None:
    folder = trained(given, tmp_path / "run")
    (folder / "inputs.json").write_text(text)
    with pytest.raises(UserError, match=r"^resume: .*inputs\.json is damaged; remove it"):
        resumed(folder)


def test_a_record_with_another_value(given: dict[str, Any], tmp_path: Path) -> None:
    """It is the record that is damaged, and not the settings that have changed."""
    folder = trained(given, tmp_path / "run")
    path = folder / "inputs.json"
    text = path.read_text()
    path.write_text(text.replace('"optimizer.lr": 2.0', '"optimizer.lr": 3.0'))
    with pytest.raises(UserError, match=r"^resume: .*inputs\.json is damaged; remove it"):
        resumed(folder)
    told = json.loads(text)
    del told["sha256_of_this"]
    path.write_text(json.dumps(told))  # of an earlier version
    assert resumed(folder)[0].startswith(
        "all 4 steps are done, so nothing is trained; for more, raise steps in "
    )


MISTAKES = {
    "'sazpling.max_tokens': did you mean 'sampling.max_tokens'?": (r"^\[sampling\]$", "[sazpling]"),
    "seed: must be": (r"^seed = 0$", 'seed = "x"'),
    "is not valid TOML": (r"^seed = 0$", "seed 0"),
    "prompts.source: ": (r"prompts\.jsonl", "nowhere.jsonl"),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_what_is_wrong_with_the_settings_names_their_file(
    given: dict[str, Any], tmp_path: Path, said: str
) -> None:
    folder = trained(given, tmp_path / "run")
    edit(folder, *MISTAKES[said])
    with pytest.raises(UserError) as caught:
        resumed(folder)
    line = "; ".join([str(caught.value), *notes(caught.value)])
    assert said in line
    assert line.count(str(folder / "config.toml")) == 1, line


def test_a_run_of_an_earlier_version(given: dict[str, Any], tmp_path: Path) -> None:
    folder = trained(given, tmp_path / "run")
    (folder / "inputs.json").unlink()
    assert "has no inputs.json (an earlier version wrote it)" in resumed(folder)[0]
    assert not [note for note in resumed(folder) if "inputs.json" in note]


def test_a_folder_of_samples(given: dict[str, Any], tmp_path: Path) -> None:
    for key in ("algorithm", "steps", "eval", "checkpoint", "optimizer", "minibatch_prompts"):
        del given[key]
    own = {**given, "eval": {"size": 0}, "quiet": True}
    folder = winnow.sample(**own, out=tmp_path / "pool").folder
    edit(folder, r"^samples_per_prompt = 8$", "samples_per_prompt = 9")
    assert winnow.sample(resume=folder, quiet=True).sampled.made == len(ROWS)
    edit(folder, r"^temperature = 1.0$", "temperature = 0.5")
    with pytest.raises(UserError, match=r"sampling\.temperature 1\.0 -> 0\.5\); restore them"):
        winnow.sample(resume=folder, quiet=True)
    assert winnow.sample(resume=folder, quiet=True, accept_changes=True).sampled.made == 0
    with pytest.raises(UserError, match=r"^accept_changes: it is for what is resumed"):
        winnow.sample(**own, out=tmp_path / "other", accept_changes=True)


def test_what_holds_nothing_yet_takes_other_settings(given: dict[str, Any], tmp_path: Path) -> None:
    """A run that ended before its first sample: no sample and no step is of other settings."""
    folder = trained(given, tmp_path / "run")
    for name in ("rollouts", "checkpoints"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    for name in ("metrics.jsonl", "evals.jsonl"):
        (folder / name).unlink()
    edit(folder, *EDITS["optimizer.lr 2.0 -> 0.5"])
    (note, *_) = resumed(folder)
    assert note.endswith("was begun: optimizer.lr 2.0 -> 0.5")
    edit(folder, r"^lr = 0.5$", "lr = 1.0")
    with pytest.raises(UserError, match="begun with other settings"):
        resumed(folder)


def test_the_data_of_test_prompts(given: dict[str, Any], tmp_path: Path) -> None:
    """What they were tested with at the start is what they are tested with at the end."""
    given["eval"] = {"size": 3, "samples": 8, "every": 1, "patience": 4, "test_size": 3}
    folder = trained(given, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints/step-4")
    inputs = json.loads((folder / "inputs.json").read_text())
    assert [key for key in inputs["data"] if "of the test prompts" in key]
    config = load_folder(folder)
    test = {prompt.text for prompt in load_prompts(config.prompts, config.eval, config.seed).test}
    rows = [{**row, "answer": "8"} if row["prompt"] in test else row for row in ROWS]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as caught:
        resumed(folder)
    assert "the answers of the test prompts" in str(caught.value)
    assert "held-out prompts" not in str(caught.value)
    data = {key: value for key, value in inputs["data"].items() if "of the test" not in key}
    earlier = {"settings": inputs["settings"], "data": data}
    (folder / "inputs.json").write_text(text_of(earlier))
    resumed(folder)


@pytest.mark.parametrize(
    ("more", "pattern", "new", "goes_on"),
    [
        ({"budget": {"updates": 2}}, r"^updates = 2$", "updates = 9", True),
        ({"budget": {"updates": 2}}, r"^updates = 2$", "updates = 0", True),
        ({"budget": {"updates": 2}}, r"^updates = 2$", "updates = 1", False),
        ({"eval": {"patience": 1}}, r"^patience = 1$", "patience = 9", True),
    ],
)
def test_what_a_run_that_stopped_is_told_to_raise(
    given: dict[str, Any],
    tmp_path: Path,
    more: dict[str, Any],
    pattern: str,
    new: str,
    goes_on: bool,
) -> None:
    """A schedule runs over all steps, whatever ends them before."""
    given["optimizer"] = {"lr": 0.0 if "eval" in more else 2.0, "schedule": "linear"}
    given["eval"] = {"size": 4, "samples": 8, "every": 1, **more.pop("eval", {})}
    given["checkpoint"] = {"every": 1, "keep": 9}
    folder = trained({**given, **more}, tmp_path / "run")
    done = len(lines(folder, "metrics.jsonl"))
    assert done < 4
    told = "\n".join(resumed(folder))
    assert re.search(r"for more, raise (budget|eval\.patience) in ", told)
    edit(folder, pattern, new)
    if goes_on:
        resumed(folder)
        assert len(lines(folder, "metrics.jsonl")) > done
    else:
        with pytest.raises(UserError, match=r"budget.updates 2 -> 1"):
            resumed(folder)


@pytest.mark.parametrize("more", [{"algorithm": "rft"}, {"optimizer": {"schedule": "linear"}}])
def test_what_cannot_be_made_longer_is_told_so(
    given: dict[str, Any], tmp_path: Path, more: dict[str, Any]
) -> None:
    folder = trained({**given, **more}, tmp_path / "run")
    told = "\n".join(resumed(folder))
    assert re.search(r"for more, begin a new run with its model: --set model=.*/step-\d+", told)


def test_a_change_that_is_refused_later_is_not_recorded(
    given: dict[str, Any], tmp_path: Path
) -> None:
    given["checkpoint"] = {"every": 2, "keep": 1, "keep_optimizer": False}
    folder = trained(given, tmp_path / "run")
    edit(folder, r"^steps = 4$", "steps = 6")
    with pytest.raises(UserError, match="it cannot be made longer"):
        resumed(folder)
    edit(folder, r"^steps = 6$", "steps = 4")
    assert not [note for note in resumed(folder) if "changed" in note]


@pytest.mark.parametrize(
    ("pattern", "new", "why"),
    [
        (r"^max_tokens = 4\n", "", "leaves no room"),
        (r'^name = "exact"$', 'name = "nowhere:x"', "nowhere"),
    ],
)
def test_a_change_that_is_refused_later_sets_nothing_aside(
    given: dict[str, Any], tmp_path: Path, pattern: str, new: str, why: str
) -> None:
    """With the settings as they were the run resumes as if the change had never been tried."""
    folder = trained(given, tmp_path / "run")
    shutil.copytree(folder, tmp_path / "whole")
    shutil.rmtree(folder / "checkpoints/step-4")
    text = (folder / "config.toml").read_text()
    edit(folder, pattern, new)
    with pytest.raises(UserError, match=why):
        resumed(folder, accept_changes=True)
    (folder / "config.toml").write_text(text)
    (note, *_) = resumed(folder)
    assert note.startswith("resuming from step-2; 96 samples of steps 3 to 4 are reused")
    assert not (folder / "superseded").exists()
    check_same(tmp_path / "whole", folder)


@pytest.mark.parametrize(
    ("section", "key", "values"),
    [
        ("engine", "urls", (["http://a:8000"], ["http://b:8000"])),
        ("engine", "servers", (1, 2)),
        ("engine", "vllm_port", (0, 9000)),
        ("engine", "transfer_dir", ("/a", "/b")),
        ("reward", "import_seconds", (60.0, 120.0)),
        ("reward", "memory_gib", (1.0, 2.0)),
    ],
)
def test_where_and_how_may_change(
    tmp_path: Path, section: str, key: str, values: tuple[Any, Any]
) -> None:
    old, new = (inputs_of({section: {key: value}}, {}) for value in values)
    (tmp_path / "inputs.json").write_text(text_of(old))
    (note,) = check_inputs(tmp_path, new, accept=False)
    assert f"{section}.{key}" in note


def test_updates_in_a_row_that_are_not_finite_are_counted_over_a_kill(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second stops the run, also where the first was before it."""
    real = fake_engine.Learner.step

    def failing(self: Any, *batch: Any) -> Any:
        done = real(self, *batch)
        return replace(
            done, applied=self.version < 3, loss=done.loss if self.version < 3 else math.nan
        )

    monkeypatch.setattr(fake_engine.Learner, "step", failing)
    given |= {"checkpoint": {"every": 1, "keep": 1}, "eval": {"size": 0}, "minibatch_prompts": 6}
    with pytest.raises(WinnowError, match=r"^step 4: not finite for the second update running"):
        trained(given, tmp_path / "whole")

    class Killing(KillAt):
        def on_checkpoint(self, event: Any) -> None:
            if event.step == 3:
                raise Killed

    with pytest.raises(Killed):
        run(from_dict(given), out=tmp_path / "broken", observers=Killing())
    with pytest.raises(WinnowError, match=r"^step 4: not finite for the second update running"):
        resumed(tmp_path / "broken")


@pytest.mark.parametrize(
    "said",
    [
        "optimizer.lr 2.0 -> 0.5",
        "samples_per_prompt 8 -> 4",
        "sampling.temperature 1.0 -> 0.5",
        "seed 0 -> 1",
        "prompts.limit unset -> 7",
    ],
)
def test_what_other_settings_made_after_the_checkpoint_is_not_used(
    given: dict[str, Any], tmp_path: Path, said: str
) -> None:
    """Of training and of evaluations. The run resumes as if it were not there, and it is kept."""
    given["eval"] = {"size": 4, "samples": 8, "every": 1}
    folder = trained(given, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints/step-4")
    edit(folder, *EDITS[said])
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    later = [f"{split}-{step:06d}" for split in ("eval", "train") for step in (3, 4)]
    for name in later:
        (bare / f"rollouts/{name}.parquet").unlink()
    notes = resumed(folder, accept_changes=True)
    resumed(bare, accept_changes=True)
    check_same(bare, folder)
    aside = sorted(path.name for path in (folder / "superseded").iterdir())
    assert aside == [f"{name}-before-3.parquet" for name in later]
    assert not any("reused" in note for note in notes)


def test_what_was_sampled_once_before_the_checkpoint_is_used_whatever_has_changed(
    given: dict[str, Any], tmp_path: Path
) -> None:
    """The weights that sampled it are gone."""
    given |= {"algorithm": {"name": "rft", "epochs": 2}, "steps": 2}
    given["eval"] = {"size": 4, "samples": 8, "every": 1}
    folder = trained(given, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints/step-4")
    files = {f: f.read_bytes() for f in folder.glob("rollouts/train-*.parquet")}
    assert len(files) == 2
    edit(folder, *EDITS["optimizer.lr 2.0 -> 0.5"])
    resumed(folder, accept_changes=True)
    assert {f: f.read_bytes() for f in folder.glob("rollouts/train-*.parquet")} == files
    aside = sorted(path.name for path in (folder / "superseded").iterdir())
    assert aside == ["eval-000003-before-3.parquet", "eval-000004-before-3.parquet"]


def test_at_the_start_nothing_that_other_settings_made_is_used(
    given: dict[str, Any], tmp_path: Path
) -> None:
    folder = trained(given, tmp_path / "run")
    for path in (folder / "checkpoints").iterdir():
        shutil.rmtree(path)
    edit(folder, *EDITS["sampling.temperature 1.0 -> 0.5"])
    resumed(folder, accept_changes=True)
    given["sampling"] = {**given["sampling"], "temperature": 0.5}
    check_same(trained(given, tmp_path / "other"), folder)
