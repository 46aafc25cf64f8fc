"""Filters of verdict records, as `nfagent logs` and `GET /v1/records` take them: JSON, checked, and compiled once.

    {"all": [{"field": "from", "terms": ["shop", "app=web"]}, {"field": "to_port", "terms": ["5432"]}],
     "none": [{"field": "to", "terms": ["world"]}], "since": "2026-01-02T03:04:05.000000000Z"}

A record matches if of each clause of `all` one term does, and no term of a clause of `none`. Labels, Nodes and what is
outside the cluster are looked up in its present state: of a Pod that is gone no label is known, so a selector doesn't
match it, and `RecordMatcher.unknown` has its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Literal, Protocol, TypeAlias, get_args

import msgspec

from nfagent.errors import UsageError
from nfagent.model.netaddr import Range, family_of, number
from nfagent.model.objects import DIRECTIONS
from nfagent.model.selectors import Selector
from nfagent.nftables.verdict_keys import DISPOSITIONS
from nfagent.verdicts.record_terms import (
    AddressTerm,
    LabelTerm,
    NamespaceTerm,
    PeerTerm,
    PlaceTerm,
    PodTerm,
    parse_peer,
    parse_policy,
    parse_ports,
)
from nfagent.verdicts.records import LoggedProtocol, Record, RecordEndpoint

Field: TypeAlias = Literal[
    "from", "to", "peer", "port", "from_port", "to_port", "protocol", "direction", "verdict", "policy", "family"
]
"""peer and port: at either end."""
Test: TypeAlias = Callable[[Record], bool]


_VALUES: Mapping[str, tuple[str, ...]] = {
    "protocol": get_args(LoggedProtocol),
    "direction": DIRECTIONS,
    "verdict": DISPOSITIONS,
    "family": ("4", "6"),
}
MOST_TERMS = 1_000
"""Terms of one filter: each record is held against them all."""
_MOST_UNKNOWN = 100
_CACHED_ADDRESSES = 4_096


class Clause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One term must match."""

    field: Field
    terms: tuple[str, ...]


class RecordFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which records are wanted.

    since, until: as records have their timestamps; '' for no limit. `until` itself isn't wanted any more
    """

    all: tuple[Clause, ...] = ()
    none: tuple[Clause, ...] = ()
    since: str = ""
    until: str = ""

    @property
    def needs_cluster(self) -> bool:
        """Whether it has a term that the cluster's state decides. Raises UsageError for a wrong term."""
        return any(
            isinstance(parse_peer(term), LabelTerm | PlaceTerm)
            for clause in (*self.all, *self.none)
            for term in clause.terms
            if clause.field in _ENDS
        )


class PeerLookup(Protocol):
    """The state of the cluster, as far as a filter needs it."""

    def labels(self, pod: str) -> Mapping[str, str] | None:
        """Return the labels of the Pod NAMESPACE/NAME; None where there is none."""
        ...

    def is_node(self, address: str) -> bool:
        """Return whether an address is a Node's."""
        ...

    def is_inside(self, address: str) -> bool:
        """Return whether an address is of the cluster: a Pod's, a Node's, or of a range for Pods or Services."""
        ...


class NoCluster:
    """For filters that need no state of the cluster."""

    def labels(self, pod: str) -> Mapping[str, str] | None:  # noqa: ARG002 - as the protocol has it
        """Return that nothing is known."""
        return None

    def is_node(self, address: str) -> bool:  # noqa: ARG002 - as above
        """Return that nothing is known."""
        return False

    def is_inside(self, address: str) -> bool:  # noqa: ARG002 - as above
        """Return True: what isn't known to be outside counts as inside."""
        return True


