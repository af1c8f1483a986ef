"""A model, and copies of its trained weights by name, wherever they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from winnow.config.reference import ema_decay
from winnow.config.schema import Config
from winnow.config.schema.lora import LoraConfig
from winnow.engines.base import PHASE, PRESENT, START, ModelSize, Weights
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.loading import (
    ModelSource,
    check_finite,
    context_length,
    load_config,
    load_tokenizer,
    reading,
    resolve,
)
from winnow.engines.models.lora import Adapters, plain_state
from winnow.engines.models.reference import EMA, Kept, Other, Reference, Within
from winnow.engines.models.rounding import ANEW, rounded, rounded_each
from winnow.engines.models.sizes import model_size, size_of
from winnow.errors import WinnowError

SMALLER = "use dtype = 'bfloat16', lora.rank or a smaller model"
"""What to do where a model does not fit a GPU."""


class Policy(ABC):
    """A causal language model, read when it is first needed, and copies of its trained weights.

    What `weights` gives and `put` takes are plain tensors, one for each trained parameter: the
    whole of it, or what of it this process holds.

    Args:
        field: The setting that names the model.
        checkpoint: Where its present weights are, if not the model's own.
        folder: Of the run; adapters keep a copy of a base model there that no hub has.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        field: str = "model",
        checkpoint: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        self.source = resolve(config.model, field)
        self.dtype, self.field, self._device = config.dtype, field, device
        self._config, self._folder, self._checkpoint = config, folder, checkpoint
        whole = checkpoint is not None and not config.lora.rank
        self.now = ModelSource(str(checkpoint)) if whole else self.source
        """Where the present weights are, or what adapters go over."""
        self.tokenizer = load_tokenizer(self.now, field)
        self._module: torch.nn.Module | None = None
        self._forward: PolicyForward | None = None
        self._adapters: Adapters | None = None
        self.said: tuple[str, ...] = ()
        """What a person should know of how it was read."""
        self._kept: dict[str, Sequence[torch.Tensor]] = {}
        self._aside: dict[str, Sequence[torch.Tensor]] = {}
        """In the host's memory."""
        self._unchanged: set[str] = set()
        """Names of those aside that are the present weights still, and copied when they change."""

    @cached_property
    def context(self) -> int | None:
        """A GGUF file is read whole for it."""
        if self.now.gguf is None and self._module is None:
            return context_length(load_config(self.now, self.field))
        return context_length(cast(Any, self.module()).config)

    @abstractmethod
    def module(self) -> torch.nn.Module:
        """The module, read on the first call."""

    @abstractmethod
    def tensors(self) -> list[torch.Tensor]:
        """The trained parameters as they are held here; writing to them changes the module."""

    @abstractmethod
    def read(self, source: ModelSource, device: torch.device | None) -> Sequence[torch.Tensor]:
        """All weights of another model of this shape, as they would be held here.

        Args:
            device: Where to; default: the module's.
        """

    def held(self, whole: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """What of whole trained parameters is held here."""
        return whole

    @abstractmethod
    def swapped(self, others: Sequence[torch.Tensor]) -> AbstractContextManager[None]:
        """In the block, the module has other weights: of each parameter, what is held here.

        Passes read them rounded as its own (`rounding.py`).
        """

    @abstractmethod
    def beside(self, config: Config) -> Policy:
        """The policy of another config, held as this one is, as a reference."""

    @contextmanager
    def holding(self, where: Weights) -> Iterator[None]:
        """In the block, the module has these weights.

        No second copy comes to a GPU, whose memory the training may fill: what is read from a file
        waits in the host's.
        """
        adapters = self.adapters()
        if where == PRESENT or where in self._unchanged:
            yield
        elif where == START and adapters is not None:
            with adapters.away():
                yield
        else:
            aside = self._aside.get(where) if isinstance(where, str) else None
            with self.swapped(aside or self.weights(where, torch.device("cpu"))):
                yield

    @contextmanager
    def borrowed(self, others: Sequence[torch.Tensor]) -> Iterator[PolicyForward]:
        """In the block, the module with other weights."""
        with self.swapped(others):
            yield self.forward()

    def reference(self, what: str) -> Reference:
        """What log-probs are compared with: START, PHASE, an EMA that begins at PHASE, or a model.

        Raises:
            UserError: it cannot be loaded.
        """
        adapters = self.adapters()
        if what == START and adapters is not None:
            return Within(self.forward(), adapters.away)
        if what in (START, PHASE):
            return Kept(self.borrowed, self.weights(what))
        decay = ema_decay(what)
        if decay is not None:
            return EMA(self.borrowed, self.weights(PHASE), decay)
        # Not trained, so without adapters.
        config = self._config.model_copy(update={"model": what, "lora": LoraConfig()})
        frozen = self.beside(config)
        frozen.module().requires_grad_(False)
        return Other(frozen.forward())

    def _attached(self, module: torch.nn.Module) -> Adapters:
        path = Path(self.source.name)
        name = str(path.absolute()) if path.is_dir() else self.source.name
        made = Adapters(module, self._config.lora, self._config.seed, name)
        if self._folder is not None and not self.source.ordinary:
            note = made.keep_base(self._folder / "base")
            self.said += () if note is None else (note,)
        if self._checkpoint is not None:
            source = ModelSource(str(self._checkpoint))
            with reading(source, self.field):
                made.load(self._checkpoint)
            check_finite(module, source, self.field)
        return made

    def adapters(self) -> Adapters | None:
        """The adapters that are trained, if they are."""
        self.module()
        return self._adapters

    def forward(self) -> PolicyForward:
        """The module, probed on the first call."""
        if self._forward is None:
            self._forward = PolicyForward(self.module())
        return self._forward

    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.module().parameters() if p.requires_grad]

    def load(self) -> None:
        self.forward()

    def snapshot(self, name: str, of: Weights = PRESENT, *, aside: bool = False) -> None:
        if aside and of == PRESENT:
            self._unchanged.add(name)  # a run samples before it learns
            return
        if aside:
            self._unchanged.discard(name)
            self._aside[name] = list(self.weights(of, torch.device("cpu")))
            return
        weights = self.weights(of)  # those of another name or a folder are never written to
        self._kept[name] = [w.clone() for w in weights] if of == PRESENT else weights

    def restore(self, weights: Weights) -> None:
        self.put(self.weights(weights))

    def weights(self, where: Weights, device: torch.device | None = None) -> Sequence[torch.Tensor]:
        """Those of a snapshot, a checkpoint's folder, now or at the start; not to be written to.

        Args:
            device: Where to read a whole model to; default: the module's.
        """
        if where == PRESENT:
            return self.tensors()
        if isinstance(where, str) and where in self._kept:
            return self._kept[where]
        if where != START and not isinstance(where, Path):
            raise WinnowError(f"no snapshot is called {where!r}")
        adapters = self.adapters()
        source = ModelSource(str(where)) if isinstance(where, Path) else self.source
        if adapters is not None:
            if not isinstance(where, Path):
                return self.held(adapters.read(None))
            with reading(source, self.field):
                return self.held(adapters.read(where))
        return self.read(source, device)

    def change(self) -> None:
        """Called before the weights change: takes the snapshots that were the present ones."""
        host = torch.device("cpu")
        for name in self._unchanged:
            self._aside[name] = [w.to(host, copy=True) for w in self.weights(PRESENT)]
        self._unchanged.clear()

    @torch.no_grad()
    def put(self, weights: Sequence[torch.Tensor]) -> None:
        """Copy weights into the module."""
        self.change()
        for own, given in zip(self.tensors(), weights, strict=True):
            own.copy_(given)

    def average(self, weights: Weights, share: float) -> None:
        """(1 - share) present + share other; of adapters, the weights that they stand for."""
        own, adapters = self.weights(PRESENT), self.adapters()
        if adapters is not None:
            if weights != START:
                raise WinnowError("adapters are averaged with the model that they are over, alone")
            self.put(adapters.towards_base(list(own), share))
            return
        pairs = zip(own, self.weights(weights), strict=True)
        made = [torch.lerp(one.float(), two.float(), share) for one, two in pairs]
        self.put(self.rounded(made, ANEW))

    def rounded(self, weights: Sequence[torch.Tensor], start: int = 0) -> list[torch.Tensor]:
        """Trained weights, or what is held of them, as numbers that passes read (`rounding.py`).

        Args:
            start: 0, or `ANEW`.
        """
        return [
            rounded(w, own.dtype, start) for w, own in zip(weights, self.trained(), strict=True)
        ]

    def save(self, folder: Path, *, merged: bool = False, dtype: str | None = None) -> None:
        """Write the model, adapters by themselves or merged into it, and the tokenizer.

        Args:
            dtype: What float32 weights are rounded to (see `rounding.py`); default: as they are.
        """
        adapters, module = self.adapters(), cast(Any, self.module())
        low = None if dtype is None else getattr(torch, dtype)
        if adapters is None:
            state = self._state()
            if low is not None:
                state = rounded_each(plain_state(module) if state is None else state, low)
            module.save_pretrained(folder, state_dict=state)
        elif merged:
            adapters.merged(folder, low)
        else:
            adapters.save(folder, low)
        self.tokenizer.save_pretrained(folder)

    def save_base(self, folder: Path) -> None:
        """Write the model that the adapters are over, and the tokenizer."""
        adapters = self.adapters()
        assert adapters is not None
        adapters.base(folder)
        self.tokenizer.save_pretrained(folder)

    def _state(self) -> Mapping[str, torch.Tensor] | None:
        """What is saved of a module without adapters, if not its `state_dict`."""
        return None

    def size(self) -> ModelSize:
        lora = self._config.lora
        if self._module is None:
            return model_size(self.source, self.dtype, lora, self.tokenizer, self.field)
        return size_of(self._module, self.source, self.dtype, lora, self.tokenizer)

    def close(self) -> None:
        """Let go of module and snapshots."""
        self._module = self._forward = self._adapters = None
        self._kept.clear()
        self._aside.clear()
        self._unchanged.clear()
