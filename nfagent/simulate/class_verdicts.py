"""Verdicts between classes of Pods, by the evaluator, each kind of question once.

The verdict at one end depends on its policies, on the peers of these that the other end matches, and on the named ports
of the server: pairs with the same of these have the same verdict, so that most are looked up. For each protocol, all
ports are judged: one of each range that rules can tell apart.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, TypeVar

import msgspec

from nfagent.explain.short_phrasing import reason
from nfagent.model.admin_policy import Policy
from nfagent.model.networkpolicy import PolicyPort
from nfagent.model.objects import DIRECTIONS, ContainerPort, Direction, ObjectRef, Pod, Protocol
from nfagent.policy.evaluator import DirectionVerdict, Flow, FlowVerdict, evaluate, evaluate_direction
from nfagent.policy.options import PolicyOptions
from nfagent.simulate.pod_classes import PodClass, PodClasses
from nfagent.simulate.policy_sight import Selecting

TrafficProtocol: TypeAlias = Protocol | Literal["portless"]
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "sctp")
LAST_PORT = 65535
_MOST_KEPT = 300_000
"""Ranges of ports in the verdicts that are kept: one for each port that rules name, four where they name none."""
_STEP = 16
"""Ranges of ports that are judged in one step."""

NodeRelation: TypeAlias = Literal["", "same", "other"]
"""Whether both Pods are on one node: '' where verdicts don't depend on it."""


class PortSpan(msgspec.Struct, frozen=True):
    """Ports of a protocol, first and last inclusive; `portless` has 0: ICMP, and every protocol without ports."""

    protocol: TrafficProtocol
    first: int = 0
    last: int = 0

    def meets(self, other: PortSpan) -> bool:
        """Return whether both have a port in common."""
        return self.protocol == other.protocol and self.first <= other.last and other.first <= self.last

    def common(self, other: PortSpan) -> PortSpan:
        """Return the ports of both, which have one in common."""
        return PortSpan(self.protocol, max(self.first, other.first), min(self.last, other.last))


class SideReason(msgspec.Struct, frozen=True):
    """What one end says: whether it lets traffic pass, why, and the policies that decide."""

    allowed: bool
    words: str
    policies: tuple[str, ...] = ()


class Lane(msgspec.Struct, frozen=True):
    """Connections of one address of the client to one of the server: their positions, and the nodes' relation."""

    client: int
    server: int
    nodes: NodeRelation = ""


_Steps: TypeAlias = Generator[None, None, "tuple[Side, Side]"]
_Said = TypeVar("_Said", int, bool)
_Spans: TypeAlias = tuple[tuple[PortSpan, int], ...]


class Shape(msgspec.Struct, eq=False):
    """Which ports an end allows, whatever the reasons: few sides differ in that."""

    spans: tuple[tuple[PortSpan, bool], ...]

    def at(self, protocol: TrafficProtocol, port: int) -> bool:
        """Return whether a port is allowed; 0 is the port of `portless`."""
        return next(is_ for span, is_ in self.spans if span.protocol == protocol and span.first <= port <= span.last)


class Side(msgspec.Struct, eq=False):
    """What one end says: the reason for each range of ports, complete, in the order of PROTOCOLS, then portless."""

    spans: _Spans
    shape: Shape

    def at(self, protocol: TrafficProtocol, port: int) -> int:
        """Return the reason for a port; 0 is the port of `portless`."""
        return next(why for span, why in self.spans if span.protocol == protocol and span.first <= port <= span.last)


EVERYTHING: tuple[PortSpan, ...] = (*(PortSpan(name, 1, LAST_PORT) for name in PROTOCOLS), PortSpan("portless"))


