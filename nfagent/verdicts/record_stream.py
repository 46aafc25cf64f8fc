"""Logged packets to lines of the verdict log: attributed, aggregated and limited; what is dropped is counted by reason.

A denied packet of a key that already waits costs no attribution, nor does an allow beyond the rate limit. Every packet
that was read is in one count: written, waiting, not delegated, dropped, or without a record.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial

import msgspec

from nfagent.clock import WallClock
from nfagent.netlink.nflog import LoggedPacket
from nfagent.verdicts.aggregation import DenyAggregation
from nfagent.verdicts.attribution import AttributionCounters, Attributor, LoggedVerdict
from nfagent.verdicts.connection_key import key_of_head, key_of_packet
from nfagent.verdicts.delegation import Delegation
from nfagent.verdicts.rate_limit import DRAINS_A_SECOND, RateLimit, RecordLimits
from nfagent.verdicts.record_latency import RecordLatency
from nfagent.verdicts.records import Record, encode

TOO_MANY_KEYS = "too many denied connections at once"
RATE_LIMIT = "rate limit"
_TURN = 500
"""Records encoded in one turn of the event loop: 5 ms at 10 µs each."""
_LEAST_PAUSE = 1 / DRAINS_A_SECOND
"""Seconds between two looks for records that are due: a record comes this much later at most."""


class RecordStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where the packets went that were read, for `dump state`.

    events:           packets with a verdict of nfagent's, by disposition
    records, packets: handed to the log file, and the packets that they stand for, by disposition
    waiting_keys, waiting_packets: denied connections that are being aggregated, and their packets
    dropped_records:  records that were not written, by reason
    dropped_packets:  the packets that they stand for; without a free key there is no record, only packets
    not_delegated:    packets that delegation leaves out of the log, by disposition
    unattributed:     packets without a record
    """

    events: dict[str, int] = {}
    records: dict[str, int] = {}
    packets: dict[str, int] = {}
    waiting_keys: int = 0
    waiting_packets: int = 0
    dropped_records: dict[str, int] = {}
    dropped_packets: dict[str, int] = {}
    not_delegated: dict[str, int] = {}
    unattributed: AttributionCounters = msgspec.field(default_factory=AttributionCounters)


