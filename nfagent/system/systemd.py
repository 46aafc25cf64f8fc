"""Sends states to systemd by the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from nfagent.system.threads import start_daemon

_STAT = Path("/proc/self/stat")
_STARTED = 22
"""The field of the start time, in clock ticks since boot. The third field follows the program's name."""

_MOST_WAITING = 64


def notify(state: str) -> bool:
    """Send a state such as `READY=1`; return whether it was sent or queued for a listener (NOTIFY_SOCKET).

    Returns at once: where the listener's buffer is full, a thread sends the state, after the states queued before.
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
    """Return the state for the begin of a reload; Type=notify-reload requires its time."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def process_age() -> float:
    """Return the seconds since the start of this process (proc(5): field 22 of /proc/PID/stat)."""
    fields = _STAT.read_text("utf-8", "replace").rpartition(")")[2].split()
    started = int(fields[_STARTED - 3]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def _send(state: str, target: str, flags: int = 0) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
        opened.sendto(state.encode(errors="backslashreplace"), flags, target)


class _Waiting:
    """States that didn't fit into the listener's buffer, in order; the oldest are dropped beyond 64."""

    def __init__(self) -> None:
        self._states: deque[tuple[str, str]] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()
        self._sending = False

    def add_behind(self, state: str, target: str) -> bool:
        """Queue a state behind others; return False, without queueing it, where none are queued."""
        with self._lock:
            if self._sending:
                self._states.append((state, target))
            return self._sending

    def add(self, state: str, target: str) -> None:
        """Queue a state and start the thread that sends it."""
        with self._lock:
            self._states.append((state, target))
            if not self._sending:
                # A daemon thread: a listener that never reads doesn't delay the agent's exit. Where none starts,
                # the next state that finds the buffer full tries again.
                with suppress(OSError):
                    start_daemon(self._run, "sd-notify")
                    self._sending = True

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
