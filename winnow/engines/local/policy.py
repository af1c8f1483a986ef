"""A model in this process, and its weights by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch

from winnow.config.schema import Config
from winnow.engines.base import PRESENT
from winnow.engines.devices import room
from winnow.engines.models.kept import keep
from winnow.engines.models.loading import ModelSource, load_model
from winnow.engines.models.policy import SMALLER, Policy


class LocalPolicy(Policy):
    """A policy that is whole in this process."""

    @room(SMALLER)
    def module(self) -> torch.nn.Module:
        """The module, read on the first call."""
        if self._module is None:
            module = load_model(self.now, self.dtype, self._device, self.field)
            if self.now.file is not None and (why := keep(self.now.file, module, self.tokenizer)):
                self.said += (why,)
            if self._config.lora.rank:
                self._adapters = self._attached(module)
            self._module = module
        return self._module

    def tensors(self) -> list[torch.Tensor]:
        return [p.detach() for p in self.trained()]

    def read(self, source: ModelSource, device: torch.device | None) -> Sequence[torch.Tensor]:
        other = load_model(source, self.dtype, device or self._device, self.field)
        return [p.detach() for p in other.parameters()]

    def beside(self, config: Config) -> Policy:
        return LocalPolicy(config, self._device, "reference")

    def swapped(self, others: Sequence[torch.Tensor]) -> AbstractContextManager[None]:
        others = self.rounded(others)
        pairs = zip(self.trained(), others, strict=True)
        near = all(own.device == other.device for own, other in pairs)
        return self._swapped(others) if near else self._copied(others)

    @contextmanager
    def _swapped(self, others: Sequence[torch.Tensor]) -> Iterator[None]:
        trained = self.trained()
        own = [parameter.data for parameter in trained]
        try:
            for parameter, weight in zip(trained, others, strict=True):
                parameter.data = weight
            yield
        finally:
            for parameter, data in zip(trained, own, strict=True):
                parameter.data = data

    @contextmanager
    def _copied(self, others: Sequence[torch.Tensor]) -> Iterator[None]:
        """Into the same places, which a GPU's captured graphs read."""
        waiting = [w.to("cpu", copy=True) for w in self.weights(PRESENT)]
        try:
            self.put(others)
            yield
        finally:
            self.put(waiting)
