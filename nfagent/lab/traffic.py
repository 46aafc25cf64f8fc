"""Live connections under traffic, with counters at their receivers: who still hears whom after a policy changed.

    with Talks() as talks:
        talk = talks.open(Line(client=client_netns, server=server_netns, address="10.244.2.11", protocol="tcp", port=80,
                               speaker="server"))
        talks.wait_for(20, talk)                # packets that arrived
        committed = change_the_policy()         # time.monotonic() at the commit
        talks.wait_until_sent(20, talk)         # more of them
        late = [when for when in talk.arrivals() if when > committed]

The speaker sends a small numbered packet every few milliseconds, the other end says nothing (TCP's own acknowledgements
aside). Arrivals are counted on the receiver's interface, where they have met every rule on their way.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec

from nfagent.errors import KernelError
from nfagent.lab import netns
from nfagent.lab.listeners import ABORT, DOMAINS
from nfagent.lab.packet_counter import Arrival, PacketCounter, StreamProtocol, arrived, stamp
from nfagent.model.netaddr import family_of

StreamSender: TypeAlias = Literal["client", "server"]

_INTERVAL = 0.002
_PATIENCE = 5.0
_NUMBER = struct.Struct("!I")
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_DRAINED_EVERY = 16
"""Turns; no buffer is full by then."""
# linux/tcp.h: struct tcp_info
_DATA_SEGMENTS_OUT, _TCP_INFO_BYTES = 156, 160
_U32 = struct.Struct("I")


class StreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Who talks to whom, and how.

    client, server: network namespaces
    address, port:  the server's, as the client calls them
    listens:        the port that the server listens on, where a Service translates; 0 for the one that is called
    bound:          the server's own address, where it has several of a family and answers by another; '' for any
    answered:       UDP only: whether the server answered once, so that conntrack calls the connection established
    counted:        where packets are counted: on the receiver's interface; or at its socket, for a receiver that is
                    a node itself: on a node's interface nothing has met the node's rules yet
    """

    client: str
    server: str
    address: str
    protocol: StreamProtocol
    port: int
    speaker: StreamSender
    listens: int = 0
    bound: str = ""
    answered: bool = True
    counted: Literal["interface", "socket"] = "interface"

    def __str__(self) -> str:
        """Write it as `tcp nfa-1-pod-x.a -> nfa-1-pod-y.b, 10.244.2.11 port 80, the server speaks`."""
        unanswered = "" if self.answered else ", never answered"
        ends = f"{self.protocol} {self.client} -> {self.server}, {self.address} port {self.port}"
        return f"{ends}, the {self.speaker} speaks{unanswered}"


class TrafficStream:
    """One connection, made and counted; `TrafficStreams` opens it, has it speak, and closes it."""

    def __init__(self, line: StreamPlan) -> None:
        """Connect. Raises OSError where that takes more than five seconds, KernelError."""
        self.line = line
        self._family = family_of(line.address)
        self._sockets: list[socket.socket] = []
        self._counter: PacketCounter | None = None
        self._heard: list[Arrival] = []
        self._draining = threading.Lock()
        self._sent = 0
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    @property
    def sent(self) -> int:
        """How many packets with content have left the speaker so far; of TCP, with those that it repeated."""
        if self.line.protocol == "udp":
            return self._sent
        info = self._speaking.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(_U32.unpack_from(info, _DATA_SEGMENTS_OUT)[0])

    @property
    def heard(self) -> int:
        """How many packets from the speaker have arrived so far. Raises KernelError for a lost count."""
        return len(self._all())

    def arrivals(self) -> list[float]:
        """Give when packets from the speaker arrived, by time.monotonic(). Raises KernelError for a lost count."""
        return [when for when, _ in self._all()]

    def numbers(self) -> list[int]:
        """Give the numbers in the UDP packets that arrived: 1, 2, 3, ... as they were sent."""
        return [number for _, number in self._all()]

    def hang_up(self) -> None:
        """Have the silent end of TCP close its side: a FIN of its own."""
        self._hearing.shutdown(socket.SHUT_WR)

    def speak(self) -> None:
        """Send the next number, or the same once more: an earlier packet was refused, or TCP's buffer is full.

        A packet that a rule drops on its way out of this very machine is sent too, though its speaker is told.
        """
        try:
            self._speaking.send(_NUMBER.pack((self._sent + 1) & 0xFFFF_FFFF))
        except PermissionError:
            pass
        except OSError:
            return
        self._sent += 1

    def drain(self) -> None:
        """Take out what has arrived, so that no buffer fills."""
        with self._draining:
            self._heard += arrived(self._hearing, _number)
        if self._counter is not None:
            self._counter.look()

    def close(self) -> None:
        """Close everything; what was counted is kept."""
        for sock in self._sockets:
            sock.close()
        if self._counter is not None:
            self._counter.close()

    def _all(self) -> list[Arrival]:
        if self._counter is not None:
            return self._counter.arrivals()
        if self._hearing.fileno() >= 0:
            self.drain()
        return list(self._heard)

    def _connect(self) -> None:
        line = self.line
        listener = self._in(line.server, self._listen)
        talker = self._in(line.client, self._call)
        self.client_port = int(talker.getsockname()[1])
        """The client's own port: what tells it from other connections of its Pod."""
        serving, seen_port = self._greet(listener, talker)
        client_hears = line.speaker == "server"
        self._speaking, self._hearing = (serving, talker) if client_hears else (talker, serving)
        if line.counted == "socket":
            stamp(self._hearing)
        else:
            # A port translated on the way is the client's to the server alone.
            where, port = (line.client, self.client_port) if client_hears else (line.server, seen_port)
            self._counter = PacketCounter(where, self._family, line.protocol, port)
        for sock in (talker, serving):
            sock.setblocking(False)  # noqa: FBT003 - socket's own signature

    def _in(self, namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
        made = netns.inside(namespace, make)
        self._sockets.append(made)
        return made

    def _open(self) -> socket.socket:
        sock = socket.socket(DOMAINS[self._family], _KINDS[self.line.protocol])
        sock.settimeout(_PATIENCE)
        if self._family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return sock

    def _listen(self) -> socket.socket:
        listener = self._open()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.line.bound, self.line.listens or self.line.port))
        if self.line.protocol == "tcp":
            listener.listen()
        return listener

    def _call(self) -> socket.socket:
        talker = self._open()
        if self.line.protocol == "tcp":
            _prompt(talker)
        try:
            talker.connect((self.line.address, self.line.port))
        except OSError:
            talker.close()
            raise
        return talker

    def _greet(self, listener: socket.socket, talker: socket.socket) -> tuple[socket.socket, int]:
        """Make the connection known at both ends; give the server's socket, and the client's port as it sees it."""
        if self.line.protocol == "tcp":
            serving, caller = listener.accept()
            self._sockets.append(serving)
            listener.close()
            _prompt(serving)
            return serving, int(caller[1])
        talker.send(_NUMBER.pack(0))
        _, caller = listener.recvfrom(_NUMBER.size)
        listener.connect(caller)
        if self.line.answered:
            listener.send(_NUMBER.pack(0))
            talker.recv(_NUMBER.size)
        return listener, int(caller[1])


