"""Linear layers of a module that only samples, laid out for products with few rows.

oneDNN multiplies faster by weights in a layout of its own, and by one large matrix than by several
small ones. The plain weights are let go of: nothing but these products reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from winnow.engines.devices import processor
from winnow.engines.models.forward import PROBE_ERRORS

ROWS = 32
"""Rows of the products that weights are laid out for."""


class LaidOut:
    """The linear layers of a module, packed again whenever weights change.

    Layers that read the same input one after the other, as a probe sees them do, become one
    product. Where the operator is missing, or a probe gives other logits than the plain layers,
    everything stays as it is.

    Attributes:
        names: Weights that the module no longer has as parameters. Those of the head it keeps: they
            may be the embedding's too.
    """

    def __init__(self, module: nn.Module) -> None:
        self.names: frozenset[str] = frozenset()
        self._products: list[_Product] = []
        linears = {layer: name for name, layer in module.named_modules() if _suits(layer)}
        if not linears or not _available(next(module.parameters())):
            return
        head: Any = module.get_output_embeddings()  # type: ignore[operator]
        emptied = {layer: layer.weight for layer in linears if layer is not head}
        with torch.no_grad():
            runs, plain = _runs(module, list(linears))
            try:
                for layers in runs:
                    product = _Product(layers, [f"{linears[layer]}.weight" for layer in layers])
                    product.pack([layer.weight for layer in layers])
                    self._products.append(product)
                for layer in emptied:
                    layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
                same = _same(module, plain)
            except PROBE_ERRORS:
                same = False
        if same:
            self.names = frozenset(f"{linears[layer]}.weight" for layer in emptied)
            return
        self._products = []
        for layer in linears:
            layer.weight = emptied.get(layer, layer.weight)
            vars(layer).pop("forward", None)

    def pack(self, weight: Callable[[str], Tensor]) -> None:
        """Lay out new weights, given by name."""
        for product in self._products:
            product.pack([weight(name) for name in product.names])


class _Product:
    """Linear layers with one input, as one product.

    Args:
        names: Of their weights.
    """

    def __init__(self, layers: Sequence[nn.Linear], names: Sequence[str]) -> None:
        self.names = names
        self._layers = layers
        self._sizes = [layer.out_features for layer in layers]
        self._packed: Tensor | None = None
        self._bias: Tensor | None = None
        self._input: Tensor | None = None
        self._parts: list[Tensor | None] = []
        for number, layer in enumerate(layers):
            part = self._alone if len(layers) == 1 else partial(self._part, number)
            vars(layer)["forward"] = part

    def pack(self, weights: Sequence[Tensor]) -> None:
        whole = weights[0] if len(weights) == 1 else torch.cat(list(weights))
        self._packed = torch.ops.mkldnn._reorder_linear_weight(whole.contiguous(), ROWS)
        biases = [layer.bias for layer in self._layers]
        if any(bias is not None for bias in biases):
            self._bias = torch.cat(
                [
                    whole.new_zeros(size) if bias is None else bias.detach()
                    for bias, size in zip(biases, self._sizes, strict=True)
                ]
            )

    def _alone(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self._bias, "none", [], ""
        )
        return out

    def _part(self, number: int, x: Tensor) -> Tensor:
        """What one of the layers gives; all are computed when one is given another input."""
        if self._input is not x or self._parts[number] is None:
            self._input = x
            self._parts = list(torch.split(self._alone(x), self._sizes, dim=-1))
        part, self._parts[number] = self._parts[number], None
        if all(one is None for one in self._parts):
            self._input = None
        assert part is not None
        return part


def _available(weight: Tensor) -> bool:
    """Whether oneDNN is the faster on this processor: in bfloat16, else on AMD's."""
    library: Any = torch.backends.mkldnn
    there = bool(library.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    fast = weight.dtype == torch.bfloat16 or processor().maker == "AuthenticAMD"
    return there and fast and weight.device.type == "cpu"


def _suits(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and "forward" not in vars(layer) and layer.weight.dim() == 2


def _runs(module: nn.Module, layers: Sequence[nn.Linear]) -> tuple[list[list[nn.Linear]], Tensor]:
    """Layers that read the same tensor, one after the other, together; and the module's logits."""
    seen: list[tuple[nn.Linear, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda own, given: seen.append((own, given[0])))
        for layer in layers
    ]
    try:
        logits = probe(module)
    finally:
        for hook in hooks:
            hook.remove()
    often: dict[nn.Linear, int] = {}
    for layer, _ in seen:
        often[layer] = often.get(layer, 0) + 1
    runs: list[list[nn.Linear]] = []
    before: Tensor | None = None
    for layer, given in seen:
        if often[layer] > 1:
            before = None
            continue
        if given is before:
            runs[-1].append(layer)
        else:
            runs.append([layer])
        before = given
    joined = {layer for run in runs for layer in run}
    return runs + [[layer] for layer in layers if layer not in joined], logits


def probe(module: nn.Module) -> Tensor:
    """Logits after a few arbitrary tokens, float32, shape (1, tokens, vocabulary)."""
    config: Any = module.config
    ids = (7 * torch.arange(8) + 3) % int(config.get_text_config(decoder=True).vocab_size)
    device = next(module.parameters()).device
    out: Any = module(input_ids=ids[None].to(device), use_cache=False)
    logits: Tensor = out.logits.float()
    return logits


def _same(module: nn.Module, plain: Tensor) -> bool:
    """Whether the module gives the logits that it gave, up to rounding: twice, for what is kept."""
    close = 0.05 if next(module.parameters()).dtype == torch.bfloat16 else 1e-4
    scale = max(1.0, float(plain.abs().mean()))
    return all(float((probe(module) - plain).abs().mean()) <= close * scale for _ in range(2))
