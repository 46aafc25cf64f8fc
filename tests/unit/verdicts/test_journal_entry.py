"""Records as entries of the systemd journal: fields, and names that try to forge some."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.verdicts.journal_entry import encode_entry, record_fields
from nfagent.verdicts.records import PolicyName, Record, RecordConnection, RecordEndpoint, encode
from tests.support.journal_entries import decode_entry

DENY = Record(
    connection=RecordConnection(
        src_ip="fd00::1", dest_ip="10.0.0.2", src_port=40000, dest_port=5432, protocol="tcp", direction="ingress"
    ),
    disposition="deny",
    isolating_policies=(PolicyName("closed", "shop", "NetworkPolicy"), PolicyName("top", "", "AdminNetworkPolicy")),
    src=RecordEndpoint(instance="fd00::1"),
    dest=RecordEndpoint(
        pod_name="db", workload_kind="ReplicaSet", workload_name="db-5", pod_namespace="shop", namespace="shop"
    ),
    count=3,
    node_name="node-1",
    timestamp="2026-01-02T03:04:05.000000006Z",
)


def entry(record: Record) -> list[tuple[str, str]]:
    fields = decode_entry(encode_entry(record_fields(record, encode(record))))
    return [(name, value.decode()) for name, value in fields]


def test_a_deny_has_a_message_for_people_and_a_field_for_each_of_its_values() -> None:
    assert entry(DENY) == [
        (
            "MESSAGE",
            "deny ingress fd00::1 -> shop/db:5432/tcp by NetworkPolicy shop/closed, AdminNetworkPolicy top (3 packets)",
        ),
        ("MESSAGE_ID", "3c0f2ab6d1d94f7c9a3e5b0c7f64d218"),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "nfagent-verdicts"),
        ("NFAGENT_DISPOSITION", "deny"),
        ("NFAGENT_DIRECTION", "ingress"),
        ("NFAGENT_PROTOCOL", "tcp"),
        ("NFAGENT_SRC_IP", "fd00::1"),
        ("NFAGENT_SRC_PORT", "40000"),
        ("NFAGENT_DEST_IP", "10.0.0.2"),
        ("NFAGENT_DEST_PORT", "5432"),
        ("NFAGENT_DEST_NAMESPACE", "shop"),
        ("NFAGENT_DEST_POD", "db"),
        ("NFAGENT_DEST_WORKLOAD_KIND", "ReplicaSet"),
        ("NFAGENT_DEST_WORKLOAD_NAME", "db-5"),
        ("NFAGENT_ISOLATING_POLICY", "NetworkPolicy shop/closed"),
        ("NFAGENT_ISOLATING_POLICY", "AdminNetworkPolicy top"),
        ("NFAGENT_COUNT", "3"),
        ("NFAGENT_NODE", "node-1"),
        ("NFAGENT_TIMESTAMP", "2026-01-02T03:04:05.000000006Z"),
        ("NFAGENT_RECORD", encode(DENY).decode().rstrip("\n")),
    ]


def test_an_allow_without_ports_and_policies_has_no_fields_for_them() -> None:
    connection = msgspec.structs.replace(DENY.connection, src_port=None, dest_port=None, protocol="icmp")
    allow = msgspec.structs.replace(
        DENY, connection=connection, disposition="allow", isolating_policies=(), count=1, node_name=""
    )
    found = dict(entry(allow))
    assert found["MESSAGE"] == "allow ingress fd00::1 -> shop/db/icmp"
    assert found.keys() & {"NFAGENT_SRC_PORT", "NFAGENT_DEST_PORT", "NFAGENT_NODE", "NFAGENT_POLICY"} == set()


def test_of_very_many_policies_the_entry_has_as_many_fields_as_journald_accepts() -> None:
    many = tuple(PolicyName(f"policy-{number:05}", "shop", "NetworkPolicy") for number in range(10_000))
    found = entry(msgspec.structs.replace(DENY, policies=many, isolating_policies=many))
    assert len(found) < 1024 - 24  # journald adds its own
    assert found[0][1].endswith("NetworkPolicy shop/policy-00009 and 19990 more (3 packets)")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("db\nPRIORITY=0", id="a newline and another field"),
        pytest.param("db\n_SYSTEMD_UNIT\n\x01\0\0\0\0\0\0\0x\n", id="a newline and a trusted field with a length"),
        pytest.param("\x1b[2Jdb\r\0", id="control characters of a terminal"),
        pytest.param("db\u202egnp", id="a bidirectional override"),
    ],
)
def test_a_hostile_name_changes_no_other_field_and_no_line_of_the_message(name: str) -> None:
    dest = msgspec.structs.replace(DENY.dest, pod_name=name)
    hostile, harmless = entry(msgspec.structs.replace(DENY, dest=dest)), entry(DENY)
    assert [field for field, _ in hostile] == [field for field, _ in harmless]
    found = dict(hostile)
    assert found["NFAGENT_DEST_POD"] == name
    assert found["MESSAGE"].isprintable()
    changed = {field for (field, value), (_, before) in zip(hostile, harmless, strict=True) if value != before}
    assert changed == {"MESSAGE", "NFAGENT_DEST_POD", "NFAGENT_RECORD"}


@given(st.lists(st.tuples(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text())))
def test_any_values_come_back_as_they_were(fields: list[tuple[str, str]]) -> None:
    expected = [(name, value.encode(errors="backslashreplace")) for name, value in fields]
    assert decode_entry(encode_entry(fields)) == expected
