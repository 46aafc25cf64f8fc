"""Counts the packets that arrive in a network namespace, with the kernel's timestamp of each.

    with PacketCounter(pod_netns, 4, "udp", 5353) as counter:
        change_the_policy()
        late = [when for when, number in counter.arrivals() if when > committed]

Counts only packets with the port as source or destination, and of one sender where it is given: two clients may have
the same port. A BPF filter on a packet socket selects them, and the socket queues them until they are read.
"""

from __future__ import annotations

import ctypes
import functools
import ipaddress
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self, TypeAlias

from nfagent.errors import KernelError
from nfagent.lab.topology import netns
from nfagent.model.netaddr import Family

StreamProtocol: TypeAlias = Literal["tcp", "udp"]
Arrival: TypeAlias = tuple[float, int]
"""When a packet arrived, by time.monotonic(), and the number that its payload begins with; -1 without one."""

_NUMBERS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_ETHERTYPES: dict[Family, int] = {4: 0x0800, 6: 0x86DD}
_IP_BYTES: dict[Family, int] = {4: 20, 6: 40}
_PROTOCOL_AT: dict[Family, int] = {4: 9, 6: 6}
_SOURCE_AT: dict[Family, int] = {4: 12, 6: 8}
_WORD_BYTES = 4
_UDP_BYTES = 8
_TCP_OFFSET_AT = 12
_HEAD_BYTES = 128
_NUMBER = struct.Struct("!I")
_TIMESPEC = struct.Struct("qq")
_BUFFER = 4 * 1024 * 1024
_ANCILLARY_BYTES = 64
_AT_MOST = 1 << 16
_CLOCK_TRIES = 5
# asm-generic/socket.h, linux/if_packet.h
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 263, 6, 23
_STATISTICS = struct.Struct("II")
# linux/filter.h: struct sock_filter, and four of its instructions
_INSTRUCTION = struct.Struct("HBBI")
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD, _IF_EQUAL, _RETURN = 0x30, 0x28, 0x20, 0x15, 0x06


class PacketCounter:
    """Counts packets of one family and protocol, to any address; a context manager that closes it."""

    def __init__(
        self, namespace: str, family: Family, protocol: StreamProtocol, port: int, *, source: str = ""
    ) -> None:
        """Count from now on. Raises KernelError for a namespace that doesn't exist.

        source: the address that the packets come from, as they arrive; '' for any
        """
        self._family, self._protocol = family, protocol
        self._sock = netns.inside(
            namespace, functools.partial(_capture, _filter(family, protocol, port, source), family)
        )
        self._lock = threading.Lock()
        self._arrived: list[Arrival] = []
        self._lost = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Stop counting; the arrivals stay readable."""
        self.read_pending()
        with self._lock:
            self._sock.close()

    def read_pending(self) -> None:
        """Read the queued packets; the socket's queue takes some thousands."""
        with self._lock:
            if self._sock.fileno() < 0:
                return
            self._arrived += arrived(self._sock, self._number)
            counted = self._sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            self._lost += _STATISTICS.unpack(counted)[1]

    def arrivals(self) -> list[Arrival]:
        """Return the arrivals so far. Raises KernelError where the socket's queue overflowed."""
        self.read_pending()
        if self._lost:
            raise KernelError(
                f"{self._lost} {'packet' if self._lost == 1 else 'packets'} not counted: call read_pending() more often"
            )
        return list(self._arrived)

    def _number(self, head: bytes) -> int:
        begin = _IP_BYTES[self._family]
        if self._protocol == "udp":
            begin += _UDP_BYTES
        elif len(head) > begin + _TCP_OFFSET_AT:
            begin += (head[begin + _TCP_OFFSET_AT] >> 4) * _WORD_BYTES
        written = head[begin : begin + _NUMBER.size]
        return int(_NUMBER.unpack(written)[0]) if len(written) == _NUMBER.size else -1


def stamp(sock: socket.socket) -> None:
    """Enable the kernel's receive timestamps, for `arrived`."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def arrived(sock: socket.socket, number: Callable[[bytes], int]) -> list[Arrival]:
    """Read all queued packets of a non-blocking socket; number: reads a packet's number from its first bytes."""
    found: list[Arrival] = []
    for _turn in range(_AT_MOST):
        try:
            head, ancillary, _, _ = sock.recvmsg(_HEAD_BYTES, _ANCILLARY_BYTES)
        except BlockingIOError:
            break
        except OSError:
            continue  # the error of an earlier packet that was refused; arrivals follow
        if not head:
            break
        found.append((_when(ancillary), number(head)))
    return found


def _capture(written: bytes, family: Family) -> socket.socket:
    """Open a packet socket for incoming packets of a family that a BPF program selects."""
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETHERTYPES[family]))
    try:
        capture.setblocking(False)  # noqa: FBT003 - socket's own signature
        stamp(capture)
        capture.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        capture.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        code = ctypes.create_string_buffer(written, len(written))
        program = struct.pack("HL", len(written) // _INSTRUCTION.size, ctypes.addressof(code))
        capture.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        arrived(capture, len)  # drop the packets from before the filter
    except OSError:
        capture.close()
        raise
    return capture


def _filter(family: Family, protocol: StreamProtocol, port: int, source: str) -> bytes:
    """Encode a classic BPF program for packets that begin with their IP header.

    A jump counts the instructions that follow it: each test that fails goes to the first return, which drops.
    """
    ports = _IP_BYTES[family]
    tests = [(_LOAD_BYTE, _PROTOCOL_AT[family], _NUMBERS[protocol])]
    address = ipaddress.ip_address(source).packed if source else b""
    for start in range(0, len(address), _WORD_BYTES):
        word = int.from_bytes(address[start : start + _WORD_BYTES], "big")
        tests.append((_LOAD_WORD, _SOURCE_AT[family] + start, word))
    of_ports = (
        (_LOAD_HALF, 0, 0, ports),
        (_IF_EQUAL, 3, 0, port),
        (_LOAD_HALF, 0, 0, ports + 2),
        (_IF_EQUAL, 1, 0, port),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, 0xFFFF),
    )
    program = []
    for number, (load, place, value) in enumerate(tests):
        to_ports = 2 * (len(tests) - number - 1)
        program += [(load, 0, 0, place), (_IF_EQUAL, 0, to_ports + len(of_ports) - 2, value)]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in (*program, *of_ports))


def _when(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Return a packet's receive timestamp as time.monotonic(); now, where there is none."""
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(content[: _TIMESPEC.size])
            return float((seconds * 1_000_000_000 + nanoseconds - _wall_ahead()) / 1e9)
    return time.monotonic()


def _wall_ahead() -> int:
    """Return by how many ns the wall clock is ahead of time.monotonic(): the measurement that took least time."""
    tries = []
    for _ in range(_CLOCK_TRIES):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        tries.append((after - before, wall - before))
    return min(tries)[1]
