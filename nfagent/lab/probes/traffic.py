"""Live connections with continuous traffic, and counters at their receivers: which are cut off by a policy change.

    with TrafficStreams() as streams:
        stream = streams.open(StreamPlan(client=client_netns, server=server_netns, address="10.244.2.11",
                                         protocol="tcp", port=80, speaker="server"))
        streams.wait_for(20, stream)              # packets that arrived
        committed = change_the_policy()           # time.monotonic() at the commit
        streams.wait_until_sent(20, stream)       # more of them
        late = stream.passed_after(committed)

One end, the speaker, sends a small numbered packet every few milliseconds; the other end sends only TCP's
acknowledgements. Arrivals are counted on the receiver's interface, after all rules on their path.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec

from nfagent.errors import KernelError
from nfagent.lab.machine.patience import patient
from nfagent.lab.probes.listeners import ABORT, DOMAINS
from nfagent.lab.probes.packet_counter import Arrival, PacketCounter, StreamProtocol, arrived, sent_times, stamp
from nfagent.lab.topology import netns
from nfagent.model.netaddr import family_of

StreamSender: TypeAlias = Literal["client", "server"]

_INTERVAL = 0.002
_QUEUED_SECONDS, _TCP_CLOCK_SECONDS = 0.01, 0.002
_PATIENCE, _PROGRESS_SECONDS = patient(30.0), patient(30.0)
"""TCP repeats a packet after twice the time of the last one: some seconds after a cut that lasted seconds."""
_NUMBER = struct.Struct("!I")
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_DRAINED_EVERY = 16
"""Turns after which a connection's buffers are read; none is full by then."""
# linux/tcp.h: struct tcp_info
_DATA_SEGMENTS_OUT, _TCP_INFO_BYTES = 156, 160
_U32 = struct.Struct("I")


class StreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The ends, addresses and sender of one connection.

    client, server: network namespaces
    address, port:  the server's, as the client connects to them
    speaker:        the end that sends
    listens:        the port that the server listens on, where a Service translates it; 0 for `port`
    bound:          the server's own address, where it has several of a family and would answer by another; '' for any
    answered:       UDP only: whether the server answered once, so that the conntrack entry is established
    counted:        where packets are counted: on the receiver's interface; or at its socket, for a receiver that is
                    a node itself, because packets on a node's interface haven't passed the node's rules yet
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
        """Return it as `tcp nfa-1-pod-x.a -> nfa-1-pod-y.b, 10.244.2.11 port 80, the server sends`."""
        unanswered = "" if self.answered else ", never answered"
        ends = f"{self.protocol} {self.client} -> {self.server}, {self.address} port {self.port}"
        return f"{ends}, the {self.speaker} sends{unanswered}"


