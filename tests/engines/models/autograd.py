"""What autograd keeps of a pass."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
from torch import Tensor

from winnow.engines.models import made_again


def kept_bytes(compute: Callable[[], object], but: Collection[Tensor]) -> int:
    """Of a pass in `made_again`, each place in memory once.

    Args:
        but: Tensors that do not count.
    """
    own = {x.untyped_storage().data_ptr() for x in but}
    places: dict[int, int] = {}

    def look(packed: object) -> None:
        if isinstance(packed, made_again._Made):
            for one in (*packed._given, *packed._named.values()):
                look(one)
        elif isinstance(packed, made_again._Whole):
            storage = packed._tensor.untyped_storage()
            if storage.data_ptr() not in own:
                places[storage.data_ptr()] = storage.nbytes()

    def pack(self: made_again._Notes, tensor: Tensor) -> object:
        packed = plain(self, tensor)
        look(packed[0] if isinstance(packed, tuple) else packed)
        return packed

    plain = made_again._Notes.pack
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_again._Notes, "pack", pack)
        compute()
    return sum(places.values())
