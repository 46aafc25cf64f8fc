"""Netlink port ids of this process's own nfnetlink sockets, those that libnftables opened included.

Every nf_tables notification carries the port id of the socket that committed (`nlmsghdr.nlmsg_pid`), so own commits
are recognised by it. libnftables doesn't expose its socket: the open files of the process are searched for it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nfagent.netlink.codec import NETLINK_NETFILTER

_OPEN_FILES = Path("/proc/self/fd")
_MOST_CLOSED = 64
"""Notifications are read within milliseconds; 64 sockets are not opened and closed in that time."""
_CLOSED_SECONDS = 10.0
"""The kernel may give a free port id to a process of another PID namespace, whose commits are not our own."""


class OwnPorts:
    """The port ids of sockets that are open, and of those that were closed in the last seconds.

    One thread at a time may call `keep`; any thread may call `owns`.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start without a known port id; the first `owns` reads them."""
        self._monotonic = monotonic
        self._open: frozenset[int] = frozenset()
        self._closed: dict[int, float] = {}  # port id -> when it is forgotten; replaced, never changed

    def owns(self, port: int) -> bool:
        """Return whether a socket of this process has, or had, a port id; reads the open files for an unknown one."""
        if port not in self._open and not self._is_kept(port):
            self._open = open_ports()
        # The kept ones last: a socket may be closed while the open files are read.
        return port in self._open or self._is_kept(port)

    def keep(self) -> None:
        """Keep the port ids of the open sockets; call it before one of them that has committed is closed."""
        until = self._monotonic() + _CLOSED_SECONDS
        ports = open_ports()
        kept = {port: end for port, end in self._closed.items() if port not in ports}
        self._closed = dict([*kept.items(), *((port, until) for port in ports)][-_MOST_CLOSED:])
        self._open = frozenset()  # read again by the next `owns`: one of them is about to be closed

    def _is_kept(self, port: int) -> bool:
        return self._closed.get(port, 0.0) > self._monotonic()


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
