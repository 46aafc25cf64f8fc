"""Queue of the Events of one agent: which notice is published when. Without clock and random source.

A notice is published as soon as it is active. While it stays active it is published again after 10, 20, then every 40
minutes: an API server deletes an Event an hour after its last change (--event-ttl), and an owner who looks then must
still find it; more often would mean 15,000 nodes writing for nothing. A notice that changes, or becomes active again,
is published at once where its key was quiet: the owner of a policy who fixes one fault sees the next one. Where it
comes and goes, the minimum interval doubles from 10 seconds to 10 minutes. Of several changes within the interval the
newest is published, and the others are counted as suppressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.reporting.notice import EventKey, Notice, ObjectMeta
from nfagent.reporting.token_bucket import TokenBucket

MAX_KEYS = 1000
"""Notices beyond it are counted, not published: memory is bounded, and a cluster with a thousand faulty objects has
another problem."""

REPEAT_SECONDS = 600.0
_MAX_REPEAT = 2400.0
_FIRST_INTERVAL = 10.0
_MAX_INTERVAL = 600.0
_QUIET_SECONDS = 1200.0
"""A key on which nothing was published for this long starts again with the shortest interval."""

SPREAD_SECONDS = 10.0
"""Longest random delay before a node notice is published first: many faults appear on all nodes at once."""

BURST = 25.0
RATE = 0.5
"""Rate limit of one agent: Events at once, then Events a second."""


class _Entry(msgspec.Struct):
    """The state of one key.

    notice:       the active notice; None where there is none, and only the interval is kept
    due:          monotonic time at which it is published (again); None after a notice that is published once
    meta:         metadata of the object, read for this notice
    count:        `count` of its Event; 0 where no Event of this agent's is known
    recorded_at:  monotonic time of the last publication on this key; None before the first
    min_interval: seconds after `recorded_at` before anything else is published on this key
    repeat_after: seconds until the same notice is published again
    throttled:    the rate limiter delayed it, and it is counted as suppressed
    """

    notice: Notice | None
    due: float | None
    meta: ObjectMeta | None = None
    count: int = 0
    recorded_at: float | None = None
    min_interval: float = _FIRST_INTERVAL
    repeat_after: float = REPEAT_SECONDS
    throttled: bool = False


class QueuedEvent(msgspec.Struct, frozen=True):
    """A notice to publish now; `meta` and `count` as they were after its last publication."""

    notice: Notice
    meta: ObjectMeta | None
    count: int


class EventQueue:
    """The active notices of one agent.

    suppressed: notices that were published late or never: replaced by a newer one of their key, no longer active, or
                delayed by the rate limiter
    left_out:   active notices beyond MAX_KEYS
    leading:    this agent is leader
    """

    def __init__(self, now: float) -> None:
        """Start without notices at the monotonic time `now`."""
        self.suppressed = 0
        self.left_out = 0
        self.leading = False
        self._entries: dict[EventKey, _Entry] = {}
        self._bucket = TokenBucket(BURST, RATE, now)

    @property
    def active(self) -> int:
        """Number of active notices."""
        return sum(entry.notice is not None for entry in self._entries.values())

    def has_active(self, *, leading: bool) -> bool:
        """Return whether there is an active notice of this node, or any one where this agent is leader."""
        notices = (entry.notice for entry in self._entries.values())
        return any(notice is not None and (leading or notice.scope == "node") for notice in notices)

    @property
    def tracked(self) -> int:
        """Number of keys, those that were published recently included; at most MAX_KEYS."""
        return len(self._entries)

    def set_leading(self, *, leading: bool) -> None:
        """Start or stop as leader. The counts of cluster Events are unknown then: other agents published meanwhile."""
        if leading != self.leading:
            self.leading = leading
            for entry in self._entries.values():
                if entry.notice is not None and entry.notice.scope == "cluster":
                    entry.meta, entry.count, entry.throttled = None, 0, False

    def replace(self, notices: Iterable[Notice], now: float, jitter: float) -> None:
        """Set all active notices, one per key; jitter: random, 0 to 1, spreads node notices."""
        active = {notice.key: notice for notice in notices}
        for key, entry in list(self._entries.items()):
            if key not in active:
                self._drop(key, entry, now)
        self.left_out = 0
        for key, notice in active.items():
            found = self._entries.get(key)
            if found is None:
                self._add(key, notice, now + (SPREAD_SECONDS * jitter if notice.scope == "node" else 0.0))
            elif found.notice != notice:
                self._change(found, notice, now)

    def next_event(self, now: float) -> QueuedEvent | float | None:
        """Return the notice to publish now, or the seconds until the next may be due; None where nothing is queued."""
        waiting = list(self._publishable())
        if not waiting:
            return None
        due, notice, entry = min(waiting, key=lambda turn: turn[0])
        if due > now:
            return due - now
        delay = self._bucket.delay(now)
        if delay <= 0.0:
            return QueuedEvent(notice, entry.meta, entry.count)
        for since, _, delayed in waiting:
            if since <= now and not delayed.throttled:
                delayed.throttled = True
                self.suppressed += 1
        return delay

    def _publishable(self) -> Iterator[tuple[float, Notice, _Entry]]:
        """Yield the notices that this agent may publish, each with its due time."""
        for entry in self._entries.values():
            notice, due = entry.notice, entry.due
            if notice is not None and due is not None and (self.leading or notice.scope == "node"):
                yield due, notice, entry

    def set_object_meta(self, notice: Notice, meta: ObjectMeta) -> None:
        """Keep the object's metadata, so that they aren't read again while the notice is active."""
        entry = self._current(notice)
        if entry is not None:
            entry.meta = meta

    def record(self, notice: Notice, count: int, now: float) -> None:
        """Record that a notice was published; count: its Event's `count` now."""
        self._bucket.take(now)
        entry = self._entries.get(notice.key)
        if entry is None:
            return
        quiet = entry.recorded_at is None or now - entry.recorded_at >= _QUIET_SECONDS
        entry.min_interval = _FIRST_INTERVAL if quiet else min(2 * entry.min_interval, _MAX_INTERVAL)
        entry.recorded_at = now
        if entry.notice != notice:
            # It changed while it was published: the new one waits for the interval.
            entry.due = now + entry.min_interval if entry.notice is not None else None
            return
        entry.count, entry.throttled = count, False
        if notice.once:
            entry.due = None
            return
        entry.due = now + entry.repeat_after
        entry.repeat_after = min(2 * entry.repeat_after, _MAX_REPEAT)

    def postpone(self, notice: Notice, now: float) -> None:
        """Retry a notice later that can't be published: its object doesn't exist, or its Event is rejected."""
        entry = self._current(notice)
        if entry is not None:
            entry.meta, entry.count, entry.throttled = None, 0, False
            entry.due = now + entry.repeat_after
            entry.repeat_after = min(2 * entry.repeat_after, _MAX_REPEAT)

    def _current(self, notice: Notice) -> _Entry | None:
        entry = self._entries.get(notice.key)
        return entry if entry is not None and entry.notice == notice else None

    def _add(self, key: EventKey, notice: Notice, due: float) -> None:
        if len(self._entries) >= MAX_KEYS:
            spare = next((name for name, entry in self._entries.items() if entry.notice is None), None)
            if spare is None:
                self.left_out += 1
                return
            del self._entries[spare]
        self._entries[key] = _Entry(notice, due)

    def _change(self, entry: _Entry, notice: Notice, now: float) -> None:
        self._count_suppressed(entry)
        due = now if entry.recorded_at is None else max(now, entry.recorded_at + entry.min_interval)
        if entry.notice is not None and entry.recorded_at is None and entry.due is not None:
            due = min(entry.due, now + SPREAD_SECONDS)  # never published: it keeps its place
        entry.notice, entry.due = notice, due
        entry.meta, entry.count, entry.repeat_after, entry.throttled = None, 0, REPEAT_SECONDS, False

    def _drop(self, key: EventKey, entry: _Entry, now: float) -> None:
        self._count_suppressed(entry)
        if entry.recorded_at is None or now - entry.recorded_at >= _QUIET_SECONDS:
            del self._entries[key]
        else:
            entry.notice, entry.due, entry.meta, entry.throttled = None, None, None, False

    def _count_suppressed(self, entry: _Entry) -> None:
        """Count a notice of this agent that ends unpublished, unless the rate limiter counted it already."""
        notice = entry.notice
        mine = notice is not None and (self.leading or notice.scope == "node")
        if mine and entry.count == 0 and entry.due is not None and not entry.throttled:
            self.suppressed += 1
