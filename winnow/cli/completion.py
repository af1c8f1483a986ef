"""What a shell offers behind TAB. No model library is imported, and settings only for settings."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path


def recipe_names(incomplete: str) -> list[str]:
    """Recipes that ship with Winnow, and recipes and folders on the way to them."""
    shipped = sorted(
        path.name.removesuffix(".toml")
        for path in (files("winnow.config") / "recipes").iterdir()
        if path.name.endswith(".toml")
    )
    folder, _, begin = incomplete.rpartition("/")
    here = Path(folder or ("/" if incomplete.startswith("/") else ".")).expanduser()
    try:
        there = sorted(path for path in here.iterdir() if path.name.startswith(begin))
    except OSError:
        there = []
    before = incomplete.removesuffix(begin)
    own = [f"{before}{path.name}{'/' * path.is_dir()}" for path in there if _leads(path, begin)]
    return [*_beginning(shipped, incomplete), *own]


def set_keys(incomplete: str) -> list[str]:
    """Settings, each with the `=` that its value comes behind; nothing behind one."""
    return [f"{key}=" for key in settings(incomplete) if "." in key or key not in _tables()]


def settings(incomplete: str) -> list[str]:
    """Keys and tables of settings."""
    return _beginning([*_tables(), *_keys()], incomplete)


def algorithm_names(incomplete: str) -> list[str]:
    """Rows of the table."""
    from winnow.algorithms.table import ALGORITHMS

    return _beginning(ALGORITHMS, incomplete)


def _keys() -> list[str]:
    from winnow.config.schema.describe import describe

    return [row["key"] for row in describe()]


def _tables() -> list[str]:
    return list(dict.fromkeys(key.partition(".")[0] for key in _keys() if "." in key))


def _leads(path: Path, begin: str) -> bool:
    hidden = path.name.startswith(".") and not begin
    return not hidden and (path.is_dir() or path.suffix == ".toml")


def _beginning(names: Iterable[str], with_: str) -> list[str]:
    return [name for name in names if name.startswith(with_)]
