"""Records when conntrack destroyed an entry of a network namespace, from its DESTROY notifications."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import Self, TypeAlias

from nfagent.errors import WireError
from nfagent.lab.topology import netns
from nfagent.netlink import codec
from nfagent.netlink.conntrack import decode_entry

DestroyedConnection: TypeAlias = tuple[str, int, int]
"""Client's address, protocol number, client's port."""

# linux/netfilter/nfnetlink.h: NFNLGRP_CONNTRACK_DESTROY is the third group, a bit in sockaddr_nl;
# nfnetlink_conntrack.h: IPCTNL_MSG_CT_DELETE of NFNL_SUBSYS_CTNETLINK
_DESTROY_GROUP = 1 << 2
_DELETE = 1 << 8 | 2
_SO_RCVBUFFORCE = 33
_BUFFER = 4 * 1024 * 1024
_DATAGRAM = 1 << 16
_SLICE = 0.05


class ConntrackDestroyListener:
    """Listens from its construction on; a context manager. Records connections with ports only."""

    def __init__(self, namespace: str) -> None:
        """Subscribe to the notifications. Raises KernelError, OSError."""
        self._sock = netns.inside(namespace, _notification_socket)
        self._destroyed: dict[DestroyedConnection, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="lab conntrack events", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the socket."""
        self._stop.set()
        self._thread.join()
        self._sock.close()

    def destroyed_at(self, client: str, protocol: int, port: int) -> float | None:
        """Return when a connection's last entry was destroyed, by time.monotonic(); None without a notification."""
        return self._destroyed.get((client, protocol, port))

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                notice = self._sock.recv(_DATAGRAM)
            except TimeoutError:
                continue
            except OSError:
                return
            now = time.monotonic()
            for message in codec.messages(notice):
                if message.type != _DELETE:
                    continue
                try:
                    entry = decode_entry(message.payload)
                except WireError:
                    continue  # no connection with ports: `decode_entry` misses an attribute
                if entry.client_port is not None:
                    self._destroyed[entry.client, entry.protocol, entry.client_port] = now


def _notification_socket() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, codec.NETLINK_NETFILTER)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    sock.settimeout(_SLICE)
    sock.bind((0, _DESTROY_GROUP))
    return sock
