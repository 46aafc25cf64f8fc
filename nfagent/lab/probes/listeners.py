"""Servers for probes in any network namespace, which record the source address of each probe.

One thread serves all: TCP and UDP echo the payload, SCTP answers an INIT with an INIT ACK, ICMP only reads (the kernel
answers). A probe's first four bytes are its nonce; the recorded source address shows whether it was masqueraded.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import queue
import resource
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec

from nfagent.errors import KernelError
from nfagent.lab.machine.patience import patient
from nfagent.lab.probes import raw_packets
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.model.netaddr import family_of

ProbeProtocol: TypeAlias = Literal["tcp", "udp", "sctp", "icmp"]

NONCE = struct.Struct("!I")
DOMAINS: dict[int, socket.AddressFamily] = {4: socket.AF_INET, 6: socket.AF_INET6}
ICMP_NUMBERS: dict[int, int] = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
# An abortive close leaves no half-closed connection behind that would keep its namespace alive.
ABORT = struct.pack("ii", 1, 0)

_BATCH = 256  # packets that are read from one socket before the others
_REMEMBERED = 1 << 17
_RECEIVE = 2048
_TURNS = 8  # of reading, until what has arrived counts as read: a connection is accepted first, and read in the next
_PATIENCE = patient(60.0)


class Endpoint(msgspec.Struct, frozen=True):
    """An address of a network namespace to listen on, with a protocol and a port (0 for icmp)."""

    netns: str
    address: str
    protocol: ProbeProtocol
    port: int = 0


def pod_endpoints(topology: NetnsTopology, ports: Iterable[tuple[ProbeProtocol, int]]) -> list[Endpoint]:
    """Return the endpoints of every Pod, on each of its addresses, for protocols and ports like ('tcp', 80)."""
    wanted = list(ports)
    return [
        Endpoint(topology.pod_namespace(*pod.key), address, protocol, port)
        for pod in topology.pods.values()
        for address in pod.addresses
        for protocol, port in wanted
    ]


class Listeners:
    """The servers of one lab; a context manager that serves and closes all sockets."""

    def __init__(self) -> None:
        # A round of probes has a few sockets per pair of Pods; the usual soft limit is 1024.
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._sockets: dict[int, tuple[str, socket.socket, Callable[[], None]]] = {}
        self._seen: dict[int, str] = {}
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._closing = False
        self._idle_waiters: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()
        # Held while sockets are read, so that no other thread closes one meanwhile.
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="lab servers", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and close every socket."""
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for descriptor in list(self._sockets):
            self._close(descriptor)
        self._epoll.close()
        os.close(self._wake)

    def listen(self, endpoints: Iterable[Endpoint]) -> None:
        """Open endpoints; they answer on return. Raises KernelError for an address that doesn't exist."""
        by_netns: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            by_netns.setdefault(endpoint.netns, []).append(endpoint)
        for name, wanted in by_netns.items():
            opened = netns.inside(name, functools.partial(_open_all, wanted))
            with self._turn:
                for endpoint, sock in opened:
                    self._add(name, sock, self._handler(endpoint, sock))

    def stop(self, name: str) -> None:
        """Close all sockets of a network namespace, before its Pod is removed."""
        with self._turn:
            for descriptor in [number for number, (where, _, _) in self._sockets.items() if where == name]:
                self._close(descriptor)

    def seen_from(self, nonce: int) -> str | None:
        """Return and delete the source address of a probe, also where its answer was lost; None for an unseen one."""
        return self._seen.pop(nonce, None)

    def wait_idle(self) -> None:
        """Wait until all packets that have arrived so far are read."""
        done = threading.Event()
        self._idle_waiters.put(done)
        os.eventfd_write(self._wake, 1)
        if not done.wait(_PATIENCE):
            raise KernelError(f"the thread of the lab's servers didn't respond within {_PATIENCE:.0f} s")

    def _add(self, name: str, sock: socket.socket, handler: Callable[[], None]) -> None:
        self._sockets[sock.fileno()] = (name, sock, handler)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _close(self, descriptor: int) -> None:
        _name, sock, _handler = self._sockets.pop(descriptor)
        self._epoll.unregister(descriptor)
        sock.close()

    def _serve(self) -> None:
        while not self._closing:
            self._read(self._epoll.poll())
            while not self._idle_waiters.empty():
                done = self._idle_waiters.get()
                for _turn in range(_TURNS):
                    if not (events := self._epoll.poll(0)):
                        break
                    self._read(events)
                done.set()

    def _read(self, events: Sequence[tuple[int, int]]) -> None:
        with self._turn:
            for descriptor, _mask in events:
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
                elif descriptor in self._sockets:
                    self._sockets[descriptor][2]()

    def _note(self, nonce: int, peer: str) -> None:
        self._seen.setdefault(nonce, peer)
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def _handler(self, endpoint: Endpoint, sock: socket.socket) -> Callable[[], None]:
        handlers = {"tcp": self._accept, "udp": self._echo, "sctp": self._answer_init, "icmp": self._read_echo}
        return functools.partial(handlers[endpoint.protocol], endpoint, sock)

    def _accept(self, endpoint: Endpoint, sock: socket.socket) -> None:
        for _turn in range(_BATCH):
            try:
                connection, peer = sock.accept()
            except OSError:  # none waiting, or the client has closed it already
                return
            connection.setblocking(False)  # noqa: FBT003 - socket's own signature
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            self._add(endpoint.netns, connection, functools.partial(self._converse, connection, str(peer[0])))

    def _converse(self, connection: socket.socket, peer: str) -> None:
        try:
            received = connection.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._close(connection.fileno())
            return
        # Senders write complete nonces, far fewer than fit into a segment.
        for (nonce,) in NONCE.iter_unpack(received[: len(received) // NONCE.size * NONCE.size]):
            self._note(nonce, peer)
        with contextlib.suppress(OSError):
            connection.send(received)

    def _echo(self, _endpoint: Endpoint, sock: socket.socket) -> None:
        for received, peer in _packets(sock):
            if len(received) == NONCE.size:
                self._note(NONCE.unpack(received)[0], str(peer[0]))
            # Where the answer can't be sent, the probe stays unanswered.
            with contextlib.suppress(OSError):
                sock.sendto(received, peer)

    def _answer_init(self, endpoint: Endpoint, sock: socket.socket) -> None:
        for received, peer in _packets(sock):
            init = raw_packets.read_sctp(raw_packets.payload_of(family_of(endpoint.address), received))
            if init is None or init.kind != raw_packets.INIT or init.destination_port != endpoint.port:
                continue
            self._note(init.initiate, str(peer[0]))
            answer = raw_packets.SctpInit(
                raw_packets.INIT_ACK,
                endpoint.port,
                init.source_port,
                verification=init.initiate,
                initiate=init.initiate,
            )
            with contextlib.suppress(OSError):
                sock.sendto(raw_packets.sctp(answer), (str(peer[0]), 0))

    def _read_echo(self, endpoint: Endpoint, sock: socket.socket) -> None:
        family = family_of(endpoint.address)
        for received, peer in _packets(sock):
            nonce = raw_packets.read_echo_request(family, raw_packets.payload_of(family, received))
            if nonce is not None:
                self._note(nonce, str(peer[0]))


def _packets(sock: socket.socket) -> Iterable[tuple[bytes, tuple[object, ...]]]:
    for _turn in range(_BATCH):
        try:
            yield sock.recvfrom(_RECEIVE)
        except OSError:  # none waiting, or an ICMP error for an earlier answer
            return


def _open_all(endpoints: Sequence[Endpoint]) -> list[tuple[Endpoint, socket.socket]]:
    with contextlib.ExitStack() as unless_all_open:
        opened = [(endpoint, unless_all_open.enter_context(_open(endpoint))) for endpoint in endpoints]
        unless_all_open.pop_all()
        return opened


def _open(endpoint: Endpoint) -> socket.socket:
    family = family_of(endpoint.address)
    kinds: dict[str, tuple[int, int]] = {
        "tcp": (socket.SOCK_STREAM, 0),
        "udp": (socket.SOCK_DGRAM, 0),
        "sctp": (socket.SOCK_RAW, socket.IPPROTO_SCTP),
        "icmp": (socket.SOCK_RAW, ICMP_NUMBERS[family]),
    }
    kind, number = kinds[endpoint.protocol]
    sock = socket.socket(DOMAINS[family], kind, number)
    try:
        sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        sock.bind((endpoint.address, endpoint.port if kind != socket.SOCK_RAW else 0))
        if endpoint.protocol == "tcp":
            sock.listen(socket.SOMAXCONN)
    except OSError as error:
        sock.close()
        hint = ": no interface has the address" if error.errno == errno.EADDRNOTAVAIL else ""
        where = f"{endpoint.address} {endpoint.protocol} {endpoint.port}"
        raise KernelError(f"can't listen on {where} in {endpoint.netns}: {error.strerror}{hint}") from error
    return sock