class TrafficStreams:
    """Connections that all talk, each in its turn; a context manager that has closed them after."""

    def __init__(self, interval: float = _INTERVAL) -> None:
        """Start without any; interval: seconds from one packet of a connection's to the next."""
        self._interval = interval
        self._talks: list[TrafficStream] = []
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="lab talks", daemon=True)

    def __enter__(self) -> Self:
        """Begin to talk."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Fall silent, and close everything."""
        self._stop.set()
        self._thread.join()
        self.close(*self._talks)

    def open(self, line: StreamPlan) -> TrafficStream:
        """Connect two ends, and have one of them speak. Raises OSError, KernelError."""
        talk = TrafficStream(line)
        with self._turn:
            self._talks.append(talk)
        return talk

    def close(self, *talks: TrafficStream) -> None:
        """Have some fall silent, and close them; what they counted is kept."""
        with self._turn:
            self._talks = [talk for talk in self._talks if talk not in talks]
        if talks:
            # The kernel takes its time over every packet socket, and the same time for all of them at once.
            with ThreadPoolExecutor(len(talks)) as pool:
                list(pool.map(TrafficStream.close, talks))

    @staticmethod
    def wait_for(more: int, *talks: TrafficStream) -> None:
        """Return when of each so many packets more have arrived. Raises KernelError when that takes five seconds."""
        _await(talks, lambda talk: talk.heard, more, "arrived")

    @staticmethod
    def wait_until_sent(more: int, *talks: TrafficStream) -> None:
        """Return when of each so many packets more have left the speaker. Raises KernelError as `wait_for` does."""
        _await(talks, lambda talk: talk.sent, more, "left")

    def _talk(self) -> None:
        # One thread for all: as many as there are connections would wait for each other's interpreter lock.
        turn = 0
        while not self._stop.wait(self._interval):
            turn += 1
            with self._turn:
                for talk in self._talks:
                    talk.speak()
                for talk in self._talks[turn % _DRAINED_EVERY :: _DRAINED_EVERY]:
                    talk.drain()


def _await(talks: Iterable[TrafficStream], count: Callable[[TrafficStream], int], more: int, what: str) -> None:
    wanted = {talk: count(talk) + more for talk in talks}
    end, pause = time.monotonic() + _PATIENCE, threading.Event()
    for talk, enough in wanted.items():
        while (found := count(talk)) < enough:
            if time.monotonic() > end:
                raise KernelError(
                    f"{found} {'packet' if found == 1 else 'packets'} {what} instead of {enough}: {talk.line}"
                )
            pause.wait(_INTERVAL)


def _prompt(sock: socket.socket) -> None:
    """Have TCP send every write at once, and leave nothing behind when it is closed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _number(payload: bytes) -> int:
    return int(_NUMBER.unpack(payload)[0]) if len(payload) == _NUMBER.size else -1