class TrafficStream:
    """One connection and the counter of its arrivals; `TrafficStreams` opens it, sends on it and closes it."""

    def __init__(self, line: StreamPlan) -> None:
        """Connect. Raises OSError where that takes more than half a minute, KernelError."""
        self.plan = line
        self._family = family_of(line.address)
        self._sockets: list[socket.socket] = []
        self._counter: PacketCounter | None = None
        self._received: list[Arrival] = []
        self._draining = threading.Lock()
        self._sent_at: list[float] = []
        self._receiver: socket.socket
        self._sender: socket.socket
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    @property
    def sent(self) -> int:
        """Number of packets with a payload that the speaker has sent; for TCP, with its retransmissions."""
        if self.plan.protocol == "udp":
            return len(self._sent_at)
        info = self._sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(_U32.unpack_from(info, _DATA_SEGMENTS_OUT)[0])

    @property
    def received(self) -> int:
        """Number of packets from the speaker that have arrived. Raises KernelError where some weren't counted."""
        return len(self._all())

    def arrivals(self) -> list[float]:
        """Return when packets from the speaker arrived, by time.monotonic(). Raises KernelError as `heard` does."""
        return [when for when, _ in self._all()]

    def passed_after(self, committed: float) -> list[float]:
        """Return the times of the packets that passed the rules after a commit, by time.monotonic().

        A packet counts where it was sent after the commit: one from before may have passed in time and have waited in a
        queue between two interfaces, for many milliseconds on a busy machine. When a TCP segment was sent, or sent
        again, its timestamps option says; one without it counts where it arrived over 10 ms after the commit.
        """
        return self.passed_of(self._all(), committed)

    def passed_of(self, arrivals: Sequence[Arrival], committed: float) -> list[float]:
        """Return of these arrivals of its packets, as any PacketCounter has them, those that `passed_after` counts."""
        if self.plan.protocol == "udp":
            return [when for _, number in arrivals if (when := self._sent_at[number - 1]) > committed]
        return [
            when
            for (when, _), sent in zip(arrivals, sent_times(arrivals), strict=True)
            if (when - _QUEUED_SECONDS if sent is None else sent - _TCP_CLOCK_SECONDS) > committed
        ]

    def numbers(self) -> list[int]:
        """Return the first numbers in the packets that arrived, -1 without one; the speaker sends 1, 2, 3, ..."""
        return [number for _, number in self._all()]

    def send_fin(self) -> None:
        """Send a FIN from the TCP end that doesn't send otherwise."""
        self._receiver.shutdown(socket.SHUT_WR)

    def reset_and_reopen(self) -> None:
        """Reset the TCP connection from the client, which doesn't send otherwise, and open its ports again.

        Both segments may be dropped: this waits for no answer. Raises OSError.
        """
        with self._draining:
            own = self._receiver.getsockname()
            self._receiver.close()
            again = self._in(self.plan.client, self._open)
            again.bind(own)
            again.setblocking(False)  # noqa: FBT003 - socket's own signature
            again.connect_ex((self.plan.address, self.plan.port))
            self._receiver = again

    def send_next(self) -> None:
        """Send the next number; the same once more after a refused packet, or where TCP's buffer is full.

        A packet that an output rule of the sender's own namespace drops counts as sent, though `send` fails.
        """
        self._sent_at.append(time.monotonic())
        try:
            self._sender.send(_NUMBER.pack(len(self._sent_at) & 0xFFFF_FFFF))
        except PermissionError:
            pass
        except OSError:
            self._sent_at.pop()

    def drain(self) -> None:
        """Read the arrivals, so that no buffer fills."""
        with self._draining:
            self._received += arrived(self._receiver, _number)
        if self._counter is not None:
            self._counter.read_pending()

    def close(self) -> None:
        """Close the sockets; the counts stay readable."""
        for sock in self._sockets:
            sock.close()
        if self._counter is not None:
            self._counter.close()

    def _all(self) -> list[Arrival]:
        if self._counter is not None:
            return self._counter.arrivals()
        if self._receiver.fileno() >= 0:
            self.drain()
        return list(self._received)

    def _connect(self) -> None:
        line = self.plan
        listener = self._in(line.server, self._listen)
        calling = self._in(line.client, self._call)
        self.client_port = int(calling.getsockname()[1])
        """The client's own port: identifies the connection among those of its Pod."""
        serving, caller = self._greet(listener, calling)
        client_receives = line.speaker == "server"
        self._sender, self._receiver = (serving, calling) if client_receives else (calling, serving)
        if line.counted == "socket":
            stamp(self._receiver)
        else:
            # Where the source port is translated, the server sees another one than the client has.
            source, port = (line.address, self.client_port) if client_receives else caller
            where = line.client if client_receives else line.server
            self._counter = PacketCounter(where, self._family, line.protocol, port, source=source)
        for sock in (calling, serving):
            sock.setblocking(False)  # noqa: FBT003 - socket's own signature

    def _in(self, namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
        made = netns.inside(namespace, make)
        self._sockets.append(made)
        return made

    def _open(self) -> socket.socket:
        sock = socket.socket(DOMAINS[self._family], _KINDS[self.plan.protocol])
        sock.settimeout(_PATIENCE)
        if self._family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return sock

    def _listen(self) -> socket.socket:
        listener = self._open()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.plan.bound, self.plan.listens or self.plan.port))
        if self.plan.protocol == "tcp":
            listener.listen()
        return listener

    def _call(self) -> socket.socket:
        calling = self._open()
        if self.plan.protocol == "tcp":
            _disable_delays(calling)
        try:
            calling.connect((self.plan.address, self.plan.port))
        except OSError:
            calling.close()
            raise
        return calling

    def _greet(self, listener: socket.socket, calling: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
        """Exchange the first packets; return the server's socket, and the client's address as the server sees it."""
        if self.plan.protocol == "tcp":
            serving, caller = listener.accept()
            self._sockets.append(serving)
            listener.close()
            _disable_delays(serving)
            return serving, (caller[0], int(caller[1]))
        calling.send(_NUMBER.pack(0))
        _, caller = listener.recvfrom(_NUMBER.size)
        listener.connect(caller)
        if self.plan.answered:
            listener.send(_NUMBER.pack(0))
            calling.recv(_NUMBER.size)
        return listener, (caller[0], int(caller[1]))


class TrafficStreams:
    """Connections on which one thread sends in turn; a context manager that closes them."""

    def __init__(self, interval: float = _INTERVAL) -> None:
        """Start without a connection; interval: seconds between two packets of one connection."""
        self._interval = interval
        self._streams: list[TrafficStream] = []
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="lab traffic", daemon=True)

    def __enter__(self) -> Self:
        """Start sending."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop sending, and close all connections."""
        self._stop.set()
        self._thread.join()
        self.close(*self._streams)

    def open(self, line: StreamPlan) -> TrafficStream:
        """Open a connection, and send on it from now on. Raises OSError, KernelError."""
        stream = TrafficStream(line)
        with self._turn:
            self._streams.append(stream)
        return stream

    def close(self, *streams: TrafficStream) -> None:
        """Stop sending on some connections, and close them; their counts stay readable."""
        with self._turn:
            self._streams = [stream for stream in self._streams if stream not in streams]
        if streams:
            # Closing a packet socket waits for an RCU grace period; in parallel all of them wait for the same one.
            with ThreadPoolExecutor(len(streams)) as pool:
                list(pool.map(TrafficStream.close, streams))

    @staticmethod
    def wait_for(more: int, *streams: TrafficStream) -> None:
        """Wait until this many more packets of each have arrived. Raises KernelError after half a minute."""
        _await(streams, lambda stream: stream.received, more, "arrived")

    @staticmethod
    def wait_until_sent(more: int, *streams: TrafficStream) -> None:
        """Wait until this many more packets of each were sent. Raises KernelError after half a minute."""
        _await(streams, lambda stream: stream.sent, more, "sent")

    def _send(self) -> None:
        # One thread for all: a thread for each connection would wait for the interpreter lock.
        turn = 0
        while not self._stop.wait(self._interval):
            turn += 1
            with self._turn:
                for stream in self._streams:
                    stream.send_next()
                for stream in self._streams[turn % _DRAINED_EVERY :: _DRAINED_EVERY]:
                    stream.drain()


def _await(streams: Iterable[TrafficStream], count: Callable[[TrafficStream], int], more: int, what: str) -> None:
    wanted = {stream: count(stream) + more for stream in streams}
    end, pause = time.monotonic() + _PROGRESS_SECONDS, threading.Event()
    for stream, enough in wanted.items():
        while (found := count(stream)) < enough:
            if time.monotonic() > end:
                raise KernelError(
                    f"{found} {'packet' if found == 1 else 'packets'} {what} instead of {enough}: {stream.plan}"
                )
            pause.wait(_INTERVAL)


def _disable_delays(sock: socket.socket) -> None:
    """Send every write at once (TCP_NODELAY), and close by RST, without TIME_WAIT."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _number(payload: bytes) -> int:
    return int(_NUMBER.unpack(payload)[0]) if len(payload) == _NUMBER.size else -1
