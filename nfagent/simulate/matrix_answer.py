"""The parts of a matrix as they are sent, and the whole matrix that a command collects from them.

Cells come row by row: a row has the connections that a client opens, a cell those to one server. What is the same is
sent once: a cell has a letter for its verdict, and the numbers of what both ends say; these have numbers of reasons.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import UsageError
from nfagent.simulate.cell_outcomes import CellVerdict, EndRange, EndVerdict, both
from nfagent.simulate.class_verdicts import LAST_PORT, NodeRelation, PortSpan, SideReason, TrafficProtocol

LETTERS: dict[CellVerdict, str] = {"allowed": "a", "denied": "d", "some": "s", "unknown": "u", "none": "n"}
NOT_JUDGED = "."
"""The letter of a cell of which neither end is in the namespace."""
_VERDICTS = {letter: verdict for verdict, letter in LETTERS.items()}

Stage: TypeAlias = Literal["pods", "pairs"]


class MatrixRequest(msgspec.Struct, frozen=True):
    """The request of `nfagent matrix`.

    namespace: only connections with an end there; '' for all
    ports:     only these ports, disjoint, in the order of PROTOCOLS; all where there are none
    """

    namespace: str = ""
    ports: tuple[PortSpan, ...] = ()


class MatrixEnd(msgspec.Struct, frozen=True):
    """A row and a column: Pods that policies can't tell apart, as far as the cells show.

    name:       `shop app=web`, `41 namespaces (data, ops, …)`
    pods:       how many
    namespaces: the first of them, sorted, of `namespace_count`
    labels:     the first label sets, of `label_sets`
    names:      NAMESPACE/NAME of the first Pods; reasons are those of the first
    inside:     in the namespace of the request; True where it has none
    groups:     how many groups share the row, as their verdicts don't differ; 1 for most
    """

    name: str
    pods: int
    namespaces: tuple[str, ...]
    namespace_count: int
    labels: tuple[str, ...]
    label_sets: int
    names: tuple[str, ...]
    inside: bool = True
    groups: int = 1


class MatrixPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of the answer.

    stage:       what is counted: Pods that are grouped, or cells
    total, done: how many there are, and how many are done
    ends:        the rows, which are the columns too; in the first part of stage `pairs`
    reasons, said: reasons, and what ends say, after those of earlier parts
    verdicts:    a letter for each cell, after those of earlier parts
    egress, ingress: for each cell the number of what the client says, and the server; -1 where it isn't judged
    notes:       what may be older than the cluster; in the last part
    error:       why there is no matrix; then it is the last part
    complete:    it is the last part
    """

    stage: Stage
    total: int
    done: int = 0
    ends: tuple[MatrixEnd, ...] = ()
    reasons: tuple[SideReason, ...] = ()
    said: tuple[EndVerdict, ...] = ()
    verdicts: str = ""
    egress: tuple[int, ...] = ()
    ingress: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    complete: bool = False


class TrafficVerdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict on one range of ports of a cell; the fields are as EndRange has them.

    egress, ingress: numbers of reasons
    """

    protocol: TrafficProtocol | Literal["any"]
    allowed: bool
    egress: int
    ingress: int
    first: int = 0
    last: int = 0
    family: int = 0
    nodes: NodeRelation = ""

    def __str__(self) -> str:
        """Return its ports as text: `8000-8080/tcp`, `any udp`, `portless`."""
        if self.protocol == "any":
            return "anything"
        return span_text(PortSpan(self.protocol, self.first, self.last))


class Matrix:
    """The whole answer, collected from its parts."""

    def __init__(self) -> None:
        """Start without anything."""
        self.ends: tuple[MatrixEnd, ...] = ()
        self.reasons: list[SideReason] = []
        self.said: list[EndVerdict] = []
        self.letters = bytearray()
        self.egress = array("i")
        self.ingress = array("i")
        self.notes: tuple[str, ...] = ()
        self.complete = False
        self._joined: dict[tuple[int, int], tuple[TrafficVerdict, ...]] = {}

    def add(self, part: MatrixPart) -> None:
        """Add a part. Raises UsageError for one that says why there is no matrix."""
        if part.error:
            raise UsageError(part.error, hint="narrow it with -n NS")
        self.ends = self.ends or part.ends
        self.reasons += part.reasons
        self.said += part.said
        self.letters += part.verdicts.encode()
        self.egress.extend(part.egress)
        self.ingress.extend(part.ingress)
        self.notes = part.notes
        self.complete = part.complete

    def verdict(self, client: int, server: int) -> CellVerdict | None:
        """Return the verdict of a cell; None where neither end is in the namespace."""
        return _VERDICTS.get(chr(self.letters[client * len(self.ends) + server]))

    def cell(self, client: int, server: int) -> tuple[int, int]:
        """Return the numbers of what client and server say."""
        at = client * len(self.ends) + server
        return self.egress[at], self.ingress[at]

    def traffic(self, client: int, server: int) -> tuple[TrafficVerdict, ...]:
        """Return the verdicts of a cell by traffic; the last 100,000 pairs are kept."""
        key = self.cell(client, server)
        known = self._joined.get(key)
        if known is None:
            if len(self._joined) >= 100_000:
                self._joined.clear()
            found = _joined(self.said[key[0]], self.said[key[1]], self.reasons) if min(key) >= 0 else ()
            known = self._joined[key] = _of_both_families(list(found))
        return known


def port_text(span: PortSpan) -> str:
    """Return ports as `asked_ports` reads them: `80-80/tcp`, `icmp`."""
    return "icmp" if span.protocol == "portless" else f"{span.first}-{span.last}/{span.protocol}"


def span_text(span: PortSpan) -> str:
    """Return ports as text: `80/tcp`, `8000-8080/tcp`, `any udp`, `ICMP and the like`."""
    if span.protocol == "portless":
        return "ICMP and the like"
    if (span.first, span.last) == (1, LAST_PORT):
        return f"any {span.protocol}"
    ports = str(span.first) if span.first == span.last else f"{span.first}-{span.last}"
    return f"{ports}/{span.protocol}"


def _joined(egress: EndVerdict, ingress: EndVerdict, reasons: list[SideReason]) -> Iterator[TrafficVerdict]:
    """Yield what both ends say together."""
    sides = [_by_lane(egress), _by_lane(ingress)]
    for where in sides[0] if len(sides[0]) > 1 else sides[1]:
        family, nodes = where
        here, there = (side[where] if where in side else side[0, ""] for side in sides)
        for item, one, other in _common(here, there):
            allowed = reasons[one].allowed and reasons[other].allowed
            yield TrafficVerdict(item.protocol, allowed, one, other, item.first, item.last, family, nodes)


def _of_both_families(items: list[TrafficVerdict]) -> tuple[TrafficVerdict, ...]:
    """Return the verdicts without their family, once, where they are the same for both."""
    families: dict[int, list[TrafficVerdict]] = {}
    for item in items:
        families.setdefault(item.family, []).append(msgspec.structs.replace(item, family=0))
    first, *others = families.values() if families else ([],)
    return tuple(first if others and all(other == first for other in others) else items)


def _by_lane(end: EndVerdict) -> dict[tuple[int, NodeRelation], list[EndRange]]:
    found: dict[tuple[int, NodeRelation], list[EndRange]] = {}
    for item in end:
        found.setdefault((item.family, item.nodes), []).append(item)
    return found


def _common(here: list[EndRange], there: list[EndRange]) -> Iterator[tuple[EndRange, int, int]]:
    if here[0].protocol == "any":
        yield from ((item, here[0].reason, item.reason) for item in there)
    elif there[0].protocol == "any":
        yield from ((item, item.reason, there[0].reason) for item in here)
    else:
        for span, one, other in both(_spans(here), _spans(there)):
            yield EndRange(span.protocol, one, span.first, span.last), one, other


def _spans(items: Iterable[EndRange]) -> Iterator[tuple[PortSpan, int]]:
    for item in items:
        if item.protocol != "any":
            yield PortSpan(item.protocol, item.first, item.last), item.reason