class RecordMatcher:
    """A compiled filter.

    unknown: Pods of records whose labels were asked for and aren't known, the first hundred
    """

    def __init__(self, wanted: RecordFilter, peers: PeerLookup) -> None:
        """Compile a filter. Raises UsageError for a wrong term."""
        if sum(len(clause.terms) for clause in (*wanted.all, *wanted.none)) > MOST_TERMS:
            raise UsageError(f"the filter has more than {MOST_TERMS} terms; write fewer, or a range")
        self.unknown: dict[str, None] = {}
        self._peers = peers
        self._required = [self._clause(clause) for clause in wanted.all]
        self._excluded = [self._clause(clause) for clause in wanted.none]
        self._since, self._until = wanted.since, wanted.until or "~"  # behind every digit

    def __call__(self, record: Record) -> bool:
        """Return whether a record is wanted."""
        return (
            self._since <= record.timestamp < self._until
            and all(test(record) for test in self._required)
            and not any(test(record) for test in self._excluded)
        )

    def _clause(self, clause: Clause) -> Test:
        if not clause.terms:
            raise UsageError(f"the filter's clause {clause.field!r} has no terms")
        if clause.field in _ENDS:
            return _any([self._peer(end, parse_peer(term)) for term in clause.terms for end in _ENDS[clause.field]])
        if clause.field in _PORTS_OF:
            return _any([_port(end, *parse_ports(term)) for term in clause.terms for end in _PORTS_OF[clause.field]])
        if clause.field == "policy":
            return _policy(frozenset(map(parse_policy, clause.terms)))
        return _value(clause.field, clause.terms)

    def _peer(self, end: _End, term: PeerTerm) -> Test:
        match term:
            case NamespaceTerm(name):
                return lambda record: end(record)[0].pod_namespace == name
            case PodTerm(path, prefix):
                return _pod(end, path, prefix=prefix)
            case AddressTerm(found):
                return lambda record: _contains(found, end(record)[1])
            case LabelTerm(selector):
                return lambda record: self._has_labels(end(record)[0], selector)
        if term.place == "node":
            return lambda record: not end(record)[0].pod_name and self._peers.is_node(end(record)[1])
        return lambda record: not end(record)[0].pod_name and not self._peers.is_inside(end(record)[1])

    def _has_labels(self, end: RecordEndpoint, selector: Selector) -> bool:
        if not end.pod_name:
            return False
        labels = self._peers.labels(end.pod_path)
        if labels is None:
            if len(self.unknown) < _MOST_UNKNOWN:
                self.unknown[end.pod_path] = None
            return False
        return selector.matches(labels)


_End: TypeAlias = Callable[[Record], tuple[RecordEndpoint, str]]


def _source(record: Record) -> tuple[RecordEndpoint, str]:
    return record.src, record.connection.src_ip


def _destination(record: Record) -> tuple[RecordEndpoint, str]:
    return record.dest, record.connection.dest_ip


def _source_port(record: Record) -> int | None:
    return record.connection.src_port


def _destination_port(record: Record) -> int | None:
    return record.connection.dest_port


_ENDS: dict[str, tuple[_End, ...]] = {"from": (_source,), "to": (_destination,), "peer": (_source, _destination)}
_PORTS_OF: dict[str, tuple[Callable[[Record], int | None], ...]] = {
    "from_port": (_source_port,),
    "to_port": (_destination_port,),
    "port": (_source_port, _destination_port),
}


def _pod(end: _End, path: str, *, prefix: bool) -> Test:
    if prefix:
        return lambda record: end(record)[0].pod_path.startswith(path)
    return lambda record: end(record)[0].pod_path == path


def _any(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    return lambda record: any(test(record) for test in tests)


@lru_cache(_CACHED_ADDRESSES)
def _number(address: str) -> int:
    # The same few addresses are in thousands of records.
    return number(address)


def _contains(wanted: Range, address: str) -> bool:
    return family_of(address) == wanted.family and wanted.first <= _number(address) <= wanted.last


def _port(of: Callable[[Record], int | None], first: int, last: int) -> Test:
    def matches(record: Record) -> bool:
        port = of(record)
        return port is not None and first <= port <= last

    return matches


def _policy(names: frozenset[str]) -> Test:
    def matches(record: Record) -> bool:
        return any(policy.path in names for policy in (*record.policies, *record.isolating_policies))

    return matches


def _value(field: str, terms: Iterable[str]) -> Test:
    wanted = frozenset(terms)
    known = _VALUES[field]
    for term in sorted(wanted - set(known)):
        raise UsageError(f"{term!r} is no {field}; write {', '.join(known[:-1])} or {known[-1]}")
    match field:
        case "protocol":
            return lambda record: record.connection.protocol in wanted
        case "direction":
            return lambda record: record.connection.direction in wanted
        case "verdict":
            return lambda record: record.disposition in wanted
    return lambda record: str(family_of(record.connection.src_ip)) in wanted


_decoder = msgspec.json.Decoder(RecordFilter)


def decode_filter(text: str | bytes) -> RecordFilter:
    """Return the filter of its JSON. Raises UsageError."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"the filter of records can't be read: {error}") from None


def encode_filter(wanted: RecordFilter) -> str:
    """Return the JSON of a filter."""
    return msgspec.json.encode(wanted).decode()
