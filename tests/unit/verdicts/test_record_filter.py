"""Filters of records: every kind of term, their reverse, and what the cluster's state decides."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import UsageError
from nfagent.verdicts.record_filter import (
    Clause,
    Field,
    NoCluster,
    RecordFilter,
    RecordMatcher,
    decode_filter,
    encode_filter,
)
from nfagent.verdicts.records import PolicyName, Record, RecordConnection, RecordEndpoint

LABELS = {"shop/web": {"app": "web"}, "shop/web-2": {"app": "web", "canary": "yes"}, "data/db": {"app": "db"}}
NODE, OUTSIDE = "192.0.2.1", "203.0.113.9"


class Cluster:
    """Three Pods, one Node, Pod addresses in 10.0.0.0/8."""

    def labels(self, pod: str) -> Mapping[str, str] | None:
        return LABELS.get(pod)

    def is_node(self, address: str) -> bool:
        return address == NODE

    def is_inside(self, address: str) -> bool:
        return address == NODE or address.startswith("10.")


def end(name: str) -> RecordEndpoint:
    """Return a Pod of NAMESPACE/NAME, or an address."""
    namespace, slash, pod = name.partition("/")
    if not slash:
        return RecordEndpoint(instance=name)
    return RecordEndpoint(
        pod_name=pod, workload_kind="Pod", workload_name=pod, pod_namespace=namespace, namespace=namespace
    )


def record(
    source: str = "shop/web",
    destination: str = "data/db",
    *,
    ends: tuple[str, str] = ("10.0.0.1", "10.0.0.2"),
    ports: tuple[int | None, int | None] = (40000, 5432),
    policy: str = "wall",
    **fields: str,
) -> Record:
    """Return a denied record."""
    connection = {
        "src_ip": source if "/" not in source else ends[0],
        "dest_ip": destination if "/" not in destination else ends[1],
        "protocol": fields.get("protocol", "tcp"),
        "direction": fields.get("direction", "ingress"),
    }
    return Record(
        connection=RecordConnection(**connection, src_port=ports[0], dest_port=ports[1]),  # type: ignore[arg-type]
        disposition=fields.get("verdict", "deny"),  # type: ignore[arg-type]
        isolating_policies=(PolicyName(policy, "data", "NetworkPolicy"),),
        src=end(source),
        dest=end(destination),
        count=1,
        timestamp=fields.get("timestamp", "2026-01-02T03:04:05.000000000Z"),
    )


def matches(field: Field, *terms: str, of: Record) -> bool:
    return RecordMatcher(RecordFilter((Clause(field, terms),)), Cluster())(of)


@pytest.mark.parametrize(
    ("field", "term", "matched", "other"),
    [
        ("from", "shop", record(), record("data/db")),
        ("from", "shop/web", record(), record("shop/web-2")),
        ("from", "shop/web-*", record("shop/web-2"), record()),
        ("from", "shop/*", record("shop/web-2"), record("data/db")),
        ("from", "app=web", record(), record("data/db")),
        ("from", "app=web,canary!=yes", record(), record("shop/web-2")),
        ("from", "app in (web,api)", record(), record("data/db")),
        ("from", "!canary", record(), record("shop/web-2")),
        ("from", "label:canary", record("shop/web-2"), record()),
        ("from", "10.0.0.0/24", record(), record(ends=("10.0.1.1", "10.0.0.2"))),
        ("from", "10.0.0.1", record(), record(ends=("10.0.0.11", "10.0.0.2"))),
        ("from", "node", record(NODE), record(OUTSIDE)),
        ("from", "world", record(OUTSIDE), record("10.9.9.9")),
        ("from", "world", record(OUTSIDE), record(NODE)),
        ("from", "namespace:node", record("node/x"), record(NODE)),
        ("to", "data/db", record(), record("data/db", "shop/web")),
        ("peer", "data/db", record("data/db", "shop/web"), record("shop/web", "shop/web-2")),
        ("port", "40000", record(), record(ports=(1, 2))),
        ("to_port", "5000-6000", record(), record(ports=(5432, 80))),
        ("to_port", "0-65535", record(), record(ports=(None, None))),
        ("from_port", "40000", record(), record(ports=(5432, 40000))),
        ("protocol", "tcp", record(), record(protocol="udp")),
        ("direction", "ingress", record(), record(direction="egress")),
        ("verdict", "deny", record(), record(verdict="allow")),
        ("policy", "data/wall", record(), record(policy="other")),
        ("family", "4", record(), record("2001:db8::1", "2001:db8::2")),
    ],
)
def test_a_term_matches_what_it_names_and_nothing_else(field: Field, term: str, matched: Record, other: Record) -> None:
    assert matches(field, term, of=matched)
    assert not matches(field, term, of=other)


@pytest.mark.parametrize(
    ("field", "term", "advice"),
    [
        ("from", "", "write a Pod"),
        ("from", "Shop", "write a Pod"),
        ("from", "shop/", "write NAMESPACE/NAME"),
        ("from", "a/b/c", "write NAMESPACE/NAME"),
        ("from", "app==,=", "write one like app=web"),
        ("from", "app in (", "write one like app=web"),
        ("from", "ip:10.0.0.0/33", "write one like"),
        ("from", "10.0.0.0/33", "write one like 10.0.0.0/8"),
        ("from", "10.0.0/8", "write one like 10.0.0.0/8"),
        ("from", "10.0.0.300", "write one like 10.0.0.1"),
        ("from", "2001:db8::/200", "write one like 10.0.0.0/8"),
        ("from", "pod:10.0.0.0/33", "write NAMESPACE/NAME"),
        ("from", "namespace:10.0.0.300", "write a Pod"),
        ("to_port", "http", "write one like 80"),
        ("to_port", "80-70", "write one like 80"),
        ("to_port", "65536", "write one like 80"),
        ("verdict", "maybe", "write allow, deny or audit-deny"),
        ("policy", "a/b/c", "write NAMESPACE/NAME"),
    ],
)
def test_a_term_that_is_none_is_refused_with_what_to_write(field: Field, term: str, advice: str) -> None:
    with pytest.raises(UsageError, match=advice):
        matches(field, term, of=record())


def test_a_pod_that_is_gone_matches_no_selector_and_is_named() -> None:
    matcher = RecordMatcher(RecordFilter((Clause("from", ("app!=db",)),)), Cluster())
    assert not matcher(record("shop/gone"))
    assert list(matcher.unknown) == ["shop/gone"]


def test_without_the_cluster_no_address_counts_as_outside() -> None:
    wanted = RecordFilter((Clause("from", ("world",)),))
    assert wanted.needs_cluster
    assert not RecordMatcher(wanted, NoCluster())(record(OUTSIDE))


def test_since_is_inside_the_span_and_until_is_not() -> None:
    wanted = RecordFilter(since="2026-01-02T03:04:05.000000000Z", until="2026-01-02T03:04:06.000000000Z")
    matcher = RecordMatcher(wanted, NoCluster())
    seconds = [4, 5, 6]
    assert [matcher(record(timestamp=f"2026-01-02T03:04:0{second}.000000000Z")) for second in seconds] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"all":[{"field":"from"}]}', '{"al":[]}', '{"all":[{"field":"x","terms":[]}]}']
)
def test_a_filter_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        decode_filter(text)


def test_a_filter_with_thousands_of_terms_is_refused() -> None:
    with pytest.raises(UsageError, match="more than 1000 terms"):
        RecordMatcher(RecordFilter((Clause("to_port", tuple(map(str, range(1001)))),)), NoCluster())


PEERS = st.sampled_from(
    ["shop", "shop/web", "shop/*", "app=web", "app!=web", "!app", "10.0.0.0/8", "::/0", "node", "world", "label:app"]
)
TERMS: dict[Field, st.SearchStrategy[str]] = {
    "from": PEERS,
    "to": PEERS,
    "peer": PEERS,
    "port": st.sampled_from(["80", "0-1023", "1024-65535"]),
    "from_port": st.sampled_from(["80", "1024-65535"]),
    "to_port": st.sampled_from(["80", "1024-65535"]),
    "protocol": st.sampled_from(["tcp", "udp", "icmp"]),
    "direction": st.sampled_from(["ingress", "egress"]),
    "verdict": st.sampled_from(["allow", "deny", "audit-deny"]),
    "policy": st.sampled_from(["data/wall", "other"]),
    "family": st.sampled_from(["4", "6"]),
}
CLAUSES = st.sampled_from(sorted(TERMS)).flatmap(
    lambda field: st.builds(Clause, st.just(field), st.lists(TERMS[field], min_size=1, max_size=3).map(tuple))
)
ENDS = st.sampled_from(["shop/web", "shop/web-2", "data/db", "shop/gone", NODE, OUTSIDE, "10.9.9.9", "2001:db8::1"])
NUMBERS = st.one_of(st.none(), st.sampled_from([0, 80, 1023, 40000]))
RECORDS = st.builds(
    record,
    ENDS,
    ENDS,
    ports=st.tuples(NUMBERS, NUMBERS),
    policy=st.sampled_from(["wall", "other"]),
    protocol=TERMS["protocol"],
    direction=TERMS["direction"],
    verdict=TERMS["verdict"],
)


@given(CLAUSES, st.lists(RECORDS, max_size=20))
def test_a_filter_and_its_reverse_partition_the_records(clause: Clause, records: list[Record]) -> None:
    wanted = RecordMatcher(RecordFilter(all=(clause,)), Cluster())
    unwanted = RecordMatcher(RecordFilter(none=(clause,)), Cluster())
    assert [unwanted(item) for item in records] == [not wanted(item) for item in records]


@given(st.lists(CLAUSES, max_size=3), st.lists(CLAUSES, max_size=3), RECORDS)
def test_a_filter_means_the_same_after_a_round_trip_and_is_the_conjunction_of_its_clauses(
    required: list[Clause], excluded: list[Clause], item: Record
) -> None:
    whole = RecordFilter(tuple(required), tuple(excluded))
    assert decode_filter(encode_filter(whole)) == whole
    each = [RecordMatcher(RecordFilter((clause,)), Cluster())(item) for clause in required]
    reverse = [RecordMatcher(RecordFilter((clause,)), Cluster())(item) for clause in excluded]
    assert RecordMatcher(whole, Cluster())(item) == (all(each) and not any(reverse))
