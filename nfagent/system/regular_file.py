"""Reading a file that somebody names: only a regular one, and not of a file system that the kernel makes up.

A device may do something when it is opened, a FIFO and `/proc/kmsg` may never end. So a file is looked at before it is
opened: by a descriptor that only names it (O_PATH), which is then opened for reading. Blocking.
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
"""Bytes of a manifest file: 150,000 Pods as an API server writes them, with room."""

TOO_LARGE = f"is larger than {LARGEST_FILE >> 20} MiB, and is not read; give its objects in several files"
_CHUNK = 1024 * 1024
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
"""What statfs(2) calls the file systems that the kernel makes up as they are read."""


class UnsuitableError(OSError):
    """What can't hold a manifest: `strerror` says what it is, and what to do."""

    def __init__(self, words: str) -> None:
        """Say what it is."""
        super().__init__(errno.EINVAL, words)


def read_regular(path: Path) -> bytes:
    """Return what a regular file holds. Raises OSError, UnsuitableError."""
    named = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        kind = stat.S_IFMT(os.fstat(named).st_mode)
        if kind != stat.S_IFREG:
            raise UnsuitableError(f"is {_KINDS.get(kind, 'no regular file')}; put a regular file there, or delete it")
        refuse_pseudo(named)
        opened = os.open(f"/proc/self/fd/{named}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        os.close(named)
    with closing(os.fdopen(opened, "rb", buffering=0)) as file:
        if os.fstat(opened).st_size > LARGEST_FILE:
            raise UnsuitableError(TOO_LARGE)
        return _whole(file.fileno())


def refuse_pseudo(descriptor: int) -> None:
    """Refuse a file, or a folder, of a file system that the kernel makes up. Raises OSError, UnsuitableError."""
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _LIBC.fstatfs(descriptor, found):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    # The first field, a long, or 32 bits of it, of which these are.
    if int.from_bytes(found.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF in PSEUDO:
        raise UnsuitableError(
            "is in a file system of the kernel's own, as /proc is, and isn't read; put files of a disk there"
        )


def _whole(opened: int) -> bytes:
    parts, size = [], 0
    while part := os.read(opened, _CHUNK):
        parts.append(part)
        size += len(part)
        if size > LARGEST_FILE:  # it grows as it is read
            raise UnsuitableError(TOO_LARGE)
    return b"".join(parts)
