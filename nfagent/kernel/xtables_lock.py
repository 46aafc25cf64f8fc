"""Finds out which program holds the xtables lock, which iptables-legacy takes for every call."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nfagent.kernel.table_lock import UNKNOWN, holder_name

_LOCKS = Path("/proc/locks")
_PROC = Path("/proc")
_DEFAULT = "/run/xtables.lock"
_HELD = re.compile(r"^\d+: (?:FLOCK|POSIX|OFDLCK) +\S+ +WRITE +(?P<process>-?\d+) (?P<file>\S+) ", re.MULTILINE)


def lock_holder() -> str:
    """Return the holder as text: 'iptables (process 123)', 'no program' where it was released meanwhile."""
    try:
        found = Path(os.environ.get("XTABLES_LOCKFILE", _DEFAULT)).stat()
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
