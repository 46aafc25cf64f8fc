"""Changes of verdicts between Pods: all pairs of Pods, judged before and after a policy change.

A pair of Pods counts where an added, removed or changed policy selects the client for egress or the server for ingress:
no other verdict can change. Pods that neither the policies before the change nor those after it can tell apart are
judged once (pod_classes). For each pair of classes, every kind of traffic that policies can tell apart is judged once:
each port that the server's containers declare, one port of each range by which rules differ, one that no rule names,
and ICMP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from nfagent.explain.endpoints import describe_address
from nfagent.model.networkpolicy import PolicyPort
from nfagent.model.objects import DIRECTIONS, ContainerPort, Direction, Protocol
from nfagent.model.plurals import counted
from nfagent.model.weighted_cache import WeightedCache
from nfagent.simulate.class_names import class_names
from nfagent.simulate.class_verdicts import (
    LAST_PORT,
    PROTOCOLS,
    ClassVerdicts,
    Lane,
    PortSpan,
    Shape,
    Side,
    flow_of,
    has_pairs,
    lanes,
    partition,
)
from nfagent.simulate.pod_classes import PodClass, PodClasses, take_snapshot
from nfagent.simulate.simulation import FlippedEnd, FlowChange, PolicySimulation

MOST_LISTED = 100_000
"""Changes that are listed; the others are counted."""
_REMEMBERED = 16_384
"""Capacity of the cache of traffic kinds, in ports."""
_MOST_KEPT = 50_000
OTHER = "other ports"
"""The label of the port that stands for all ports that no rule names: rules treat all of them, and ICMP, alike."""
_ICMP = PortSpan("portless")


class FlowKind(msgspec.Struct, frozen=True):
    """A kind of traffic: one port that stands for all ports with the same verdict.

    traffic: the label of these ports; '' for the port alone
    """

    protocol: Protocol
    port: int
    traffic: str = ""


class _Flip(msgspec.Struct, frozen=True):
    """A kind of traffic whose verdict changes, None for ICMP, and whether it is allowed then."""

    kind: FlowKind | None
    allowed: bool


_Sides: TypeAlias = tuple[Side, Side]
_Shapes: TypeAlias = tuple[Shape, Shape]


class PodPairs:
    """Compares the verdicts of all pairs of Pods that a patch affects, step by step.

    classes:  the Pods, by what policies before and after can tell apart
    judged:   number of Pods that a patched policy selects, before or after the patch
    unlogged: number of these Pods whose connections this node's log can't have: they are on other nodes, or only
              added policies select them
    total:    number of flows to judge; done: of those judged
    counts:   those of the simulation, of flows between Pods: for every pair of Pods that a flow stands for
    unlisted: changes beyond MOST_LISTED, which are only counted
    """

    def __init__(self, simulation: PolicySimulation, namespace: str = "", pod: str = "") -> None:
        """Take the objects as they are. Only pairs with an end in a namespace, and that Pod (NAMESPACE/NAME), count."""
        patch = simulation.patched.patch
        present = tuple(simulation.index.policies.values())
        gone = set(patch.refs)
        policies = (*present, *patch.put)
        self._now = frozenset(range(len(present)))
        self._put = frozenset(range(len(present), len(policies)))
        self._then = frozenset(at for at in self._now if present[at].ref not in gone) | self._put
        space, _, name = pod.partition("/")
        self.classes = PodClasses(
            take_snapshot(simulation.cluster, policies),
            simulation.policy_options,
            declared=True,
            host_network=False,
            picked=(space, name),
        )
        self._options = simulation.policy_options
        self._namespace = namespace
        self._pod = pod
        self._names: list[str] = []
        self._flips: dict[tuple[_Shapes, _Shapes, tuple[FlowKind, ...]], tuple[_Flip, ...]] = {}
        self._ports: dict[tuple[Direction, tuple[int, ...]], frozenset[PolicyPort]] = {}
        self._listed_so_far = 0
        self.judged = self.unlogged = self.total = self.done = self.unlisted = 0
        self.counts = simulation.pods

    def steps(self) -> Iterator[None]:
        """Group the Pods; to be completed before anything else."""
        yield from self.classes.steps()
        for one in self.classes.found:
            if one.is_known:
                self._count(one)
            yield
        for name in class_names(self.classes.found, self.classes.sight):
            self._names.append(name)
            yield

    def plan(self) -> Iterator[None]:
        """Count the flows."""
        for client, server in self.pairs():
            if server is not None:
                ways = sum(1 for _ in lanes(client, server))
                self.total += ways * (1 + len(self._kinds(client, server)))
            yield

    def compare(self) -> Iterator[FlowChange | None]:
        """Yield the changes, and None after each step without one."""
        now = ClassVerdicts(self.classes, self._now, self._options)
        then = ClassVerdicts(self.classes, self._then, self._options)
        for client, server in self.pairs():
            if server is None:
                yield None
                continue
            kinds_of_traffic = self._kinds(client, server)
            pairs = len(client.pods) * len(server.pods) - (len(client.pods) if client is server else 0)
            for lane in lanes(client, server):
                before = yield from now.judge(client, server, lane)
                after = yield from then.judge(client, server, lane)
                self.done += 1 + len(kinds_of_traffic)
                self.counts.judged += pairs * (1 + len(kinds_of_traffic))
                for flip in self._flipped(before, after, kinds_of_traffic):
                    self.counts.allowed += pairs * flip.allowed
                    self.counts.denied += pairs * (not flip.allowed)
                    yield self._listed(((now, before), (then, after)), (client, server), lane, flip, pairs)
            yield None

    def pairs(self) -> Iterator[tuple[PodClass, PodClass | None]]:
        """Yield the pairs of classes that the patch affects; a server that is None is a pause."""
        known = [one for one in self.classes.found if one.is_known]
        served = [one for one in known if self._affects(one, "ingress")]
        for client in known:
            for server in known if self._affects(client, "egress") else served:
                if self._is_asked(client, server) and has_pairs(client, server):
                    yield client, server
            yield client, None

    def _is_asked(self, client: PodClass, server: PodClass) -> bool:
        if self._pod and not (client.key.picked or server.key.picked):
            return False
        return self._namespace in {"", client.key.namespace, server.key.namespace}

    def _affects(self, one: PodClass, direction: Direction) -> bool:
        """Return whether a patched policy selects the Pods in a direction."""
        return any((at in self._now) != (at in self._then) for at in one.selecting(direction))

    def _count(self, one: PodClass) -> None:
        if not any(self._affects(one, direction) for direction in DIRECTIONS):
            return
        self.judged += len(one.pods)
        is_new = any(
            self._put.intersection(one.selecting(direction)) and not self._now.intersection(one.selecting(direction))
            for direction in DIRECTIONS
        )
        self.unlogged += sum(is_new or pod.node != self.classes.cluster.node for pod in one.pods)

    def _kinds(self, client: PodClass, server: PodClass) -> tuple[FlowKind, ...]:
        ports = self._numbered("egress", client) | self._numbered("ingress", server)
        return _known_kinds((ports, server.key.ports))

    def _numbered(self, direction: Direction, one: PodClass) -> frozenset[PolicyPort]:
        """Return the numbered ports of the rules that match at one end, before or after the patch."""
        key = (direction, one.selecting(direction))
        known = self._ports.get(key)
        if known is None:
            reach = self.classes.sight.reach[direction]
            known = self._ports[key] = frozenset(port for at in key[1] for port in reach[at].ports if not port.name)
        return known

    def _flipped(self, before: _Sides, after: _Sides, known: tuple[FlowKind, ...]) -> tuple[_Flip, ...]:
        """Return the kinds of traffic whose verdict changes: it depends on what is allowed, not on the reasons."""
        key = ((before[0].shape, before[1].shape), (after[0].shape, after[1].shape), known)
        found = self._flips.get(key)
        if found is None:
            if len(self._flips) >= _MOST_KEPT:
                self._flips.clear()
            found = self._flips[key] = tuple(_flips(*key))
        return found

    def _listed(
        self,
        said: tuple[tuple[ClassVerdicts, _Sides], tuple[ClassVerdicts, _Sides]],
        ends: tuple[PodClass, PodClass],
        lane: Lane,
        flip: _Flip,
        pairs: int,
    ) -> FlowChange | None:
        """Return a change; None where too many are listed already."""
        if self._listed_so_far >= MOST_LISTED:
            self.unlisted += 1
            return None
        self._listed_so_far += 1
        client, server = ends
        other = server.pods[1 if client is server else 0]
        here, there = client.pods[0].addresses[lane.client], other.addresses[lane.server]
        span = _ICMP if flip.kind is None else PortSpan(flip.kind.protocol, flip.kind.port, flip.kind.port)
        flow = flow_of(here, there, span)
        turned = []
        for at, direction in enumerate(DIRECTIONS):
            was, becomes = (judged.reasons[sides[at].at(span.protocol, span.first)] for judged, sides in said)
            if was.allowed != becomes.allowed:
                turned.append(FlippedEnd(direction, self._named(ends[at]), was.words, becomes.words))
        traffic = flow.protocol if flip.kind is None else flip.kind.traffic or f"{flip.kind.port}/{flip.kind.protocol}"
        return FlowChange(
            flow=flow,
            source=self._described(client, here),
            destination=self._described(server, there),
            traffic=traffic,
            origin="pods",
            count=0,
            before="denied" if flip.allowed else "allowed",
            after="allowed" if flip.allowed else "denied",
            turned=tuple(turned),
            pairs=pairs,
        )

    def _named(self, one: PodClass) -> str:
        return one.pods[0].ref.path if len(one.pods) == 1 else self._names[one.number]

    def _described(self, one: PodClass, address: str) -> str:
        if len(one.pods) == 1:
            return describe_address(self.classes.cluster, address)
        return f"{self._names[one.number]} ({counted(len(one.pods), 'Pod')})"


def _flips(before: _Shapes, after: _Shapes, known: tuple[FlowKind, ...]) -> Iterator[_Flip]:
    kinds_and_icmp: list[FlowKind | None] = [*known, None]
    for kind in kinds_and_icmp:
        span = _ICMP if kind is None else PortSpan(kind.protocol, kind.port)
        was, becomes = (
            egress.at(span.protocol, span.first) and ingress.at(span.protocol, span.first)
            for egress, ingress in (before, after)
        )
        if was != becomes:
            yield _Flip(kind, becomes)


def kinds(ports: frozenset[PolicyPort], declared: tuple[ContainerPort, ...]) -> tuple[FlowKind, ...]:
    """Return one port for each kind of traffic that rules can tell apart at a Pod: declared ports, ranges, any other.

    ports:    the ports of rules, by number or all of a protocol
    declared: the ports that the Pod's containers declare; rules may refer to them by name
    """
    found: list[FlowKind] = []
    ranges: list[FlowKind] = []
    other = None
    for protocol in PROTOCOLS:
        spans = [(port.first or 1, port.last or LAST_PORT) for port in ports if port.protocol == protocol]
        own = sorted({port.port for port in declared if port.protocol == protocol})
        found += [FlowKind(protocol, port) for port in own]
        alike: set[frozenset[tuple[int, int]]] = set()
        for first, last in partition([*spans, *((port, port) for port in own)]):
            covering = frozenset(span for span in spans if span[0] <= first <= span[1])
            if first in own or covering in alike:
                continue
            alike.add(covering)
            if covering:
                ranges.append(FlowKind(protocol, first, str(PolicyPort(protocol, first, last))))
            elif other is None:
                other = FlowKind(protocol, first, OTHER)
    return (*found, *ranges, *([other] if other is not None else []))


def _weight(key: tuple[frozenset[PolicyPort], tuple[ContainerPort, ...]], found: tuple[FlowKind, ...]) -> int:
    return len(key[0]) + len(key[1]) + len(found)


_known_kinds = WeightedCache(lambda key: kinds(*key), _weight, _REMEMBERED)
