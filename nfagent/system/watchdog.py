"""Decides whether systemd's watchdog is fed: while the reconciler makes progress.

Waiting for events is progress, and so is a round that the kernel refuses: it ends, and is repeated. A round that takes
long is none for `ROUND_SECONDS`: the worker thread may be in a commit of thousands of rules, or wait for another
program's. The caller runs on the event loop, so a loop that no longer turns feeds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

ROUND_SECONDS = 300.0
"""How long one round of the reconciler may take. A commit of 10,000 rules was measured with 28 s."""

_FEEDS = 4
"""States sent in the time in which systemd expects one: a loop that waits 40 s for the kernel's lock is no hang."""


class RoundProgress:
    """Since when the reconciler is in its current round; times are monotonic, in seconds."""

    def __init__(self) -> None:
        """Start without a round."""
        self._since: float | None = None

    def begin(self, now: float) -> None:
        """Note that a round begins: work waits, or a comparison is due."""
        self._since = now

    def end(self) -> None:
        """Note that the round has ended, in sync or with an error."""
        self._since = None

    def busy_seconds(self, now: float) -> float:
        """Return for how long the current round has been under way; 0 between two rounds."""
        return 0.0 if self._since is None else now - self._since


def stall(progress: RoundProgress, now: float) -> str:
    """Return why the watchdog must not be fed, '' where it must."""
    busy = progress.busy_seconds(now)
    if busy <= ROUND_SECONDS:
        return ""
    return f"a round of the reconciler doesn't end: {busy:.0f} s so far, {ROUND_SECONDS:.0f} s at most"


def feed_seconds(environment: Mapping[str, str], process: int) -> float | None:
    """Return the seconds between two states `WATCHDOG=1`; None where systemd expects none of this process.

    environment: has WATCHDOG_USEC, and WATCHDOG_PID where it is for one process: sd_watchdog_enabled(3)
    """
    limit, expected = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(process))
    if not (limit.isascii() and limit.isdigit() and int(limit)) or expected != str(process):
        return None
    return int(limit) / 1e6 / _FEEDS
