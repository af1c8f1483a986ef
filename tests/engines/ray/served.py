"""The fake server with a real model, as a program that stands for vLLM's."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[3])
    import torch

    from tests import fake_vllm
    from tests.engines.fsdp.test_servers import Served

    torch.set_num_threads(1)
    fake_vllm.main(Served)
