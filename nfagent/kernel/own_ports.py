"""Netlink port ids of the sockets by which this process commits.

Every nf_tables notification carries the port id of the socket that committed (`nlmsghdr.nlmsg_pid`), so own commits
are recognised by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_CLOSED_SECONDS = 10.0
"""Notifications are read within milliseconds. Later, the kernel may give a free port id to another process."""


class OwnPorts:
    """The port ids of sockets that are open, and of those that were closed in the last seconds. Any thread may call."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start without a port id."""
        self._monotonic = monotonic
        self._until: dict[int, float | None] = {}  # port id -> when it is forgotten; None while it is open

    def opened(self, port: int) -> None:
        """Add the port id of a socket."""
        self._until[port] = None

    def closed(self, port: int) -> None:
        """Note that a socket is closed; its last notifications may still be unread."""
        now = self._monotonic()
        self._until[port] = now + _CLOSED_SECONDS
        for known, until in tuple(self._until.items()):
            if until is not None and until <= now:
                del self._until[known]

    def owns(self, port: int) -> bool:
        """Return whether a socket of this process has a port id, or had it seconds ago."""
        if port not in self._until:
            return False
        until = self._until[port]
        return until is None or until > self._monotonic()
