"""How long to wait after a setback. Without clock and lots: the caller draws a number, and waits.

Many agents ask one API server. When it comes back, they must not all return at once, and yet a small cluster's
shouldn't wait longer than they need to. So the longest wait for a server that nobody listens at grows with the
cluster: a thousand agents a second return, whatever their number. A server that answers, and refuses, has somebody to
overload: there the wait doubles from try to try.
"""

from __future__ import annotations

from nfagent.kube.reflector_requests import WatchFailure

AGENTS_A_SECOND = 1000
"""How many agents return in a second, at most, to a server that is reachable again."""

_SHORTEST_WINDOW = 1.0
_LONGEST_WINDOW = 30.0
_FIRST = {"busy": 1.0, "refused": 0.5, "broken": 0.5, "expired": 0.5, "lost": 0.25}
_LONGEST = {"busy": 30.0, "refused": 15.0, "broken": 15.0, "lost": 15.0}
_LONGEST_ASKED = 300.0
_DOUBLINGS = 10
LOOK_AGAIN_SECONDS = 50.0
"""At most this long after its CRD is created a missing kind is looked for."""


def window(nodes: int) -> float:
    """Give the seconds over which the agents of a cluster of so many nodes spread their return."""
    return min(max(_SHORTEST_WINDOW, nodes / AGENTS_A_SECOND), _LONGEST_WINDOW)


def knock_pause(nodes: int, lot: float) -> float:
    """Give the seconds until a server is tried again that nobody listened at; `lot` is drawn from 0 to 1."""
    return window(nodes) * (0.25 + 0.75 * lot)


def look_again_pause(lot: float) -> float:
    """Give the seconds until missing kinds are looked for again."""
    return LOOK_AGAIN_SECONDS * (0.6 + 0.4 * lot)


class Backoff:
    """The waits of one resource: longer from setback to setback, none after a success."""

    def __init__(self) -> None:
        """Start without any setback."""
        self._setbacks = 0

    @property
    def fresh(self) -> bool:
        """Tell whether there was no setback since the last success."""
        return self._setbacks == 0

    def succeeded(self) -> None:
        """Say that the server gave what was asked for."""
        self._setbacks = 0

    def pause(self, setback: WatchFailure, nodes: int, lot: float) -> float:
        """Give the seconds to wait after a setback. What the server asks for is kept, and spread over the window."""
        if setback.kind == "again":
            return 0.0
        if setback.kind == "expired" and self._setbacks == 0:
            # A version is forgotten for all agents at once.
            self._setbacks = 1
            return window(nodes) * lot if nodes > AGENTS_A_SECOND else 0.0
        doubled: float = _FIRST[setback.kind] * 2.0 ** min(self._setbacks, _DOUBLINGS)
        self._setbacks += 1
        # Lists are what costs the server: the more agents ask for them, the longer they wait.
        longest = min(doubled, 2.0 * window(nodes) if setback.kind == "expired" else _LONGEST[setback.kind])
        if setback.retry_after is not None:
            return min(max(setback.retry_after, 0.0), _LONGEST_ASKED) + window(nodes) * lot
        return longest * (0.5 + 0.5 * lot)
