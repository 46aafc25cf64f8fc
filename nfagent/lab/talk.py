"""A live connection under traffic, with a counter at its receiver: who still hears whom after a policy changed.

    with Talk(client_netns, server_netns, "10.244.2.11", "tcp", 80, speaker="server") as talk:
        talk.wait_for(20)                       # packets that arrived
        committed = change_the_policy()         # time.monotonic() at the commit
        late = [when for when in talk.arrivals() if when > committed]

The speaker sends a small numbered packet every millisecond, the other end says nothing (TCP's own acknowledgements
aside). Arrivals are counted on the receiver's interface, where they have met every rule on their way.
"""

from __future__ import annotations

import functools
import itertools
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Literal, Self, TypeAlias

from nfagent.cluster.address import Family, family_of
from nfagent.errors import KernelError
from nfagent.lab import netns
from nfagent.lab.servers import ABORT, DOMAINS

Speaker: TypeAlias = Literal["client", "server"]
TalkProtocol: TypeAlias = Literal["tcp", "udp"]

_INTERVAL = 0.001
_PATIENCE = 5.0
_PAYLOAD = struct.Struct("!I")
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_NUMBERS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_ETHERTYPES: dict[Family, int] = {4: 0x0800, 6: 0x86DD}
_IP_HEAD: dict[Family, int] = {4: 20, 6: 40}
_PORTS = struct.Struct("!HH")
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_HEAD_BYTES = 128
_BUFFER = 4 * 1024 * 1024
_PACKET_OUTGOING = 4


class Talk:
    """One connection between two network namespaces; a context manager that talks inside and has closed it after.

    answered: UDP only: whether the server answered once, so that conntrack calls the connection established
    """

    def __init__(
        self,
        client: str,
        server: str,
        address: str,
        protocol: TalkProtocol,
        port: int,
        *,
        speaker: Speaker,
        answered: bool = True,
    ) -> None:
        """Plan it: client and server are namespaces, address and port the server's, as the client calls them."""
        self._ends = {"client": client, "server": server}
        self._address = address
        self._family = family_of(address)
        self._protocol: TalkProtocol = protocol
        self._port = port
        self._speaker: Speaker = speaker
        self._answered = answered
        self._stop = threading.Event()
        self._arrived: list[tuple[float, int]] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._speaking: socket.socket | None = None
        self._client_port = 0

    def __enter__(self) -> Self:
        """Connect, and begin to talk."""
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

    def arrivals(self) -> list[float]:
        """Give when packets of the speaker's arrived, by time.monotonic()."""
        return [when for when, _ in list(self._arrived)]

    def numbers(self) -> list[int]:
        """Give the numbers in the UDP packets that arrived; -1 for one without."""
        return [number for _, number in list(self._arrived)]

    def wait_for(self, more: int) -> None:
        """Return when so many more packets have arrived. Raises KernelError when that takes five seconds."""
        wanted, end, pause = len(self._arrived) + more, time.monotonic() + _PATIENCE, threading.Event()
        while len(self._arrived) < wanted:
            if time.monotonic() > end:
                raise KernelError(f"{len(self._arrived)} packets arrived instead of {wanted}")
            pause.wait(_INTERVAL)

    def _connect(self) -> None:
        listener = self._in("server", self._listen)
        talker = self._in("client", self._call)
        self._client_port = talker.getsockname()[1]
        serving = self._greet(listener, talker)
        listening: Speaker = "client" if self._speaker == "server" else "server"
        capture = self._in(listening, self._capture)
        self._speaking = serving if self._speaker == "server" else talker
        for work in (
            functools.partial(self._hear, capture),
            self._speak,
            functools.partial(self._drain, talker, serving),
        ):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _in(self, end: Speaker, make: functools.partial[socket.socket] | object) -> socket.socket:
        made: socket.socket = netns.inside(self._ends[end], make)  # type: ignore[arg-type]
        made.settimeout(_PATIENCE)
        self._sockets.append(made)
        return made

    def _listen(self) -> socket.socket:
        listener = socket.socket(DOMAINS[self._family], _KINDS[self._protocol])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", self._port))
        if self._protocol == "tcp":
            listener.listen()
        return listener

    def _call(self) -> socket.socket:
        talker = socket.socket(DOMAINS[self._family], _KINDS[self._protocol])
        if self._protocol == "tcp":
            talker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            talker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talker.settimeout(_PATIENCE)
        talker.connect((self._address, self._port))
        return talker

    def _greet(self, listener: socket.socket, talker: socket.socket) -> socket.socket:
        """Make the connection known at both ends; give the server's socket for it."""
        if self._protocol == "tcp":
            serving, _ = listener.accept()
            serving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            serving.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(serving)
            return serving
        talker.send(_PAYLOAD.pack(0))
        _, caller = listener.recvfrom(_PAYLOAD.size)
        listener.connect(caller)
        if self._answered:
            listener.send(_PAYLOAD.pack(0))
            talker.recv(_PAYLOAD.size)
        return listener

    def _capture(self) -> socket.socket:
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETHERTYPES[self._family]))
        capture.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        return capture

    def _speak(self) -> None:
        sock = self._speaking
        assert sock is not None  # noqa: S101 - _connect sets it before this thread starts
        sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        for number in itertools.count(1):
            if self._stop.wait(_INTERVAL):
                return
            try:
                sock.send(_PAYLOAD.pack(number & 0xFFFF_FFFF))
            except OSError:
                continue  # refused at once, or TCP's buffer is full: the next one is due soon

    def _drain(self, *ends: socket.socket) -> None:
        """Take out what arrives, so that no buffer fills."""
        while not self._stop.wait(_INTERVAL):
            for sock in ends:
                try:
                    sock.setblocking(False)  # noqa: FBT003 - socket's own signature
                    while sock.recv(1 << 16):
                        pass
                except OSError:
                    continue

    def _hear(self, capture: socket.socket) -> None:
        capture.settimeout(_INTERVAL * 50)
        while not self._stop.is_set():
            try:
                head, ancillary, _, sender = capture.recvmsg(_HEAD_BYTES, 64)
            except TimeoutError:
                continue
            except OSError:
                return
            if sender[2] != _PACKET_OUTGOING and (found := self._read(head)) is not None:
                self._arrived.append((_when(ancillary), found))

    def _read(self, head: bytes) -> int | None:
        """Give the number in a packet of the speaker's, -1 without one; None for another's packet."""
        size = _IP_HEAD[self._family]
        protocol = head[9] if self._family == 4 else head[6]
        if protocol != _NUMBERS[self._protocol] or len(head) < size + _PORTS.size:
            return None
        ports = _PORTS.unpack_from(head, size)
        if self._client_port not in ports:
            return None
        payload = head[size + 8 : size + 8 + _PAYLOAD.size] if self._protocol == "udp" else b""
        return int(_PAYLOAD.unpack(payload)[0]) if len(payload) == _PAYLOAD.size else -1

    def _close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()


def _when(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Give when the kernel saw a packet arrive, by time.monotonic()."""
    now, wall = time.monotonic(), time.time_ns()
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(content[: _TIMESPEC.size])
            age: float = (wall - seconds * 1_000_000_000 - nanoseconds) / 1e9
            return now - age
    return now
