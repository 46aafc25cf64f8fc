"""Policies to classes: what this node's Pods need, in the terms of policies.

*Structure* is the classes: local Pods that the same policies judge share one list of rules per direction, and the
tiers' parts of such lists, *sections*, are shared among classes.
*Elements* are the members of what those rules name, each as often as there are Pods that bring it. A Pod that
comes or goes among a rule's peers changes elements only. The ruleset room turns both into nftables' terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.model.admin_policy import Action, NodePeer, Policy, Tier, TierPolicy, TierRule
from nfagent.model.netaddr import Family, Range, disjoint, subtract
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy, PodPeer, PolicyPort, PortProtocol, Rule
from nfagent.model.objects import DIRECTIONS, Direction, Node, ObjectRef, Pod, Protocol
from nfagent.policy.merged_peers import AnyOf, PortNumbers, any_of, join_ports, peers_of
from nfagent.state.cluster import ClusterState, identity_of
from nfagent.state.peer_index import peer_selects
from nfagent.state.policy_index import PolicyIndex

PortElement: TypeAlias = tuple[str, Protocol, int]
"""A named port of one Pod, resolved: address, protocol, number."""


class CIDRSet(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """All ipBlocks of one rule: disjoint ranges, and the words that they came from."""

    ranges: tuple[Range, ...]
    words: str

    def family(self, family: Family) -> tuple[Range, ...]:
        """Give the ranges of one family."""
        return tuple(item for item in self.ranges if item.family == family)


class NamedPorts(msgspec.Struct, frozen=True, order=True):
    """Ports of one name and protocol, on the Pods that may serve them (corner-cases.md 2, 13, 14).

    protocol: 'any' where each port's own counts, as in the tiers' policies
    servers:  whose ports: Pods by label, Pods inside ranges, or every Pod where None
    local:    only this node's Pods count, as on ingress, where the Pods that a policy selects are the servers
    """

    name: str
    protocol: PortProtocol
    servers: PodPeer | AnyOf | CIDRSet | None
    local: bool

    def __str__(self) -> str:
        """Say it in words: `port http/tcp of pods app=web in namespace shop`."""
        whose = self.servers.words if isinstance(self.servers, CIDRSet) else self.servers or "all pods"
        name = self.name if self.protocol == "any" else f"{self.name}/{self.protocol}"
        return f"port {name} of {whose}{' on this node' if self.local else ''}"


CompiledPeer: TypeAlias = PodPeer | NodePeer | AnyOf | CIDRSet
"""What a rule's peers become: each kind of it is a set of addresses."""


class CompiledRule(msgspec.Struct, frozen=True):
    """One rule of a class or section: its action where peer and port match; None matches everything.

    index: the rule's place in the policy's list
    name:  what its author calls it, '' where it has no name
    """

    policy: ObjectRef
    index: int
    peer: CompiledPeer | None = None
    port: PolicyPort | PortNumbers | NamedPorts | None = None
    action: Action = "allow"
    name: str = ""


class PolicySetKey(msgspec.Struct, frozen=True, order=True):
    """What makes two Pods one class: direction, and the policies that judge them, in the order of their judgement.

    policies: isolating NetworkPolicies, sorted
    admin:    policies of the admin tier
    baseline: policies of the baseline tier; none where a NetworkPolicy isolates, whose verdict is final
    """

    direction: Direction
    policies: tuple[ObjectRef, ...] = ()
    admin: tuple[ObjectRef, ...] = ()
    baseline: tuple[ObjectRef, ...] = ()

    @property
    def refs(self) -> tuple[ObjectRef, ...]:
        """Give all its policies, in the order of their judgement."""
        return (*self.admin, *self.policies, *self.baseline)

    @property
    def sections(self) -> tuple[TierChainKey, ...]:
        """Give the tiers' parts of the class."""
        parts: tuple[tuple[Tier, tuple[ObjectRef, ...]], ...] = (("admin", self.admin), ("baseline", self.baseline))
        return tuple(TierChainKey(tier, self.direction, refs) for tier, refs in parts if refs)


