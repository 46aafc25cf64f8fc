"""Small files in the folder of last good objects: whom they belong to, and who may have put them there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nfagent.checkpoint.kept_text import KeptText


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "kept"


def test_folder_and_file_are_roots_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        KeptText(path).write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeptText(path).read() == b"x"


@pytest.mark.parametrize("kind", ["a symbolic link", "a hard link", "a file that all may read"])
def test_what_is_in_the_place_of_the_new_file_is_neither_written_nor_kept(
    path: Path, tmp_path: Path, kind: str
) -> None:
    path.parent.mkdir(mode=0o700)
    other, beside = tmp_path / "other", path.with_name("kept.new")
    other.write_bytes(b"root")
    if kind == "a symbolic link":
        beside.symlink_to(other)
    elif kind == "a hard link":
        beside.hardlink_to(other)
    else:
        beside.touch(0o666)
    KeptText(path).write(b"x")
    assert other.read_bytes() == b"root"
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"x", 0o600)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777], ids=oct)
def test_in_a_folder_that_others_may_write_to_nothing_is_read_or_written(path: Path, mode: int) -> None:
    path.parent.mkdir()
    path.write_bytes(b"forged")
    path.parent.chmod(mode)
    for use in (KeptText(path).read, lambda: KeptText(path).write(b"x")):
        with pytest.raises(PermissionError, match="is writable by other users"):
            use()
    assert path.read_bytes() == b"forged"
