"""Telling systemd how we are: the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

_STAT = Path("/proc/self/stat")
_STARTED = 22
"""The field of the time of start, in clock ticks since the machine's. The third field follows the program's name."""


def notify(state: str) -> bool:
    """Send a state, `READY=1`; tell whether somebody listens (NOTIFY_SOCKET) and took it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
            opened.sendto(state.encode(), target)
    except OSError:
        return False
    return True


def reloading() -> str:
    """Write the state that begins a reload; a unit of Type=notify-reload has to know when it did."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def process_age() -> float:
    """Give the seconds since this process was started (proc(5): field 22 of /proc/PID/stat)."""
    fields = _STAT.read_text("utf-8", "replace").rpartition(")")[2].split()
    started = int(fields[_STARTED - 3]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
