"""Writes .tar.gz files anew, in place, so that they depend on what is in them alone: `repack.py EPOCH FILE...`.

Members are sorted, belong to root, and have the time EPOCH; so has gzip's header. setuptools and Helm write the times
of the build.
"""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from pathlib import Path

_EXECUTABLE = 0o111


def repacked(content: bytes, epoch: int) -> bytes:
    """Return a .tar.gz with the members of another. Raises tarfile.TarError."""
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as before,
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=epoch) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for member in sorted(before.getmembers(), key=lambda member: member.name):
            opened = before.extractfile(member) if member.isreg() else None
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & _EXECUTABLE else 0o644
            member.pax_headers = {}
            after.addfile(member, opened)
    return packed.getvalue()


if __name__ == "__main__":
    epoch, *files = sys.argv[1:]
    for path in map(Path, files):
        path.write_bytes(repacked(path.read_bytes(), int(epoch)))
