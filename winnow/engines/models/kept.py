"""Models of GGUF files, kept as ordinary folders: reading one again takes a tenth of the time.

They are in `$XDG_CACHE_HOME/winnow` (`~/.cache/winnow`), and may be removed at any time. A folder
is for one file as it is, and for the versions of the libraries that read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from winnow.errors import DiskError
from winnow.storage.atomic import whole_folder, write_text
from winnow.storage.digests import Damaged, check_files, read_seal, seal
from winnow.storage.lock import is_running
from winnow.storage.paths import shown
from winnow.storage.reading import CannotRead

if TYPE_CHECKING:
    import torch

_LARGEST = 2 * 2**30
"""Bytes of weights; a larger model is read anew each time instead of filling the disk."""
_SEAL = "kept.json"
_FILE = "model.safetensors"
_WEIGHTS = (".safetensors",)
_LAYOUT = "1"
_ALIGNED = 64
"""Bytes at whose multiples weights begin, as torch's own tensors do."""


def found(file: Path, *, weights: bool = True) -> Path | None:
    """The folder of a GGUF file's model, if it is kept and whole; a damaged one is removed.

    Args:
        weights: Whether those are going to be read: files that are not need not be whole.
    """
    folder = _sealed(file)
    if folder is None:
        return None
    if _small_files_whole(folder) and (not weights or _look(folder).whole()):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    _small_files_whole.cache_clear()  # another may be put there
    _look.cache_clear()
    return None


def check_ahead(file: Path, *, weights: bool = True) -> None:
    """Begin to compare what is kept of a GGUF file with its digests; `found` has the outcome.

    Args:
        weights: Whether those will be asked for: see `weights_in`.
    """
    folder = _sealed(file)
    if folder is not None:
        _look(folder).begin(weights=weights)


def weights_in(folder: Path) -> Mapping[str, torch.Tensor] | None:
    """The weights in a folder that `found` gave, where `check_ahead` has read them, and only once.

    They are read in a thread while the libraries are imported, and are what was compared with the
    digest. ``None``: they are to be read from the folder.
    """
    return _look(folder).take()


def _sealed(file: Path) -> Path | None:
    try:
        folder = _folder(file)
        return folder if (folder / _SEAL).is_file() else None
    except (OSError, RuntimeError):  # no such file, or no home
        return None


@cache
def _small_files_whole(folder: Path) -> bool:
    """Whether all but the weights are as they were written."""
    try:
        digests = read_seal(folder / _SEAL)[1] or {}
        check_files(folder, {n: digests[n] for n in digests if not n.endswith(_WEIGHTS)})
    except (Damaged, CannotRead):
        return False
    return True


class _Look:
    """A folder, compared with its digests in a thread while the libraries are imported."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._outcome: Future[bool] | None = None
        self._weights: NDArray[np.uint8] | None = None

    def begin(self, *, weights: bool = False) -> Future[bool]:
        """Have it compared, if it is not yet.

        Args:
            weights: Whether the file of weights is kept in memory.
        """
        if self._outcome is None:
            thread = ThreadPoolExecutor(1)
            self._outcome = thread.submit(self._whole, weights)
            thread.shutdown(wait=False)
        return self._outcome

    def whole(self) -> bool:
        """Whether all of it is as it was written."""
        return self.begin().result()

    def take(self) -> Mapping[str, torch.Tensor] | None:
        if not self.whole() or self._weights is None:
            return None
        found, self._weights = _tensors(self._weights), None
        return found

    def _whole(self, weights: bool) -> bool:
        try:
            digests = read_seal(self._folder / _SEAL)[1] or {}
            if weights and _FILE in digests:
                self._weights = _room_for(self._folder / _FILE)
            into = {} if self._weights is None else {_FILE: self._weights.data}
            check_files(self._folder, digests, into)
        except (Damaged, CannotRead):
            self._weights = None
            return False
        return True


@cache  # reading all of it takes longer than anything else that is done with it
def _look(folder: Path) -> _Look:
    return _Look(folder)


def _room_for(path: Path) -> NDArray[np.uint8] | None:
    """Room for a file of weights, placed so that the first of them is aligned."""
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        room = np.empty(size + _ALIGNED, np.uint8)  # in large pages, where there are any
    except (OSError, MemoryError):
        return None  # whoever reads it says so
    first = -(room.ctypes.data + 8 + header) % _ALIGNED
    return room[first : first + size]


def _tensors(file: NDArray[np.uint8]) -> Mapping[str, torch.Tensor] | None:
    """What a file of safetensors holds, in place; ``None`` where some of it is not in float32."""
    import torch

    begin = 8 + int.from_bytes(file[:8].tobytes(), "little")
    told = json.loads(file[8:begin].tobytes())
    told.pop("__metadata__", None)
    if any(one["dtype"] != "F32" or 0 in one["shape"] for one in told.values()):
        return None
    found = {}
    for name, one in told.items():
        offset, end = one["data_offsets"]
        number, where = (end - offset) // 4, begin + offset
        flat = torch.frombuffer(file, dtype=torch.float32, count=number, offset=where)
        aligned = flat.data_ptr() % _ALIGNED == 0
        found[name] = (flat if aligned else flat.clone()).view(one["shape"])
    return found


def keep(file: Path, model: Any, tokenizer: Any) -> str | None:
    """Keep the model of a GGUF file as it was read, if it is not yet; remove what was before.

    Args:
        model: Its weights in float32; others are not the file's.

    Returns:
        Why it cannot be kept, in a sentence; ``None`` if it is, or is not to be.
    """
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if str(model.dtype) != "torch.float32" or weights > _LARGEST:
        return None

    def write(partial: Path) -> None:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_text(partial / _SEAL, seal(partial, {"made from": str(file)}))

    try:
        folder = _folder(file)
        if (folder / _SEAL).is_file():  # it was read from there, or another process was faster
            return None
        own = folder.with_name(f"{folder.name}.{os.getpid()}")  # others may be at it as well
        whole_folder(own, write)
        for former in _left(folder):
            shutil.rmtree(former, ignore_errors=True)
        if (folder / _SEAL).is_file():  # as above, meanwhile
            shutil.rmtree(own, ignore_errors=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # half of one, whose removal was killed
            own.rename(folder)
    except (OSError, RuntimeError, DiskError) as error:
        return f"{shown(file)} is read anew each time: it cannot be kept ready ({error!s:.200})"
    return None


def _left(folder: Path) -> list[Path]:
    """What is left of the same file in former states, and of processes that were killed."""
    name, _, _ = folder.name.rpartition("-")
    form = re.compile(rf"[.]?{re.escape(name)}-[0-9a-f]{{12}}([.](?P<pid>[0-9]+))?([.]partial)?")
    found = ((path, form.fullmatch(path.name)) for path in folder.parent.iterdir())
    return [
        path
        for path, told in found
        if told and path != folder and not (told["pid"] and is_running(int(told["pid"])))
    ]


def _folder(file: Path) -> Path:
    path = file.resolve(strict=True)
    seen = path.stat()
    libraries = [version(name) for name in ("transformers", "gguf", "safetensors", "tokenizers")]
    state = [_LAYOUT, str(seen.st_size), str(seen.st_mtime_ns), *libraries]
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "winnow", f"{path.stem}-{_hash(str(path))}-{_hash(*state)}")


def _hash(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
