"""Packets to lines of the log: aggregated, limited, and every packet in one count."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.clock import SystemClock
from nfagent.model.objects import ObjectRef
from nfagent.netlink.nflog import LoggedPacket
from nfagent.nftables.verdict_keys import denied_by
from nfagent.verdicts.attribution import Attributor
from nfagent.verdicts.delegation import Delegation
from nfagent.verdicts.rate_limit import RecordLimits
from nfagent.verdicts.record_stream import RATE_LIMIT, TOO_MANY_KEYS, RecordStream
from nfagent.verdicts.records import Record, decode, timestamp
from tests.support.record_schema import check_line
from tests.support.two_node_cluster import labelled, policy
from tests.unit.verdicts.test_attribution import CLOSED, DB, FROM_WEB, TCP, WEB, logged, packet, ports, scene

ISOLATED_WEB = policy("shop/isolated-web", labelled(app="web"), types=["Ingress"])
ALLOW = "allow ingress shop/from-web"
DENY = denied_by("ingress", tuple(ObjectRef("NetworkPolicy", "shop", name) for name in ("closed", "from-web"))).prefix
OTHER_DENY = denied_by("ingress", (ObjectRef("NetworkPolicy", "shop", "isolated-web"),)).prefix
START_NS = 1_700_000_000_000_000_000


class StoppedClock(SystemClock):
    """A clock that shows what it is set to; waiting moves it, and ends the test's run when the end is reached."""

    def __init__(self, end: float = 0) -> None:
        self.now, self._end = 0.0, end

    def monotonic(self) -> float:
        return self.now

    def now_ns(self) -> int:
        return START_NS + int(self.now * 1e9)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.now += seconds
        if self.now > self._end:
            raise asyncio.CancelledError
        return event.is_set()


class Log:
    """A stream of records, with its clock and the lines that it wrote."""

    def __init__(self, limits: RecordLimits, end: float = 0) -> None:
        self.clock = StoppedClock(end)
        self.written: list[Record] = []
        view = scene(FROM_WEB, CLOSED, ISOLATED_WEB).views["a"]
        self.stream = RecordStream(Attributor(view), limits, self.clock, self._write, Delegation(view))

    def _write(self, lines: Sequence[bytes]) -> None:
        self.written += map(decode, map(check_line, lines))

    def run(self) -> None:
        """Let the time pass until the clock's end."""
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(self.stream.run())


def denied(source_port: int, port: int = 80, prefix: str = DENY) -> LoggedPacket:
    return logged(prefix, packet(WEB, DB, TCP, ports(source_port, port)))


def allowed(source_port: int) -> LoggedPacket:
    return denied(source_port, prefix=ALLOW)


def seen(records: list[Record]) -> list[tuple[str, int | None, int | None, int]]:
    return [(r.disposition, r.connection.src_port, r.connection.dest_port, r.count) for r in records]


def test_denied_packets_of_any_source_port_become_one_record_and_allows_one_each() -> None:
    log = Log(RecordLimits(), end=20)
    log.stream.add([denied(1000), allowed(1001), denied(1002), allowed(1003), denied(1004, port=81)])
    assert seen(log.written) == [("allow", 1001, 80, 1), ("allow", 1003, 80, 1)]
    log.run()
    assert seen(log.written[2:]) == [("deny", 1000, 80, 2), ("deny", 1004, 81, 1)]
    assert {record.timestamp for record in log.written} == {timestamp(START_NS)}, "the time of the first packet"


def test_a_packet_in_reply_direction_belongs_to_its_connection() -> None:
    log = Log(RecordLimits())
    log.stream.add([denied(1000), logged(f"{DENY} reply", packet(DB, WEB, TCP, ports(80, 1001)))])
    log.stream.finish()
    assert seen(log.written) == [("deny", 1000, 80, 2)]


def test_records_of_two_rules_stay_two_because_each_names_its_policies() -> None:
    log = Log(RecordLimits())
    log.stream.add([denied(1000), denied(1001, prefix=OTHER_DENY)])
    log.stream.finish()
    assert [record.count for record in log.written] == [1, 1]


def test_packets_without_a_free_key_are_counted_and_those_of_waiting_keys_still_belong_to_their_record() -> None:
    log = Log(RecordLimits(aggregation_keys=2))
    log.stream.add([denied(1, port) for port in (80, 81, 82, 83, 80)])
    status = log.stream.status()
    assert (status.waiting_keys, status.waiting_packets) == (2, 3)
    assert (status.dropped_packets, status.dropped_records) == ({TOO_MANY_KEYS: 2}, {})


def test_both_verdicts_share_one_limit_and_what_it_drops_is_counted_with_its_packets() -> None:
    log = Log(RecordLimits(records_per_second=0.01, burst=3), end=10)
    log.stream.add([denied(1, 80), denied(2, 80), denied(1, 81), denied(2, 81), denied(1, 82), allowed(1), allowed(2)])
    log.run()
    assert seen(log.written) == [("allow", 1, 80, 1), ("allow", 2, 80, 1), ("deny", 1, 80, 2)]
    status = log.stream.status()
    assert status.dropped_records == {RATE_LIMIT: 2}
    assert status.dropped_packets == {RATE_LIMIT: 3}


def test_without_aggregation_every_denied_packet_is_a_record_at_once() -> None:
    log = Log(RecordLimits(aggregation_seconds=0, burst=2))
    log.stream.add([denied(1), denied(2), denied(3)])
    assert seen(log.written) == [("deny", 1, 80, 1), ("deny", 2, 80, 1)]
    assert log.stream.status().dropped_packets == {RATE_LIMIT: 1}


def test_at_a_stop_all_that_waits_is_written_beyond_the_limit_too() -> None:
    log = Log(RecordLimits(records_per_second=0.01, burst=1))
    log.stream.add([denied(1, port) for port in range(1_000)])
    log.stream.finish()
    assert len(log.written) == 1_000
    assert log.stream.status().waiting_keys == 0


def test_more_records_than_one_turn_takes_are_written_in_several_without_delay() -> None:
    log = Log(RecordLimits(burst=10_000), end=5.2)
    log.stream.add([denied(1, port) for port in range(1_700)])
    log.run()
    assert len(log.written) == 1_700


PACKETS = st.lists(
    st.one_of(
        st.builds(denied, st.integers(1, 5), st.integers(1, 8)),
        st.builds(allowed, st.integers(1, 5)),
        st.just(logged("of another program", b"")),
        st.just(logged(DENY, b"no packet")),
    ),
    max_size=60,
)


@given(
    batches=st.lists(st.tuples(st.floats(0, 4), PACKETS), max_size=6), keys=st.integers(1, 6), burst=st.integers(1, 9)
)
def test_every_packet_is_written_waiting_dropped_or_without_a_record(
    batches: list[tuple[float, list[LoggedPacket]]], keys: int, burst: int
) -> None:
    log = Log(RecordLimits(aggregation_keys=keys, records_per_second=1, burst=burst))
    sent = 0
    for pause, packets in batches:
        sent += len(packets)
        log.clock.now += pause
        log.stream.add(packets)
        log.clock._end = log.clock.now  # noqa: SLF001 - what is due by now is written
        log.run()
        status = log.stream.status()
        missing = sum(msgspec.structs.astuple(status.unattributed))
        gone = sum(status.dropped_packets.values())
        assert sent == sum(status.packets.values()) + status.waiting_packets + gone + missing
        assert sum(record.count for record in log.written) == sum(status.packets.values())
        assert len(log.written) == sum(status.records.values())
