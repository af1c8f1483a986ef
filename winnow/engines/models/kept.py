"""Models of GGUF files, kept as ordinary folders: reading one again takes a tenth of the time.

They are in `$XDG_CACHE_HOME/winnow` (`~/.cache/winnow`), and may be removed at any time. A folder
is for one file as it is, and for the versions of the libraries that read it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
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
_LAYOUT = "1"


def found(file: Path) -> Path | None:
    """The folder of a GGUF file's model, if it is kept and whole; a damaged one is removed."""
    try:
        folder = _folder(file)
        if not (folder / _SEAL).is_file():
            return None
    except (OSError, RuntimeError):  # no such file, or no home
        return None
    if _whole(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    _whole.cache_clear()  # another may be put there
    return None


@cache  # reading all of it takes longer than anything else that is done with it
def _whole(folder: Path) -> bool:
    try:
        check_files(folder, read_seal(folder / _SEAL)[1] or {})
    except Damaged:
        return False
    return True


def keep(file: Path, model: Any, tokenizer: Any) -> str | None:
    """Keep the model of a GGUF file, as it was read. What was kept of it before is removed.

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
        own = folder.with_name(f"{folder.name}.{os.getpid()}")  # others may be at it as well
        whole_folder(own, write)
        name, _, _ = folder.name.rpartition("-")
        for former in folder.parent.glob(f"{name}-*"):
            if former not in (own, folder):
                shutil.rmtree(former, ignore_errors=True)
        if folder.is_dir():  # another process was faster
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
