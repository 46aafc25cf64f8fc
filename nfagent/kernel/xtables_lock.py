"""Follows the xtables lock, which iptables-legacy takes for every call: who holds it, and when it was released."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator
from pathlib import Path

from asyncinotify import Inotify, Mask

from nfagent.kernel.table_lock import UNKNOWN, holder_name

_LOCKS = Path("/proc/locks")
_PROC = Path("/proc")
_DEFAULT = "/run/xtables.lock"
_ENDS = Mask.CLOSE_WRITE | Mask.CLOSE_NOWRITE | Mask.DELETE_SELF
_GONE = Mask.IGNORED | Mask.DELETE_SELF
_HELD = re.compile(r"^\d+: (?:FLOCK|POSIX|OFDLCK) +\S+ +WRITE +(?P<process>-?\d+) (?P<file>\S+) ", re.MULTILINE)


def lock_path() -> Path:
    """Return the file that iptables-legacy locks."""
    return Path(os.environ.get("XTABLES_LOCKFILE", _DEFAULT))


async def lock_releases() -> AsyncGenerator[None]:
    """Yield after each program that has had the lock; ends when the file is gone. Raises OSError without it.

    A program of iptables-legacy closes the file when it has written its changes.
    """
    with Inotify() as inotify:
        inotify.add_watch(lock_path(), _ENDS)
        async for event in inotify:
            yield
            if event.mask & _GONE:
                return


def lock_holder() -> str:
    """Return the holder as text: 'iptables (process 123)', 'no program' where it was released meanwhile."""
    try:
        found = lock_path().stat()
        locks = _LOCKS.read_text("ascii", "replace")
    except OSError:
        return holder_name(UNKNOWN)
    name = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    holder = next((int(held["process"]) for held in _HELD.finditer(locks) if held["file"] == name), None)
    if holder is None:
        return "no program"
    try:
        program = (_PROC / str(holder) / "comm").read_text("utf-8", "replace").strip() if holder > 0 else ""
    except OSError:
        program = ""
    return f"{program} (process {holder})" if program else holder_name(max(holder, UNKNOWN))