class ClassVerdicts:
    """Judges pairs of classes by some of the policies.

    reasons: by number; grows while pairs are judged
    """

    def __init__(self, classes: PodClasses, policies: frozenset[int], policy_options: PolicyOptions) -> None:
        """Judge by these policies: numbers in the list of `classes.sight`."""
        self.reasons: list[SideReason] = []
        self._classes = classes
        self._cluster = classes.cluster
        self._sight = classes.sight
        self._policies = policies
        self._options = policy_options
        self._numbers: dict[SideReason, int] = {}
        self._sides: dict[object, Side] = {}
        self._equal: dict[_Spans, Side] = {}
        self._shapes: dict[tuple[tuple[PortSpan, bool], ...], Shape] = {}
        self._weight = 0
        self._scopes: dict[tuple[Direction, Selecting], _Scope] = {}
        self._link_local = self._constant("link-local addresses are never forwarded", allowed=False)
        self._own_node = self._constant("a node always reaches its own Pods")
        self._to_own_node = self._constant("a Pod may always reach its own node: own_node = allowed")
        self._from_host = self._constant("no policy applies: it has its node's network")
        self._to_host = self._constant("no policy applies: it has its node's network (not to a Node's tunnel ports)")

    def judge(self, client: PodClass, server: PodClass, lane: Lane) -> _Steps:
        """Return what both ends say on one lane of a pair of known classes, egress first, in steps."""
        if client.key.alone or server.key.alone:
            return (yield from self._judge_alone(client, server, lane))
        ends = (client.key.addresses[lane.client], server.key.addresses[lane.server])
        if ends[0].link_local or ends[1].link_local:
            return self._link_local, self._link_local
        egress, ingress = self._from_host, self._to_host
        if client.judged and not (lane.nodes == "same" and ends[1].own and self._options.own_node == "allowed"):
            egress = yield from self._side("egress", client, server, lane)
        elif client.judged:
            egress = self._to_own_node
        if server.judged and not (lane.nodes == "same" and ends[0].own):
            ingress = yield from self._side("ingress", server, client, lane)
        elif server.judged:
            ingress = self._own_node
        return egress, ingress

    def _side(self, direction: Direction, judged: PodClass, other: PodClass, lane: Lane) -> Generator[None, None, Side]:
        """Return what one end says about the other."""
        scope = self._scope(direction, judged.selecting(direction))
        there = lane.server if direction == "egress" else lane.client
        server = other if direction == "egress" else judged
        ports: tuple[ContainerPort, ...] = ()
        if scope.names:
            ports = tuple([port for port in server.key.ports if port.name in scope.names])
        key = (direction, scope.policies, other.seen_bits(there) & scope.peers, ports)
        known = self._sides.get(key)
        if known is None:
            known = self._interned((yield from self._evaluate(direction, (judged, other), lane, scope, ports)))
            self._sides[key] = known
        return known

    def _evaluate(
        self,
        direction: Direction,
        ends: tuple[PodClass, PodClass],
        lane: Lane,
        scope: _Scope,
        ports: tuple[ContainerPort, ...],
    ) -> Generator[None, None, _Spans]:
        judged, other = ends
        client, server = ends if direction == "egress" else (other, judged)
        source, destination = _pair(client, server)
        here, there = source.addresses[lane.client], destination.addresses[lane.server]
        pod = source if direction == "egress" else destination
        found = []
        for count, span in enumerate(port_spans(scope.ports, ports)):
            if count % _STEP == _STEP - 1:
                yield
            flow = flow_of(here, there, span)
            side = evaluate_direction(self._cluster, scope.listed, flow, pod, direction)
            found.append((span, self._number(self._side_reason(side, scope.by_ref))))
        return _merged(found)

    def _judge_alone(self, client: PodClass, server: PodClass, lane: Lane) -> _Steps:
        """Return the verdicts where an end shares an address: the evaluator's own, with all holders."""
        source, destination = _pair(client, server)
        here, there = source.addresses[lane.client], destination.addresses[lane.server]
        concerned = {client.number: client, server.number: server}
        for address in (here, there):
            concerned |= {found.number: found for found in self._classes.holders.get(address, ())}
        ways = {way: {at for one in concerned.values() for at in one.selecting(way)} for way in DIRECTIONS}
        scopes = [self._scope(way, tuple(sorted(ways[way]))) for way in DIRECTIONS]
        ports = tuple(port for one in concerned.values() for port in one.key.ports)
        by_ref = scopes[0].by_ref | scopes[1].by_ref
        sides: tuple[list[tuple[PortSpan, int]], list[tuple[PortSpan, int]]] = ([], [])
        for count, span in enumerate(port_spans(scopes[0].ports | scopes[1].ports, ports)):
            if count % _STEP == _STEP - 1:
                yield
            found = evaluate(self._cluster, by_ref.values(), flow_of(here, there, span), self._options)
            for listed, side in zip(sides, (found.egress, found.ingress), strict=True):
                listed.append((span, self._number(self._flow_reason(found, side, by_ref))))
        egress, ingress = (self._interned(_merged(listed)) for listed in sides)
        return egress, ingress

    def _flow_reason(
        self, found: FlowVerdict, side: DirectionVerdict | None, by_ref: dict[ObjectRef, Policy]
    ) -> SideReason:
        if found.barred:
            return SideReason(allowed=False, words=found.barred)
        if side is None:
            return SideReason(allowed=True, words=found.exempt or "no policy applies: it has its node's network")
        return self._side_reason(side, by_ref)

    def _side_reason(self, side: DirectionVerdict, by_ref: dict[ObjectRef, Policy]) -> SideReason:
        decided = side.allowing if side.allowed else side.denying
        return SideReason(side.allowed, reason(side, by_ref), tuple(map(str, decided)))

    def _interned(self, spans: _Spans) -> Side:
        """Return the one side of these ranges: pairs that differ in what doesn't matter share it."""
        known = self._equal.get(spans)
        if known is None:
            self._weigh(len(spans))
            known = self._equal[spans] = Side(spans, self._shape(spans))
        return known

    def _shape(self, spans: _Spans) -> Shape:
        found = tuple(_merged((span, self.reasons[why].allowed) for span, why in spans))
        known = self._shapes.get(found)
        if known is None:
            self._weigh(len(found))
            known = self._shapes[found] = Shape(found)
        return known

    def _weigh(self, ranges: int) -> None:
        """Count ranges that are kept; forget all where there are too many."""
        self._weight += ranges
        if self._weight > _MOST_KEPT:
            self._weight = ranges
            self._sides.clear()
            self._equal.clear()
            self._shapes.clear()

    def _scope(self, direction: Direction, selecting: Selecting) -> _Scope:
        key = (direction, selecting)
        known = self._scopes.get(key)
        if known is None:
            numbers = tuple([at for at in selecting if at in self._policies])
            reach = [self._sight.reach[direction][at] for at in numbers]
            peers = 0
            for item in reach:
                peers |= item.peers
            ports = frozenset(port for item in reach for port in item.ports)
            listed = [self._sight.policies[at] for at in numbers]
            known = self._scopes[key] = _Scope(
                policies=numbers,
                listed=listed,
                by_ref={policy.ref: policy for policy in listed},
                peers=peers,
                ports=ports,
                names=frozenset(port.name for port in ports if port.name),
            )
        return known

    def _constant(self, words: str, *, allowed: bool = True) -> Side:
        number = self._number(SideReason(allowed=allowed, words=words))
        spans = tuple((span, number) for span in EVERYTHING)
        return Side(spans, self._shape(spans))

    def _number(self, said: SideReason) -> int:
        known = self._numbers.get(said)
        if known is None:
            known = self._numbers[said] = len(self.reasons)
            self.reasons.append(said)
        return known


