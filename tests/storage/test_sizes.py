"""What a run takes on the disk: by arithmetic, and by what files really have."""

import pytest
import torch

from winnow.storage.sizes import (
    Estimate,
    ModelSize,
    human,
    measured,
    most_checkpoints,
    optimizer_bytes,
    weights_bytes,
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_optimizers_state_is_as_large_as_torchs(dtype, tmp_path):
    """AdamW over 100,000 weights; in bfloat16 over float32 copies, which are saved as well."""
    master = torch.nn.Parameter(torch.zeros(100_000))
    adam = torch.optim.AdamW([master])
    master.grad = torch.ones(100_000)
    adam.step()
    state = {"adam": adam.state_dict(), **({"masters": [master]} if dtype == "bfloat16" else {})}
    torch.save(state, tmp_path / "optimizer.pt")
    told = optimizer_bytes(ModelSize(100_000, 100_000), dtype)
    assert measured(tmp_path) == pytest.approx(told, rel=0.01)


def test_adapters_are_float32_and_alone():
    size = ModelSize(10**9, 10**6, adapters=True)
    assert optimizer_bytes(size, "bfloat16") == 8 * 10**6
    assert weights_bytes(size, "bfloat16") == pytest.approx(4 * 10**6, abs=10**6)
    assert optimizer_bytes(size, "bfloat16", ema=True) == 12 * 10**6


def test_a_new_checkpoint_is_whole_before_an_old_one_goes():
    """Steps 2, 4, 6 with two kept: as 6 is written, 2 and 4 are there."""
    assert most_checkpoints([2, 4, 6], 2, 0) == 3
    assert most_checkpoints([2, 4, 6], 3, 0) == 3
    assert most_checkpoints([6, 6], 2, 1) == 1
    assert most_checkpoints(range(1, 100), 2, 1) == 4


def test_what_is_there_is_counted_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1" * 1000)
    (tmp_path / "y").write_bytes(b"1" * 234)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert measured(tmp_path) == 1234 + len(str(tmp_path / "gone"))
    assert measured(tmp_path / "y") == 234
    assert measured(tmp_path / "gone") == 0


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1617852858, "1.6 GB"), (9.96e9, "10 GB"),
        (999.6e6, "1.0 GB"), (5e14, "500 TB"), (123456, "123 kB"),
    ],
)  # fmt: skip
def test_sizes_are_read_by_people(number, text):
    assert human(number) == text


def test_an_estimate_adds_up():
    made = Estimate(1_600_000_000, 3, 500_000_000, 2_000_000)
    assert made.total == 5_302_000_000
    assert str(made) == (
        "up to 5.3 GB (3 x 1.6 GB of checkpoints, 500 MB of other models, about 2.0 MB of samples)"
    )
    assert str(Estimate(10**9, 1)) == "up to 1.0 GB (1 checkpoint of 1.0 GB)"
