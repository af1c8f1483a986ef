"""What a worker runs, and how it gets there: pickled by value where it has no module."""

from __future__ import annotations

import io
import operator
import os
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, ClassVar

import cloudpickle  # type: ignore[import-untyped, unused-ignore]

from winnow import user_code
from winnow.errors import WinnowError
from winnow.rewards import worker


class StartError(WinnowError):
    """A worker could not be started: its verifier cannot be imported, unpickled or called."""


@dataclass(frozen=True)
class Source:
    """What a worker runs, in the parent's current folder of when this was made.

    Attributes:
        target: ``module:function`` or ``/folder/file.py:function``, resolved in the worker; or
            ``function`` is given.
        function: A callable, pickled with cloudpickle.
        options: Keyword arguments that go with every call.
        user: Whether it is the user's code. A user's module is also looked for in the current
            folder, what a file imports in the file's, and an error in the user's code names its
            line.
    """

    target: str | None = None
    function: bytes | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    user: bool = True
    path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    folder: str = field(default_factory=os.getcwd)

    def start_message(self) -> bytes:
        """The first message to a worker."""
        path = list(self.path)
        named = self.user and self.target and not user_code.names_file(self.target)
        if named and not {"", self.folder} & set(path):
            path.insert(0, self.folder)  # as ``python -m`` has it; a console script does not
        start: worker.Start = {
            "path": path,
            "target": self.target,
            "function": self.function,
            "options": dict(self.options),
            "user": self.user,
        }
        return pickle.dumps(start)


def pickled(function: Callable[..., object]) -> bytes:
    """The function for a worker: by value from a script or notebook, else by its module's name.

    Raises:
        StartError: It cannot be pickled, as one that holds a lock or an open file.
    """
    try:
        return dumps(function)
    except Exception as error:  # pickling runs the code of whatever the function holds
        raise StartError(f"it cannot be sent to a process: {worker.describe(error)}") from error


def dumps(what: object) -> bytes:
    """Anything, for a worker; raises whatever pickling it does."""
    file = io.BytesIO()
    _Pickler(file).dump(what)
    return file.getvalue()


class _Bare:
    """A code object, reduced as cloudpickle does it."""

    def __init__(self, code: CodeType) -> None:
        self._code = code

    def __reduce__(self) -> Any:
        return cloudpickle.Pickler.dispatch_table[CodeType](self._code)


def _code(code: CodeType) -> tuple[object, ...]:
    return operator.methodcaller("replace", co_filename=code.co_filename), (_Bare(code),)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
    """cloudpickle's pickler, except that code keeps the name of its file.

    cloudpickle from 3.1.3 on replaces it by ``<dynamic-code>``, and errors could not name the
    user's file and line.
    """

    dispatch_table: ClassVar = ChainMap({CodeType: _code}, cloudpickle.Pickler.dispatch_table)
