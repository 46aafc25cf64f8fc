"""Verdict records added up: who talks to whom, and what is denied most, in bounded memory.

Beyond so many keys the rarest are forgotten. Each count is then too low by `error` at most, which is part of the
answer; what is frequent stays.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import nlargest
from typing import Generic, TypeVar

import msgspec

from nfagent.model.netaddr import endpoint
from nfagent.verdicts.records import Disposition, Record

MOST_KEYS = 20_000
"""Keys of one count; up to twice as many are in memory."""

_K = TypeVar("_K", bound=Hashable)


class KeyCount(msgspec.Struct):
    """What was added up: records, the packets they stand for, and the time of the latest."""

    records: int = 0
    packets: int = 0
    latest: str = ""


class KeyCounts(Generic[_K]):
    """Counts by key.

    error: packets by which a count may be too low
    """

    def __init__(self, most: int = MOST_KEYS) -> None:
        """Start empty; from twice `most` keys on, only the `most` frequent are kept."""
        self.found: dict[_K, KeyCount] = {}
        self.error = 0
        self._most = most

    def add(self, key: _K, record: Record) -> None:
        """Add a record under a key."""
        count = self.found.get(key)
        if count is None:
            if len(self.found) >= 2 * self._most:
                self._forget()
            count = self.found[key] = KeyCount()
        count.records += 1
        count.packets += record.count
        count.latest = max(count.latest, record.timestamp)

    def top(self, number: int) -> list[tuple[_K, KeyCount]]:
        """Return the keys with the most packets, so many; those with equally many by their latest record."""
        return nlargest(number, self.found.items(), key=lambda item: (item[1].packets, item[1].latest))

    def _forget(self) -> None:
        kept = self.top(self._most)
        names = {key for key, _ in kept}
        self.error += max(count.packets for key, count in self.found.items() if key not in names)
        self.found = dict(kept)


class PairCount(msgspec.Struct, frozen=True, kw_only=True):
    """Connections from one end to another at one port: records, packets, and the latest time."""

    source: str
    destination: str
    verdict: Disposition
    records: int
    packets: int
    latest: str


class NameCount(msgspec.Struct, frozen=True, kw_only=True):
    """What is denied of one source, destination, port or policy."""

    name: str
    records: int
    packets: int
    latest: str


class SummaryView(msgspec.Struct, frozen=True, kw_only=True):
    """Who talks to whom: `nfagent logs --summary -o json`, and `GET /v1/summary`.

    verdicts: records by verdict           first, last: times of the earliest and the latest record, '' without any
    pairs:    those with the most packets  pairs_in_all: how many there are
    error:    packets by which a count may be too low, 0 where all were kept
    unknown_pods: Pods whose labels a filter asked for and that are gone: it doesn't match them
    """

    records: int
    verdicts: dict[str, int]
    first: str
    last: str
    pairs: list[PairCount]
    pairs_in_all: int
    error: int
    unknown_pods: list[str] = []


class TopView(msgspec.Struct, frozen=True, kw_only=True):
    """What is denied most: `nfagent logs --top -o json`. denied: records; error, unknown_pods: as in SummaryView."""

    denied: int
    first: str
    last: str
    sources: list[NameCount]
    destinations: list[NameCount]
    ports: list[NameCount]
    policies: list[NameCount]
    error: int
    unknown_pods: list[str] = []


class RecordSummary:
    """Records by source, destination with port, and verdict."""

    def __init__(self, most: int = MOST_KEYS) -> None:
        """Start empty."""
        self._span = _Span()
        self._verdicts: dict[str, int] = {}
        self._pairs: KeyCounts[tuple[str, str, Disposition]] = KeyCounts(most)

    def add(self, record: Record) -> None:
        """Add a record."""
        self._span.add(record)
        self._verdicts[record.disposition] = self._verdicts.get(record.disposition, 0) + 1
        self._pairs.add((record.src.name, served(record), record.disposition), record)

    def view(self, number: int) -> SummaryView:
        """Return the summary with so many pairs."""
        return SummaryView(
            records=self._span.records,
            verdicts=dict(sorted(self._verdicts.items())),
            first=self._span.first,
            last=self._span.last,
            pairs=[
                PairCount(source=source, destination=destination, verdict=verdict, **msgspec.structs.asdict(count))
                for (source, destination, verdict), count in self._pairs.top(number)
            ],
            pairs_in_all=len(self._pairs.found),
            error=self._pairs.error,
        )


class TopDenied:
    """Denied records by source, destination, port and policy."""

    def __init__(self, most: int = MOST_KEYS) -> None:
        """Start empty."""
        self._span = _Span()
        self._by: tuple[KeyCounts[str], ...] = tuple(KeyCounts[str](most) for _ in range(4))

    def add(self, record: Record) -> None:
        """Add a record, if it is denied."""
        if record.disposition != "deny":
            return
        self._span.add(record)
        sources, destinations, ports, policies = self._by
        sources.add(record.src.name, record)
        destinations.add(record.dest.name, record)
        ports.add(port_text(record), record)
        for name in [policy.path for policy in record.isolating_policies] or ["none"]:
            policies.add(name, record)

    def view(self, number: int) -> TopView:
        """Return so many of each."""
        sources, destinations, ports, policies = (list(_named(found, number)) for found in self._by)
        return TopView(
            denied=self._span.records,
            first=self._span.first,
            last=self._span.last,
            sources=sources,
            destinations=destinations,
            ports=ports,
            policies=policies,
            error=max(found.error for found in self._by),
        )


class _Span:
    def __init__(self) -> None:
        self.records = 0
        self.first = self.last = ""

    def add(self, record: Record) -> None:
        self.records += 1
        self.first = min(self.first or record.timestamp, record.timestamp)
        self.last = max(self.last, record.timestamp)


def _named(found: KeyCounts[str], number: int) -> Iterator[NameCount]:
    for name, count in found.top(number):
        yield NameCount(name=name, **msgspec.structs.asdict(count))


def served(record: Record) -> str:
    """Return what a connection is for: destination, port and protocol, as `explain` takes it."""
    connection = record.connection
    return f"{endpoint(record.dest.name, connection.dest_port)}/{connection.protocol}"


def port_text(record: Record) -> str:
    """Return port and protocol: `53/udp`; the protocol alone where it has no ports."""
    connection = record.connection
    return connection.protocol if connection.dest_port is None else f"{connection.dest_port}/{connection.protocol}"
