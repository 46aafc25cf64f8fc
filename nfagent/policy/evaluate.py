"""The verdict on one flow, with its reasons: a second reading of the policies.

Independent of `compile`: straight from the objects, no index but the Pods' addresses, one flow at a time.
It is the oracle of the tests, the mind of `nfagent explain`, and it names every policy that allowed a
logged connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, TypeAlias

import msgspec

from nfagent.cluster.model import Direction, Pod, Ref
from nfagent.cluster.state import ClusterState
from nfagent.policy.model import IpBlock, NetworkPolicy, Peer, PodPeer, PolicyPort, Rule

Outcome: TypeAlias = Literal["allow", "peer", "port"]
"""What became of a rule: it allows, its peers don't match, or its peers do and its ports don't."""


class Flow(msgspec.Struct, frozen=True):
    """One new connection, as judged: after a Service's address was translated, before masquerade.

    source, destination: canonical addresses of one family
    protocol:            'tcp', 'udp', 'sctp', 'icmp', 'icmpv6', or another protocol's number as text
    port:                the destination port; None where the protocol has none
    """

    source: str
    destination: str
    protocol: str
    port: int | None = None

    def __str__(self) -> str:
        """Write it as `10.0.0.1 -> 10.0.0.2:80/tcp`."""
        shown = f"[{self.destination}]" if ":" in self.destination and self.port is not None else self.destination
        port = "" if self.port is None else f":{self.port}"
        return f"{self.source} -> {shown}{port}/{self.protocol}"


class RuleOutcome(msgspec.Struct, frozen=True):
    """What became of one rule: policy, place in its list, how many it has, the rule in words."""

    policy: Ref
    index: int
    total: int
    words: str
    outcome: Outcome


class Side(msgspec.Struct, frozen=True):
    """The judgement at one end.

    pod:       the Pod whose policies judge
    isolating: the policies that isolate it in this direction; none means it isn't isolated
    rules:     every rule of theirs with what became of it, in order
    """

    direction: Direction
    pod: Ref
    isolating: tuple[Ref, ...]
    rules: tuple[RuleOutcome, ...]

    @property
    def allowed(self) -> bool:
        """Tell the verdict: not isolated, or some rule allows."""
        return not self.isolating or any(rule.outcome == "allow" for rule in self.rules)

    @property
    def allowing(self) -> tuple[Ref, ...]:
        """Name every policy that allows, each once, in order."""
        return tuple(dict.fromkeys(rule.policy for rule in self.rules if rule.outcome == "allow"))


class Judgement(msgspec.Struct, frozen=True):
    """Both ends' judgements; None where an end is no Pod, or is not asked.

    exempt: why nothing was asked: the Pod talks to itself, or its own node calls it; '' otherwise
    """

    flow: Flow
    egress: Side | None
    ingress: Side | None
    exempt: str = ""

    @property
    def allowed(self) -> bool:
        """Tell the verdict: every end that was asked allows."""
        return all(side.allowed for side in (self.egress, self.ingress) if side is not None)


def evaluate(cluster: ClusterState, policies: Iterable[NetworkPolicy], flow: Flow) -> Judgement:
    """Judge one flow: egress at the source Pod, then ingress at the destination Pod; both must allow."""
    source, destination = cluster.holder(flow.source), cluster.holder(flow.destination)
    if flow.source == flow.destination:
        return Judgement(flow, None, None, exempt="a Pod always reaches itself by its own address")
    everything = list(policies)
    egress = judge(cluster, everything, flow, source, "egress") if source is not None else None
    if destination is None:
        return Judgement(flow, egress, None)
    node = cluster.nodes.get(destination.node)
    if node is not None and flow.source in node.addresses:
        return Judgement(flow, egress, None, exempt=f"node {node.name} always reaches its own Pods")
    return Judgement(flow, egress, judge(cluster, everything, flow, destination, "ingress"))


def judge(cluster: ClusterState, policies: Iterable[NetworkPolicy], flow: Flow, pod: Pod, direction: Direction) -> Side:
    """Judge one end: the policies of the Pod's namespace that select it and isolate it this way."""
    labels = dict(pod.labels)
    isolating = sorted(
        (p for p in policies if p.namespace == pod.namespace and direction in p.isolates and p.pods.matches(labels)),
        key=lambda policy: policy.name,
    )
    outcomes = []
    for policy in isolating:
        rules = policy.rules(direction)
        for index, rule in enumerate(rules):
            outcome = _outcome(cluster, policy, rule, flow, direction)
            outcomes.append(RuleOutcome(policy.ref, index, len(rules), _words(rule), outcome))
    return Side(direction, pod.ref, tuple(policy.ref for policy in isolating), tuple(outcomes))


@lru_cache(maxsize=16_384)
def _words(rule: Rule) -> str:
    """Say a rule once: a verdict log asks about the same few thousand times a second."""
    return str(rule)


def _outcome(cluster: ClusterState, policy: NetworkPolicy, rule: Rule, flow: Flow, direction: Direction) -> Outcome:
    peer_address = flow.source if direction == "ingress" else flow.destination
    if rule.peers and not any(_peer_matches(cluster, peer, peer_address) for peer in rule.peers):
        return "peer"
    named = any(port.name for port in rule.ports)
    servers = _servers(cluster, policy, rule, flow, direction) if named else []
    if rule.ports and not any(_port_matches(port, flow, servers) for port in rule.ports):
        return "port"
    return "allow"


def _servers(cluster: ClusterState, policy: NetworkPolicy, rule: Rule, flow: Flow, direction: Direction) -> list[Pod]:
    """Give the Pods whose named ports count: of two that hold one address, those that the rule is about."""
    peers = (PodPeer(policy.pods, namespace=policy.namespace),) if direction == "ingress" else rule.peers
    held = cluster.by_address.get(flow.destination, ())
    return [pod for pod in held if not peers or any(_means(cluster, peer, flow.destination, pod) for peer in peers)]


def _peer_matches(cluster: ClusterState, peer: Peer, address: str) -> bool:
    if not isinstance(peer, PodPeer):
        return _in_block(peer, address)
    return any(_pod_matches(cluster, peer, pod) for pod in cluster.by_address.get(address, ()))


def _means(cluster: ClusterState, peer: Peer, address: str, pod: Pod) -> bool:
    return _pod_matches(cluster, peer, pod) if isinstance(peer, PodPeer) else _in_block(peer, address)


def _in_block(block: IpBlock, address: str) -> bool:
    return block.cidr.holds(address) and not any(hole.holds(address) for hole in block.excepts)


def _pod_matches(cluster: ClusterState, peer: PodPeer, pod: Pod) -> bool:
    if peer.namespaces is None:
        if pod.namespace != peer.namespace:
            return False
    elif not peer.namespaces.matches(dict(cluster.namespace_labels(pod.namespace))):
        return False
    return peer.pods.matches(dict(pod.labels))


def _port_matches(port: PolicyPort, flow: Flow, servers: Iterable[Pod]) -> bool:
    if port.protocol != flow.protocol or flow.port is None:
        return False
    if not port.name:
        return not port.first or port.first <= flow.port <= port.last
    return any(
        (declared.name, declared.protocol, declared.port) == (port.name, port.protocol, flow.port)
        for pod in servers
        for declared in pod.ports
    )