class TierChainKey(msgspec.Struct, frozen=True, order=True):
    """A part of classes: one tier's, whose Pods the same policies of that tier judge, or one NetworkPolicy's."""

    tier: Tier | Literal["policy"]
    direction: Direction
    policies: tuple[ObjectRef, ...]


def policy_set_keys(policies: tuple[Policy, ...]) -> Iterator[PolicySetKey]:
    """Give the classes of a Pod that these policies judge, one for each direction that any of them speaks about."""
    networks = sorted((p for p in policies if isinstance(p, NetworkPolicy)), key=lambda policy: policy.ref)
    tiers = sorted((p for p in policies if isinstance(p, TierPolicy)), key=lambda policy: policy.rank)
    for direction in DIRECTIONS:
        isolating = tuple(policy.ref for policy in networks if direction in policy.isolates)
        spoken = [policy for policy in tiers if policy.rules(direction)]
        admin = tuple(policy.ref for policy in spoken if policy.tier == "admin")
        baseline = tuple(policy.ref for policy in spoken if policy.tier == "baseline" and not isolating)
        if isolating or admin or baseline:
            yield PolicySetKey(direction, isolating, admin, baseline)


INLINE_RULES = 4
"""Rules of a NetworkPolicy that stand in the classes themselves; more are in a chain that all its classes jump to."""


class CompiledPolicies:
    """Policies' rules, compiled once for all classes and sections that they are part of."""

    def __init__(self, index: PolicyIndex) -> None:
        """Start without any."""
        self._index = index
        self._kept: dict[ObjectRef, tuple[Policy, dict[Direction, tuple[CompiledRule, ...]]]] = {}

    def rules(self, key: PolicySetKey | TierChainKey) -> tuple[CompiledRule, ...]:
        """Give the rules that a class has of its own, or those of a section, in order."""
        policies = key.policies if isinstance(key, TierChainKey) else self._inline(key)
        return tuple(rule for ref in policies for rule in self._of(ref, key.direction))

    def sections(self, key: PolicySetKey) -> tuple[TierChainKey, ...]:
        """Give the parts that a class shares with others: the tiers', and policies of more than a few rules."""
        inline = set(self._inline(key))
        large = (ref for ref in key.policies if ref not in inline)
        return (*key.sections, *(TierChainKey("policy", key.direction, (ref,)) for ref in large))

    def forget(self, ref: ObjectRef) -> None:
        """Let go of a policy that no class needs."""
        self._kept.pop(ref, None)

    def _inline(self, key: PolicySetKey) -> tuple[ObjectRef, ...]:
        return tuple(ref for ref in key.policies if len(self._of(ref, key.direction)) <= INLINE_RULES)

    def _of(self, ref: ObjectRef, direction: Direction) -> tuple[CompiledRule, ...]:
        policy = self._index.policies[ref]
        kept = self._kept.get(ref)
        if kept is None or kept[0] is not policy:
            kept = self._kept[ref] = (policy, {})
        if direction not in kept[1]:
            kept[1][direction] = tuple(_compile(policy, direction))
        return kept[1][direction]


def _compile(policy: Policy, direction: Direction) -> Iterator[CompiledRule]:
    rules: tuple[Rule | TierRule, ...] = policy.rules(direction)
    for number, rule in enumerate(rules):
        yield from _compile_rule(policy, direction, number, rule)


def _compile_rule(policy: Policy, direction: Direction, number: int, rule: Rule | TierRule) -> Iterator[CompiledRule]:
    """Join a rule's peers, and its ports of each protocol; at most two peers are left: addresses, and ranges."""
    if isinstance(rule, TierRule) and rule.void:
        return
    action: Action = rule.action if isinstance(rule, TierRule) else "allow"
    name = rule.name if isinstance(rule, TierRule) else ""
    for peer in _peers(rule):
        for port in join_ports(rule.ports):
            named: PolicyPort | PortNumbers | NamedPorts | None = port
            if isinstance(port, PolicyPort) and port.name:
                servers = _servers(peer) if direction == "egress" else _selected(policy)
                named = NamedPorts(port.name, port.protocol, servers, local=direction == "ingress")
            yield CompiledRule(policy.ref, number, peer, named, action, name)


