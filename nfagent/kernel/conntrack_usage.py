"""How full the kernel's conntrack table is: two numbers of /proc, of this network namespace."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)
_FOLDER = Path("/proc/sys/net/netfilter")
_FILES = (_FOLDER / "nf_conntrack_count", _FOLDER / "nf_conntrack_max")
"""Made once: they are read many times a second, and pathlib interns each part of a path that it makes."""
_NEARLY_FULL = 0.85
"""The share from which on the table is reported."""
CONNTRACK_FIX = "sysctl -w net.netfilter.nf_conntrack_max=N"


class ConntrackUsage(msgspec.Struct, frozen=True):
    """Entries in the table, and how many it may have; 0 is no limit."""

    entries: int
    limit: int

    @property
    def is_full(self) -> bool:
        """Return whether the kernel drops packets of new connections (`nf_conntrack: table full` in its log)."""
        return 0 < self.limit <= self.entries

    @property
    def is_nearly_full(self) -> bool:
        """Return whether most of the entries are in use."""
        return self.limit > 0 and self.entries >= _NEARLY_FULL * self.limit

    def __str__(self) -> str:
        """Return the usage, and what it means where the table is full."""
        used = f"{self.entries:,} of at most {self.limit:,}" if self.limit else f"{self.entries:,}"
        used += " connections"
        return f"{used}: the table is full, and packets of new connections are dropped" if self.is_full else used


def read_conntrack_usage(files: tuple[Path, Path] = _FILES) -> ConntrackUsage | None:
    """Return the usage; None without conntrack, or where it can't be read. Costs no walk through the table.

    files: have the number of entries, and the limit
    """
    try:
        entries, limit = (int(file.read_text("ascii")) for file in files)
    except (OSError, ValueError):
        return None
    return ConntrackUsage(entries, limit)


class ConntrackUsageWatch:
    """Logs when the table gets nearly full, when it gets full, and when it has room again."""

    def __init__(self, read: Callable[[], ConntrackUsage | None] = read_conntrack_usage) -> None:
        """Start with a table that has room."""
        self._read = read
        self._logged = 0  # 1: nearly full, 2: full

    def look(self) -> None:
        """Read the usage, and log where it has another meaning than before; to be called now and then."""
        usage = self._read()
        if usage is None:
            return
        level = usage.is_nearly_full + usage.is_full
        if level > self._logged:
            self._logged = level
            log.warning("conntrack has %s; raise the limit: %s", usage, CONNTRACK_FIX)
        elif self._logged and not level:
            self._logged = 0
            log.info("resolved: conntrack has room again: %s", usage)
