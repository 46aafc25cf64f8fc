"""How long events take to their commit, by stage, for the metric nfagent_sync_duration_seconds.

A round of the reconciler covers all events that were applied before it computes the transaction; its time counts from
the first of them. What was measured is counted at the commit: an event whose round fails counts once, with its retries.
Rounds without an event (a repair, a periodic comparison) have neither a waiting time nor a total.
"""

from __future__ import annotations

from math import inf

from nfagent.controllers.sync_trace import SyncTrace
from nfagent.model.histogram import Histogram

STAGES = ("wait", "compute", "compare", "commit", "total")
"""wait: from the event to the start of its round; compare: only where the round read the table."""

BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets, in seconds."""


class SyncLatency:
    """Durations of one reconciler's stages; all times are monotonic seconds.

    stages: stage -> histogram of seconds
    trace:  the last syncs, one by one
    """

    def __init__(self) -> None:
        """Start without any."""
        self.stages = {stage: Histogram(BOUNDS) for stage in STAGES}
        self.trace = SyncTrace()
        self._waiting = inf  # the first event that no round covers yet
        self._covered = inf  # the first event of the current round, or of those that failed before it
        self._began = 0.0
        self._measured: dict[str, float] = {}

    def event(self, at: float) -> None:
        """Note an event that changed the desired ruleset, with the time of its arrival."""
        self._waiting = min(self._waiting, at)

    def begin(self, now: float) -> None:
        """Note that a round begins to compute."""
        self._began = now

    def cover(self, now: float) -> None:
        """Note that the round covers all events until now."""
        self._covered = min(self._covered, self._waiting)
        self._waiting = inf
        self._began = min(self._began or now, now)
        self._measured = {}
        self.trace.cover(self._began)

    def measured(self, stage: str, seconds: float) -> None:
        """Keep a stage's duration until the commit."""
        self._measured[stage] = seconds

    def computed(self, now: float) -> None:
        """Note that the desired ruleset, or its change, is computed."""
        self.measured("compute", now - self._began)
        self.trace.computed(now)

    def committed(self, now: float) -> None:
        """Count the durations of a round that has committed."""
        if self._covered < inf:
            self.measured("wait", self._began - self._covered)
            self.measured("total", now - self._covered)
        for stage, seconds in self._measured.items():
            self.stages[stage].observe(seconds)
        self.trace.committed(now)
        self.discard()

    def discard(self) -> None:
        """Forget the covered events: nothing had to be committed for them, or nothing may be."""
        self._covered = inf
        self._began = 0.0
        self._measured = {}
        self.trace.discard()
