"""The process that runs a verifier, killed and replaced when it hangs. Started by `worker_pool`.

It runs as a plain file, so it imports only the standard library until the first message gives it
the parent's module path. Messages are a length (8 bytes, big-endian) and that many bytes:

    parent -> child   once a pickled :class:`Start`; then pickled (prompt, completion) pairs
    child -> parent   once JSON {"error": null or why it cannot start}; then a JSON
                      {"value": number or null, "error": text or null} for each pair

Replies are JSON so that nothing a verifier made is ever unpickled by the parent.
"""

from __future__ import annotations

import difflib
import fcntl
import functools
import importlib
import inspect
import json
import os
import pickle
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn, TypedDict

LENGTH = struct.Struct(">Q")
_LONGEST_ERROR = 500


class Start(TypedDict):
    """What to run. Exactly one of ``target`` and ``function`` is given.

    Attributes:
        path: The parent's ``sys.path``.
        target: ``module:function``.
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
    """Serve until the parent closes its end, then kill whatever the verifier has started."""
    requests, replies = _private_pipes()
    _die_with_parent(int(sys.argv[1]))
    start: Start = pickle.loads(_read(requests) or _end())
    try:
        verifier = _load(start)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (importing runs the user's code)
        _write(replies, {"error": describe(error)})
        _end()
    _write(replies, {"error": None})
    source = _source_file(verifier) if start["user"] else None
    pid = os.getpid()
    while request := _read(requests):
        reply = _scored(verifier, request, source)
        if os.getpid() != pid:  # the verifier forked, and this is the copy
            os._exit(0)
        _write(replies, reply)
    _end()


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
    return text if line is None else f"{text} ({os.path.basename(str(source))}:{line})"


def one_line(text: str) -> str:
    """The text on one line, cut to a bearable length, unprintable characters escaped."""
    text = " ".join(text[: 4 * _LONGEST_ERROR].split())
    if len(text) > _LONGEST_ERROR:
        text = text[: _LONGEST_ERROR - 3] + "..."
    # lone surrogates among them, which no file in UTF-8 could hold
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _scored(
    verifier: Callable[[Any, str], object], request: bytes, source: str | None
) -> dict[str, object]:
    from winnow.types import Score

    try:
        prompt, completion = pickle.loads(request)
        score = Score.of(verifier(prompt, completion))
    except (Exception, SystemExit) as error:  # noqa: BLE001 (it is the sample's error)
        return {"value": None, "error": describe(error, source)}
    return {"value": score.value, "error": score.error and one_line(score.error)}


def _load(start: Start) -> Callable[[Any, str], object]:
    """The verifier.

    Raises:
        Exception: Whatever importing or unpickling it raises; ``TypeError`` if it cannot be called
            as ``(prompt, completion)``.
    """
    sys.path[:] = start["path"]
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
        raise TypeError(f"it is called with (prompt, completion): {error}") from error


def _resolve(target: str) -> object:
    """The object that ``module:name`` or ``module:Class.name`` names."""
    module, _, path = target.partition(":")
    found: object = importlib.import_module(module)
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


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to and from the parent, out of a verifier's reach.

    What it prints goes to stderr, and it reads an empty stdin. Copies made by ``dup`` are not
    inherited by programs that it starts.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # or a kill would lose what was printed
    return requests, replies


def _die_with_parent(life: int) -> None:
    """Have this process group killed when the parent is gone.

    Nothing is ever written to ``life``; it ends when the parent does. An idle worker would notice
    on its own, but one that hangs needs the kernel's help: a thread would never run while the
    verifier holds the interpreter's lock, as a regular expression does. (PR_SET_PDEATHSIG is no
    substitute: it fires when the parent's *thread* ends.) Systems other than Linux get the thread.
    """
    os.set_inheritable(life, False)
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([life], [], [], 0)[0]:  # it was gone before this was set up
            _end()
    else:
        threading.Thread(target=lambda: os.read(life, 1) or _end(), daemon=True).start()


def _end() -> NoReturn:
    """Kill this process and all that it has started; `worker_pool` made it a group of its own."""
    os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _read(pipe: BinaryIO) -> bytes:
    """The next message; empty at the end."""
    header = pipe.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return b""
    return pipe.read(*LENGTH.unpack(header))


def _write(pipe: BinaryIO, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    pipe.write(LENGTH.pack(len(data)) + data)
    pipe.flush()


if __name__ == "__main__":
    main()
