"""The last syncs, each with the time of every step: how long one change took, and where. Served as `GET /v1/syncs`.

All times are monotonic seconds (CLOCK_MONOTONIC), so that other programs of this machine can compare them with theirs.
A sync that covers several events has the times of the first. Rounds without an event of the source (a repair, the end
of a re-check) aren't syncs, and neither are events for which nothing had to be committed.
"""

from __future__ import annotations

from collections import deque

import msgspec

KEPT = 256
"""Number of syncs that are kept."""


class Sync(msgspec.Struct, frozen=True, gc=False):
    """The steps of one sync, in monotonic seconds.

    received:  the source was told of the change, by inotify or by the API server's watch
    decoded:   the changed objects were read, decoded and applied to the state
    begun:     the reconciler began its round; before `decoded`, where the event came while a round was prepared
    computed:  the ruleset's change was computed
    committed: the kernel confirmed the transaction
    latest:    `received` of the last event that it covers
    events:    number of batches of events that it covers
    """

    received: float
    decoded: float
    begun: float
    computed: float
    committed: float
    latest: float
    events: int = 1


class SyncsReply(msgspec.Struct, frozen=True):
    """The answer to `GET /v1/syncs`. Times are monotonic seconds.

    monotonic: now
    syncs:     the oldest first
    recheck_began, recheck_ended: of the last round that read conntrack to end revoked connections, which may delay a
               sync; 0 without one, and it still runs where it ended before it began
    """

    monotonic: float
    syncs: tuple[Sync, ...]
    recheck_began: float = 0.0
    recheck_ended: float = 0.0


class _Batches(msgspec.Struct):
    """Batches of events that await their commit; events: 0 without one."""

    received: float = 0.0
    decoded: float = 0.0
    latest: float = 0.0
    events: int = 0

    def add(self, received: float, decoded: float, latest: float, events: int) -> None:
        """Add batches: the first one's times are kept."""
        if not self.events:
            self.received, self.decoded = received, decoded
        self.latest = latest
        self.events += events


class SyncTrace:
    """Records the syncs of one reconciler."""

    def __init__(self) -> None:
        """Start without any."""
        self._kept: deque[Sync] = deque(maxlen=KEPT)
        self._waiting = _Batches()
        self._covered = _Batches()
        self._begun = self._computed = 0.0

    def decoded(self, received: float, now: float) -> None:
        """Note a batch that was applied to the state."""
        self._waiting.add(received, now, received, 1)

    def cover(self, begun: float) -> None:
        """Note that the round covers all batches until now; those of rounds that failed stay covered."""
        if self._waiting.events:
            new, self._waiting = self._waiting, _Batches()
            self._covered.add(new.received, new.decoded, new.latest, new.events)
        self._begun = begun

    def computed(self, now: float) -> None:
        """Note that the ruleset's change is computed."""
        self._computed = now

    def committed(self, now: float) -> None:
        """Keep a sync, where the round covers a batch."""
        found = self._covered
        if found.events:
            self._kept.append(
                Sync(found.received, found.decoded, self._begun, self._computed, now, found.latest, found.events)
            )
            self._covered = _Batches()

    def discard(self) -> None:
        """Forget the covered batches: nothing had to be committed for them, or nothing may be."""
        if self._covered.events:
            self._covered = _Batches()

    def reply(self, now: float, recheck: tuple[float, float] = (0.0, 0.0), last: int = KEPT) -> SyncsReply:
        """Return the last syncs, so many; recheck: begin and end of the last re-check of connections."""
        return SyncsReply(now, tuple(self._kept)[-last:], *recheck)
