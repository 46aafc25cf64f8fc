"""Packets to lines of the log: aggregated, limited, and every packet in one count."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.clock import SystemClock
from nfagent.model.objects import ObjectRef
from nfagent.netlink.nflog import LoggedPacket
from nfagent.nftables.verdict_keys import denied_by
from nfagent.verdicts.attribution import OTHER_HOOK, OTHER_POD, Attributor
from nfagent.verdicts.delegation import Delegation
from nfagent.verdicts.rate_limit import RecordLimits
from nfagent.verdicts.record_stream import RATE_LIMIT, TOO_MANY_KEYS, RecordStream
from nfagent.verdicts.records import Record, decode, timestamp
from tests.support.record_schema import check_line
from tests.support.two_node_cluster import labelled, pod, policy
from tests.unit.verdicts.test_attribution import (
    CLOSED,
    DB,
    DB6,
    FROM_WEB,
    GRE,
    ICMP,
    ICMPV6,
    NOW,
    SCTP,
    TCP,
    UDP,
    WEB,
    WEB6,
    committed,
    logged,
    packet,
    ports,
    scene,
)
from tests.unit.verdicts.test_history import Node, ref

ISOLATED_WEB = policy("shop/isolated-web", labelled(app="web"), types=["Egress"])
ALLOW = "allow ingress shop/from-web"
DENY = denied_by("ingress", tuple(ObjectRef("NetworkPolicy", "shop", name) for name in ("closed", "from-web"))).prefix
OTHER_DENY = denied_by("egress", (ObjectRef("NetworkPolicy", "shop", "isolated-web"),)).prefix
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
        attributor = Attributor(view, committed(view))
        self.stream = RecordStream(attributor, limits, self.clock, self._write, Delegation(view))

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
        gone = sum(status.dropped_packets.values()) + sum(status.repeated.values())
        assert sent == sum(status.packets.values()) + status.waiting_packets + gone + missing
        assert sum(record.count for record in log.written) == sum(status.packets.values())
        assert len(log.written) == sum(status.records.values())


def segment(sequence: int, flags: int, source_port: int = 1000) -> bytes:
    return struct.pack("!HHIIBBHHH", source_port, 80, sequence, 0, 5 << 4, flags, 64_240, 0, 0)


def sctp_chunk(kind: int, tag: int) -> bytes:
    return struct.pack("!HHII", 1000, 80, 0, 0) + struct.pack("!BBHI", kind, 0, 20, tag)


def echo(identifier: int, sequence: int) -> bytes:
    return struct.pack("!BBHHH", 8, 0, sequence, identifier, sequence)


SYN, SYN_ACK, PUSH = 0x02, 0x12, 0x18
UPPER: list[object] = [
    pytest.param(TCP, [segment(7, SYN)] * 3, 1, id="TCP: a SYN that is sent again"),
    pytest.param(TCP, [segment(7, SYN), segment(8, PUSH)], 1, id="TCP: a packet after the SYN"),
    pytest.param(TCP, [segment(8, PUSH), segment(90, PUSH)], 1, id="TCP: packets of an untracked connection"),
    pytest.param(TCP, [segment(7, SYN), segment(9, SYN)], 2, id="TCP: a SYN of the next connection"),
    pytest.param(TCP, [segment(7, SYN_ACK), segment(9, SYN_ACK)], 1, id="TCP: a SYN that acknowledges begins nothing"),
    pytest.param(TCP, [segment(7, SYN), segment(7, SYN, 1001)], 2, id="TCP: another port"),
    pytest.param(UDP, [ports(1000, 53)] * 3, 1, id="UDP: the same ports, new connections are not told apart"),
    pytest.param(UDP, [ports(1000, 53), ports(1001, 53)], 2, id="UDP: another port"),
    pytest.param(SCTP, [sctp_chunk(1, 7)] * 2, 1, id="SCTP: an INIT that is sent again"),
    pytest.param(SCTP, [sctp_chunk(1, 7), sctp_chunk(0, 9)], 1, id="SCTP: a chunk after the INIT"),
    pytest.param(SCTP, [sctp_chunk(1, 7), sctp_chunk(1, 9)], 2, id="SCTP: an INIT of the next association"),
    pytest.param(ICMP, [echo(7, 1), echo(7, 2)], 1, id="ICMP: requests of one ping"),
    pytest.param(ICMP, [echo(7, 1), echo(8, 1)], 2, id="ICMP: requests of two pings"),
    pytest.param(GRE, [b"\0" * 8, b"\1" * 8], 1, id="a protocol without ports: the same ends"),
    pytest.param(TCP, [b"", b""], 1, id="a copy that ends before the ports"),
]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("protocol", "upper", "expected"), UPPER)
def test_an_allow_is_one_record_a_connection_and_its_other_packets_are_counted(
    protocol: int, upper: list[bytes], expected: int, family: int
) -> None:
    ends = (WEB, DB) if family == 4 else (WEB6, DB6)
    protocol = ICMPV6 if (protocol, family) == (ICMP, 6) else protocol
    log = Log(RecordLimits())
    for each in upper:
        log.stream.add([logged(ALLOW, packet(*ends, protocol, each))])
    status = log.stream.status()
    assert [record.disposition for record in log.written] == ["allow"] * expected
    assert status.repeated == ({"allow": len(upper) - expected} if len(upper) > expected else {})
    assert (status.events, status.dropped_packets) == ({"allow": len(upper)}, {})


def test_repeated_packets_of_an_allowed_connection_leave_the_rate_limit_to_others() -> None:
    log = Log(RecordLimits(records_per_second=0.01, burst=2))
    log.stream.add([*[allowed(1)] * 50, allowed(2), *[allowed(1), allowed(2)] * 20])
    assert seen(log.written) == [("allow", 1, 80, 1), ("allow", 2, 80, 1)]
    assert (log.stream.status().repeated, log.stream.status().dropped_records) == ({"allow": 89}, {})


def test_an_allow_that_the_rate_limit_dropped_may_still_become_a_record() -> None:
    log = Log(RecordLimits(records_per_second=1, burst=1))
    log.stream.add([allowed(1), allowed(2)])
    log.clock.now = 1.5
    log.stream.add([allowed(1), allowed(2)])
    assert seen(log.written) == [("allow", 1, 80, 1), ("allow", 2, 80, 1)]
    assert log.stream.status().dropped_packets == {RATE_LIMIT: 1}


def test_a_changed_rate_limit_begins_with_a_full_burst() -> None:
    log = Log(RecordLimits(records_per_second=1, burst=1))
    log.stream.add([allowed(1), allowed(2)])
    log.stream.limit(per_second=1, burst=2)
    log.stream.add([allowed(3), allowed(4), allowed(5)])
    assert [port for _, port, _, _ in seen(log.written)] == [1, 3, 4]
    assert log.stream.status().dropped_packets == {RATE_LIMIT: 2}


def test_a_connection_whose_packets_go_on_is_a_record_again_after_the_aggregation_time() -> None:
    log = Log(RecordLimits(aggregation_seconds=5))
    for now in range(12):
        log.clock.now = float(now)
        log.stream.add([allowed(1)])
    assert [record.timestamp for record in log.written] == [timestamp(START_NS + now * 10**9) for now in (0, 5, 10)]


def test_without_aggregation_every_allowed_packet_is_a_record() -> None:
    log = Log(RecordLimits(aggregation_seconds=0))
    log.stream.add([allowed(1), allowed(1)])
    assert (len(log.written), log.stream.status().repeated) == (2, {})


def test_more_connections_than_are_remembered_push_out_the_earliest_one_whose_next_packet_is_a_record() -> None:
    log = Log(RecordLimits(aggregation_keys=2))
    log.stream.add([allowed(1), allowed(2), allowed(3), allowed(2), allowed(3), allowed(1)])
    assert [record.connection.src_port for record in log.written] == [1, 2, 3, 1]
    assert log.stream.status().repeated == {"allow": 2}


class ChangingLog:
    """A stream of records of a node whose objects change; NOW is when the first ones were committed."""

    def __init__(self, limits: RecordLimits) -> None:
        self.node = Node(FROM_WEB, CLOSED)
        self.written: list[Record] = []
        view, history = self.node.view, self.node.history
        self.stream = RecordStream(self.node.attributor, limits, StoppedClock(), self._write, Delegation(view, history))

    def _write(self, lines: Sequence[bytes]) -> None:
        self.written += map(decode, lines)

    def add(self, prefix: str, second: float, payload: bytes) -> None:
        self.stream.add([logged(prefix, payload, NOW + int(second * 10**9))])

    def pods(self) -> list[tuple[str, str, int]]:
        return [(record.src.pod_name, record.dest.pod_name, record.count) for record in self.written]


@pytest.mark.parametrize(("prefix", "counted"), [(ALLOW, 1), (DENY, 2)], ids=["allowed", "denied"])
@pytest.mark.parametrize("is_late", [False, True], ids=["read at once", "read after the change"])
@pytest.mark.parametrize(
    ("gone", "came", "ends"),
    [
        pytest.param("web", "other", ("other", "db"), id="of the client"),
        pytest.param("db", "copy", ("web", "copy"), id="of the server"),
    ],
)
def test_packets_of_another_pod_that_has_got_the_address_have_a_record_of_their_own(
    prefix: str, counted: int, gone: str, came: str, ends: tuple[str, str], *, is_late: bool
) -> None:
    log = ChangingLog(RecordLimits())
    payload = packet(WEB, DB, TCP, segment(7, SYN))
    change = ref("Pod", gone), pod(f"shop/{came}", "a", 10 if gone == "web" else 20, app=gone)
    if is_late:
        log.node.change(*change)
        log.node.commit(2)
    log.add(prefix, 1, payload)
    log.add(prefix, 1, payload)
    if not is_late:
        log.node.change(*change)
        log.add(prefix, 1.5, payload)  # the old one's, before the commit
        log.node.commit(2)
    log.add(prefix, 3, payload)
    log.add(prefix, 3, payload)
    log.stream.finish()
    old = counted if is_late or prefix == ALLOW else 3
    assert sorted(log.pods()) == sorted([("web", "db", old), (*ends, counted)])


def test_another_change_of_the_cluster_splits_no_record() -> None:
    log = ChangingLog(RecordLimits())
    for second in range(4):
        log.node.change(pod(f"shop/other-{second}", "a", 30 + second, app="other"))
        log.node.commit(second)
        for prefix in (ALLOW, DENY):
            log.add(prefix, second + 0.5, packet(WEB, DB, TCP, segment(7, SYN)))
    log.stream.finish()
    assert log.pods() == [("web", "db", 1), ("web", "db", 4)]


@pytest.mark.parametrize("limits", [RecordLimits(aggregation_keys=1), RecordLimits(records_per_second=0.01, burst=1)])
def test_packets_under_a_copied_prefix_are_in_no_count_of_ours(limits: RecordLimits) -> None:
    log = Log(limits)
    own = [allowed(1), denied(1), allowed(2), denied(2, 81), allowed(3), denied(3, 82)]
    log.stream.add(own)
    before = log.stream.status()
    elsewhere = [msgspec.structs.replace(each, hook=4) for each in own]
    reversed_ends = packet(DB, WEB, TCP, ports(1, 80))
    others = [msgspec.structs.replace(each, payload=reversed_ends, timestamp_ns=START_NS) for each in own]
    log.stream.add([*elsewhere, *others])
    after = log.stream.status()
    assert after.foreign_by == {OTHER_HOOK: len(own), OTHER_POD: len(own)}
    assert msgspec.structs.replace(after, unattributed=before.unattributed, foreign_by={}) == before
