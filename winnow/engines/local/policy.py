"""A model in this process, and its weights by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from winnow.engines.base import PRESENT, START, Weights
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

    @contextmanager
    def holding(self, where: Weights) -> Iterator[None]:
        """In the block, the module has these weights.

        No second copy comes to a GPU, whose memory the training may fill: its own wait in the
        host's, and what is read from a file is read there.
        """
        adapters = self.adapters()
        if where == PRESENT or where in self._unchanged:
            yield
        elif where == START and adapters is not None:
            with adapters.away():
                yield
        else:
            aside = self._aside.get(where) if isinstance(where, str) else None
            others = aside or self.weights(where, torch.device("cpu"))
            pairs = zip(self.trained(), others, strict=True)
            near = all(own.device == other.device for own, other in pairs)
            with self._swapped(others) if near else self._copied(others):
                yield

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
