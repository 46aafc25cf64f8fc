"""Compiles policies to policy sets: rules and set elements, in terms of policies.

*Rules*: local Pods that the same policies select share one list of rules per direction, their *policy set*; the
parts of a tier, *tier chains*, are shared by policy sets.
*Elements*: the addresses and ports that the peers of those rules select, each as often as Pods have it. A Pod that
joins or leaves a rule's peers changes elements only. The nftables package renders both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.model.admin_policy import NodePeer, Policy, Tier, TierAction, TierPolicy, TierRule
from nfagent.model.netaddr import Family, Range, disjoint, subtract
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy, NetworkPolicyRule, PodPeer, PolicyPort, PortProtocol
from nfagent.model.objects import DIRECTIONS, Direction, Node, ObjectRef, Pod, Protocol
from nfagent.policy.merged_peers import AnyOf, PortNumbers, any_of, join_ports, peers_of
from nfagent.state.cluster import ClusterState, Identity, identity_of
from nfagent.state.peer_index import peer_selects
from nfagent.state.policy_index import PolicyIndex

PodPort: TypeAlias = tuple[str, Protocol, int]
"""A resolved named port of one Pod: address, protocol, number."""


class CIDRSet(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """The ipBlocks of one rule: disjoint ranges, and the blocks as text."""

    ranges: tuple[Range, ...]
    words: str

    def family(self, family: Family) -> tuple[Range, ...]:
        """Return the ranges of one family."""
        return tuple(item for item in self.ranges if item.family == family)


class NamedPorts(msgspec.Struct, frozen=True, order=True):
    """A named port on the Pods that may serve it (docs/semantics.md, edge cases 2, 13, 14).

    protocol: 'any': each container port's own protocol, as in admin tier policies
    servers:  the Pods that define the port: Pods by label, Pods inside ranges; None: every Pod
    local:    only this node's Pods: on ingress, the servers are the Pods that the policy selects
    """

    name: str
    protocol: PortProtocol
    servers: PodPeer | AnyOf | CIDRSet | None
    local: bool

    def __str__(self) -> str:
        """Return it as text: `port http/tcp of pods app=web in namespace shop`."""
        whose = self.servers.words if isinstance(self.servers, CIDRSet) else self.servers or "all pods"
        name = self.name if self.protocol == "any" else f"{self.name}/{self.protocol}"
        return f"port {name} of {whose}{' on this node' if self.local else ''}"


CompiledPeer: TypeAlias = PodPeer | NodePeer | AnyOf | CIDRSet
"""The merged peers of a rule: each kind is rendered as a set of addresses."""


class CompiledRule(msgspec.Struct, frozen=True):
    """One rule of a policy set or tier chain: its action if peer and port match; None matches everything.

    index: the rule's place in the policy's list
    name:  the name field of an admin tier rule; '' if it has none
    """

    policy: ObjectRef
    index: int
    peer: CompiledPeer | None = None
    port: PolicyPort | PortNumbers | NamedPorts | None = None
    action: TierAction = "allow"
    name: str = ""


class PolicySetKey(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """The identity of a policy set: direction, and the policies that select its Pods, in order of evaluation.

    policies: isolating NetworkPolicies, sorted
    admin:    policies of the admin tier
    baseline: policies of the baseline tier; none if a NetworkPolicy isolates, whose verdict is final
    enforced: where any of these policies is audited, the policy set of the others: what it allows isn't denied. Else ()
    """

    direction: Direction
    policies: tuple[ObjectRef, ...] = ()
    admin: tuple[ObjectRef, ...] = ()
    baseline: tuple[ObjectRef, ...] = ()
    enforced: tuple[PolicySetKey, ...] = ()

    @property
    def refs(self) -> tuple[ObjectRef, ...]:
        """All policies, in order of evaluation; at the end those that apply only without the audited ones."""
        own = (*self.admin, *self.policies, *self.baseline)
        return tuple(dict.fromkeys([*own, *(ref for key in self.enforced for ref in key.refs)]))

    @property
    def audited(self) -> frozenset[ObjectRef]:
        """The audited policies."""
        return frozenset(self.refs).difference(*(key.refs for key in self.enforced)) if self.enforced else frozenset()

    @property
    def can_deny(self) -> bool:
        """Return whether any of its policies is enforced."""
        return any(key.refs for key in self.enforced) if self.enforced else True

    @property
    def tier_chains(self) -> tuple[TierChainKey, ...]:
        """The tier chains of the admin and baseline tiers."""
        parts: tuple[tuple[Tier, tuple[ObjectRef, ...]], ...] = (("admin", self.admin), ("baseline", self.baseline))
        return tuple(TierChainKey(tier, self.direction, refs) for tier, refs in parts if refs)


class TierChainKey(msgspec.Struct, frozen=True, order=True):
    """The identity of a chain that policy sets share: policies of one tier, or one large NetworkPolicy."""

    tier: Tier | Literal["policy"]
    direction: Direction
    policies: tuple[ObjectRef, ...]


def policy_set_keys(policies: tuple[Policy, ...], audited: Collection[ObjectRef] = ()) -> Iterator[PolicySetKey]:
    """Yield the policy sets of a Pod that these policies select: one for each direction that any has rules for.

    audited: those of the policies that are in audit mode. Beside enforced ones, it makes no difference where they only
             allow
    """
    enforced = tuple(policy for policy in policies if policy.ref not in audited) if audited else policies
    without = {key.direction: key for key in _policy_set_keys(enforced)} if audited else {}
    trying = [policy for policy in policies if policy.ref in audited]
    for key in _policy_set_keys(policies):
        applying = [policy for policy in trying if policy.ref in key.refs]
        if applying and (key.direction not in without or any(_may_deny(one, key.direction) for one in applying)):
            yield msgspec.structs.replace(key, enforced=(without.get(key.direction, PolicySetKey(key.direction)),))
        else:
            yield key


def _may_deny(policy: Policy, direction: Direction) -> bool:
    """Return whether a policy that applies may deny, or pass on to one that does."""
    return isinstance(policy, NetworkPolicy) or any(rule.action != "allow" for rule in policy.rules(direction))


def _policy_set_keys(policies: tuple[Policy, ...]) -> Iterator[PolicySetKey]:
    networks = sorted((p for p in policies if isinstance(p, NetworkPolicy)), key=lambda policy: policy.ref)
    tiers = sorted((p for p in policies if isinstance(p, TierPolicy)), key=lambda policy: policy.rank)
    for direction in DIRECTIONS:
        isolating = tuple(policy.ref for policy in networks if direction in policy.isolates)
        applying = [policy for policy in tiers if policy.rules(direction)]
        admin = tuple(policy.ref for policy in applying if policy.tier == "admin")
        baseline = tuple(policy.ref for policy in applying if policy.tier == "baseline" and not isolating)
        if isolating or admin or baseline:
            yield PolicySetKey(direction, isolating, admin, baseline)


INLINE_RULES = 4
"""NetworkPolicies of up to this many rules are repeated in each policy set; larger ones have a chain of their own."""


class CompiledPolicies:
    """The rules of policies, compiled once for all policy sets and tier chains."""

    def __init__(self, index: PolicyIndex) -> None:
        """Start with an empty cache."""
        self._index = index
        self._cache: dict[ObjectRef, tuple[Policy, dict[Direction, tuple[CompiledRule, ...]]]] = {}

    def rules(self, key: PolicySetKey | TierChainKey) -> tuple[CompiledRule, ...]:
        """Return the rules of a policy set's own chain, or of a tier chain, in order."""
        policies = key.policies if isinstance(key, TierChainKey) else self.inline(key)
        return tuple(self.all_rules(policies, key.direction))

    def all_rules(self, policies: Iterable[ObjectRef], direction: Direction) -> Iterator[CompiledRule]:
        """Yield the rules of policies, in order."""
        for ref in policies:
            yield from self._of(ref, direction)

    def is_audited(self, ref: ObjectRef) -> bool:
        """Return whether a policy is in audit mode."""
        return self._index.is_audited(self._index.policies[ref])

    def state(self, refs: Iterable[ObjectRef]) -> object:
        """Return a value that is equal while these policies are, and their audit mode."""
        return tuple((self._index.policies[ref], self.is_audited(ref)) for ref in refs)

    def forget(self, ref: ObjectRef) -> None:
        """Remove a policy that no policy set needs from the cache."""
        self._cache.pop(ref, None)

    def inline(self, key: PolicySetKey) -> tuple[ObjectRef, ...]:
        """Return the NetworkPolicies of a policy set whose rules are in its own chain."""
        return tuple(ref for ref in key.policies if len(self._of(ref, key.direction)) <= INLINE_RULES)

    def _of(self, ref: ObjectRef, direction: Direction) -> tuple[CompiledRule, ...]:
        policy = self._index.policies[ref]
        cached = self._cache.get(ref)
        if cached is None or cached[0] is not policy:
            cached = self._cache[ref] = (policy, {})
        if direction not in cached[1]:
            cached[1][direction] = tuple(_compile(policy, direction))
        return cached[1][direction]


