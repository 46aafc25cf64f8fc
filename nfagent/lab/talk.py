"""A live connection under traffic, with a counter at its receiver: who still hears whom after a policy changed.

    with Talk(Line(client_netns, server_netns, "10.244.2.11", "tcp", 80, speaker="server")) as talk:
        talk.wait_for(20)                       # packets that arrived
        committed = change_the_policy()         # time.monotonic() at the commit
        talk.wait_until_sent(20)                # more of them
        late = [when for when in talk.arrivals() if when > committed]

The speaker sends a small numbered packet every few milliseconds, the other end says nothing (TCP's own acknowledgements
aside). Arrivals are counted on the receiver's interface, where they have met every rule on their way.
"""

from __future__ import annotations

import ctypes
import functools
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec

from nfagent.cluster.address import Family, family_of
from nfagent.errors import KernelError
from nfagent.lab import netns
from nfagent.lab.servers import ABORT, DOMAINS

Speaker: TypeAlias = Literal["client", "server"]
TalkProtocol: TypeAlias = Literal["tcp", "udp"]
Arrival: TypeAlias = tuple[float, int]
"""When a packet arrived, by time.monotonic(), and its number; -1 where it says none, as TCP's do."""

_INTERVAL = 0.001
_PATIENCE = 5.0
_PAYLOAD = struct.Struct("!I")
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_NUMBERS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_ETHERTYPES: dict[Family, int] = {4: 0x0800, 6: 0x86DD}
_IP_BYTES: dict[Family, int] = {4: 20, 6: 40}
_PROTOCOL_AT: dict[Family, int] = {4: 9, 6: 6}
_UDP_BYTES = 8
_HEAD_BYTES = 128
_TIMESPEC = struct.Struct("qq")
_BUFFER = 4 * 1024 * 1024
_ANCILLARY_BYTES = 64
_AT_MOST = 1 << 16
_CLOCK_TRIES = 5
# asm-generic/socket.h, linux/if_packet.h, linux/tcp.h (struct tcp_info)
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 263, 6, 23
_STATISTICS = struct.Struct("II")
_DATA_SEGMENTS_OUT, _TCP_INFO_BYTES = 156, 160
_U32 = struct.Struct("I")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Who talks to whom, and how.

    client, server: network namespaces
    address, port:  the server's, as the client calls them
    bound:          the server's own address, where it has several of a family and answers by another; '' for any
    answered:       UDP only: whether the server answered once, so that conntrack calls the connection established
    counted:        where packets are counted: on the receiver's interface; or at its socket, for a receiver that is
                    a node itself: on a node's interface nothing has met the node's rules yet
    interval:       seconds from one packet to the next
    """

    client: str
    server: str
    address: str
    protocol: TalkProtocol
    port: int
    speaker: Speaker
    bound: str = ""
    answered: bool = True
    counted: Literal["interface", "socket"] = "interface"
    interval: float = _INTERVAL

    @property
    def listener(self) -> Speaker:
        """The end that says nothing."""
        return "client" if self.speaker == "server" else "server"


class Counter:
    """Counts packets that come into a network namespace, whoever they are for: those with a port at either end.

    The kernel notes when each came. A context manager; also made and closed by hand.
    """

    def __init__(self, namespace: str, family: Family, protocol: TalkProtocol, port: int) -> None:
        """Count from now on. Raises KernelError for a namespace that isn't there."""
        self._family, self._protocol = family, protocol
        self._sock = netns.inside(namespace, functools.partial(_capture, family, protocol, port))
        self._lock = threading.Lock()
        self._arrived: list[Arrival] = []
        self._lost = 0

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Count no longer; what was counted is kept."""
        self.look()
        with self._lock:
            self._sock.close()

    def look(self) -> None:
        """Note what has come: the kernel keeps some thousands of packets until then."""
        with self._lock:
            if self._sock.fileno() < 0:
                return
            self._arrived += _received(self._sock, self._number)
            counted = self._sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            self._lost += _STATISTICS.unpack(counted)[1]

    def arrivals(self) -> list[Arrival]:
        """Give what has come so far. Raises KernelError where more came than there was room for."""
        self.look()
        if self._lost:
            raise KernelError(f"{self._lost} packets came that could not be counted: look more often")
        return list(self._arrived)

    def _number(self, head: bytes) -> int:
        begin = _IP_BYTES[self._family] + _UDP_BYTES
        written = head[begin : begin + _PAYLOAD.size] if self._protocol == "udp" else b""
        return int(_PAYLOAD.unpack(written)[0]) if len(written) == _PAYLOAD.size else -1


class Talk:
    """One connection between two network namespaces; a context manager that talks inside and has closed it after."""

    def __init__(self, line: Line) -> None:
        """Plan it."""
        self.line = line
        self._family = family_of(line.address)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._sockets: list[socket.socket] = []
        self._speaking: socket.socket | None = None
        self._counter: Counter | None = None
        self._heard: list[Arrival] = []
        self._sent = 0
        self.client_port = 0
        """The client's, as the server sees it."""

    def __enter__(self) -> Self:
        """Connect, and begin to talk. Raises OSError where the connection isn't made within five seconds."""
        try:
            self._connect()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Fall silent, and close everything."""
        self._close()

    @property
    def sent(self) -> int:
        """How many packets with content have left the speaker so far; of TCP, with those that it repeated."""
        if self.line.protocol == "udp":
            return self._sent
        sock = self._speaking
        if sock is None or sock.fileno() < 0:
            return 0
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(_U32.unpack_from(info, _DATA_SEGMENTS_OUT)[0])

    def arrivals(self) -> list[float]:
        """Give when packets from the speaker arrived, by time.monotonic(). Raises KernelError for a lost count."""
        return [when for when, _ in self._all()]

    def numbers(self) -> list[int]:
        """Give the numbers in the UDP packets that arrived: 1, 2, 3, ... as they were sent."""
        return [number for _, number in self._all()]

    def wait_for(self, more: int) -> None:
        """Return when so many more packets have arrived. Raises KernelError when that takes five seconds."""
        self._wait(lambda: len(self._all()), more, "arrived")

    def wait_until_sent(self, more: int) -> None:
        """Return when so many more packets have left the speaker. Raises KernelError when that takes five seconds."""
        self._wait(lambda: self.sent, more, "left")

    def _wait(self, count: Callable[[], int], more: int, what: str) -> None:
        first, end, pause = count(), time.monotonic() + _PATIENCE, threading.Event()
        while (found := count() - first) < more:
            if time.monotonic() > end:
                raise KernelError(f"{found} packets {what} instead of {more}: {self.line}")
            pause.wait(self.line.interval)

    def _all(self) -> list[Arrival]:
        return list(self._heard) if self._counter is None else self._counter.arrivals()

    def _connect(self) -> None:
        line = self.line
        listener = self._in(line.server, self._listen)
        talker = self._in(line.client, self._call)
        serving = self._greet(listener, talker)
        self._speaking, hearing = (serving, talker) if line.speaker == "server" else (talker, serving)
        if line.counted == "interface":
            # On either side, a packet names the client by the port that it is known by there.
            port = talker.getsockname()[1] if line.listener == "client" else self.client_port
            where = line.client if line.listener == "client" else line.server
            self._counter = Counter(where, self._family, line.protocol, port)
        else:
            hearing.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        for sock in (talker, serving):
            sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        self._thread = threading.Thread(target=self._talk, args=(self._speaking, hearing), daemon=True)
        self._thread.start()

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
        listener.bind((self.line.bound, self.line.port))
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

    def _greet(self, listener: socket.socket, talker: socket.socket) -> socket.socket:
        """Make the connection known at both ends; give the server's socket for it."""
        if self.line.protocol == "tcp":
            serving, caller = listener.accept()
            listener.close()
            _prompt(serving)
            self._sockets.append(serving)
        else:
            talker.send(_PAYLOAD.pack(0))
            _, caller = listener.recvfrom(_PAYLOAD.size)
            listener.connect(caller)
            serving = listener
            if self.line.answered:
                listener.send(_PAYLOAD.pack(0))
                talker.recv(_PAYLOAD.size)
        self.client_port = int(caller[1])
        return serving

    def _talk(self, speaking: socket.socket, hearing: socket.socket) -> None:
        while not self._stop.wait(self.line.interval):
            self._say(speaking)
            _received(speaking, _told)
            self._heard += _received(hearing, _told)
            if self._counter is not None:
                self._counter.look()

    def _say(self, speaking: socket.socket) -> None:
        """Send the next number, or the same once more: an earlier packet was refused, or TCP's buffer is full."""
        try:
            speaking.send(_PAYLOAD.pack((self._sent + 1) & 0xFFFF_FFFF))
        except OSError:
            return
        self._sent += 1

    def _close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for sock in self._sockets:
            sock.close()
        if self._counter is not None:
            self._counter.close()