def _servers(peer: CompiledPeer | None) -> PodPeer | AnyOf | CIDRSet | None:
    if isinstance(peer, AnyOf):
        pods = tuple(one for one in peer.peers if isinstance(one, PodPeer))
        return any_of(pods) if pods else CIDRSet((), str(peer))
    # Nodes have no named ports: the decoder refuses the pair, and here it means nobody's.
    return CIDRSet((), str(peer)) if isinstance(peer, NodePeer) else peer


def _selected(policy: Policy) -> PodPeer | None:
    if isinstance(policy, NetworkPolicy):
        return PodPeer(policy.pods, namespace=policy.namespace)
    return policy.subject


def _peers(rule: Rule | TierRule) -> list[CompiledPeer | None]:
    if not rule.peers:
        return [None]
    named = tuple(peer for peer in rule.peers if isinstance(peer, PodPeer | NodePeer))
    found: list[CompiledPeer | None] = [any_of(named)] if named else []
    blocks = [peer for peer in rule.peers if isinstance(peer, IpBlock)]
    if blocks:
        pieces = [piece for block in blocks for piece in subtract(block.cidr, block.excepts)]
        found.append(CIDRSet(disjoint(pieces), "; ".join(map(str, blocks))))
    return found


def node_addresses(cluster: ClusterState, peer: NodePeer) -> Iterator[str]:
    """Give the addresses of the Nodes that a peer means; an address of two Nodes comes twice."""
    for node in cluster.nodes.values():
        yield from selected_addresses(peer, node)


def selected_addresses(peer: NodePeer, node: Node | None) -> tuple[str, ...]:
    """Give a Node's addresses where a peer means it."""
    return node.addresses if node is not None and peer.nodes.matches(dict(node.labels)) else ()


def peer_addresses(cluster: ClusterState, index: PolicyIndex, peer: PodPeer) -> Iterator[str]:
    """Give the addresses that the Pods of a peer hold; an address of two Pods comes twice."""
    for pod in _peer_pods(cluster, index, peer):
        yield from pod.addresses


def port_elements(cluster: ClusterState, index: PolicyIndex, ports: NamedPorts) -> Iterator[PortElement]:
    """Resolve a named port on every Pod that may serve it; an element of two Pods, or two peers, comes twice."""
    for pod in _may_serve(cluster, index, ports):
        yield from pod_port_elements(cluster, ports, pod)


def _may_serve(cluster: ClusterState, index: PolicyIndex, ports: NamedPorts) -> Iterable[Pod]:
    """Look no further than needed: a name like `metrics` stands on every other Pod of a cluster."""
    if ports.local:
        return [pod for pod in cluster.local.values() if pod.holds_addresses]
    if isinstance(ports.servers, AnyOf):
        servers = (peer for peer in ports.servers.peers if isinstance(peer, PodPeer))
        return (pod for peer in servers for pod in _peer_pods(cluster, index, peer))
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
    served = {
        (port.protocol, port.port)
        for port in pod.ports
        if port.name == ports.name and ports.protocol in {"any", port.protocol}
    }
    for address in _serving(cluster, ports.servers, pod) if served else ():
        for protocol, number in served:
            yield address, protocol, number


def _serving(cluster: ClusterState, servers: PodPeer | AnyOf | CIDRSet | None, pod: Pod) -> Iterable[str]:
    if servers is None:
        return pod.addresses
    if isinstance(servers, CIDRSet):
        return [address for address in pod.addresses if any(block.holds(address) for block in servers.ranges)]
    identity = identity_of(pod)
    pods = (peer for peer in peers_of(servers) if isinstance(peer, PodPeer))
    return pod.addresses if any(peer_selects(cluster, peer, identity) for peer in pods) else ()
