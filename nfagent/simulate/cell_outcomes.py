"""The cells of a matrix: whether one class of Pods reaches another, and what both ends say.

What an end says is numbered: the clients of a server differ by few answers of the server, so that a cell is a letter
and two numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.policy.options import PolicyOptions
from nfagent.simulate.class_verdicts import (
    EVERYTHING,
    ClassVerdicts,
    NodeRelation,
    PortSpan,
    Shape,
    Side,
    SideReason,
    TrafficProtocol,
    has_pairs,
    lanes,
)
from nfagent.simulate.pod_classes import PodClass, PodClasses

CellVerdict: TypeAlias = Literal["allowed", "denied", "some", "unknown", "none"]

_MOST_KEPT = 100_000
_STEP = 64
_NO_PAIR = "there is only one Pod, which always reaches itself"
_NO_FAMILY = "their addresses are of different families"
_NO_ADDRESS = "Pods without an address: what reaches them, and what they reach, is not known yet"
_MASQUERADED = (
    "the server's address is outside the cluster's ranges, so packets from other nodes arrive with a node's address: "
    "what its ingress policies say about that is not known"
)


class EndRange(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an end says about a range of ports.

    protocol: 'any' for all traffic that was asked about; 'portless' for ICMP and every protocol without ports
    reason:   number of the reason
    family:   4 or 6 where these differ; 0 for both
    nodes:    'same' or 'other' node, where these differ; '' for both
    """

    protocol: TrafficProtocol | Literal["any"]
    reason: int
    first: int = 0
    last: int = 0
    family: int = 0
    nodes: NodeRelation = ""


EndVerdict: TypeAlias = tuple[EndRange, ...]
_Where: TypeAlias = tuple[int, NodeRelation]


class Cell(msgspec.Struct, frozen=True):
    """A cell: its verdict, and numbers of what the client and the server say.

    verdict: 'some': a part of the traffic is allowed; 'none': there is no such connection
    """

    verdict: CellVerdict
    egress: int
    ingress: int


class CellOutcomes:
    """Judges cells.

    found:   what ends say, by number
    ranges:  of ports, in all of `found`
    """

    def __init__(
        self,
        classes: PodClasses,
        policy_options: PolicyOptions,
        ports: tuple[PortSpan, ...],
        masqueraded: Callable[[str], bool],
    ) -> None:
        """Judge by all policies of the classes, which are complete, for these ports; all where there are none."""
        self.found: list[EndVerdict] = []
        self.ranges = 0
        self._ports = ports or EVERYTHING
        self._masqueraded = masqueraded
        everything = frozenset(range(len(classes.sight.policies)))
        self._verdicts = ClassVerdicts(classes, everything, policy_options)
        self._numbers: dict[EndVerdict, int] = {}
        self._ends: dict[object, int] = {}
        self._pairs: dict[tuple[Shape, Shape], CellVerdict] = {}
        self._hidden: dict[int, bool] = {}
        self._fixed: dict[str, int] = {}

    @property
    def reasons(self) -> list[SideReason]:
        """The reasons by number."""
        return self._verdicts.reasons

    def cell(self, client: PodClass, server: PodClass) -> Generator[None, None, Cell]:
        """Return a cell, in steps."""
        if not has_pairs(client, server):
            return self._without_judging("none", _NO_PAIR)
        if not (client.is_known and server.is_known):
            return self._without_judging("unknown", _NO_ADDRESS)
        egress: list[tuple[_Where, Side]] = []
        ingress: list[tuple[_Where, Side]] = []
        verdicts: set[CellVerdict] = set()
        for lane in lanes(client, server):
            where = (client.key.addresses[lane.client].family, lane.nodes)
            sides = yield from self._verdicts.judge(client, server, lane)
            egress.append((where, sides[0]))
            ingress.append((where, sides[1]))
            shapes = (sides[0].shape, sides[1].shape)
            verdict = self._pairs.get(shapes)
            verdicts.add(verdict or (yield from self._verdict(shapes)))
        if not verdicts:
            return self._without_judging("none", _NO_FAMILY)
        if verdicts != {"denied"} and self._is_hidden(client, server):
            return self._without_judging("unknown", _MASQUERADED)
        whole: CellVerdict = verdicts.pop() if len(verdicts) == 1 else "some"
        return Cell(whole, self._end(tuple(egress)), self._end(tuple(ingress)))

    def _verdict(self, shapes: tuple[Shape, Shape]) -> Generator[None, None, CellVerdict]:
        """Return the verdict on the ports that were asked about, in steps."""
        said = set()
        for count, (span, egress, ingress) in enumerate(both(shapes[0].spans, shapes[1].spans)):
            if count % _STEP == _STEP - 1:
                yield
            if any(map(span.meets, self._ports)):
                said.add(bool(egress and ingress))
        found: CellVerdict = "some" if len(said) > 1 else "allowed" if True in said else "denied"
        if len(self._pairs) >= _MOST_KEPT:
            self._pairs.clear()
        self._pairs[shapes] = found
        return found

    def _end(self, sides: tuple[tuple[_Where, Side], ...]) -> int:
        """Return the number of what an end says on all lanes."""
        if len({side for _, side in sides}) == 1:
            sides = (((0, ""), sides[0][1]),)
        known = self._ends.get(sides)
        if known is None:
            if len(self._ends) >= _MOST_KEPT:
                self._ends.clear()
            found = dict.fromkeys(item for where, side in sides for item in self._clipped(side, *where))
            known = self._ends[sides] = self._numbered(tuple(found))
        return known

    def _clipped(self, side: Side, family: int, nodes: NodeRelation) -> Iterator[EndRange]:
        """Yield what a side says about the ports that were asked about."""
        found = [(span.common(wanted), why) for span, why in side.spans for wanted in self._ports if span.meets(wanted)]
        reasons = {why for _, why in found}
        if len(reasons) == 1:
            yield EndRange("any", reasons.pop(), family=family, nodes=nodes)
            return
        for span, why in found:
            yield EndRange(span.protocol, why, span.first, span.last, family, nodes)

    def _is_hidden(self, client: PodClass, server: PodClass) -> bool:
        """Return whether the server's policies may see another address than the client's."""
        if not (client.judged and server.judged and server.key.ingress) or len(client.nodes | server.nodes) == 1:
            return False
        known = self._hidden.get(server.number)
        if known is None:
            known = self._hidden[server.number] = any(map(self._masqueraded, server.pods[0].addresses))
        return known

    def _without_judging(self, verdict: CellVerdict, why: str) -> Cell:
        if why not in self._fixed:
            self.reasons.append(SideReason(allowed=False, words=why))
            self._fixed[why] = self._numbered((EndRange("any", len(self.reasons) - 1),))
        return Cell(verdict, self._fixed[why], self._fixed[why])

    def _numbered(self, end: EndVerdict) -> int:
        known = self._numbers.get(end)
        if known is None:
            known = self._numbers[end] = len(self.found)
            self.found.append(end)
            self.ranges += len(end)
        return known


def both(
    egress: Iterable[tuple[PortSpan, int]], ingress: Iterable[tuple[PortSpan, int]]
) -> Iterator[tuple[PortSpan, int, int]]:
    """Yield what both ends say about each range in which neither changes; both have the same ports, in one order."""
    here, there = iter(egress), iter(ingress)
    one, other = next(here, None), next(there, None)
    while one is not None and other is not None:
        span = one[0].common(other[0])
        yield span, one[1], other[1]
        ended = span.last == one[0].last, span.last == other[0].last
        one = next(here, None) if ended[0] else one
        other = next(there, None) if ended[1] else other
