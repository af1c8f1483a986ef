"""Digests of the files of a folder, and of a file within itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from winnow.errors import UserError
from winnow.storage.digests import (
    DIGESTS,
    Damaged,
    check_model,
    damage_of,
    read_signed,
    signed,
    whole_model,
)


def model(path: Path) -> Path:
    def save(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "weights").write_bytes(bytes(range(200)))
        (folder / "inner/vocabulary").write_text("a b")

    whole_model(path, save)
    return path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["weights", "inner/vocabulary"])
def test_a_flipped_byte_is_named(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "final")
    check_model(folder, "model", ())
    assert damage_of(folder) is None
    flip(folder / name, 1)
    said = f"{name}: not what was written, by its SHA-256"
    assert damage_of(folder) == said
    with pytest.raises(UserError) as told:
        check_model(folder, "model", ())
    assert str(told.value) == (
        f"model: {str(folder)!r} is damaged ({said}); restore it from a copy, or, if the change is "
        "your own, remove its winnow-sha256.json"
    )
    check_model(folder, "model", (Path(name).name,))  # is not going to be read


def test_a_missing_file_is_named_and_one_of_a_person_s_own_is_no_damage(tmp_path: Path) -> None:
    folder = model(tmp_path / "final")
    (folder / "README.md").write_text("mine")
    assert damage_of(folder) is None
    (folder / "weights").unlink()
    assert damage_of(folder) == "weights is missing"


def test_digests_tell_their_own_damage(tmp_path: Path) -> None:
    folder = model(tmp_path / "final")
    text = (folder / DIGESTS).read_bytes()
    told = json.loads(text)
    for at in range(len(text)):
        (folder / DIGESTS).write_bytes(text)
        flip(folder / DIGESTS, at)
        try:
            same = json.loads((folder / DIGESTS).read_bytes()) == told  # white space
        except ValueError:
            same = False
        assert (damage_of(folder) is None) == same, at


def test_a_folder_without_digests_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = model(tmp_path / "final")
    (folder / DIGESTS).unlink()
    flip(folder / "weights", 3)
    check_model(folder, "model", ())
    assert damage_of(folder) is None


@pytest.mark.parametrize("told", [{}, {"a": {"b": [1, 2.5, None]}, "c": "\u2028"}])
def test_an_object_with_a_digest_of_itself(tmp_path: Path, told: dict[str, object]) -> None:
    path = tmp_path / "inputs.json"
    path.write_text(signed(told))
    assert read_signed(path) == told
    path.write_text(signed(told).replace("{", '{"x": 1,', 1))
    with pytest.raises(
        Damaged, match=r"^inputs\.json: not what was written, by its sha256_of_this"
    ):
        read_signed(path)
    path.write_text(json.dumps(told))  # of an earlier version
    assert read_signed(path) == told
