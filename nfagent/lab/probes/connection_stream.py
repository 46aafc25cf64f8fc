"""Opens a new connection every few milliseconds, and records which are answered, when, and from which source address.

with ConnectionStream(listeners, Probe(source, "203.0.113.10", "udp", 443)) as stream:
    stream.wait_for(20)                      # more connections that were answered
    changed = move_the_address()
print(stream.lost, stream.gap_after(changed))

A connection is one packet and its echo, for TCP after the handshake. A UDP or ICMP packet isn't repeated, so one that
a rule drops stays lost; TCP repeats a SYN after a second.
"""

from __future__ import annotations

import collections
import functools
import select
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import msgspec

from nfagent.errors import KernelError
from nfagent.lab.probes.flow import LabFlow, next_nonce, open_flow
from nfagent.lab.probes.listeners import Listeners
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology import netns

_INTERVAL = 0.005
_PATIENCE = 3.0  # far above what a busy machine adds
_PROGRESS_SECONDS = 30.0


class Connection(msgspec.Struct):
    """A connection that was tried.

    opened:    time.monotonic() just before its first packet
    answered:  when the answer was read; None without one
    repeated:  whether it was answered only after TCP had sent a packet again
    seen_from: the source address that the server saw; None if no packet arrived
    """

    nonce: int
    opened: float
    answered: float | None = None
    repeated: bool = False
    seen_from: str | None = None


class ConnectionStream:
    """New connections of one probe, in a thread of its own; a context manager that ends it.

    connections: those opened so far, in order; sources and late answers are known after the end
    """

    def __init__(
        self, servers: Listeners, probe: Probe, interval: float = _INTERVAL, patience: float = _PATIENCE
    ) -> None:
        """Plan the connections; seconds between two of them, and for which each may wait for its answer."""
        self.probe = probe
        self.connections: list[Connection] = []
        self._servers = servers
        self._interval = interval
        self._patience = patience
        self._answers = 0
        self._failed: BaseException | None = None
        self._turn = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lab connections", daemon=True)

    def __enter__(self) -> Self:
        """Start, and return after the first answer. Raises KernelError as `wait_for` does."""
        self._thread.start()
        try:
            self.wait_for(1)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Open no more connections, and wait a while for the answers of those that are open."""
        self._end()

    @property
    def lost(self) -> list[Connection]:
        """The connections without an answer."""
        return [one for one in self.connections if one.answered is None]

    @property
    def sources(self) -> set[str | None]:
        """The source addresses that the server saw; None if a packet didn't arrive."""
        return {one.seen_from for one in self.connections}

    def gap_after(self, moment: float) -> float:
        """Return the seconds from a moment until the last connection without an answer had been opened; 0.0 if none.

        For TCP, one that was answered only after a repeated SYN counts as one without an answer.
        """
        late = [one.opened for one in self.connections if one.answered is None or one.repeated]
        return max([opened - moment for opened in late if opened > moment], default=0.0)

    def wait_for(self, more: int) -> None:
        """Wait until this many more connections were answered. Raises KernelError after half a minute."""
        with self._turn:
            wanted = self._answers + more
            done = self._turn.wait_for(lambda: self._failed or self._answers >= wanted, _PROGRESS_SECONDS)
        if self._failed is not None:
            raise KernelError(f"the connections of {self.probe.source} ended: {self._failed}") from self._failed
        if not done:
            raise KernelError(
                f"{self._answers} connections of {self.probe.source} to {self.probe.destination} by "
                f"{self.probe.protocol} were answered, not {wanted}, after {_PROGRESS_SECONDS:.0f} s"
            )

    def _end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._servers.wait_idle()
        for one in self.connections:
            one.seen_from = self._servers.seen_from(one.nonce)

    def _run(self) -> None:
        probe = self.probe
        make = functools.partial(open_flow, probe.protocol, probe.destination, probe.port)
        try:
            netns.inside(probe.source, functools.partial(self._open_all, make))
        except BaseException as error:  # noqa: BLE001 - `wait_for` raises it
            with self._turn:
                self._failed = error
                self._turn.notify_all()

    def _open_all(self, make: functools.partial[LabFlow]) -> None:
        with select.epoll() as epoll:
            opened = _OpenConnections(epoll)
            try:
                while not self._stop.is_set():
                    began = time.monotonic()
                    self.connections.append(opened.open(make, began))
                    self._read(opened, began + self._interval)
                    # After the read: where this thread stood still, answers wait to be read.
                    opened.forget_before(began - self._patience)
                end = time.monotonic() + self._patience
                while opened and time.monotonic() < end:
                    self._read(opened, time.monotonic() + self._interval)
                # The servers' thread may have stood still.
                self._servers.wait_idle()
                self._read(opened, time.monotonic() + self._interval)
            finally:
                opened.close()

    def _read(self, opened: _OpenConnections, until: float) -> None:
        found = list(opened.read_until(until))
        if found:
            with self._turn:
                self._answers += len(found)
                self._turn.notify_all()


class _OpenConnections:
    """The connections without an answer so far, of the thread that is in their namespace."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._open: dict[int, tuple[LabFlow, Connection]] = {}
        self._ages: collections.deque[tuple[int, Connection]] = collections.deque()

    def __bool__(self) -> bool:
        return bool(self._open)

    def open(self, make: functools.partial[LabFlow], now: float) -> Connection:
        """Open a connection; one that the kernel refuses to send stays without an answer."""
        made = Connection(next_nonce(), now)
        flow = make()
        self._open[flow.sock.fileno()] = (flow, made)
        self._ages.append((flow.sock.fileno(), made))
        try:
            flow.send(made.nonce)
            self._epoll.register(flow.sock.fileno(), flow.events)
        except OSError:
            self._forget(flow.sock.fileno(), made)
        return made

    def forget_before(self, opened: float) -> None:
        """Close the connections that were opened before a time."""
        while self._ages and self._ages[0][1].opened < opened:
            self._forget(*self._ages.popleft())

    def read_until(self, until: float) -> Iterator[Connection]:
        """Read answers until a time, and once where it has passed; yield the connections that were answered."""
        left = until - time.monotonic()
        while True:
            for descriptor, _mask in self._epoll.poll(max(left, 0.0)):
                yield from self._read(descriptor)
            left = until - time.monotonic()
            if left <= 0.0:
                return

    def close(self) -> None:
        """Close what is open."""
        for descriptor, (_, made) in list(self._open.items()):
            self._forget(descriptor, made)

    def _read(self, descriptor: int) -> Iterator[Connection]:
        """Read the answers of a connection; yield it where it was answered."""
        flow, made = self._open[descriptor]
        try:
            if made.nonce not in flow.answers():
                return
            made.repeated = flow.repeats > 0
        except OSError:
            self._forget(descriptor, made)
            return
        made.answered = time.monotonic()
        self._forget(descriptor, made)
        yield made

    def _forget(self, descriptor: int, made: Connection) -> None:
        found = self._open.get(descriptor)
        # A descriptor is used again after it was closed.
        if found is not None and found[1] is made:
            del self._open[descriptor]
            found[0].close()
