"""A model in a folder is read in parts: no process has the whole of any parameter meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import tiny
from tests.engines.fsdp.spawned import led
from tests.engines.fsdp.test_crew import config
from winnow.engines.fsdp import policy as policy_module
from winnow.engines.fsdp.worker import Worker

_NOTHING = ("empty", "empty_like", "set_")
"""Operations that make a tensor without writing to its memory."""


class Written(TorchDispatchMode):
    """The largest tensor, in bytes, that torch wrote to in the block.

    Views are none: a slice of a file is one of what the kernel maps, and read when it is copied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = call(*args, **(kwargs or {}))
        aliases = [each.alias_info for each in call._schema.returns]
        views = any(alias is not None and not alias.is_write for alias in aliases)
        if not views and call.overloadpacket.__name__ not in _NOTHING:
            for each in tree_leaves(made):
                if isinstance(each, Tensor) and not isinstance(each, DTensor):
                    size = each.numel() * each.element_size()
                    self.most = max(self.most, 0 if each.device.type == "meta" else size)
        return made


def whole(*given: Any) -> None:
    raise AssertionError("the model is read whole")


def read(worker: Worker, folder: Path) -> list[tuple[int, int]]:
    """Bytes by rank: of the largest tensor that was written meanwhile, and of all that is held."""
    policy_module.load_model = whole
    policy = policy_module.ShardedPolicy(config(folder), worker.team)
    with Written() as written:
        policy.module()
    own = sum(part.numel() * part.element_size() for part in policy.tensors())
    return worker.team.everyone((written.most, own))


def by_all(worker: Worker, *given: Any) -> list[tuple[int, int]]:
    return worker.team.run(worker, read, *given)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.fsdp)])
def test_no_process_has_a_whole_parameter(tmp_path, ranks) -> None:
    """The largest has 192 rows."""
    made = tiny.model(1, hidden_size=96, intermediate_size=192)
    sizes = [p.numel() * p.element_size() for p in made.parameters()]
    made.save_pretrained(tmp_path, max_shard_size="300KB")
    tiny.tokenizer().save_pretrained(tmp_path)
    found = led(ranks, by_all, tmp_path)
    assert [largest for largest, _ in found] == [max(sizes) // ranks] * ranks
    assert sum(own for _, own in found) == sum(sizes)
