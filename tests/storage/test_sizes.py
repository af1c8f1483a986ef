"""What a run takes on the disk: by arithmetic, and by what files really have."""

import pytest

from winnow.storage.sizes import human, measured


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