class _Scope(msgspec.Struct, eq=False):
    """The policies of one end in one direction, with all peers and ports of their rules."""

    policies: Selecting
    listed: list[Policy]
    by_ref: dict[ObjectRef, Policy]
    peers: int
    ports: frozenset[PolicyPort]
    names: frozenset[str]


def lanes(client: PodClass, server: PodClass) -> Iterator[Lane]:
    """Yield the lanes of a pair of classes: every two addresses of one family, by the relation of the nodes."""
    for here, one in enumerate(client.key.addresses):
        for there, other in enumerate(server.key.addresses):
            if one.family != other.family:
                continue
            if (client.judged and other.own) or (server.judged and one.own):
                yield from (Lane(here, there, nodes) for nodes in _relations(client, server))
            else:
                yield Lane(here, there)


def has_pairs(client: PodClass, server: PodClass) -> bool:
    """Return whether there are two different Pods."""
    return client is not server or len(client.pods) > 1


def flow_of(source: str, destination: str, span: PortSpan) -> Flow:
    """Return a flow of a range of ports, by its first."""
    if span.protocol == "portless":
        return Flow(source, destination, "icmpv6" if ":" in destination else "icmp")
    return Flow(source, destination, span.protocol, span.first)


def port_spans(ports: Iterable[PolicyPort], declared: Sequence[ContainerPort]) -> Iterator[PortSpan]:
    """Yield ranges of all ports that rules with these ports can't tell apart at a server with these named ports."""
    spans: dict[str, set[tuple[int, int]]] = {name: set() for name in PROTOCOLS}
    for port in ports:
        if not port.name:
            spans[port.protocol].add((port.first or 1, port.last or LAST_PORT))
            continue
        for known in declared:
            if known.name == port.name and port.protocol in {known.protocol, "any"}:
                spans[known.protocol].add((known.port, known.port))
    for protocol in PROTOCOLS:
        yield from (PortSpan(protocol, first, last) for first, last in partition(spans[protocol]))
    yield PortSpan("portless")


def partition(spans: Collection[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Return a partition of all ports into ranges (first, last) that each span contains completely or not at all."""
    starts = sorted({1, *(first for first, _ in spans), *(last + 1 for _, last in spans)} - {LAST_PORT + 1})
    return ((first, following - 1) for first, following in zip(starts, [*starts[1:], LAST_PORT + 1], strict=True))


def _relations(client: PodClass, server: PodClass) -> tuple[NodeRelation, ...]:
    together = bool(client.nodes & server.nodes)
    apart = len(client.nodes | server.nodes) > 1
    return (*(("same",) if together else ()), *(("other",) if apart else ()))


def _pair(client: PodClass, server: PodClass) -> tuple[Pod, Pod]:
    """Return the Pods that stand for a pair; two of one class, where it has two."""
    return client.pods[0], server.pods[1 if client is server and len(server.pods) > 1 else 0]


def _merged(spans: Iterable[tuple[PortSpan, _Said]]) -> tuple[tuple[PortSpan, _Said], ...]:
    """Return the ranges with adjacent ones of the same reason joined."""
    found: list[tuple[PortSpan, _Said]] = []
    for span, why in spans:
        last = found[-1] if found else None
        if last is not None and last[1] == why and last[0].protocol == span.protocol:
            found[-1] = (PortSpan(span.protocol, last[0].first, span.last), why)
        else:
            found.append((span, why))
    return tuple(found)
