"""Records folded to flows: what counts once, what counts at all."""

from __future__ import annotations

import pytest

from nfagent.model.objects import Direction
from nfagent.policy.evaluator import Flow
from nfagent.simulate.logged_flows import LoggedFlows
from nfagent.simulate.simulation import ObservedFlow
from nfagent.verdicts.records import Disposition, LoggedProtocol, Record, RecordConnection, RecordEndpoint, timestamp

SECOND = 1_000_000_000
OUTSIDE = RecordEndpoint(instance="203.0.113.7")


def pod(path: str) -> RecordEndpoint:
    namespace, _, name = path.partition("/")
    return RecordEndpoint(
        pod_name=name, workload_kind="Pod", workload_name=name, pod_namespace=namespace, namespace=namespace
    )


def record(
    *,
    ends: tuple[str, str] = ("10.0.0.1", "10.0.0.2"),
    port: int | None = 80,
    protocol: LoggedProtocol = "tcp",
    direction: Direction = "ingress",
    disposition: Disposition = "allow",
    second: int = 0,
    count: int = 1,
    source: RecordEndpoint = OUTSIDE,
) -> Record:
    return Record(
        connection=RecordConnection(
            src_ip=ends[0],
            dest_ip=ends[1],
            src_port=4000 + second,
            dest_port=port,
            protocol=protocol,
            direction=direction,
        ),
        disposition=disposition,
        src=source,
        dest=pod("shop/db"),
        count=count,
        timestamp=timestamp(second * SECOND),
    )


def folded(*records: Record) -> LoggedFlows:
    found = LoggedFlows()
    for item in records:
        found.add(item)
    return found


def test_records_of_one_flow_are_one_flow_with_their_counts_together() -> None:
    found = folded(record(second=1), record(second=2), record(second=3, disposition="deny", count=5))
    assert found.flows == [ObservedFlow(Flow("10.0.0.1", "10.0.0.2", "tcp", 80), 7, "", "shop/db")]
    assert (found.records, found.allowed) == (3, 2)


def test_a_connection_that_both_ends_log_counts_once() -> None:
    found = folded(record(direction="egress"), record(direction="ingress"), record(direction="ingress"))
    assert [seen.count for seen in found.flows] == [2]


def test_the_last_record_determines_the_pods() -> None:
    found = folded(record(source=pod("shop/was")), record(source=pod("shop/is"), second=1))
    assert [seen.source for seen in found.flows] == ["shop/is"]


def test_ports_protocols_and_addresses_distinguish_flows() -> None:
    found = folded(
        record(),
        record(port=81),
        record(protocol="udp"),
        record(ends=("10.0.0.3", "10.0.0.2")),
        record(protocol="sctp"),
    )
    assert len(found.flows) == 5


def test_the_span_covers_records_in_any_order() -> None:
    found = folded(record(second=20), record(second=10), record(second=30))
    assert (found.first, found.last) == (timestamp(10 * SECOND), timestamp(30 * SECOND))
    assert (LoggedFlows().first, LoggedFlows().last) == ("", "")


@pytest.mark.parametrize(
    ("item", "judged"),
    [
        (record(port=None), False),
        (record(port=None, protocol="icmp"), True),
        (record(port=None, protocol="unknown"), True),
        (record(ends=("nonsense", "10.0.0.2")), False),
        (record(ends=("10.0.0.1", "2001:DB8::1")), False),
    ],
    ids=["tcp without a port", "icmp", "a protocol without ports", "no address", "an address that isn't canonical"],
)
def test_records_that_can_not_be_evaluated_are_left_out_and_counted(item: Record, judged: bool) -> None:  # noqa: FBT001
    found = folded(item)
    assert (len(found.flows), found.left_out, found.records) == (int(judged), int(not judged), 1)


def test_a_pod_that_called_itself_did_so_through_a_service() -> None:
    [seen] = folded(record(ends=("10.0.0.2", "10.0.0.2"))).flows
    assert seen.flow.translated