def _prompt(sock: socket.socket) -> None:
    """Have TCP send every write at once, and leave nothing behind when it is closed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _capture(family: Family, protocol: TalkProtocol, port: int) -> socket.socket:
    """Open a packet socket that gets what comes in of one protocol with a port at either end."""
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETHERTYPES[family]))
    try:
        capture.setblocking(False)  # noqa: FBT003 - socket's own signature
        capture.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        capture.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        capture.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        code = ctypes.create_string_buffer(_filter(family, protocol, port))
        program = struct.pack("HL", (len(code) - 1) // 8, ctypes.addressof(code))
        capture.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        _received(capture, _told)  # what came before the filter was there
    except OSError:
        capture.close()
        raise
    return capture


def _filter(family: Family, protocol: TalkProtocol, port: int) -> bytes:
    """Write a classic BPF program for packets that begin with their IP head (linux/filter.h: struct sock_filter)."""
    load_byte, load_half, equal, give = 0x30, 0x28, 0x15, 0x06
    ports = _IP_BYTES[family]
    program = (
        (load_byte, 0, 0, _PROTOCOL_AT[family]),
        (equal, 0, 4, _NUMBERS[protocol]),
        (load_half, 0, 0, ports),
        (equal, 3, 0, port),
        (load_half, 0, 0, ports + 2),
        (equal, 1, 0, port),
        (give, 0, 0, 0),
        (give, 0, 0, 0xFFFF),
    )
    return b"".join(struct.pack("HBBI", *one) for one in program)


def _received(sock: socket.socket, number: Callable[[bytes], int]) -> list[Arrival]:
    """Take all that has arrived at a socket that doesn't block."""
    found: list[Arrival] = []
    for _turn in range(_AT_MOST):
        try:
            head, ancillary, _, _ = sock.recvmsg(_HEAD_BYTES, _ANCILLARY_BYTES)
        except BlockingIOError:
            break
        except OSError:
            continue  # an earlier packet was refused: what came is behind that
        if not head:
            break
        found.append((_when(ancillary), number(head)))
    return found


def _told(payload: bytes) -> int:
    return int(_PAYLOAD.unpack(payload)[0]) if len(payload) == _PAYLOAD.size else -1


def _when(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Give when the kernel saw a packet arrive, by time.monotonic(); now, where it doesn't say."""
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(content[: _TIMESPEC.size])
            return float(seconds + nanoseconds / 1e9 - _wall_ahead())
    return time.monotonic()


def _wall_ahead() -> float:
    """Give by how many seconds time.time() is ahead of time.monotonic(): of some tries, the one least disturbed."""
    tries = []
    for _ in range(_CLOCK_TRIES):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        tries.append((after - before, wall - before))
    return min(tries)[1] / 1e9
