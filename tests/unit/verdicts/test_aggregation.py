"""Aggregation of denied packets by key: when a record is due, what it says, how many may wait."""

from __future__ import annotations

from nfagent.verdicts.aggregation import DenyAggregation
from nfagent.verdicts.records import Record, RecordConnection, RecordEndpoint, timestamp

PODS = (("shop", "web"), ("shop", "db"))
OTHERS = (("shop", "other"), ("shop", "db"))


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
    assert not aggregation.count("a", 1)
    aggregation.begin("a", record(1000), 1, PODS, now=100)
    assert aggregation.count("a", 1)
    assert aggregation.count("a", 1)
    (found,) = aggregation.drain_due(105, most=10)
    assert (found.connection.src_port, found.timestamp, found.count) == (1000, timestamp(1000), 3)


def test_a_record_is_due_after_its_first_packet_however_often_more_come() -> None:
    aggregation = DenyAggregation(5, 10)
    aggregation.begin("a", record(1), 1, PODS, now=100)
    aggregation.begin("b", record(2), 1, PODS, now=104)
    assert aggregation.count("a", 1)
    assert aggregation.drain_due(104.9, most=10) == []
    assert aggregation.delay(104.5) == 0.5
    assert ports_and_counts(aggregation.drain_due(105, most=10)) == [(1, 2)]
    assert aggregation.delay(105) == 4
    assert aggregation.delay(110) == 0
    assert not aggregation.count("a", 1), "a packet after the record begins another one"


def test_without_a_waiting_record_the_next_can_be_due_after_the_whole_time() -> None:
    assert DenyAggregation(5, 10).delay(1_000) == 5


def test_no_more_keys_wait_than_are_allowed_and_a_drained_one_makes_room() -> None:
    aggregation = DenyAggregation(5, 2)
    aggregation.begin("a", record(1), 1, PODS, now=0)
    aggregation.begin("b", record(2), 1, PODS, now=1)
    assert aggregation.count("b", 1), "a packet of a key that waits needs no room"
    assert (aggregation.is_full, aggregation.keys, aggregation.packets) == (True, 2, 3)
    aggregation.drain_due(5, most=10)
    assert (aggregation.is_full, aggregation.keys, aggregation.packets) == (False, 1, 2)


def test_records_are_drained_in_their_order_and_in_parts() -> None:
    aggregation = DenyAggregation(5, 10)
    for number in range(5):
        aggregation.begin(number, record(number), 1, PODS, now=number)
    assert ports_and_counts(aggregation.drain_due(100, most=2)) == [(0, 1), (1, 1)]
    assert ports_and_counts(aggregation.drain_all()) == [(2, 1), (3, 1), (4, 1)]
    assert aggregation.drain_all() == []


def test_a_packet_of_the_same_pods_in_a_later_generation_belongs_to_the_record() -> None:
    aggregation = DenyAggregation(5, 10)
    aggregation.begin("a", record(1), 1, PODS, now=0)
    assert not aggregation.count("a", 2), "the Pods of generation 2 have to be looked up"
    assert aggregation.has_renewed("a", 2, lambda: PODS)
    assert aggregation.count("a", 2)
    assert ports_and_counts(aggregation.drain_all()) == [(1, 3)]


def test_a_packet_of_another_pod_ends_the_record_which_is_due_at_once_and_needs_its_room_until_then() -> None:
    aggregation = DenyAggregation(5, 2)
    aggregation.begin("a", record(1), 1, PODS, now=0)
    assert not aggregation.has_renewed("a", 2, lambda: OTHERS)
    assert not aggregation.waits("a")
    aggregation.begin("a", record(2), 2, OTHERS, now=1)
    assert (aggregation.keys, aggregation.packets, aggregation.is_full, aggregation.delay(1)) == (2, 2, True, 0)
    assert ports_and_counts(aggregation.drain_due(1, most=10)) == [(1, 1)]
    assert ports_and_counts(aggregation.drain_due(6, most=10)) == [(2, 1)]
