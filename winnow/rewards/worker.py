"""The process that runs a verifier, killed and replaced when it hangs. Started by `supervisor`.

It runs as a plain file, so it imports only the standard library until the first message gives it
the parent's module path. Messages are a length (8 bytes, big-endian) and that many bytes:

    parent -> child   a mark of 16 random bytes and a pickle: first a :class:`Start`, then pairs
                      (prompt, completion)
    child -> parent   the same mark, a letter and the rest: "r", ready; "v", the verifier's value, a
                      double; "e", an error, UTF-8

The mark makes a reply one to this request and this worker's: what a verifier writes to file
descriptors, or a thread or fork of it later, has none that fits. Nothing that a verifier made is
unpickled by the parent.
"""

from __future__ import annotations

import builtins
import difflib
import fcntl
import functools
import importlib
import inspect
import os
import pickle
import struct
import sys
from collections.abc import Callable
from io import FileIO, TextIOWrapper
from typing import Any, NoReturn, TypedDict

if __name__ == "__main__":  # a verifier that patches builtins does so for itself
    globals()["__builtins__"] = dict(vars(builtins))

LENGTH = struct.Struct(">Q")
VALUE = struct.Struct(">d")
MARK_SIZE = 16
READY, SCORED, FAILED = b"r", b"v", b"e"
ONE_COMPLETION = "a reward scores one completion: def f(prompt, completion) -> float"
_LONGEST_ERROR = 500
_OUT_OF_THE_WAY = 100  # file descriptors from here on: no accident hits them

_getpid, _exit, _loads = os.getpid, os._exit, pickle.loads  # as they are before a verifier comes


class Start(TypedDict):
    """What to run. Exactly one of ``target`` and ``function`` is given.

    Attributes:
        path: The parent's ``sys.path``.
        target: ``module:function``, or ``/folder/file.py:function``.
        function: A callable, pickled with cloudpickle.
        options: Keyword arguments that go with every call.
        user: Whether it is the user's code, whose line an error should name.
    """

    path: list[str]
    target: str | None
    function: bytes | None
    options: dict[str, object]
    user: bool


