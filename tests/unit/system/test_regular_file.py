"""Reading a file takes memory by its size."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from nfagent.system.regular_file import read_regular

_KIB = 1024


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(0, id="an empty file"),
        pytest.param(500, id="a manifest"),
        pytest.param(64 * _KIB, id="as long as the least read"),
        pytest.param(3 * 1024 * _KIB + 1, id="several reads"),
    ],
)
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    content = bytes(range(256)) * (size // 256 + 1)
    path.write_bytes(content[:size])
    assert read_regular(path) == content[:size]


def test_reading_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 500)
    read_regular(path)
    tracemalloc.start()
    try:
        read_regular(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 256 * _KIB
