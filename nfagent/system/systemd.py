"""Telling systemd how we are: the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

_STAT = Path("/proc/self/stat")
_STARTED = 22
"""The field of the time of start, in clock ticks since the machine's. The third field follows the program's name."""

_MOST_WAITING = 64


def notify(state: str) -> bool:
    """Send a state, `READY=1`; tell whether somebody listens (NOTIFY_SOCKET) and took it, or is to have it.

    Returns at once: what a listener that reads nothing has no room for waits in a thread, after what waits already.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        if not _waiting.add_behind(state, target):
            _send(state, target, socket.MSG_DONTWAIT)
    except BlockingIOError:
        _waiting.add(state, target)
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


def _send(state: str, target: str, flags: int = 0) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
        opened.sendto(state.encode(), flags, target)


class _Waiting:
    """States that a listener had no room for, in their order; of too many the oldest go."""

    def __init__(self) -> None:
        self._states: deque[tuple[str, str]] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()
        self._sending = False

    def add_behind(self, state: str, target: str) -> bool:
        """Add a state where others wait; tell whether any do."""
        with self._lock:
            if self._sending:
                self._states.append((state, target))
            return self._sending

    def add(self, state: str, target: str) -> None:
        """Add a state, and have it sent."""
        with self._lock:
            self._states.append((state, target))
            if not self._sending:
                self._sending = True
                # A daemon: a listener that never reads doesn't hold up the agent's end.
                threading.Thread(target=self._run, name="sd-notify", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._states:
                    self._sending = False
                    return
                state, target = self._states.popleft()
            with suppress(OSError):
                _send(state, target)


_waiting = _Waiting()