class RecordStream:
    """Makes records of packets and passes their lines on.

    write: accepts lines, each with its newline; must not block
    """

    def __init__(
        self,
        attributor: Attributor,
        limits: RecordLimits,
        clock: WallClock,
        write: Callable[[Sequence[bytes]], None],
        delegation: Delegation,
    ) -> None:
        """Store the arguments; `run` writes records when they are due."""
        self._attributor = attributor
        self._delegation = delegation
        self._clock = clock
        self._write = write
        self._is_aggregating = limits.aggregation_seconds > 0
        self._aggregation = DenyAggregation(limits.aggregation_seconds, limits.aggregation_keys)
        self._limit = RateLimit(limits.records_per_second, limits.burst, clock.monotonic())
        self.latency = RecordLatency()
        self._events: Counter[str] = Counter()
        self._records: Counter[str] = Counter()
        self._packets: Counter[str] = Counter()
        self._dropped_records: Counter[str] = Counter()
        self._dropped_packets: Counter[str] = Counter()
        self._not_delegated: Counter[str] = Counter()

    def add(self, packets: Iterable[LoggedPacket]) -> None:
        """Take packets, in the order in which they were logged; write allows at once."""
        now, now_ns = self._clock.monotonic(), self._clock.now_ns()
        records: list[Record] = []
        for packet in packets:
            if self._count(packet):
                continue
            verdict = self._attributor.verdict_of(packet)
            if verdict is None:
                continue
            self._events[verdict.key.disposition] += 1
            attribute = partial(self._attributor.record, verdict, packet, now_ns)
            if verdict.key.disposition == "allow":
                record = self._allow(attribute, packet.timestamp_ns, now)
            elif not self._delegation.logs_deny(verdict, packet.timestamp_ns):
                self._not_delegated[verdict.key.disposition] += 1
                continue
            elif self._is_aggregating:
                self._aggregate(_aggregation_key(verdict), attribute, now)
                continue
            else:
                record = self._limited(attribute, now)
            if record is not None:
                records.append(record)
        self._pass_on(records)

    async def run(self) -> None:
        """Write records of denied connections when they are due, until cancelled; without aggregation none ever is."""
        pause = 0.0
        while self._is_aggregating:
            await self._clock.wait(asyncio.Event(), pause)
            more = self._write_due()
            pause = 0.0 if more else max(_LEAST_PAUSE, self._aggregation.delay(self._clock.monotonic()))

    def finish(self) -> None:
        """Write all records that wait, beyond the rate limit too: at a stop none is lost."""
        self._pass_on(self._aggregation.drain_all())

    def status(self) -> RecordStatus:
        """Return the counts so far."""
        return RecordStatus(
            events=dict(self._events),
            records=dict(self._records),
            packets=dict(self._packets),
            waiting_keys=self._aggregation.keys,
            waiting_packets=self._aggregation.packets,
            dropped_records=dict(self._dropped_records),
            dropped_packets=dict(self._dropped_packets),
            not_delegated=dict(self._not_delegated),
            unattributed=msgspec.structs.replace(self._attributor.counters),
        )

    def _count(self, packet: LoggedPacket) -> bool:
        """Count a denied packet that needs no record of its own; return False for any other packet."""
        if not self._is_aggregating or self._delegation.of_denies:
            return False
        rule = self._attributor.rule_of(packet.prefix)
        if rule is None or rule[0].disposition == "allow":
            return False
        verdict, prefix, is_reply = rule
        key = key_of_packet(packet.payload, is_reply=is_reply)
        if key is None:
            return False
        if not self._counted((prefix, key)):
            return False
        self._events[verdict.disposition] += 1
        return True

    def _counted(self, key: Hashable) -> bool:
        """Count a packet of a key that waits, or of one that can't; return False for one whose record may begin."""
        if self._aggregation.count(key):
            return True
        if self._aggregation.is_full:
            self._dropped_packets[TOO_MANY_KEYS] += 1
            return True
        return False

    def _allow(self, attribute: Callable[[], Record], timestamp_ns: int | None, now: float) -> Record | None:
        if not self._delegation.of_allows:
            return self._limited(attribute, now)
        # What isn't delegated must not use up the rate limit, so these are attributed first.
        record = self._delegation.annotated(attribute(), timestamp_ns)
        if record is None:
            self._not_delegated["allow"] += 1
            return None
        return self._limited(lambda: record, now)

    def _limited(self, attribute: Callable[[], Record], now: float) -> Record | None:
        if self._limit.take(now):
            return attribute()
        self._drop(1)
        return None

    def _aggregate(self, key: Hashable, attribute: Callable[[], Record], now: float) -> None:
        if not self._counted(key):
            # Attributed now, by the rules that denied it; in a few seconds its Pod may be gone.
            self._aggregation.begin(key, attribute(), now)

    def _write_due(self) -> bool:
        """Write one turn of records; return whether more may be due."""
        now = self._clock.monotonic()
        due = self._aggregation.drain_due(now, _TURN)
        kept: list[Record] = []
        for record in due:
            if self._limit.take(now):
                kept.append(record)
            else:
                self._drop(record.count)
        self._pass_on(kept)
        return len(due) == _TURN

    def _drop(self, packets: int) -> None:
        self._dropped_records[RATE_LIMIT] += 1
        self._dropped_packets[RATE_LIMIT] += packets

    def _pass_on(self, records: list[Record]) -> None:
        now = self._clock.now_ns() / 1e9 if records else 0.0
        for record in records:
            self.latency.observe(record, now)
            self._records[record.disposition] += 1
            self._packets[record.disposition] += record.count
        self._write([encode(record) for record in records])


def _aggregation_key(verdict: LoggedVerdict) -> Hashable:
    """Return the connection without its source port, and the rule: a record names the policies of one rule only."""
    return verdict.prefix, key_of_head(verdict.head)
