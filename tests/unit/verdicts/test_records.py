"""Records of the verdict log: their JSON, omitted fields, refused lines."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from nfagent.errors import DecodeError
from nfagent.model.objects import Pod
from nfagent.verdicts import records
from nfagent.verdicts.records import PolicyName, Record, RecordConnection, RecordEndpoint

ALLOW_LINE = (
    b'{"connection":{"src_ip":"10.84.1.7","dest_ip":"10.84.0.11","src_port":55644,"dest_port":8080,"protocol":"tcp",'
    b'"direction":"ingress"},"disposition":"allow","policies":[{"name":"np","namespace":"default",'
    b'"kind":"NetworkPolicy"}],"src":{"pod_name":"client-allow-7b78d7c957-zkn54","workload_kind":"ReplicaSet",'
    b'"workload_name":"client-allow-7b78d7c957","pod_namespace":"default","namespace":"default"},'
    b'"dest":{"pod_name":"test-service-745c798fc9-sfd9h","workload_kind":"ReplicaSet",'
    b'"workload_name":"test-service-745c798fc9","pod_namespace":"default","namespace":"default"},"count":1,'
    b'"node_name":"node-1","timestamp":"2020-06-13T21:29:31.445836587Z"}\n'
)
NP = PolicyName("np", "default", "NetworkPolicy")
ALLOW = Record(
    connection=RecordConnection(
        src_ip="10.84.1.7", dest_ip="10.84.0.11", src_port=55_644, dest_port=8_080, protocol="tcp", direction="ingress"
    ),
    disposition="allow",
    policies=(NP,),
    src=RecordEndpoint.of_pod(
        Pod(
            "default",
            "client-allow-7b78d7c957-zkn54",
            workload_kind="ReplicaSet",
            workload_name="client-allow-7b78d7c957",
        )
    ),
    dest=RecordEndpoint.of_pod(
        Pod(
            "default",
            "test-service-745c798fc9-sfd9h",
            workload_kind="ReplicaSet",
            workload_name="test-service-745c798fc9",
        )
    ),
    count=1,
    node_name="node-1",
    timestamp="2020-06-13T21:29:31.445836587Z",
)
DENY = Record(
    connection=RecordConnection(src_ip="2001:db8::1", dest_ip="fd00::a", protocol="icmpv6", direction="egress"),
    disposition="deny",
    isolating_policies=(NP, PolicyName("deny-all", "", "AdminNetworkPolicy")),
    src=RecordEndpoint(instance="2001:db8::1"),
    dest=RecordEndpoint(instance="fd00::a"),
    count=3,
    timestamp="2020-06-13T21:29:31.000000000Z",
)


def test_the_documented_example_is_written_byte_for_byte() -> None:
    assert records.encode(ALLOW) == ALLOW_LINE


def test_a_deny_omits_what_is_empty_and_names_the_isolating_policies() -> None:
    assert records.encode(DENY) == (
        b'{"connection":{"src_ip":"2001:db8::1","dest_ip":"fd00::a","protocol":"icmpv6","direction":"egress"},'
        b'"disposition":"deny","isolating_policies":[{"name":"np","namespace":"default","kind":"NetworkPolicy"},'
        b'{"name":"deny-all","namespace":"","kind":"AdminNetworkPolicy"}],'
        b'"src":{"instance":"2001:db8::1"},"dest":{"instance":"fd00::a"},"count":3,'
        b'"timestamp":"2020-06-13T21:29:31.000000000Z"}\n'
    )


@pytest.mark.parametrize("record", [pytest.param(ALLOW, id="an allow"), pytest.param(DENY, id="a deny")])
def test_a_record_is_read_back_as_it_was_written(record: Record) -> None:
    assert records.decode(records.encode(record)) == record


def test_port_zero_is_written_because_it_is_a_port() -> None:
    connection = msgspec.structs.replace(ALLOW.connection, src_port=0)

    written = json.loads(records.encode(msgspec.structs.replace(ALLOW, connection=connection)))

    assert written["connection"]["src_port"] == 0


def test_unknown_fields_are_ignored() -> None:
    assert records.decode(ALLOW_LINE.replace(b'{"connection"', b'{"later":[1],"connection"')) == ALLOW


def test_a_pod_that_nothing_controls_is_its_own_workload() -> None:
    assert RecordEndpoint.of_pod(Pod("default", "alone")) == RecordEndpoint(
        pod_name="alone",
        workload_kind="Pod",
        workload_name="alone",
        pod_namespace="default",
        namespace="default",
    )


def _without(field: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(ALLOW_LINE).items() if key != field}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        pytest.param(b"", "Input data was truncated", id="an empty line"),
        pytest.param(ALLOW_LINE[:-20], "Input data was truncated", id="a line cut short"),
        pytest.param(b"\xff{}", "malformed", id="no JSON"),
        pytest.param(b"[]", "Expected `object`", id="another document"),
        *(
            pytest.param(json.dumps(_without(field)).encode(), field, id=f"no {field}")
            for field in ("connection", "disposition", "src", "dest", "count", "timestamp")
        ),
        pytest.param(ALLOW_LINE.replace(b'"allow"', b'"maybe"'), r"\$\.disposition", id="an unknown disposition"),
        pytest.param(ALLOW_LINE.replace(b"8080", b"80800"), r"\$\.connection\.dest_port", id="a port out of range"),
        pytest.param(ALLOW_LINE.replace(b'"count":1', b'"count":0'), r"\$\.count", id="a count of none"),
        pytest.param(ALLOW_LINE.replace(b"587Z", b"Z"), r"\$\.timestamp", id="a time without nanoseconds"),
        pytest.param(
            ALLOW_LINE.replace(b'"pod_name"', b'"instance":"10.0.0.1","pod_name"', 1), "an endpoint is", id="both ends"
        ),
        pytest.param(ALLOW_LINE.replace(b'"workload_kind"', b'"kind"', 1), "an endpoint is", id="half a Pod"),
        pytest.param(
            records.encode(DENY).replace(b'{"instance":"fd00::a"}', b"{}"), "an endpoint is", id="an empty end"
        ),
    ],
)
def test_an_invalid_line_is_refused_with_the_reason(line: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        records.decode(line)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        pytest.param(1_592_083_771_445_836_587, "2020-06-13T21:29:31.445836587Z", id="every digit is kept"),
        pytest.param(0, "1970-01-01T00:00:00.000000000Z", id="the epoch has all its zeros"),
        pytest.param(1_709_164_800_000_000_001, "2024-02-29T00:00:00.000000001Z", id="one nanosecond into a leap day"),
        pytest.param(-1, "1969-12-31T23:59:59.999999999Z", id="one nanosecond before the epoch"),
    ],
)
def test_timestamp(nanoseconds: int, text: str) -> None:
    assert records.timestamp(nanoseconds) == text


def test_timestamps_sort_as_time_does() -> None:
    moments = [0, 1, 999_999_999, 1_000_000_000, 1_592_083_771_445_836_587, 4_102_444_800_000_000_000]

    assert sorted(map(records.timestamp, moments)) == [records.timestamp(moment) for moment in moments]
