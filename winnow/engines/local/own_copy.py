"""A sampler's own copy of the policy's weights, in a precision of its own.

The learner keeps its weights as they are; the copy is made of them before the first samples of each
version. Log-probs that are recorded are the copy's: those of the distribution that was sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from winnow.engines.devices import room
from winnow.engines.local.kv_cache import token_bytes
from winnow.engines.local.laid_out import LaidOut, probe
from winnow.engines.models.forward import PROBE_ERRORS, PolicyForward
from winnow.engines.models.recompute import blocks_of
from winnow.engines.models.rounding import rounded
from winnow.errors import UserError

_LOOSE, _CLOSE = 0.2, 1e-3
"""Total variation, on average over a few tokens, up to which a copy counts as one where it or the
module is in bfloat16, and where both are in float32. SmolLM2-135M has 0.03 in bfloat16."""


class OwnCopy:
    """A copy of a module that only samples.

    Args:
        policy: Gives the module whose weights are copied, adapters merged into them, as it was
            probed: in bfloat16 a probe would not see what it looks for.
        dtype: Of the copy.
    """

    def __init__(self, policy: Callable[[], PolicyForward], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._policy = policy
        self._forward: PolicyForward | None = None
        self._layers: LaidOut | None = None
        self._token_bytes: int | None = None
        self._outdated = False

    def outdate(self) -> None:
        """The weights have changed: they are copied again when they are next sampled from."""
        self._outdated = True

    @room("sample without sampling.dtype, or use a smaller model")
    def forward(self) -> PolicyForward:
        """The copy, of the weights as they are if they have changed.

        Raises:
            UserError: the architecture does not compute in this precision what it does in its own.
        """
        if self._forward is None:
            self._forward = self._made()
            self._token_bytes = token_bytes(self._forward)
        elif self._outdated:
            self._refresh(self._forward.module)
        self._outdated = False
        return self._forward

    def token_bytes(self) -> int | None:
        """See `kv_cache.token_bytes`; found out once."""
        self.forward()
        return self._token_bytes

    def close(self) -> None:
        """Let go of the copy, which is made again if it is needed."""
        self._forward = self._layers = self._token_bytes = None

    def _made(self) -> PolicyForward:
        policy = self._policy()
        module = policy.module
        own = twin(module, self.dtype)
        _copy_all(own, fresh(module))
        try:
            with torch.no_grad():
                there, here = (probe(net).softmax(-1) for net in (module, own))
        except PROBE_ERRORS as error:
            raise self._unfit(f"it does not run ({type(error).__name__})") from error
        rounded = torch.bfloat16 in (self.dtype, next(module.parameters()).dtype)
        limit = _LOOSE if rounded else _CLOSE
        if not float((there - here).abs().sum(-1).mean()) / 2 <= limit:
            raise self._unfit("it samples other tokens than the learner would")
        self._layers = LaidOut(own)
        return PolicyForward(own, share_prefix=policy.shares_prefix, low_attention=True)

    def _unfit(self, why: str) -> UserError:
        name = str(self.dtype).removeprefix("torch.")
        return UserError("sampling.dtype", f"a copy in {name} is of no use: {why}", "leave it out")

    @torch.no_grad()
    def _refresh(self, own: nn.Module) -> None:
        weights = fresh(self._policy().module)
        assert self._layers is not None
        _copy_all(own, weights, self._layers.names)
        self._layers.pack(lambda name: rounded(weights[name](), self.dtype))


def twin(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A module of the same structure without adapters, its weights not yet those of the other."""
    memo: dict[int, Any] = {}
    for weight in module.parameters():
        own = torch.empty_like(weight, dtype=dtype if weight.is_floating_point() else None)
        memo[id(weight)] = nn.Parameter(own, requires_grad=False)
    made = copy.deepcopy(module, memo)
    for block in blocks_of(made):  # one that is computed again would compute the other's
        vars(block).pop("forward", None)
    for name, layer in list(made.named_modules()):
        if _adapted(layer):
            above, _, last = name.rpartition(".")
            setattr(made.get_submodule(above), last, layer.base_layer)
    return made.eval()


def fresh(module: nn.Module) -> Mapping[str, Callable[[], Tensor]]:
    """What gives the present value of each weight, by its name without adapters."""
    found: dict[str, Callable[[], Tensor]] = {
        name: weight.detach for name, weight in module.named_parameters(remove_duplicate=False)
    }
    for name, layer in module.named_modules():
        if _adapted(layer):
            inner = f"{name}.base_layer."
            for whole in [each for each in found if each.startswith(inner)]:
                found[f"{name}.{whole.removeprefix(inner)}"] = found[whole]
            found[f"{name}.weight"] = partial(_merged, layer)
    return found


def _adapted(layer: nn.Module) -> bool:
    return hasattr(layer, "get_delta_weight")


def _merged(layer: Any) -> Tensor:
    """The weight of a layer with its adapter's part; not in place, which would leave rounding."""
    weight: Tensor = layer.base_layer.weight
    added: Tensor = layer.get_delta_weight("default")
    return weight.detach().float() + added.detach().float()


@torch.no_grad()
def _copy_all(
    own: nn.Module, weights: Mapping[str, Callable[[], Tensor]], but: frozenset[str] = frozenset()
) -> None:
    for name, weight in own.named_parameters():
        if name not in but:
            weight.copy_(rounded(weights[name](), weight.dtype))
