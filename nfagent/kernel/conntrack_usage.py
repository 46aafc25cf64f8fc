"""How full the kernel's conntrack table is: two numbers of /proc, of this network namespace."""

from __future__ import annotations

from pathlib import Path

import msgspec

_FOLDER = Path("/proc/sys/net/netfilter")


class ConntrackUsage(msgspec.Struct, frozen=True):
    """Entries in the table, and how many it may have; 0 is no limit."""

    entries: int
    limit: int


def read_conntrack_usage(folder: Path = _FOLDER) -> ConntrackUsage | None:
    """Return the usage; None without conntrack, or where it can't be read. Costs no walk through the table."""
    try:
        entries, limit = (int((folder / f"nf_conntrack_{name}").read_text("ascii")) for name in ("count", "max"))
    except (OSError, ValueError):
        return None
    return ConntrackUsage(entries, limit)
