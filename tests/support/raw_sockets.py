"""Single packets in a lab: sockets of any namespace, also raw and spoofed ones, and captures of arriving packets."""

from __future__ import annotations

import functools
import ipaddress
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from nfagent.errors import WireError
from nfagent.lab.probes.listeners import ABORT, DOMAINS
from nfagent.lab.probes.raw_packets import internet_checksum
from nfagent.lab.topology import netns
from nfagent.model.netaddr import Family, family_of
from nfagent.netlink.packet_header import PacketHead, decode_head

SECONDS = 30.0
"""Seconds to wait for an expected packet."""

_EVERY_PROTOCOL = 0x0003  # linux/if_ether.h, ETH_P_ALL
_OUTGOING = 4  # linux/if_packet.h, PACKET_OUTGOING
_TRANSPARENT = {4: (socket.IPPROTO_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}  # IP_TRANSPARENT, IPV6_TRANSPARENT
_LONGEST = 1 << 16


class Arrival(NamedTuple):
    """A packet as received on a link: before the receiver's own rules, reassembly and NAT."""

    head: PacketHead
    content: bytes


class Capture:
    """Captures packets that arrive in a network namespace, as tcpdump does; a context manager."""

    def __init__(self, namespace: str) -> None:
        """Begin to capture."""
        self._socket = netns.inside(namespace, _listen)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def until(self, last: Callable[[Arrival], bool], seconds: float = SECONDS) -> list[Arrival]:
        """Return the arrivals since the last call, up to the packet that `last` accepts. Raises TimeoutError."""
        found: list[Arrival] = []
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                break
            content, place = self._socket.recvfrom(_LONGEST)
            try:
                arrival = Arrival(decode_head(content), content)
            except WireError:  # ARP and its like
                continue
            if place[2] == _OUTGOING:
                continue
            found.append(arrival)
            if last(arrival):
                return found
        raise TimeoutError(f"the packet didn't arrive in {seconds} s; arrived: {[arrival.head for arrival in found]}")


def udp_socket(namespace: str, address: str, port: int = 0, *, spoofed: bool = False) -> socket.socket:
    """Open a UDP socket bound to an address; a spoofed one needn't be the namespace's own."""
    return netns.inside(namespace, functools.partial(_bound, address, port, spoofed=spoofed))


def tcp_listener(namespace: str, address: str, port: int) -> socket.socket:
    """Listen in a namespace.

    TCP sockets of this module are closed by a RST: an unanswered FIN would be retransmitted into the next test.
    """
    domain = DOMAINS[family_of(address)]
    return netns.inside(
        namespace, lambda: _patient(socket.create_server((address, port), family=domain, reuse_port=True))
    )


def accept(listener: socket.socket) -> socket.socket:
    """Accept the next connection."""
    connection, _ = listener.accept()
    return _patient(_abortive(connection))


def tcp_connect(namespace: str, address: str, port: int) -> socket.socket:
    """Connect from a namespace."""
    return netns.inside(namespace, lambda: _abortive(socket.create_connection((address, port), SECONDS)))


def tcp_begin(namespace: str, address: str, port: int) -> socket.socket:
    """Start to connect from a namespace without waiting for the answer."""

    def begin() -> socket.socket:
        sock = _abortive(socket.socket(DOMAINS[family_of(address)], socket.SOCK_STREAM))
        sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        sock.connect_ex((address, port))
        return sock

    return netns.inside(namespace, begin)


def send_raw(namespace: str, destination: str, protocol: int, payload: bytes) -> None:
    """Send a packet of any IP protocol; the kernel writes the IP header, and for ICMPv6 the checksum."""

    def send() -> None:
        with socket.socket(DOMAINS[family_of(destination)], socket.SOCK_RAW, protocol) as sock:
            sock.sendto(payload, (destination, 0))

    netns.inside(namespace, send)


def marker(size: int = 8) -> bytes:
    """Return a unique payload."""
    return secrets.token_bytes(size)


def bearing(content: bytes) -> Callable[[Arrival], bool]:
    """Return a condition for `Capture.until`: the packet ends with this content."""
    return lambda arrival: arrival.content.endswith(content)


def unreachable(
    family: Family, source: str, destination: str, *, source_port: int = 1234, destination_port: int = 4321
) -> bytes:
    """Encode an ICMP port unreachable error about a UDP datagram that was never sent."""
    ends = b"".join(ipaddress.ip_address(end).packed for end in (source, destination))
    udp = struct.pack("!HHHH", source_port, destination_port, 8, 0)
    if family == 6:
        return bytes([1, 4, 0, 0]) + bytes(4) + struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + ends + udp
    inner = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + ends
    inner = inner[:10] + internet_checksum(inner).to_bytes(2, "big") + inner[12:] + udp
    whole = bytes([3, 3, 0, 0]) + bytes(4) + inner
    return whole[:2] + internet_checksum(whole).to_bytes(2, "big") + whole[4:]


def becomes(sock: socket.socket, event: int, seconds: float = SECONDS) -> bool:
    """Wait for an event of poll(2), such as POLLOUT; False when the deadline came first."""
    poll = select.poll()
    poll.register(sock, event)
    return any(found & event for _descriptor, found in poll.poll(seconds * 1000))


def heard(sock: socket.socket) -> list[bytes]:
    """Return the datagrams in a socket's queue."""
    found = []
    while becomes(sock, select.POLLIN, 0):
        found.append(sock.recv(_LONGEST))
    return found


def _listen() -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_EVERY_PROTOCOL))


def _bound(address: str, port: int, *, spoofed: bool) -> socket.socket:
    family: Family = family_of(address)
    sock = socket.socket(DOMAINS[family], socket.SOCK_DGRAM)
    try:
        if spoofed:
            sock.setsockopt(*_TRANSPARENT[family], 1)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return _patient(sock)


def _abortive(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    return sock


def _patient(sock: socket.socket) -> socket.socket:
    sock.settimeout(SECONDS)
    return sock
