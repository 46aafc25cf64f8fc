"""All flows between Pods whose verdict a policy change may flip.

A pair of Pods counts where an added, removed or changed policy selects the client for egress or the server for ingress:
no other verdict can change. For each pair, every kind of traffic that policies can tell apart is evaluated once: each
port that the server's containers declare, one port of each range by which rules differ, one that no rule names, and
ICMP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.model.netaddr import family_of
from nfagent.model.networkpolicy import PolicyPort
from nfagent.model.objects import ContainerPort, Direction, Pod, Protocol
from nfagent.model.slices import sort_in_slices
from nfagent.model.weighted_cache import WeightedCache
from nfagent.policy.evaluator import Flow
from nfagent.simulate.patch import PatchedPolicies
from nfagent.simulate.simulation import ObservedFlow
from nfagent.state.cluster import ClusterState, Identity

_PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "sctp")
_LAST_PORT = 65535
_REMEMBERED = 16_384
"""Capacity of the cache of traffic kinds, in ports."""
OTHER = "other ports"
"""The label of the port that stands for all ports that no rule names: rules treat all of them, and ICMP, alike."""


class FlowKind(msgspec.Struct, frozen=True):
    """A kind of traffic: one port that stands for all ports with the same verdict.

    traffic: the label of these ports; '' for the port alone
    """

    protocol: Protocol
    port: int
    traffic: str = ""


class _Group(msgspec.Struct, frozen=True, eq=False):
    """Pods of one identity, sorted by name; each has addresses of its own.

    egress, ingress: whether the patch affects this direction
    calls, serves:   the numbered ports of rules that match their egress and their ingress, before or after the patch
    """

    inside: bool
    pods: tuple[Pod, ...]
    egress: bool
    ingress: bool
    calls: frozenset[PolicyPort]
    serves: frozenset[PolicyPort]


class PodPairEnumerator:
    """Enumerates the Pods and the flows that a patch affects, step by step: a large cluster takes a while.

    judged:   number of Pods that a patched policy selects, before or after the patch
    unlogged: number of these Pods whose connections this node's log can't have: they are on other nodes, or only
              added policies select them
    """

    def __init__(self, cluster: ClusterState, patched: PatchedPolicies, namespace: str = "") -> None:
        """Create it; with a namespace, only pairs with an end there count."""
        self.judged = 0
        self.unlogged = 0
        self._cluster = cluster
        self._patched = patched
        self._namespace = namespace
        self._groups: list[_Group] = []

    def steps(self) -> Iterator[None]:
        """Read the Pods of one identity in each step; to be completed before `flows` and the counts are used."""
        for identity in sort_in_slices(list(self._cluster.members)):
            yield
            members = () if identity is None else self._cluster.members.get(identity, {}).values()
            pods = []
            for pod in sort_in_slices([pod for pod in members if pod.holds_addresses], _name):
                if pod is None:
                    yield
                else:
                    pods.append(pod)
            if identity is not None and pods:
                self._add_group(identity, tuple(pods))

    def flows(self) -> Iterator[ObservedFlow | None]:
        """Yield the flows of all pairs, and None regularly, so that the caller can pause."""
        judged = [group for group in self._groups if group.ingress]
        for clients in self._groups:
            for servers in self._groups if clients.egress else judged:
                if clients.inside or servers.inside:
                    yield from _between(clients, servers)
            yield None

    def _add_group(self, identity: Identity, pods: tuple[Pod, ...]) -> None:
        egress, ingress = (self._patched.affects(identity, direction) for direction in ("egress", "ingress"))
        if egress or ingress:
            self.judged += len(pods)
            is_new = any(self._patched.newly_selected(identity, direction) for direction in ("egress", "ingress"))
            self.unlogged += sum(is_new or pod.node != self._cluster.node for pod in pods)
        inside = self._namespace in {"", identity.namespace}
        calls, serves = (self._numbered(identity, direction) for direction in ("egress", "ingress"))
        self._groups.append(_Group(inside, pods, egress, ingress, calls, serves))

    def _numbered(self, identity: Identity, direction: Direction) -> frozenset[PolicyPort]:
        rules = (rule for policy in self._patched.selecting(identity, direction) for rule in policy.rules(direction))
        return frozenset(port for rule in rules for port in rule.ports if not port.name)


def _between(clients: _Group, servers: _Group) -> Iterator[ObservedFlow | None]:
    ports = clients.calls | servers.serves
    for server in servers.pods:
        kinds_of_traffic = _known_kinds((ports, server.ports))
        for client in clients.pods:
            if client is not server:
                yield from _flows(client, server, kinds_of_traffic)
        yield None


def _flows(client: Pod, server: Pod, kinds_of_traffic: Iterable[FlowKind]) -> Iterator[ObservedFlow]:
    for here in client.addresses:
        for there in server.addresses:
            if family_of(here) != family_of(there):
                continue
            for kind in kinds_of_traffic:
                yield ObservedFlow(Flow(here, there, kind.protocol, kind.port), traffic=kind.traffic)
            yield ObservedFlow(Flow(here, there, "icmpv6" if family_of(there) == 6 else "icmp"))


def kinds(ports: frozenset[PolicyPort], declared: tuple[ContainerPort, ...]) -> tuple[FlowKind, ...]:
    """Return one port for each kind of traffic that rules can tell apart at a Pod: declared ports, ranges, any other.

    ports:    the ports of rules, by number or all of a protocol
    declared: the ports that the Pod's containers declare; rules may refer to them by name
    """
    found: list[FlowKind] = []
    ranges: list[FlowKind] = []
    other = None
    for protocol in _PROTOCOLS:
        spans = [(port.first or 1, port.last or _LAST_PORT) for port in ports if port.protocol == protocol]
        own = sorted({port.port for port in declared if port.protocol == protocol})
        found += [FlowKind(protocol, port) for port in own]
        alike: set[frozenset[tuple[int, int]]] = set()
        for first, last in _parts([*spans, *((port, port) for port in own)]):
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


def _parts(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Return a partition of all ports into ranges (first, last) that each span contains completely or not at all."""
    listed = list(spans)
    starts = sorted({1, *(first for first, _ in listed), *(last + 1 for _, last in listed)} - {_LAST_PORT + 1})
    return ((first, following - 1) for first, following in zip(starts, [*starts[1:], _LAST_PORT + 1], strict=True))


def _name(pod: Pod) -> str:
    return pod.name
