"""File systems for a test's own thread, and the threads and processes that it starts, invisible to all others."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_LIBC = ctypes.CDLL(None, use_errno=True)


def in_own_mounts(body: Callable[[], None]) -> None:
    """Call a function in a thread with a mount namespace of its own, which ends with the thread."""

    def within() -> None:
        if _LIBC.unshare(_CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        run("mount", "--make-rprivate", "/")
        body()

    with ThreadPoolExecutor(max_workers=1) as threads:
        threads.submit(within).result()


def run(*command: str | Path) -> None:
    """Run a command; raises where it fails."""
    subprocess.run(command, check=True, capture_output=True)


def mount_empty(place: Path, options: str = "size=1m,mode=755") -> None:
    """Mount an empty file system on a folder."""
    run("mount", "-t", "tmpfs", "-o", options, "nfagent-test", place)


def unmount(place: Path) -> None:
    """Unmount it, also while it is in use."""
    run("umount", "-l", place)


@contextmanager
def stalled(place: Path) -> Iterator[None]:
    """Mount a file system on a folder that never answers: a FUSE daemon that reads no request."""
    daemon = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={daemon},rootmode=40000,user_id=0,group_id=0"
    try:
        if _LIBC.mount(b"nfagent-test", os.fsencode(place), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "mount")
        yield
    finally:
        os.close(daemon)  # what waits for an answer gets ENOTCONN
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)
