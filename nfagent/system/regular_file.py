"""Reads regular files only, and none of a pseudo file system. Blocking.

Opening a device may have side effects, and reading a FIFO or `/proc/kmsg` may never end. So a file is checked first by
an O_PATH descriptor, which is then opened for reading.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from contextlib import closing
from pathlib import Path

LARGEST_FILE = 256 * 1024 * 1024
"""The largest manifest file, in bytes: enough for 150,000 Pods as an API server returns them."""

TOO_LARGE = f"is larger than {LARGEST_FILE >> 20} MiB, and is not read; give its objects in several files"
_CHUNK, _LEAST_CHUNK = 1024 * 1024, 64 * 1024
_STATFS_BYTES = 256
_LIBC = ctypes.CDLL(None, use_errno=True)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
PSEUDO = frozenset(
    {
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0x62656570,  # configfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0xCAFE4A11,  # bpf
        0x6165676C,  # pstore
        0x1CD1,  # devpts
        0x42494E4D,  # binfmt_misc
        0xDE5E81E4,  # efivarfs
        0xF97CFF8C,  # selinuxfs
        0x65735543,  # fusectl
        0x6E736673,  # nsfs
    }
)
"""The f_type of pseudo file systems in statfs(2)."""


class UnsuitableError(OSError):
    """A file that can't be a manifest: `strerror` has the reason, and what to do."""

    def __init__(self, reason: str) -> None:
        """Store the reason as `strerror`."""
        super().__init__(errno.EINVAL, reason)


def read_regular(path: Path) -> bytes:
    """Return the contents of a regular file. Raises OSError, UnsuitableError."""
    named = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        kind = stat.S_IFMT(os.fstat(named).st_mode)
        if kind != stat.S_IFREG:
            raise UnsuitableError(f"is {_KINDS.get(kind, 'no regular file')}; put a regular file there, or delete it")
        refuse_pseudo_file_system(named)
        opened = os.open(f"/proc/self/fd/{named}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        os.close(named)
    with closing(os.fdopen(opened, "rb", buffering=0)) as file:
        size = os.fstat(opened).st_size
        if size > LARGEST_FILE:
            raise UnsuitableError(TOO_LARGE)
        return _whole(file.fileno(), size)


def refuse_pseudo_file_system(descriptor: int) -> None:
    """Raise UnsuitableError for a file or folder of a pseudo file system. Raises OSError."""
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _LIBC.fstatfs(descriptor, found):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    # The first field is a long, or 32 bits of it; the numbers have 32 bits.
    if int.from_bytes(found.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF in PSEUDO:
        raise UnsuitableError(
            "is in a file system of the kernel's own, as /proc is, and isn't read; put files of a disk there"
        )


def _whole(opened: int, expected: int) -> bytes:
    """Read to the end; each call of read(2) takes as much memory as it asks for. expected: what fstat(2) says."""
    parts, size, chunk = [], 0, min(_CHUNK, max(_LEAST_CHUNK, expected + 1))
    while part := os.read(opened, chunk):
        parts.append(part)
        size += len(part)
        if size > LARGEST_FILE:  # it grew while it was read
            raise UnsuitableError(TOO_LARGE)
    return b"".join(parts)
