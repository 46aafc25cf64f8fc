"""The client's side of one probed connection: TCP, UDP, SCTP or ICMP.

A flow sends nonces and returns those that were answered. It has a source port (for ICMP, an identifier) that isn't
used again for long, so that conntrack sees a new connection, never a tracked one.
"""

from __future__ import annotations

import abc
import errno
import itertools
import secrets
import select
import socket
import struct
from collections.abc import Callable, Iterator

from nfagent.lab.probes import raw_packets
from nfagent.lab.probes.listeners import ABORT, DOMAINS, ICMP_NUMBERS, NONCE, ProbeProtocol
from nfagent.model.netaddr import family_of

_FIRST_PORT = 32768
_PORTS = 28232
_RECEIVE = 2048
_BATCH = 64
# linux/tcp.h: tcpi_total_retrans of struct tcp_info
_RETRANSMITTED, _TCP_INFO_BYTES = 100, 104
_U32 = struct.Struct("I")

# Both start at random: another process may have probed the same namespaces a moment ago.
_NONCES = itertools.count(secrets.randbelow(1 << 30) + 1)
_TURNS = itertools.count(secrets.randbelow(_PORTS))


def next_nonce() -> int:
    """Return a number, 1 to 2^32-1, that is unique in this process."""
    return next(_NONCES)


def _next_port() -> int:
    return _FIRST_PORT + next(_TURNS) % _PORTS


class LabFlow(abc.ABC):
    """A socket with one destination, in the network namespace in which it was opened."""

    events = select.EPOLLIN
    """The events to register with epoll once the first nonce was sent."""

    def __init__(self, address: str, port: int, kind: int, number: int = 0) -> None:
        self.address = address
        self.port = port
        self.family = family_of(address)
        self.sock = socket.socket(DOMAINS[self.family], kind, number)
        self.sock.setblocking(False)  # noqa: FBT003 - socket's own signature

    @abc.abstractmethod
    def prepare(self) -> None:
        """Prepare the socket for sending. Raises OSError, also where there is no route."""

    @abc.abstractmethod
    def send(self, nonce: int) -> None:
        """Send a nonce. Raises OSError where the network or an output rule of this host refuses it at once."""

    @abc.abstractmethod
    def answers(self) -> Iterator[int]:
        """Return the nonces that were answered. Raises OSError where the peer, or a router, refused."""

    @property
    def repeats(self) -> int:
        """Number of packets that the kernel has sent again; only TCP's are."""
        return 0

    def close(self) -> None:
        """Close its socket."""
        self.sock.close()

    def _bind(self) -> None:
        for _attempt in range(_BATCH):
            try:
                self.sock.bind(("", _next_port()))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return

    def _packets(self) -> Iterator[bytes]:
        for _turn in range(_BATCH):
            try:
                yield self.sock.recv(_RECEIVE)
            except BlockingIOError:
                return


class TcpFlow(LabFlow):
    """A TCP connection, opened by its first nonce; an answer is an echo of the nonce."""

    # Edge-triggered: one event when the connection is established, then one for each arrival.
    events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET

    def __init__(self, address: str, port: int) -> None:
        super().__init__(address, port, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connecting = False
        self._unsent = b""
        self._received = b""

    def prepare(self) -> None:
        """Bind to the next source port."""
        self._bind()

    def send(self, nonce: int) -> None:
        """Send a nonce, as soon as the connection is established."""
        self._unsent += NONCE.pack(nonce)
        if self._connecting:
            self._flush()
            return
        self._connecting = True
        try:
            self.sock.connect((self.address, self.port))
        except BlockingIOError:
            return

    def answers(self) -> Iterator[int]:
        """Return the echoed nonces, and send those that waited for the connection."""
        self._flush()
        for received in self._packets():
            if not received:
                raise ConnectionResetError(errno.ECONNRESET, "the peer closed the connection")
            self._received += received
        whole = len(self._received) // NONCE.size * NONCE.size
        complete, self._received = self._received[:whole], self._received[whole:]
        yield from (nonce for (nonce,) in NONCE.iter_unpack(complete))

    @property
    def repeats(self) -> int:
        """Number of segments that the kernel has sent again, the SYN among them."""
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(_U32.unpack_from(info, _RETRANSMITTED)[0])

    def _flush(self) -> None:
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[self.sock.send(self._unsent) :]
        except BlockingIOError:
            return


class UdpFlow(LabFlow):
    """A UDP socket; an answer is an echo of the nonce."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(address, port, socket.SOCK_DGRAM)

    def prepare(self) -> None:
        """Bind to the next source port."""
        self._bind()
        self.sock.connect((self.address, self.port))

    def send(self, nonce: int) -> None:
        """Send a nonce in a datagram."""
        self.sock.send(NONCE.pack(nonce))

    def answers(self) -> Iterator[int]:
        """Return the echoed nonces."""
        yield from (NONCE.unpack(received)[0] for received in self._packets() if len(received) == NONCE.size)


class SctpFlow(LabFlow):
    """The first two packets of an SCTP association: the nonce is the INIT's initiate tag, the answer an INIT ACK."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(address, port, socket.SOCK_RAW, socket.IPPROTO_SCTP)
        self._source_port = _next_port()

    def prepare(self) -> None:
        """Connect the raw socket, so that it receives from this peer only."""
        self.sock.connect((self.address, 0))

    def send(self, nonce: int) -> None:
        """Send an INIT."""
        self.sock.send(raw_packets.sctp(raw_packets.SctpInit(raw_packets.INIT, self._source_port, self.port, 0, nonce)))

    def answers(self) -> Iterator[int]:
        """Return the initiate tags that INIT ACKs have acknowledged."""
        for received in self._packets():
            found = raw_packets.read_sctp(raw_packets.payload_of(self.family, received))
            if found and found.kind == raw_packets.INIT_ACK and found.destination_port == self._source_port:
                yield found.verification


class IcmpFlow(LabFlow):
    """ICMP echo with one identifier; the nonce is in the echoed payload."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(address, port, socket.SOCK_RAW, ICMP_NUMBERS[family_of(address)])
        self._identifier = _next_port()

    def prepare(self) -> None:
        """Connect the raw socket, so that it receives from this peer only."""
        self.sock.connect((self.address, 0))

    def send(self, nonce: int) -> None:
        """Send an echo request."""
        self.sock.send(raw_packets.echo_request(self.family, self._identifier, nonce))

    def answers(self) -> Iterator[int]:
        """Return the nonces of the echo replies; those of other flows on the same host are among them."""
        for received in self._packets():
            nonce = raw_packets.read_echo_reply(self.family, raw_packets.payload_of(self.family, received))
            if nonce is not None:
                yield nonce


_FLOWS: dict[ProbeProtocol, Callable[[str, int], LabFlow]] = {
    "tcp": TcpFlow,
    "udp": UdpFlow,
    "sctp": SctpFlow,
    "icmp": IcmpFlow,
}


def open_flow(protocol: ProbeProtocol, address: str, port: int) -> LabFlow:
    """Return a new flow in the network namespace of the calling thread.

    Raises OSError, also where there is no route to the address.
    """
    flow = _FLOWS[protocol](address, port)
    try:
        flow.prepare()
    except BaseException:
        flow.close()
        raise
    return flow
