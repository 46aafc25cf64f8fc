"""Netlink port ids of this process's own nfnetlink sockets, those that libnftables opened included.

Every nf_tables notification carries the port id of the socket that committed (`nlmsghdr.nlmsg_pid`), so own commits
are recognised by it. libnftables doesn't expose its socket: the open files of the process are searched for it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from nfagent.netlink.codec import NETLINK_NETFILTER

_OPEN_FILES = Path("/proc/self/fd")
_MOST_CLOSED = 64
"""Notifications are read within milliseconds; 64 sockets are not opened and closed in that time."""


class OwnPorts:
    """The port ids of sockets that are open, and of the last ones that were closed.

    One thread at a time may call `keep`; any thread may call `owns`.
    """

    def __init__(self) -> None:
        """Start without a known port id; the first `owns` reads them."""
        self._open: frozenset[int] = frozenset()
        self._closed: tuple[int, ...] = ()

    def owns(self, port: int) -> bool:
        """Return whether a socket of this process has, or had, a port id; reads the open files for an unknown one."""
        if port not in self._open and port not in self._closed:
            self._open = open_ports()
        # `_closed` last: a socket may be closed while the open files are read.
        return port in self._open or port in self._closed

    def keep(self) -> None:
        """Keep the port ids of the open sockets; call it before one of them that has committed is closed."""
        fresh = open_ports().difference(self._closed)
        self._closed = (*self._closed, *fresh)[-_MOST_CLOSED:]


def open_ports() -> frozenset[int]:
    """Return the port ids of the nfnetlink sockets that this process has open."""
    return frozenset(_open_ports())


def _open_ports() -> Iterator[int]:
    for entry in _OPEN_FILES.iterdir():
        try:
            found = socket.socket(fileno=int(entry.name))
        except OSError:
            continue  # not a socket, or closed meanwhile
        try:
            if (found.family, found.proto) == (socket.AF_NETLINK, NETLINK_NETFILTER):
                port = found.getsockname()[0]
                if port:  # 0 before the first request, and in messages the kernel itself
                    yield port
        except OSError:
            continue
        finally:
            found.detach()  # the descriptor stays open: it belongs to other code of this process
