"""Weights on their way: each version a folder, there only when it is whole, known by its hash."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from winnow.config.schema import Config
from winnow.engines.base import PRESENT, WeightsRef
from winnow.storage.atomic import drop_folder
from winnow.storage.digests import DIGESTS, whole_model
from winnow.storage.lock import is_running

BASE = "base"
"""Beside folders of adapters: the model that they are over."""
_MEMORY = Path("/dev/shm")
_KEPT = 2
"""Versions: the present one, and the one that a server may still be reading."""
_NAME = "winnow-{host}-{pid}-"


class Outbox:
    """Where an engine puts the weights of its versions, for samplers to fetch.

    The folder is removed with the object, or when the process ends. What a killed process left is
    removed by the next one that writes to the same place.

    Args:
        where: What to make it in. Default: the memory of this machine, else its temporary folder.
    """

    def __init__(self, where: Path | None = None) -> None:
        memory = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        self._where = memory if where is None else where
        self._put: list[Path] = []
        self._number = 0
        self.folder = self._where / (_NAME.format(**_here()) + uuid.uuid4().hex[:8])

    def put(self, version: int, save: Callable[[Path], None]) -> WeightsRef:
        """Write a version, and drop what no sampler reads any more.

        Weights that are those of the version before stay where they are: a server may read adapters
        again from where it found them.

        Args:
            save: Writes a model into a folder.

        Raises:
            DiskError: there is no room for it.
        """
        self._number += 1
        path = self._at(f"{self._number:06}-version-{version}")
        whole_model(path, save)
        found = hash_of(path)
        if self._put and self._put[-1].is_dir() and hash_of(self._put[-1]) == found:
            drop_folder(path)
            return WeightsRef(version, self._put[-1], found)
        self._put.append(path)
        while len(self._put) > _KEPT:
            drop_folder(self._put.pop(0))
        return WeightsRef(version, path, found)

    def base(self, save: Callable[[Path], None]) -> None:
        """Write the model that adapters are over, once."""
        if not (self.folder / BASE).is_dir():
            whole_model(self._at(BASE), save)

    def _at(self, name: str) -> Path:
        if not self.folder.is_dir():
            _sweep(self._where)
            self.folder.mkdir(parents=True)
            weakref.finalize(self, _remove, self.folder, os.getpid())
        return self.folder / name


class Dropped(Exception):
    """A version is no longer there: newer ones are."""


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """A version's files under another name, where they stay while it is dropped.

    They are links, which take no room, where the file system has them.

    Raises:
        Dropped: it is not there any more.
    """
    own = folder.with_name(f"{folder.name}-held-{uuid.uuid4().hex[:8]}")
    try:
        try:
            shutil.copytree(folder, own, copy_function=_linked)
        except (FileNotFoundError, shutil.Error) as error:
            raise Dropped(f"{folder} is not there") from error
        if not folder.is_dir():  # dropped meanwhile, so perhaps not all of it is linked
            raise Dropped(f"{folder} is not there")
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


class Writer(Protocol):
    """What an engine writes of its weights."""

    def save(self, folder: Path, *, merged: bool, dtype: str | None) -> None:
        """Write the model, adapters merged into it or by themselves, rounded to a data type."""
        ...

    def save_base(self, folder: Path) -> None:
        """Write the model that adapters are over."""
        ...


def outbox_of(config: Config) -> Outbox:
    """That of a config; nothing is written yet."""
    where = config.engine.transfer_dir
    return Outbox(None if where is None else Path(where))


def published(version: int, config: Config, engine: Writer, outbox: Outbox) -> WeightsRef:
    """A version in place, for a sampler of the same engine; for servers, in the outbox.

    Raises:
        DiskError: there is no room for it.
    """
    if config.engine.sampler != "vllm":
        return WeightsRef(version, PRESENT)
    whole, dtype = config.engine.transfer == "folder", config.engine.vllm_dtype
    if not whole:
        outbox.base(engine.save_base)
    merged = whole and config.lora.rank > 0
    # A server would round what it reads to the nearest number, and not see all of an update.
    return outbox.put(version, lambda folder: engine.save(folder, merged=merged, dtype=dtype))


def hash_of(folder: Path) -> str:
    """The hash of what `Outbox.put` wrote: of the digests of all its files.

    Raises:
        OSError: there is no such folder, or it is not whole.
    """
    return sha256((folder / DIGESTS).read_bytes()).hexdigest()


def _here() -> dict[str, str]:
    return {"host": socket.gethostname(), "pid": str(os.getpid())}


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(where: Path) -> None:
    """Remove what processes of this machine left that are gone."""
    before, _, after = _NAME.partition("{pid}")
    begin = before.format(host=socket.gethostname())
    for path in where.glob(f"{begin}*") if where.is_dir() else ():
        pid = path.name.removeprefix(begin).partition(after)[0]
        if pid.isdecimal() and not is_running(int(pid)):
            with suppress(OSError):
                shutil.rmtree(path)
