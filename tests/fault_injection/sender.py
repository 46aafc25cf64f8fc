"""Sends a numbered packet on each of its sockets every millisecond: `sender.py TIMES FD...`, until its input ends.

A process of its own, for real-time priority: other threads and programs don't delay it. TIMES is a file for, of each
socket, the number of packets sent and when each was, by CLOCK_MONOTONIC. It imports nothing of nfagent, to start at
once.
"""

from __future__ import annotations

import mmap
import select
import socket
import struct
import sys
import time

INTERVAL_SECONDS = 0.001
MOST_PACKETS = 250_000
BLOCK = 8 * (1 + MOST_PACKETS)
"""Bytes of TIMES for one socket: the number, then the times."""
_COUNT, _TIME = struct.Struct("=Q"), struct.Struct("=d")
_CONTENT = struct.Struct("!I")
_NUMBER_BITS = 24


def content(flow: int, number: int) -> bytes:
    """Return a packet's content: the place of its flow among all, up to 255, and its number in the flow."""
    return _CONTENT.pack(flow << _NUMBER_BITS | number)


def flow_and_number(read: int) -> tuple[int, int]:
    """Return both of a content that was read as a number."""
    return read >> _NUMBER_BITS, read & (1 << _NUMBER_BITS) - 1


def main(path: str, descriptors: list[int]) -> int:
    """Send until standard input ends; return the exit code, 1 where the packets ran out before."""
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    with open(path, "r+b") as opened:  # noqa: PTH123 - pathlib takes longer to import
        times = mmap.mmap(opened.fileno(), 0)
    due = time.monotonic()
    for number in range(1, MOST_PACKETS + 1):
        for index, opened_socket in enumerate(sockets):
            _TIME.pack_into(times, index * BLOCK + 8 * number, time.monotonic())
            send(opened_socket, content(index, number))
            _COUNT.pack_into(times, index * BLOCK, number)
        due = max(due + INTERVAL_SECONDS, time.monotonic())
        if select.select([0], [], [], max(0.0, due - time.monotonic()))[0]:
            return 0
    return 1


def send(opened: socket.socket, written: bytes) -> None:
    """Send; an ICMP error about an earlier packet is reported once, by a call that sends nothing."""
    try:
        opened.send(written)
    except OSError:
        opened.send(written)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], [int(word) for word in sys.argv[2:]]))