def _compile(policy: Policy, direction: Direction) -> Iterator[CompiledRule]:
    rules: tuple[NetworkPolicyRule | TierRule, ...] = policy.rules(direction)
    for number, rule in enumerate(rules):
        yield from _compile_rule(policy, direction, number, rule)


def _compile_rule(
    policy: Policy, direction: Direction, number: int, rule: NetworkPolicyRule | TierRule
) -> Iterator[CompiledRule]:
    """Merge a rule's peers, and its ports by protocol: at most two peers remain, addresses and ranges."""
    if isinstance(rule, TierRule) and rule.matches_nothing:
        return
    action: TierAction = rule.action if isinstance(rule, TierRule) else "allow"
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
    # Nodes have no named ports: the decoder rejects the combination, and here it matches nothing.
    return CIDRSet((), str(peer)) if isinstance(peer, NodePeer) else peer


def _selected(policy: Policy) -> PodPeer | None:
    if isinstance(policy, NetworkPolicy):
        return PodPeer(policy.pods, namespace=policy.namespace)
    return policy.subject


def _peers(rule: NetworkPolicyRule | TierRule) -> list[CompiledPeer | None]:
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
    """Yield the addresses of the Nodes that a peer selects; an address of two Nodes twice."""
    for node in cluster.nodes.values():
        yield from selected_addresses(peer, node)


