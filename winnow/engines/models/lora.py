"""Low-rank adapters by peft: attached to a module, saved in its own format, merged on request."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from winnow.config.schema.lora import LoraConfig
from winnow.engines.models.rounding import rounded, rounded_each
from winnow.errors import UserError, install_extra, nearest
from winnow.storage.atomic import drop_folder
from winnow.storage.digests import damage_of, whole_model


class Adapters:
    """LoRA over the linear layers of a module; its base weights stay as they are.

    The module stays one of transformers: peft replaces its layers in place.

    Args:
        seed: Of the adapters' first values. Their output is 0 at first.
        name: Where the base model can be had, for whoever loads the adapters.

    Raises:
        UserError: peft is not installed, or no layer has such a name.
    """

    def __init__(self, module: nn.Module, config: LoraConfig, seed: int, name: str) -> None:
        try:
            import peft
        except ImportError as error:
            remedy = install_extra("lora")
            raise UserError("lora.rank", "adapters need peft", remedy) from error
        targets: Any = config.targets
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
            task_type="CAUSAL_LM",
        )
        if targets != ["all-linear"]:
            check_names(module, targets)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two libraries warn of each other
            torch.manual_seed(seed)
            try:
                self._peft: Any = peft.get_peft_model(cast(Any, module), settings)
            except ValueError as error:
                reason = str(error).split(". ")[0]
                problem = f"peft refuses {config.targets}: {reason}"
                raise UserError("lora.targets", problem) from error
        self._peft.peft_config["default"].base_model_name_or_path = name
        self._module = module
        self._first = [p.detach().clone() for p in self._trained()]
        self._copy: Path | None = None

    def keep_base(self, folder: Path) -> str | None:
        """Let adapters name a copy of the base model, made with the first save, as their base.

        For models that `from_pretrained` does not find by their name alone. Adapters name it by the
        way from their own folder to it, so that both can be moved together.

        Returns:
            What a person should know: a copy that is there is damaged, and was made again.
        """
        self._copy = folder.absolute()
        if (damage := damage_of(folder)) is None:
            return None
        drop_folder(folder)
        self._write_copy(folder)
        return f"{folder} was damaged ({damage}) and is written again"

    @contextmanager
    def away(self) -> Iterator[None]:
        """In the block, the module has its base weights alone."""
        with self._peft.disable_adapter():
            yield

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the adapters, as peft and `AutoModelForCausalLM.from_pretrained` read them.

        The weights are those that the module has as parameters, also where its `state_dict` gives
        others, as that of a sharded module does.

        Args:
            dtype: What float32 weights are rounded to; default: as they are.
        """
        if self._copy is not None:
            if not self._copy.is_dir():
                self._write_copy(self._copy)
            way = Path(os.path.relpath(self._copy, folder.absolute())).as_posix()
            self._peft.peft_config["default"].base_model_name_or_path = way
        # Without this, peft asks a hub at every save whether the vocabulary has grown.
        state = rounded_each(plain_state(self._peft), dtype)
        self._peft.save_pretrained(folder, state_dict=state, save_embedding_layers=False)

    def _write_copy(self, folder: Path) -> None:
        whole_model(folder, self.base)

    def base(self, folder: Path) -> None:
        """Write the model that the adapters are over. The module is not changed."""
        self._save_plain(folder, added=False)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Load adapters that `save` wrote."""
        for parameter, saved in zip(self._trained(), self.read(folder), strict=True):
            parameter.copy_(saved)

    def read(self, folder: Path | None) -> list[Tensor]:
        """The weights in a folder, in the module's order; without a folder, the first values."""
        if folder is None:
            return self._first
        from safetensors.torch import load_file

        saved = load_file(folder / "adapter_model.safetensors")
        return [saved[name.replace(".default", "")] for name in self._names()]

    def towards_base(self, weights: list[Tensor], share: float) -> list[Tensor]:
        """Weights with their effect scaled by 1 - share: an average with the base model."""
        return [
            w * (1 - share) if "lora_B" in name or "lora_embedding_B" in name else w
            for name, w in zip(self._names(), weights, strict=True)
        ]

    def merged(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write an ordinary model: base and adapters in one. The module is not changed.

        Args:
            dtype: What float32 weights are rounded to; default: as they are.
        """
        self._save_plain(folder, added=True, dtype=dtype)

    @torch.no_grad()
    def _save_plain(self, folder: Path, *, added: bool, dtype: torch.dtype | None = None) -> None:
        """Write the module's weights under the names that they have without adapters.

        Args:
            added: Whether to add what the adapters add; not in place, which would leave rounding.
        """
        module: Any = self._module
        state = {
            name.replace(".base_layer", ""): weight
            for name, weight in plain_state(module).items()
            if "lora_" not in name
        }
        for name, layer in module.named_modules() if added else ():
            if hasattr(layer, "get_delta_weight"):
                weight, delta = state[f"{name}.weight"], layer.get_delta_weight("default")
                whole = weight.float() + delta.float()
                state[f"{name}.weight"] = rounded(whole, dtype or weight.dtype)
        module.save_pretrained(folder, state_dict=rounded_each(state, dtype))

    def _names(self) -> list[str]:
        return [name for name, p in self._peft.named_parameters() if p.requires_grad]

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self._module.parameters() if p.requires_grad]


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """What `state_dict` gives of an ordinary module: parameters and buffers that are saved."""
    found = {name: p.detach() for name, p in module.named_parameters(remove_duplicate=False)}
    for prefix, inner in module.named_modules(remove_duplicate=False):
        for name, buffer in inner.named_buffers(recurse=False):
            if name not in inner._non_persistent_buffers_set:
                found[f"{prefix}.{name}".lstrip(".")] = buffer
    return found


def check_names(module: nn.Module, targets: Sequence[str]) -> None:
    """Check that each target names a layer; peft would leave out those that do not.

    Raises:
        UserError: one names no layer, or a layer that shares its weights with another.
    """
    linear = {
        name.rpartition(".")[2]
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name, _ in module.named_modules()):
            remedy = nearest(target, sorted(linear))
            raise UserError("lora.targets", f"no layer is called {target!r}", remedy)
    model = cast(Any, module)
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    for name, layer in module.named_modules():
        named = any(f".{name}".endswith(f".{target}") for target in targets)
        if named and layer in (words, head) and head is not None and words.weight is head.weight:
            problem = f"{name} shares its weights with the model's other end and cannot be merged"
            raise UserError("lora.targets", problem, "leave it out")


def merged(base: Any, folder: str, field: str) -> nn.Module:
    """An ordinary model: a base with the adapters in a folder merged in.

    Raises:
        UserError: peft is not installed.
    """
    try:
        import peft
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError as error:
        remedy = install_extra("lora")
        raise UserError(field, f"the adapters in {folder} need peft", remedy) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = peft.PeftModel.from_pretrained(base, folder)
        for layer in made.modules():
            if isinstance(layer, BaseTunerLayer):
                _merge(layer)
        whole: nn.Module = made.merge_and_unload().requires_grad_(True)
    return whole


@torch.no_grad()
def _merge(layer: Any) -> None:
    """Merge the adapters of a layer into it, in float32: 16 bits show little of what they add."""
    dtypes = {name: weight.dtype for name, weight in layer.get_base_layer().named_parameters()}
    layer.float()
    layer.merge()
    for name, weight in layer.get_base_layer().named_parameters():
        weight.data = rounded(weight, dtypes[name])