def main() -> NoReturn:
    """Serve until the parent closes its end. The supervisor then kills what is left."""
    requests, replies = _private_pipes()
    mark, message = _read(requests)
    start: Start = _loads(message or _exit(0))
    try:
        verifier = _load(start)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (importing runs the user's code)
        _write(replies, mark, FAILED, _encoded(describe(error)))
        _exit(0)
    _write(replies, mark, READY)
    source = _source_file(verifier) if start["user"] else None
    pid = _getpid()
    while True:
        mark, message = _read(requests)
        if not message:
            _exit(0)
        reply = _scored(verifier, message, source)
        if _getpid() != pid:  # the verifier forked, and this is the copy
            _exit(0)
        _write(replies, mark, *reply)


def describe(error: BaseException, source: str | None = None) -> str:
    """An exception on one line: its type, its message and, if it passed there, the line in source.

    Args:
        source: A file name.
    """
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 (the class is the user's own, and so is its __str__)
        message = "(its message cannot be shown)"
    text = one_line(f"{type(error).__name__}: {message}" if message else type(error).__name__)
    line = None
    trace = error.__traceback__
    while trace is not None:
        if source is not None and trace.tb_frame.f_code.co_filename == source:
            line = trace.tb_lineno
        trace = trace.tb_next
    name = str(source).rpartition("/")[2]  # os.path would look at patched builtins
    return text if line is None else f"{text} ({name}:{line})"


def one_line(text: str) -> str:
    """The text on one line, cut to a bearable length, unprintable characters escaped."""
    text = " ".join(text[: 4 * _LONGEST_ERROR].split())
    if len(text) > _LONGEST_ERROR:
        text = text[: _LONGEST_ERROR - 3] + "..."
    # lone surrogates among them, which no file in UTF-8 could hold
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _scored(
    verifier: Callable[[Any, str], object], message: bytes, source: str | None
) -> tuple[bytes, bytes]:
    """The letter and the rest of a reply. A number is one only if the verifier returned it."""
    from winnow.types import Score  # it is there: `_load` imported it

    try:
        prompt, completion = _loads(message)
        value = verifier(prompt, completion)
        number = getattr(value, "item", lambda: value)()  # a NumPy or torch scalar
        if isinstance(number, (bool, int, float)):
            return SCORED, VALUE.pack(float(number))
        error = Score.of(value).error or "the verifier returned no number"
    except (Exception, SystemExit) as failure:  # noqa: BLE001 (it is the sample's error)
        return FAILED, _encoded(describe(failure, source))
    return FAILED, _encoded(one_line(error))


def _encoded(error: str) -> bytes:
    return error.encode("utf-8", "backslashreplace")  # a file's name may hold lone surrogates


def _load(start: Start) -> Callable[[Any, str], object]:
    """The verifier.

    Raises:
        Exception: Whatever importing or unpickling it raises; ``TypeError`` if it cannot be called
            as ``(prompt, completion)``.
    """
    sys.path[:] = start["path"]
    importlib.import_module("winnow.types")  # before a verifier changes the path or the limits
    if start["function"] is not None:
        verifier = pickle.loads(start["function"])
    else:
        verifier = _resolve(str(start["target"]))
    if not callable(verifier):
        raise TypeError(f"{start['target']} is not callable: it is a {type(verifier).__name__}")
    verifier = functools.partial(verifier, **start["options"]) if start["options"] else verifier
    _check_call(verifier)
    return verifier


def _check_call(verifier: Callable[..., object]) -> None:
    """Raise ``TypeError`` if it cannot be called as ``(prompt, completion)``."""
    try:
        signature = inspect.signature(verifier)
    except (TypeError, ValueError):  # some callables written in C do not tell theirs
        return
    try:
        signature.bind(None, "")
    except TypeError as error:
        raise TypeError(
            f"it is called with (prompt, completion): {error}; {ONE_COMPLETION}"
        ) from error


def _resolve(target: str) -> object:
    """The object that ``module:name``, ``module:Class.name`` or ``file.py:name`` names."""
    from winnow import user_code  # it is there, as `_load` has the parent's path

    module, _, path = target.rpartition(":")
    found: object
    if user_code.names_file(target):
        found = user_code.import_file(module, first=True)
    else:
        found = importlib.import_module(module)
    for name in path.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found), n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"{module!r} has no {name!r}{hint}")
        found = getattr(found, name)
    return found


def _source_file(verifier: Callable[..., object]) -> str | None:
    """The file that the verifier is written in, if it is written in Python."""
    function: Any = inspect.unwrap(verifier)
    function = getattr(function, "func", function)  # functools.partial
    for candidate in (function, type(function).__call__):
        code = getattr(candidate, "__code__", None)
        if code is not None:
            return str(code.co_filename)
    return None


def _private_pipes() -> tuple[FileIO, FileIO]:
    """The pipes to and from the parent, out of a verifier's reach.

    What it prints goes to stderr, which the supervisor reads, and it reads an empty stdin. Programs
    that it starts do not inherit the pipes.
    """
    ours = [fcntl.fcntl(used, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for used in (0, 1)]
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # or a kill would lose what was printed
    return FileIO(ours[0], "r"), FileIO(ours[1], "w")


def _read(pipe: FileIO) -> tuple[bytes, bytes]:
    """The next message, its mark first; empty at the end."""
    header = _exactly(pipe, LENGTH.size)
    message = _exactly(pipe, *LENGTH.unpack(header)) if header else b""
    return message[:MARK_SIZE], message[MARK_SIZE:]


def _exactly(pipe: FileIO, size: int) -> bytes:
    """So many bytes; empty if the pipe ends before."""
    data = bytearray()
    while len(data) < size:
        more = pipe.read(min(size - len(data), 2**20))
        if not more:
            return b""
        data += more
    return bytes(data)


def _write(pipe: FileIO, mark: bytes, letter: bytes, rest: bytes = b"") -> None:
    message = mark + letter + rest
    pipe.write(LENGTH.pack(len(message)) + message)  # whole: it is shorter than a pipe takes


if __name__ == "__main__":
    main()