def selected_addresses(peer: NodePeer, node: Node | None) -> tuple[str, ...]:
    """Return a Node's addresses if a peer selects it, else none."""
    return node.addresses if node is not None and peer.nodes.matches(dict(node.labels)) else ()


def peer_addresses(cluster: ClusterState, index: PolicyIndex, peer: PodPeer) -> Iterator[str]:
    """Yield the addresses of the Pods that a peer selects; an address of two Pods twice."""
    for pod in _peer_pods(cluster, index, peer):
        yield from pod.addresses


def port_elements(cluster: ClusterState, index: PolicyIndex, ports: NamedPorts) -> Iterator[PodPort]:
    """Resolve a named port on every Pod that may serve it; an element of two Pods, or of two peers, twice."""
    selected = _selected_pods(cluster, index, ports)
    if selected is not None:
        for pod in selected:
            yield from _on_each(pod.addresses, _served(ports, pod))
        return
    # Named ports of any Pod, or inside a range, are rare: every Pod is read, once.
    for pod in (cluster.local if ports.local else cluster.pods).values():
        if pod.holds_addresses:
            yield from pod_port_elements(cluster, ports, pod)


def _selected_pods(cluster: ClusterState, index: PolicyIndex, ports: NamedPorts) -> Iterable[Pod] | None:
    """Return the Pods that serve a port, found by identity; None where every Pod has to be read.

    Half of a cluster's Pods may have a `metrics` port.
    """
    servers = ports.servers
    if not isinstance(servers, PodPeer | AnyOf):
        return None
    if ports.local:
        return _local_pods(cluster, index, servers)
    if isinstance(servers, AnyOf):
        peers = (peer for peer in servers.peers if isinstance(peer, PodPeer))
        return (pod for peer in peers for pod in _peer_pods(cluster, index, peer))
    return _peer_pods(cluster, index, servers) if servers in index.peers.members else None


def _local_pods(cluster: ClusterState, index: PolicyIndex, servers: PodPeer | AnyOf) -> Iterator[Pod]:
    for identity, keys in index.local.items():
        if _select(cluster, servers, identity):
            for key in keys:
                pod = cluster.local[key]
                if pod.holds_addresses:
                    yield pod


def _peer_pods(cluster: ClusterState, index: PolicyIndex, peer: PodPeer) -> Iterator[Pod]:
    for identity in index.peers.members.get(peer, ()):
        for pod in cluster.members[identity].values():
            if pod.holds_addresses:
                yield pod


def pod_port_elements(cluster: ClusterState, ports: NamedPorts, pod: Pod) -> Iterator[PodPort]:
    """Resolve a named port on one Pod."""
    if ports.local and pod.node != cluster.node:
        return
    served = _served(ports, pod)
    if served:
        yield from _on_each(_serving(cluster, ports.servers, pod), served)


def _served(ports: NamedPorts, pod: Pod) -> set[tuple[Protocol, int]]:
    return {
        (port.protocol, port.port)
        for port in pod.ports
        if port.name == ports.name and ports.protocol in {"any", port.protocol}
    }


def _on_each(addresses: Iterable[str], served: set[tuple[Protocol, int]]) -> Iterator[PodPort]:
    return ((address, protocol, number) for address in addresses for protocol, number in served)


def _serving(cluster: ClusterState, servers: PodPeer | AnyOf | CIDRSet | None, pod: Pod) -> Iterable[str]:
    if servers is None:
        return pod.addresses
    if isinstance(servers, CIDRSet):
        return [address for address in pod.addresses if any(block.contains(address) for block in servers.ranges)]
    return pod.addresses if _select(cluster, servers, identity_of(pod)) else ()


def _select(cluster: ClusterState, servers: PodPeer | AnyOf, identity: Identity) -> bool:
    pods = (peer for peer in peers_of(servers) if isinstance(peer, PodPeer))
    return any(peer_selects(cluster, peer, identity) for peer in pods)
