"""Policies to classes: what this node's Pods need, in the terms of policies.

*Structure* is the classes: local Pods selected by the same policies share one list of rules per direction.
*Elements* are the members of what those rules name, each as often as there are Pods that bring it. A Pod that
comes or goes among a rule's peers changes elements only. The ruleset room turns both into nftables' terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from nfagent.cluster.address import Family, Range, disjoint, subtract
from nfagent.cluster.model import DIRECTIONS, Direction, Pod, Protocol, Ref
from nfagent.cluster.state import ClusterState, identity_of
from nfagent.policy.index import PolicyIndex
from nfagent.policy.model import IpBlock, NetworkPolicy, PodPeer, PolicyPort, Rule
from nfagent.policy.peers import means

PortElement: TypeAlias = tuple[str, Protocol, int]
"""A named port of one Pod, resolved: address, protocol, number."""


class Blocks(msgspec.Struct, frozen=True, order=True):
    """All ipBlocks of one rule: disjoint ranges, and the words that they came from."""

    ranges: tuple[Range, ...]
    words: str

    def family(self, family: Family) -> tuple[Range, ...]:
        """Give the ranges of one family."""
        return tuple(item for item in self.ranges if item.family == family)


class NamedPorts(msgspec.Struct, frozen=True, order=True):
    """Ports of one name and protocol, on the Pods that may serve them (corner-cases.md 2, 13, 14).

    servers: whose ports: Pods by label, Pods inside ranges, or every Pod where None
    local:   only this node's Pods count, as on ingress, where the Pods that a policy selects are the servers
    """

    name: str
    protocol: Protocol
    servers: PodPeer | Blocks | None
    local: bool

    def __str__(self) -> str:
        """Say it in words: `port http/tcp of pods app=web in namespace shop`."""
        whose = self.servers.words if isinstance(self.servers, Blocks) else self.servers or "all pods"
        return f"port {self.name}/{self.protocol} of {'local ' if self.local else ''}{whose}"


class ClassRule(msgspec.Struct, frozen=True):
    """One rule of a class: allows where peer and port match; None matches everything.

    index: the rule's place in the policy's list
    """

    policy: Ref
    index: int
    peer: PodPeer | Blocks | None = None
    port: PolicyPort | NamedPorts | None = None


class ClassKey(msgspec.Struct, frozen=True, order=True):
    """What makes two Pods one class: direction and isolating policies, sorted."""

    direction: Direction
    policies: tuple[Ref, ...]


def class_keys(policies: tuple[NetworkPolicy, ...]) -> Iterator[ClassKey]:
    """Give the classes of a Pod that these policies select, one for each direction that they isolate."""
    for direction in DIRECTIONS:
        isolating = tuple(policy.ref for policy in policies if direction in policy.isolates)
        if isolating:
            yield ClassKey(direction, isolating)


def class_rules(key: ClassKey, index: PolicyIndex) -> tuple[ClassRule, ...]:
    """Compile a class: its policies' rules in order; the deny comes after them."""
    return tuple(
        compiled
        for ref in key.policies
        for number, rule in enumerate(index.policies[ref].rules(key.direction))
        for compiled in _compile_rule(index.policies[ref], key.direction, number, rule)
    )


def _compile_rule(policy: NetworkPolicy, direction: Direction, number: int, rule: Rule) -> Iterator[ClassRule]:
    """Multiply a rule's peers with its ports; all its ipBlocks count as one peer."""
    for peer in _peers(rule):
        for port in rule.ports or (None,):
            named: PolicyPort | NamedPorts | None = port
            if port is not None and port.name:
                servers = peer if direction == "egress" else PodPeer(policy.pods, namespace=policy.namespace)
                named = NamedPorts(port.name, port.protocol, servers, local=direction == "ingress")
            yield ClassRule(policy.ref, number, peer, named)


def _peers(rule: Rule) -> list[PodPeer | Blocks | None]:
    if not rule.peers:
        return [None]
    found: list[PodPeer | Blocks | None] = [peer for peer in rule.peers if isinstance(peer, PodPeer)]
    blocks = [peer for peer in rule.peers if isinstance(peer, IpBlock)]
    if blocks:
        pieces = [piece for block in blocks for piece in subtract(block.cidr, block.excepts)]
        found.append(Blocks(disjoint(pieces), "; ".join(map(str, blocks))))
    return found


def peer_addresses(cluster: ClusterState, index: PolicyIndex, peer: PodPeer) -> Iterator[str]:
    """Give the addresses that the Pods of a peer hold; an address of two Pods comes twice."""
    for pod in _peer_pods(cluster, index, peer):
        yield from pod.addresses


def port_elements(cluster: ClusterState, index: PolicyIndex, ports: NamedPorts) -> Iterator[PortElement]:
    """Resolve a named port on every Pod that may serve it; an element of two Pods comes twice."""
    for pod in _may_serve(cluster, index, ports):
        yield from pod_port_elements(cluster, ports, pod)


def _may_serve(cluster: ClusterState, index: PolicyIndex, ports: NamedPorts) -> Iterable[Pod]:
    """Look no further than needed: a name like `metrics` stands on every other Pod of a cluster."""
    if ports.local:
        return [pod for pod in cluster.local.values() if pod.holds_addresses]
    if isinstance(ports.servers, PodPeer) and ports.servers in index.peers.members:
        return _peer_pods(cluster, index, ports.servers)
    # Ports by name of any Pod, or inside a range, are rare: then every Pod is looked at, once.
    return [pod for pod in cluster.pods.values() if pod.holds_addresses]


def _peer_pods(cluster: ClusterState, index: PolicyIndex, peer: PodPeer) -> Iterator[Pod]:
    for identity in index.peers.members.get(peer, ()):
        for pod in cluster.members[identity].values():
            if pod.holds_addresses:
                yield pod


def pod_port_elements(cluster: ClusterState, ports: NamedPorts, pod: Pod) -> Iterator[PortElement]:
    """Resolve a named port on one Pod."""
    if ports.local and pod.node != cluster.node:
        return
    numbers = {port.port for port in pod.ports if (port.name, port.protocol) == (ports.name, ports.protocol)}
    for address in _serving(cluster, ports.servers, pod) if numbers else ():
        for number in numbers:
            yield address, ports.protocol, number


def _serving(cluster: ClusterState, servers: PodPeer | Blocks | None, pod: Pod) -> Iterable[str]:
    if servers is None:
        return pod.addresses
    if isinstance(servers, Blocks):
        return [address for address in pod.addresses if any(block.holds(address) for block in servers.ranges)]
    return pod.addresses if means(cluster, servers, identity_of(pod)) else ()
