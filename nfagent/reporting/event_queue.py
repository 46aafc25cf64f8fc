"""Which statement is said when: what holds, what was said of it, what may be said next. Without clock and lots.

A statement is said as soon as it holds. While it goes on to hold it is said again after 10, 20, then every 40
minutes: an API server forgets an Event an hour after its last change (--event-ttl), and an owner who looks then must
still find it; oftener would be 15,000 nodes writing for nothing. A statement that changes, or comes back, is said
at once where its topic was quiet: somebody mends a policy and wants to see what is left. Where it comes and goes, the
pause doubles from 10 seconds to 10 minutes. Of what changes meanwhile the newest is said, and the rest is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.reporting.notice import EventKey, ExistingEvent, Notice
from nfagent.reporting.token_bucket import TokenBucket

MOST_TOPICS = 1000
"""What more is wrong than that isn't said, but counted: a cluster in which a thousand objects are wrong has another
problem, and memory is bounded."""

REPEAT_SECONDS = 600.0
_LONGEST_REPEAT = 2400.0
_FIRST_PAUSE = 10.0
_LONGEST_PAUSE = 600.0
_QUIET_SECONDS = 1200.0
"""A topic on which nothing was said for so long begins anew, at the shortest pause."""

SPREAD_SECONDS = 10.0
"""Node statements wait so long at most before they are first said: what is wrong on all nodes is found on all."""

BURST = 25.0
RATE = 0.5
"""Of one agent, in Events: so many at once, then so many a second."""


class _Entry(msgspec.Struct):
    """One topic.

    statement: what holds; None where nothing does any more, and only the pause is remembered
    due:       monotonic time from which it is said (again); None where it was said once and for all
    known:     what was learned of the object for this statement
    count:     how often its Event says that it was said; 0 while it has none that we know of
    said_at:   monotonic time, None before
    pause:     seconds after `said_at` before anything else is said on this topic
    repeat:    seconds until the same is said again
    held:      it was held back by the bucket, and counted as that
    """

    statement: Notice | None
    due: float | None
    known: ExistingEvent | None = None
    count: int = 0
    said_at: float | None = None
    pause: float = _FIRST_PAUSE
    repeat: float = REPEAT_SECONDS
    held: bool = False


class QueuedEvent(msgspec.Struct, frozen=True):
    """A statement to be said now; `known` and `count` as they were left at the last time."""

    statement: Notice
    known: ExistingEvent | None
    count: int


class EventQueue:
    """The statements of one agent.

    suppressed: statements that were not said, or later than they held: replaced by a newer one of their topic before
                they were said, gone before, or held back by the bucket
    left_out:   statements that hold and have no room here
    leading:    this agent speaks for the cluster
    """

    def __init__(self, now: float) -> None:
        """Start with nothing to say."""
        self.suppressed = 0
        self.left_out = 0
        self.leading = False
        self._entries: dict[EventKey, _Entry] = {}
        self._bucket = TokenBucket(BURST, RATE, now)

    @property
    def holding(self) -> int:
        """How many statements hold."""
        return sum(entry.statement is not None for entry in self._entries.values())

    @property
    def kept(self) -> int:
        """How many topics are kept, those on which something was said lately among them; never above MOST_TOPICS."""
        return len(self._entries)

    def lead(self, *, leading: bool) -> None:
        """Begin to speak for the cluster, or end it. Others spoke meanwhile: how often isn't known any more."""
        if leading != self.leading:
            self.leading = leading
            for entry in self._entries.values():
                if entry.statement is not None and entry.statement.scope == "cluster":
                    entry.known, entry.count, entry.held = None, 0, False

    def hold(self, statements: Iterable[Notice], now: float, lot: float) -> None:
        """Take in all that holds now, one statement a topic; what isn't among it holds no more."""
        holding = {statement.topic: statement for statement in statements}
        for topic, entry in list(self._entries.items()):
            if topic not in holding:
                self._gone(topic, entry, now)
        self.left_out = 0
        for topic, statement in holding.items():
            found = self._entries.get(topic)
            if found is None:
                self._begin(topic, statement, now + (SPREAD_SECONDS * lot if statement.scope == "node" else 0.0))
            elif found.statement != statement:
                self._change(found, statement, now)

    def next(self, now: float) -> QueuedEvent | float | None:
        """Give the statement to be said now, or the seconds until there may be one; None where nothing waits."""
        waiting = list(self._mine())
        if not waiting:
            return None
        due, statement, entry = min(waiting, key=lambda turn: turn[0])
        if due > now:
            return due - now
        wait = self._bucket.wait(now)
        if wait <= 0.0:
            return QueuedEvent(statement, entry.known, entry.count)
        for late, _, held in waiting:
            if late <= now and not held.held:
                held.held = True
                self.suppressed += 1
        return wait

    def _mine(self) -> Iterator[tuple[float, Notice, _Entry]]:
        """Give what this agent has to say, now or later, and when."""
        for entry in self._entries.values():
            statement, due = entry.statement, entry.due
            if statement is not None and due is not None and (self.leading or statement.scope == "node"):
                yield due, statement, entry

    def learned(self, statement: Notice, known: ExistingEvent) -> None:
        """Keep what was learned of the object, so that it isn't asked for again while the statement holds."""
        entry = self._current(statement)
        if entry is not None:
            entry.known = known

    def said(self, statement: Notice, count: int, now: float) -> None:
        """Take in that a statement was said; its Event says so many times now."""
        self._bucket.take(now)
        entry = self._entries.get(statement.topic)
        if entry is None:
            return
        quiet = entry.said_at is None or now - entry.said_at >= _QUIET_SECONDS
        entry.pause = _FIRST_PAUSE if quiet else min(2 * entry.pause, _LONGEST_PAUSE)
        entry.said_at = now
        if entry.statement != statement:
            # It changed while it was said: the new one waits for the pause.
            entry.due = now + entry.pause if entry.statement is not None else None
            return
        entry.count, entry.held = count, False
        if statement.once:
            entry.due = None
            return
        entry.due = now + entry.repeat
        entry.repeat = min(2 * entry.repeat, _LONGEST_REPEAT)

    def put_off(self, statement: Notice, now: float) -> None:
        """Take in that a statement can't be said: its object isn't there, or its Event is refused."""
        entry = self._current(statement)
        if entry is not None:
            entry.known, entry.count, entry.held = None, 0, False
            entry.due = now + entry.repeat
            entry.repeat = min(2 * entry.repeat, _LONGEST_REPEAT)

    def _current(self, statement: Notice) -> _Entry | None:
        entry = self._entries.get(statement.topic)
        return entry if entry is not None and entry.statement == statement else None

    def _begin(self, topic: EventKey, statement: Notice, due: float) -> None:
        if len(self._entries) >= MOST_TOPICS:
            spare = next((name for name, entry in self._entries.items() if entry.statement is None), None)
            if spare is None:
                self.left_out += 1
                return
            del self._entries[spare]
        self._entries[topic] = _Entry(statement, due)

    def _change(self, entry: _Entry, statement: Notice, now: float) -> None:
        self._count_unsaid(entry)
        due = now if entry.said_at is None else max(now, entry.said_at + entry.pause)
        if entry.statement is not None and entry.said_at is None and entry.due is not None:
            due = min(entry.due, now + SPREAD_SECONDS)  # it was never said: its turn stays
        entry.statement, entry.due = statement, due
        entry.known, entry.count, entry.repeat, entry.held = None, 0, REPEAT_SECONDS, False

    def _gone(self, topic: EventKey, entry: _Entry, now: float) -> None:
        self._count_unsaid(entry)
        if entry.said_at is None or now - entry.said_at >= _QUIET_SECONDS:
            del self._entries[topic]
        else:
            entry.statement, entry.due, entry.known, entry.held = None, None, None, False

    def _count_unsaid(self, entry: _Entry) -> None:
        """Count a statement of ours that goes before it was said; what the bucket held back is counted already."""
        statement = entry.statement
        ours = statement is not None and (self.leading or statement.scope == "node")
        if ours and entry.count == 0 and entry.due is not None and not entry.held:
            self.suppressed += 1
