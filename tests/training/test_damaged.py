"""A damaged checkpoint is named, and the run resumes from the one before as if it had not been."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.kills import FIRST, KillAt, check_same, go
from tests.kills import config as small_config
from tests.training.faked import settings, trained
from winnow.config.schema import from_dict
from winnow.errors import Stopped, UserError
from winnow.storage.checkpoints import Damaged, open_sealed
from winnow.storage.run_folder import RunStore
from winnow.training.run import run


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a run with checkpoints of steps 2 and 4, its last."""
    return settings(tmp_path, monkeypatch)


def resumed(folder: Path, reward: Any = None) -> list[str]:
    """The notes of a run that is resumed."""
    listener = KillAt()
    run(resume=folder, observers=listener, reward=reward)
    return listener.notes


def flip(path: Path, at: float = 0.5) -> None:
    """Flip one bit at a share of a file's length."""
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def becomes(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


HOW: dict[str, Callable[[Path], object]] = {
    "a bit": flip,
    "its first bit": lambda path: flip(path, 0),
    "missing": Path.unlink,
    "empty": becomes(""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"}"),
    "an object": becomes("{}"),
    "a list": becomes("[]"),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\0"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", ["state.json", "logits.json", "version"])
def test_the_one_before_is_resumed_from(fake: dict[str, Any], tmp_path: Path, name: str) -> None:
    whole = trained(fake, tmp_path / "whole")
    for how, damage in HOW.items():
        broken = tmp_path / how
        shutil.copytree(whole, broken)
        damage(broken / "checkpoints/step-4" / name)
        notes = resumed(broken)
        said = [note for note in notes if "damaged" in note]
        assert (  # 6 prompts x 8 samples a step
            "resuming from step-2; 96 samples of steps 3 to 4 are reused; "
            "samples of the evaluation after step 4 are reused"
        ) in notes
        assert len(said) == 1, how
        assert said[0].startswith(f"checkpoint step-4 is damaged ({name}"), said
        assert said[0].endswith("): step-4 is set aside as step-4.set-aside")
        check_same(whole, broken)
        assert sorted(p.name for p in (broken / "checkpoints").iterdir()) == ["step-2", "step-4"]


STATES: tuple[Any, ...] = (
    {"step": 4, "policy_version": "8", "source": {}},
    {"step": 4, "policy_version": 8.0, "source": {}},
    {"step": 4, "policy_version": 8, "source": []},
    {"step": 2, "policy_version": 4, "source": {}},
    {"step": "4"},
    {"step": True},
    {"policy_version": 8},
    {"step": 4, "sha256": {}},
    {"step": 4, "sha256_of_this": "0"},
    4,
    None,
)


def test_a_state_of_other_types(fake: dict[str, Any], tmp_path: Path) -> None:
    whole = trained(fake, tmp_path / "whole")
    for number, state in enumerate(STATES):
        broken = tmp_path / str(number)
        shutil.copytree(whole, broken)
        (broken / "checkpoints/step-4/state.json").write_text(json.dumps(state))
        assert resumed(broken)[0].startswith("checkpoint step-4 is damaged (state.json"), state
        check_same(whole, broken)


def test_every_bit_of_a_state_counts(fake: dict[str, Any], tmp_path: Path) -> None:
    folder = trained(fake, tmp_path / "run")
    path = folder / "checkpoints/step-4/state.json"
    text = path.read_bytes()
    state = open_sealed(path.parent)
    for at in range(len(text)):
        for bit in (1, 4, 32):
            path.write_bytes(text[:at] + bytes([text[at] ^ bit]) + text[at + 1 :])
            with suppress(Damaged):
                assert open_sealed(path.parent) == state  # white space


def test_all_of_them(fake: dict[str, Any], tmp_path: Path) -> None:
    """Then the run begins anew, and its samples are those that it has."""
    whole, broken = trained(fake, tmp_path / "whole"), tmp_path / "broken"
    shutil.copytree(whole, broken)
    for step in (2, 4):
        flip(broken / f"checkpoints/step-{step}/logits.json")
    notes = resumed(broken)
    assert [note.split(" is damaged")[0] for note in notes[:2]] == [
        "checkpoint step-4",
        "checkpoint step-2",
    ]
    assert notes[2].startswith("no checkpoint is left: the run begins anew")
    check_same(whole, broken)


@pytest.mark.parametrize("case", ["best", "phase"])
def test_one_that_is_needed_beside_the_newest(
    fake: dict[str, Any], tmp_path: Path, case: str
) -> None:
    """Early stopping ends with its best; a reference may be what a phase began with."""
    if case == "best":
        fake.update(steps=40, checkpoint={"every": 2, "keep": 1})
        fake["eval"] = {"size": 4, "samples": 8, "every": 1, "patience": 2}
    else:
        kl = {"algorithm": {"name": "rloo", "kl": "in-reward(0.05)"}, "steps": 2}
        fake.update(phases=[{"algorithm": "raft", "steps": 2}, kl], reference="phase")
        fake["checkpoint"] = {"every": 1, "keep": 1}
        del fake["steps"], fake["algorithm"]
    whole, broken = trained(fake, tmp_path / "whole"), tmp_path / "broken"
    shutil.copytree(whole, broken)
    if case == "phase":  # killed after step 3
        shutil.rmtree(broken)
        with pytest.raises(Stopped):
            run(from_dict(fake), out=broken, observers=_AfterStep(3))
    first, last = [step for step, _ in RunStore(broken).checkpoints()]
    flip(broken / f"checkpoints/step-{first}/logits.json")
    notes = resumed(broken)
    for note, step in zip(notes[:2], (last, first), strict=True):
        assert note.startswith(f"checkpoint step-{first} is damaged (logits.json"), notes
        assert note.endswith(f": step-{step} is set aside as step-{step}.set-aside")
    check_same(whole, broken)


class _AfterStep(KillAt):
    """Dies when a checkpoint has been saved."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_checkpoint(self, checkpoint: Any) -> None:
        if checkpoint.step == self.step:
            raise KeyboardInterrupt


def without_digests(folder: Path) -> None:
    """Make the checkpoints of a run those of an earlier version."""
    for path in folder.glob("checkpoints/*/state.json"):
        told = json.loads(path.read_text())
        del told["sha256"], told["sha256_of_this"]
        path.write_text(json.dumps(told, indent=2) + "\n")


def test_checkpoints_of_earlier_versions(fake: dict[str, Any], tmp_path: Path) -> None:
    whole, broken = trained(fake, tmp_path / "whole"), tmp_path / "broken"
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints/step-4")
    without_digests(broken)
    assert resumed(broken)[0] == "step-2 has no digests (an earlier version wrote it)"
    check_same(whole, broken)


def test_weights_and_optimizer(tiny_model: Path, tmp_path: Path) -> None:
    """Of a real model, with digests and, as far as can be seen without, for lack of them."""
    settings = small_config(tiny_model, tmp_path, checkpoint={"every": 2, "keep": 2})
    whole = go(settings, tmp_path / "whole", FIRST).folder
    saved = [path.name for path in (whole / "checkpoints/step-3").iterdir()]
    assert {"model.safetensors", "optimizer.pt", "config.json", "tokenizer.json"} <= set(saved)
    cases = [(name, flip, True) for name in ("model.safetensors", "optimizer.pt")]
    for name in ("model.safetensors", "optimizer.pt", "config.json"):
        cases += [(name, HOW[how], False) for how in ("empty", "cut short")]
    cases.append(("optimizer.pt", flip, False))  # which has checksums of its own
    for number, (name, damage, digests) in enumerate(cases):
        broken = tmp_path / str(number)
        shutil.copytree(whole, broken)
        if not digests:
            without_digests(broken)
        damage(broken / "checkpoints/step-3" / name)
        assert resumed(broken, FIRST)[0].startswith(f"checkpoint step-3 is damaged ({name}")
        check_same(whole, broken)


def test_damaged_samples_of_an_evaluation_are_told(fake: dict[str, Any], tmp_path: Path) -> None:
    folder = trained(fake, tmp_path / "run")
    (folder / "rollouts/eval-000000.parquet").write_bytes(b"PAR1")
    notes = [note for note in resumed(folder) if note.startswith("what was gained cannot be told")]
    assert len(notes) == 1
    assert "eval-000000.parquet" in notes[0]


def test_a_final_model_is_made_again(fake: dict[str, Any], tmp_path: Path) -> None:
    fake["checkpoint"]["average"] = 0.25
    whole, broken = trained(fake, tmp_path / "whole"), tmp_path / "broken"
    for name in ("logits.json", "winnow-sha256.json"):
        for how in ("a bit", "missing", "empty"):
            if (name, how) == ("winnow-sha256.json", "missing"):
                continue  # as earlier versions left it
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(whole, broken)
            HOW[how](broken / "final" / name)
            notes = resumed(broken)
            assert notes[0].startswith(f"final is damaged ({name}"), notes
            assert notes[0].endswith("): it is made again")
            check_same(whole, broken)
            assert not [note for note in resumed(broken) if "damaged" in note]


def test_a_final_model_and_a_base_that_are_loaded(tiny_model: Path, tmp_path: Path) -> None:
    """A model of one's own names what is damaged in it; a run makes its own copy again."""
    small = small_config(tiny_model, tmp_path, lora={"rank": 2}, steps=1)
    first = go(small, tmp_path / "first", FIRST).checkpoint
    lora = {"rank": 2, "merge": True}
    place, kept = tmp_path / "run", tmp_path / "kept"
    settings = small_config(first, tmp_path, lora=lora, checkpoint={"every": 1, "keep": 2})
    final = go(settings, place, FIRST).checkpoint
    shutil.copytree(place, kept)
    flip(place / "base/model.safetensors")
    notes = resumed(place, FIRST)
    assert any(
        f"{place / 'base'} was damaged (model.safetensors: not what was written, by its SHA-256) "
        "and is written again" in note
        for note in notes
    ), notes
    check_same(kept, place)
    flip(final / "model.safetensors")
    with pytest.raises(UserError, match=r"^model: .*final' is damaged \(model\.safetensors: "):
        go(small_config(final, tmp_path), tmp_path / "second", FIRST)
    assert not (tmp_path / "second").exists()
    (final / "winnow-sha256.json").unlink()
    shutil.copyfile(kept / "final/model.safetensors", final / "model.safetensors")
    go(small_config(final, tmp_path, steps=1), tmp_path / "second", FIRST)


def lengthened(folder: Path, old: int, new: int) -> None:
    file = folder / "config.toml"
    text = file.read_text()
    assert f"\nsteps = {old}\n" in text
    file.write_text(text.replace(f"\nsteps = {old}\n", f"\nsteps = {new}\n"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "optimizer.pt", "version"])
def test_a_missing_file_of_a_checkpoint_of_an_earlier_version(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    """Nothing tells that it was there, until it is read."""
    if name == "version":  # of the fake engine
        folder, reward = trained(request.getfixturevalue("fake"), tmp_path / "run"), None
        lengthened(folder, 4, 6)
    else:
        model, reward = request.getfixturevalue("tiny_model"), FIRST
        folder = go(small_config(model, tmp_path, steps=1), tmp_path / "run", reward).folder
        lengthened(folder, 1, 2)
    without_digests(folder)
    (checkpoint,) = sorted((folder / "checkpoints").iterdir())[-1:]
    (checkpoint / name).unlink()
    with pytest.raises(UserError) as told:
        resumed(folder, reward)
    assert checkpoint.name in str(told.value)
    assert name in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["metrics.jsonl", "evals.jsonl"])
@pytest.mark.parametrize("how", ["gone", "a row less", "no last newline", "empty"])
def test_rows_that_a_checkpoint_counts_on_are_missed(
    fake: dict[str, Any], tmp_path: Path, name: str, how: str
) -> None:
    """A budget, early stopping and what was gained are read from them."""
    fake["eval"] = {**fake.get("eval", {}), "every": 1}
    folder = trained(fake, tmp_path / "run")
    path, step = folder / name, 4
    rows = path.read_bytes().splitlines(keepends=True)
    if how == "gone":
        path.unlink()
    else:
        less = {"a row less": [rows[0], *rows[2:]], "empty": []}
        path.write_bytes(b"".join(less.get(how, rows)).removesuffix(b"\n"))
        if how == "a row less":
            path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UserError, match=rf"{name} lacks .* rows? ") as caught:
        run(resume=folder, observers=KillAt())
    assert f"checkpoints/step-{step}" in caught.value.remedy
    path.write_bytes(b"".join(rows))
    assert "all 4 steps are done" in resumed(folder)[-1]
