"""Aggregation of denied packets by key: when a record is due, what it says, how many may wait."""

from __future__ import annotations

from nfagent.verdicts.aggregation import DenyAggregation
from nfagent.verdicts.records import Record, RecordConnection, RecordEndpoint, timestamp


def record(port: int) -> Record:
    return Record(
        connection=RecordConnection(
            src_ip="10.0.0.1", dest_ip="10.0.0.2", src_port=port, dest_port=80, protocol="tcp", direction="ingress"
        ),
        disposition="deny",
        src=RecordEndpoint(instance="10.0.0.1"),
        dest=RecordEndpoint(instance="10.0.0.2"),
        count=1,
        timestamp=timestamp(port),
    )


def ports_and_counts(records: list[Record]) -> list[tuple[int | None, int]]:
    return [(found.connection.src_port, found.count) for found in records]


def test_a_record_has_the_port_and_time_of_its_first_packet_and_the_number_of_all() -> None:
    aggregation = DenyAggregation(5, 10)
    assert not aggregation.count("a")
    aggregation.begin("a", record(1000), now=100)
    assert aggregation.count("a")
    assert aggregation.count("a")
    (found,) = aggregation.drain_due(105, most=10)
    assert (found.connection.src_port, found.timestamp, found.count) == (1000, timestamp(1000), 3)


def test_a_record_is_due_after_its_first_packet_however_often_more_come() -> None:
    aggregation = DenyAggregation(5, 10)
    aggregation.begin("a", record(1), now=100)
    aggregation.begin("b", record(2), now=104)
    assert aggregation.count("a")
    assert aggregation.drain_due(104.9, most=10) == []
    assert aggregation.delay(104.5) == 0.5
    assert ports_and_counts(aggregation.drain_due(105, most=10)) == [(1, 2)]
    assert aggregation.delay(105) == 4
    assert aggregation.delay(110) == 0
    assert not aggregation.count("a"), "a packet after the record begins another one"


def test_without_a_waiting_record_the_next_can_be_due_after_the_whole_time() -> None:
    assert DenyAggregation(5, 10).delay(1_000) == 5


def test_no_more_keys_wait_than_are_allowed_and_a_drained_one_makes_room() -> None:
    aggregation = DenyAggregation(5, 2)
    aggregation.begin("a", record(1), now=0)
    aggregation.begin("b", record(2), now=1)
    assert aggregation.count("b"), "a packet of a key that waits needs no room"
    assert (aggregation.is_full, aggregation.keys, aggregation.packets) == (True, 2, 3)
    aggregation.drain_due(5, most=10)
    assert (aggregation.is_full, aggregation.keys, aggregation.packets) == (False, 1, 2)


def test_records_are_drained_in_their_order_and_in_parts() -> None:
    aggregation = DenyAggregation(5, 10)
    for number in range(5):
        aggregation.begin(number, record(number), now=number)
    assert ports_and_counts(aggregation.drain_due(100, most=2)) == [(0, 1), (1, 1)]
    assert ports_and_counts(aggregation.drain_all()) == [(2, 1), (3, 1), (4, 1)]
    assert aggregation.drain_all() == []
