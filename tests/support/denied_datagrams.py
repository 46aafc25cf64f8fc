"""Sends a UDP packet of a new connection every millisecond that no rule may let pass, and counts those that arrive."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from nfagent.lab.probes.packet_counter import PacketCounter
from nfagent.lab.topology import netns
from nfagent.model.netaddr import family_of

_INTERVAL = 0.001
_PATIENCE = 60.0


class DeniedDatagrams:
    """Packets from one network namespace to an address of another; a context manager that ends them.

    sent: number of packets, each from a socket of its own
    """

    def __init__(self, source: str, destination: str, address: str, port: int) -> None:
        """Plan the packets. source, destination: network namespaces; address, port: of the destination."""
        self.sent = 0
        self._source = source
        self._to = (address, port)
        self._family = socket.AF_INET6 if family_of(address) == 6 else socket.AF_INET
        self._counter = PacketCounter(destination, family_of(address), "udp", port)
        self._more = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=netns.inside, args=(source, self._send), name="denied", daemon=True)

    def __enter__(self) -> Self:
        """Start, and return after the first packets."""
        self._thread.start()
        self.wait_for(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()
        self._counter.close()

    @property
    def arrived(self) -> int:
        """The number of packets that arrived."""
        return len(self._counter.arrivals())

    def wait_for(self, more: int) -> None:
        """Wait until so many more were sent."""
        with self._more:
            wanted = self.sent + more
            assert self._more.wait_for(lambda: self.sent >= wanted, _PATIENCE), (
                f"{self.sent} packets sent, not {wanted}"
            )

    def _send(self) -> None:
        while not self._stop.wait(_INTERVAL):
            with socket.socket(self._family, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
                sock.sendto(b"denied", self._to)
            with self._more:
                self.sent += 1
                self._more.notify_all()
