"""How old packets are when their record is passed to the sinks."""

from __future__ import annotations

from datetime import datetime

from nfagent.model.histogram import Histogram
from nfagent.verdicts.records import Record

ALLOW_BOUNDS = (100, 1_000, 5_000, 10_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000)
"""Upper bounds in microseconds. The kernel collects packets for 100 ms."""
DENY_BOUNDS = (0.1, 0.5, 1, 2, 4, 5, 5.2, 5.5, 6, 8, 10, 30, 60, 300)
"""Upper bounds in seconds. Denies are aggregated for 5 s."""


class RecordLatency:
    """Ages of packets, from their timestamps to the record's way to the sinks.

    allow: in microseconds      deny: in seconds, of an aggregated record those of its first packet
    """

    def __init__(self) -> None:
        """Start without any."""
        self.allow = Histogram(ALLOW_BOUNDS)
        self.deny = Histogram(DENY_BOUNDS)

    def observe(self, record: Record, now: float) -> None:
        """Count a record that is passed on now, in seconds since the epoch."""
        age = now - datetime.fromisoformat(record.timestamp).timestamp()
        if record.disposition == "allow":
            self.allow.observe(age * 1e6)
        else:
            self.deny.observe(age)
