"""A user's functions named in text: `module:function`, or `folder/file.py:function`.

The second form is what a run folder holds: it is found from every working folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
import zlib
from contextlib import suppress
from types import ModuleType

_NAMED = re.compile(r"^(?:[^\W\d]\w*(?:\.[^\W\d]\w*)*|.+\.py):[\w.]+$", re.DOTALL)
_FOLDERS: set[str] = set()
"""Those that files were imported from: functions of modules in them are named by file."""


def names_file(text: str) -> bool:
    """Whether it is `file.py:function`."""
    return text.rpartition(":")[0].endswith(".py")


def names_function(text: str) -> bool:
    """Whether it is `module:function` or `file.py:function`."""
    return _NAMED.match(text) is not None


def absolute(text: str) -> str:
    """`file.py:function` with an absolute path, `~` expanded."""
    file, _, function = text.rpartition(":")
    return f"{os.path.abspath(os.path.expanduser(file))}:{function}"


def in_folder(text: str, folder: str) -> str | None:
    """The function by its absolute path, if its file is below a folder; else `None`.

    A module in packages is, if each of them has an `__init__.py`: else its path would not tell its
    name.
    """
    if not _NAMED.match(text):
        return None
    module, _, function = text.rpartition(":")
    if names_file(text):
        file = os.path.abspath(os.path.join(folder, os.path.expanduser(module)))
        return f"{file}:{function}" if os.path.isfile(file) else None
    stem = os.path.join(os.path.abspath(folder), *module.split("."))
    for file in (os.path.join(stem, "__init__.py"), f"{stem}.py"):  # as Python prefers them
        if os.path.isfile(file) and _place(file)[1] == module:
            return f"{file}:{function}"
    return None


def named(module: str, function: str) -> str:
    """The text for a function: by file if its module was imported from a user's file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module != "__main__" and file and file.endswith(".py"):
        file = os.path.abspath(file)
        if _place(file)[0] in _FOLDERS:
            return f"{file}:{function}"
    return f"{module}:{function}"


def import_file(path: str, *, first: bool = False) -> ModuleType:
    """The module of a file; its folder is searched for what it imports.

    It has its usual name unless that is another module's.

    Args:
        first: Whether the folder is searched before all others, as `python file.py` has it, or
            last, so as to hide nothing.

    Raises:
        ModuleNotFoundError: there is no such file.
        Exception: whatever its code raises.
    """
    file = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(file):
        raise ModuleNotFoundError(f"there is no file {file}")
    folder, name = _place(file)
    _FOLDERS.add(folder)
    known = [path for path in sys.path if os.path.abspath(path) == folder]
    if first:
        sys.path[:] = [folder, *(path for path in sys.path if path not in known)]
    elif not known:
        sys.path.append(folder)
    if name in sys.modules:
        if _is_of(sys.modules[name].__dict__.get("__file__"), file):
            return sys.modules[name]
    elif name.partition(".")[0] not in sys.stdlib_module_names:
        importlib.invalidate_caches()
        spec = None
        with suppress(ImportError, ValueError):  # another package has the name of its own
            spec = importlib.util.find_spec(name)
        if spec is not None and _is_of(spec.origin, file):
            return importlib.import_module(name)
    return _beside_others(f"{name}_{zlib.crc32(file.encode('utf-8', 'surrogateescape')):08x}", file)


def raised(error: BaseException) -> str:
    """What a user's code raised, and the innermost line of its own, on one line."""
    told = " ".join("".join(traceback.format_exception_only(error)).split())
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    if not own:  # the code is itself a library's
        own = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)]
    where = f" ({os.path.basename(own[-1].filename)}:{own[-1].lineno})" if own else ""
    return f"raised {told:.500}{where}"


_PACKAGE = (f"{os.path.dirname(os.path.abspath(__file__))}/", "<frozen ")
_LIBRARIES = (*_PACKAGE, *(f"{sysconfig.get_path(n)}/" for n in ("stdlib", "purelib", "platlib")))


def _beside_others(name: str, file: str) -> ModuleType:
    """The module of a file under a name of its own."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"cannot import {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look there
    whole = False
    try:
        spec.loader.exec_module(module)
        whole = True
    finally:
        if not whole:  # as `import` leaves it
            del sys.modules[name]
    return module


def _place(file: str) -> tuple[str, str]:
    """The folder to import a file from, above its packages, and its module's name there."""
    folder, base = os.path.split(file)
    parts = [] if base == "__init__.py" else [base.removesuffix(".py")]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    return folder, ".".join(parts)


def _is_of(found: object, file: str) -> bool:
    try:
        return isinstance(found, str) and os.path.samefile(found, file)
    except OSError:
        return False
