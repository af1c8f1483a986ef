"""Models of GGUF files, kept as ordinary folders: reading one again takes a tenth of the time.

They are in `$XDG_CACHE_HOME/winnow` (`~/.cache/winnow`), and may be removed at any time. A folder
is for one file as it is, and for the versions of the libraries that read it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from winnow.errors import DiskError
from winnow.storage.atomic import whole_folder, write_text
from winnow.storage.digests import Damaged, check_files, read_seal, seal
from winnow.storage.paths import shown

_LARGEST = 2 * 2**30
"""Bytes of weights; a larger model is read anew each time instead of filling the disk."""
_SEAL = "kept.json"
_WEIGHTS = (".safetensors",)
_LAYOUT = "1"


def found(file: Path, *, weights: bool = True) -> Path | None:
    """The folder of a GGUF file's model, if it is kept and whole; a damaged one is removed.

    Args:
        weights: Whether those are going to be read: files that are not need not be whole.
    """
    folder = _sealed(file)
    if folder is None:
        return None
    if _small_files_whole(folder) and (not weights or _whole(folder).result()):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    _small_files_whole.cache_clear()  # another may be put there
    _whole.cache_clear()
    return None


def check_ahead(file: Path) -> None:
    """Begin to compare what is kept of a GGUF file with its digests; `found` has the outcome."""
    folder = _sealed(file)
    if folder is not None:
        _whole(folder)


def _sealed(file: Path) -> Path | None:
    try:
        folder = _folder(file)
        return folder if (folder / _SEAL).is_file() else None
    except (OSError, RuntimeError):  # no such file, or no home
        return None


@cache
def _small_files_whole(folder: Path) -> bool:
    """Whether all but the weights are as they were written."""
    return _as_sealed(folder, but=_WEIGHTS)


@cache  # reading all of it takes longer than anything else that is done with it
def _whole(folder: Path) -> Future[bool]:
    """Whether all of it is, found out in a thread while the libraries are imported."""
    thread = ThreadPoolExecutor(1)
    outcome = thread.submit(_as_sealed, folder)
    thread.shutdown(wait=False)
    return outcome


def _as_sealed(folder: Path, but: tuple[str, ...] = ()) -> bool:
    try:
        digests = read_seal(folder / _SEAL)[1] or {}
        check_files(folder, {n: digests[n] for n in digests if not n.endswith(but)})
    except Damaged:
        return False
    return True


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
        name, _, _ = folder.name.rpartition("-")
        for former in folder.parent.glob(f"{name}-*"):
            if former not in (own, folder):
                shutil.rmtree(former, ignore_errors=True)
        if folder.is_dir():  # as above, meanwhile
            shutil.rmtree(own, ignore_errors=True)
        else:
            own.rename(folder)
    except (OSError, RuntimeError, DiskError) as error:
        return f"{shown(file)} is read anew each time: it cannot be kept ready ({error!s:.200})"
    return None


def _folder(file: Path) -> Path:
    path = file.resolve(strict=True)
    seen = path.stat()
    libraries = [version(name) for name in ("transformers", "gguf", "safetensors", "tokenizers")]
    state = [_LAYOUT, str(seen.st_size), str(seen.st_mtime_ns), *libraries]
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "winnow", f"{path.stem}-{_hash(str(path))}-{_hash(*state)}")


def _hash(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
