"""Logged packets to lines of the verdict log: attributed, aggregated and limited; what is dropped is counted by reason.

A packet that needs no record of its own costs no attribution: denied, of a key that already waits; allowed, of a
connection that has its record, or beyond the rate limit. Every packet that was read is in one count: written, waiting,
repeated, not delegated, dropped, or unattributed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from nfagent.clock import WallClock
from nfagent.netlink.nflog import LoggedPacket
from nfagent.nftables.verdict_keys import VerdictKey
from nfagent.verdicts.aggregation import DenyAggregation
from nfagent.verdicts.attribution import AttributionCounters, Attributor, LoggedVerdict
from nfagent.verdicts.connection_key import (
    address_in_key,
    connection_of_head,
    connection_of_packet,
    key_of_head,
    key_of_packet,
)
from nfagent.verdicts.delegation import Delegation
from nfagent.verdicts.denied_window import DeniedWindow
from nfagent.verdicts.rate_limit import DRAINS_A_SECOND, RateLimit, RecordLimits
from nfagent.verdicts.record_latency import RecordLatency
from nfagent.verdicts.recorded_allows import RecordedAllows
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
    repeated:         packets of connections that have a record already, by disposition: only allows
    not_delegated:    packets that delegation leaves out of the log, by disposition
    unattributed:     packets that are attributed to no policy
    foreign_by:       those of them that are `foreign`, by reason
    """

    events: dict[str, int] = {}
    records: dict[str, int] = {}
    packets: dict[str, int] = {}
    waiting_keys: int = 0
    waiting_packets: int = 0
    dropped_records: dict[str, int] = {}
    dropped_packets: dict[str, int] = {}
    repeated: dict[str, int] = {}
    not_delegated: dict[str, int] = {}
    unattributed: AttributionCounters = msgspec.field(default_factory=AttributionCounters)
    foreign_by: dict[str, int] = {}


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
        self._allows = RecordedAllows(limits.aggregation_seconds, limits.aggregation_keys)
        self._limit = RateLimit(limits.records_per_second, limits.burst, clock.monotonic())
        self.latency = RecordLatency()
        self.denied = DeniedWindow()
        self._events: Counter[str] = Counter()
        self._records: Counter[str] = Counter()
        self._packets: Counter[str] = Counter()
        self._dropped_records: Counter[str] = Counter()
        self._dropped_packets: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()
        self._not_delegated: Counter[str] = Counter()

    def add(self, packets: Iterable[LoggedPacket]) -> None:
        """Take packets, in the order in which they were logged; write allows at once."""
        now, now_ns = self._clock.monotonic(), self._clock.now_ns()
        records: list[Record] = []
        for packet in packets:
            if self._is_aggregating and self._has_counted(packet, now):
                continue
            verdict = self._attributor.verdict_of(packet)
            if verdict is None:
                continue
            self._events[verdict.key.disposition] += 1
            attribute = partial(self._attributor.record, verdict, packet, now_ns)
            if verdict.key.disposition == "allow":
                record = self._allow(verdict, packet, attribute, now)
            elif not self._delegation.logs_deny(verdict, packet.timestamp_ns):
                self._not_delegated[verdict.key.disposition] += 1
                continue
            elif self._is_aggregating:
                self._aggregate(verdict, packet, attribute, now)
                continue
            else:
                record = self._limited(attribute, now)
            if record is not None:
                records.append(record)
        self._pass_on(records)

    def limit(self, per_second: float, burst: int) -> None:
        """Change the rate limit; it starts with a full burst."""
        self._limit = RateLimit(per_second, burst, self._clock.monotonic())

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
            repeated=dict(self._repeated),
            not_delegated=dict(self._not_delegated),
            unattributed=msgspec.structs.replace(self._attributor.counters),
            foreign_by=dict(self._attributor.foreign_by),
        )

    def _has_counted(self, packet: LoggedPacket, now: float) -> bool:
        """Count a packet that needs no record of its own, by its header alone; return False for any other one."""
        rule = self._attributor.rule_of(packet.prefix)
        if rule is None or packet.hook not in rule[3]:
            return False
        key, prefix, is_reply, _hooks = rule
        if key.disposition == "allow":
            has_counted = self._has_counted_allow(key, prefix, packet, now)
        else:
            has_counted = self._has_counted_deny(key, prefix, packet, is_reply=is_reply)
        if has_counted:
            self._events[key.disposition] += 1
        return has_counted

    def _has_counted_allow(self, key: VerdictKey, prefix: str, packet: LoggedPacket, now: float) -> bool:
        found = connection_of_packet(packet.payload)
        if found is None:
            return False
        connection, opening = found
        generation = self._attributor.generation_at(packet.timestamp_ns)
        if self._allows.has((prefix, connection), opening, generation, now):
            self._repeated["allow"] += 1
            return True
        if self._delegation.of_allows or not self._limit.is_empty(now) or not self._fits(key, prefix, connection):
            return False
        self._drop(1)
        return True

    def _has_counted_deny(self, key: VerdictKey, prefix: str, packet: LoggedPacket, *, is_reply: bool) -> bool:
        is_delegated = self._delegation.logs_denies_of(key)
        connection = None if is_delegated is None else key_of_packet(packet.payload, is_reply=is_reply)
        if connection is None:
            return False
        if not is_delegated:
            if not self._fits(key, prefix, connection):
                return False
            self._not_delegated[key.disposition] += 1
            return True
        waiting = (prefix, connection)
        if self._aggregation.count(waiting, self._attributor.generation_at(packet.timestamp_ns)):
            return True
        if not self._aggregation.is_full or self._aggregation.waits(waiting) or not self._fits(key, prefix, connection):
            return False
        self._dropped_packets[TOO_MANY_KEYS] += 1
        return True

    def _fits(self, key: VerdictKey, prefix: str, connection: bytes) -> bool:
        return self._attributor.fits(prefix, address_in_key(connection, of_server=key.direction == "ingress"))

    def _allow(
        self, verdict: LoggedVerdict, packet: LoggedPacket, attribute: Callable[[], Record], now: float
    ) -> Record | None:
        connection, opening = connection_of_packet(packet.payload) or connection_of_head(verdict.head)
        key = verdict.prefix, connection
        generation = self._attributor.generation_at(packet.timestamp_ns)
        holders = partial(self._attributor.holders, verdict, generation)
        if self._allows.has_renewed(key, opening, generation, now, holders):
            self._repeated["allow"] += 1
            return None
        record = self._limited_allow(attribute, packet.timestamp_ns, now)
        if record is not None and self._is_aggregating:
            self._allows.add(key, opening, generation, now, holders())
        return record

    def _limited_allow(self, attribute: Callable[[], Record], timestamp_ns: int | None, now: float) -> Record | None:
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

    def _aggregate(
        self, verdict: LoggedVerdict, packet: LoggedPacket, attribute: Callable[[], Record], now: float
    ) -> None:
        # The prefix belongs to the key: a record names the policies of one rule only.
        key = verdict.prefix, key_of_packet(packet.payload, is_reply=verdict.is_reply) or key_of_head(verdict.head)
        generation = self._attributor.generation_at(packet.timestamp_ns)
        holders = partial(self._attributor.holders, verdict, generation)
        if self._aggregation.has_renewed(key, generation, holders):
            return
        if self._aggregation.is_full:
            self._dropped_packets[TOO_MANY_KEYS] += 1
            return
        # Attributed now, by the rules that denied it; in a few seconds its Pod may be gone.
        self._aggregation.begin(key, attribute(), generation, holders(), now)

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
        monotonic = self._clock.monotonic() if records else 0.0
        for record in records:
            self.latency.observe(record, now)
            self.denied.add(record, monotonic)
            self._records[record.disposition] += 1
            self._packets[record.disposition] += record.count
        self._write([encode(record) for record in records])
