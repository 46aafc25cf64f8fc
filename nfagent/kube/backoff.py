"""How long to wait after a failed request. Pure: the caller draws the random number, and waits.

Many agents use one API server. When it returns, they must not all reconnect at once, and in a small cluster they
shouldn't wait longer than necessary. So the longest wait for an unreachable server grows with the cluster: at most a
thousand agents a second return. A server that answers with an error can be overloaded by retries: there the wait
doubles from failure to failure.
"""

from __future__ import annotations

from nfagent.kube.reflector_requests import WatchFailure

AGENTS_PER_SECOND = 1000
"""How many agents a second return, at most, to a server that is reachable again."""

_SHORTEST_WINDOW = 1.0
_LONGEST_WINDOW = 30.0
_FIRST = {"busy": 1.0, "refused": 0.5, "broken": 0.5, "expired": 0.5, "lost": 0.25}
_LONGEST = {"busy": 30.0, "refused": 15.0, "broken": 15.0, "lost": 15.0}
_LONGEST_RETRY_AFTER = 300.0
_MAX_DOUBLINGS = 10
REFRESH_SECONDS = 50.0
"""Longest time between the creation of a missing kind's CRD and the next discovery request."""


def window(nodes: int) -> float:
    """Return the seconds over which the agents of a cluster of that many Nodes spread their return."""
    return min(max(_SHORTEST_WINDOW, nodes / AGENTS_PER_SECOND), _LONGEST_WINDOW)


def probe_pause(nodes: int, jitter: float) -> float:
    """Return the seconds until an unreachable server is probed again; `jitter` is a random number from 0 to 1."""
    return window(nodes) * (0.25 + 0.75 * jitter)


def refresh_pause(jitter: float) -> float:
    """Return the seconds until discovery is read again for missing kinds."""
    return REFRESH_SECONDS * (0.6 + 0.4 * jitter)


class Backoff:
    """The waits of one resource: longer from failure to failure, none after a success."""

    def __init__(self) -> None:
        """Start without a failure."""
        self._failures = 0

    @property
    def fresh(self) -> bool:
        """Whether there was no failure since the last success."""
        return self._failures == 0

    def succeeded(self) -> None:
        """Reset after a request that succeeded."""
        self._failures = 0

    def pause(self, failure: WatchFailure, nodes: int, jitter: float) -> float:
        """Return the seconds to wait after a failure: the server's Retry-After is kept, and spread over the window."""
        if failure.kind == "again":
            return 0.0
        if failure.kind == "expired" and self._failures == 0:
            # A version is compacted for all agents at once.
            self._failures = 1
            return window(nodes) * jitter if nodes > AGENTS_PER_SECOND else 0.0
        doubled: float = _FIRST[failure.kind] * 2.0 ** min(self._failures, _MAX_DOUBLINGS)
        self._failures += 1
        # Lists are the server's expensive requests: the more agents send them, the longer each waits.
        longest = min(doubled, 2.0 * window(nodes) if failure.kind == "expired" else _LONGEST[failure.kind])
        if failure.retry_after is not None:
            return min(max(failure.retry_after, 0.0), _LONGEST_RETRY_AFTER) + window(nodes) * jitter
        return longest * (0.5 + 0.5 * jitter)
