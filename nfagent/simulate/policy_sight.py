"""What policies can see of a Pod: the policies that select it, the peers that it matches, its named ports.

Pods of which policies see the same have the same verdicts. Labels whose keys no selector names are not seen, and an
address only by the ipBlocks that have it. Matches are bits of an integer, one for each peer of any policy.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from nfagent.model.admin_policy import NodePeer, Policy, TierPeer, TierPolicy, applies
from nfagent.model.netaddr import family_of, number
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy, PolicyPort
from nfagent.model.objects import DIRECTIONS, Direction, Labels, Node, Pod
from nfagent.model.selectors import Selector
from nfagent.state.cluster import ClusterState

_STEP = 64
"""Selectors that are matched in one step."""

Selecting: TypeAlias = tuple[int, ...]
"""Numbers of policies, ascending."""


class PolicyReach(msgspec.Struct, frozen=True):
    """What the rules of one policy in one direction look at.

    peers: bits of its peers
    ports: the ports of its rules, named ones too
    """

    peers: int
    ports: frozenset[PolicyPort]


class LabelView(msgspec.Struct, frozen=True):
    """What selectors see of a Pod's namespace and labels: the policies that select it, and bits of the Pod peers."""

    selecting: dict[Direction, Selecting]
    peers: int


class PolicySight:
    """Matches Pods with all policies of a list; a policy's number is its position there.

    policies: the policies
    reach:    direction -> what the rules of each policy look at
    names:    the named ports of all rules
    """

    def __init__(self, cluster: ClusterState, policies: tuple[Policy, ...]) -> None:
        """Match with these policies, and with the Namespaces and Nodes of a cluster that doesn't change meanwhile."""
        self.policies = policies
        self.reach: dict[Direction, list[PolicyReach]] = {direction: [] for direction in DIRECTIONS}
        self.names: set[str] = set()
        self._cluster = cluster
        self._bits: dict[TierPeer, int] = {}
        self._keys: set[str] = set()
        self._own: dict[str, list[tuple[int, Selector]]] = {}
        self._wide: list[tuple[int, Selector, Selector]] = []
        self._node_peers: list[tuple[int, NodePeer]] = []
        self._blocks: list[tuple[int, IpBlock]] = []
        self._cuts: dict[int, list[int]] = {4: [], 6: []}
        self._of_namespace: dict[str, tuple[list[tuple[int, Selector]], list[int]]] = {}
        self._policies_of: dict[str, list[int]] = {}
        self._tiers: list[int] = []
        self._known: dict[tuple[str, Labels], LabelView] = {}
        self._known_addresses: dict[tuple[int, int], int] = {}

    def steps(self) -> Iterator[None]:
        """Read the policies, one in each step; to be completed before anything is matched."""
        for at, policy in enumerate(self.policies):
            if isinstance(policy, NetworkPolicy):
                self._policies_of.setdefault(policy.namespace, []).append(at)
                self._note_keys(policy.pods)
            else:
                self._tiers.append(at)
                if policy.subject is not None:
                    self._note_keys(policy.subject.pods)
            for direction in DIRECTIONS:
                self.reach[direction].append(self._read(policy, direction))
            yield
        for family, cuts in self._cuts.items():
            self._cuts[family] = sorted(set(cuts))
            yield

    def label_view(self, pod: Pod) -> Generator[None, None, LabelView]:
        """Return what selectors see of a Pod outside the host network, in steps."""
        key = (pod.namespace, tuple(pair for pair in pod.labels if pair[0] in self._keys))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = yield from self._match(pod.namespace, dict(key[1]))
        return known

    def address_bits(self, address: str) -> Generator[None, None, int]:
        """Return bits of the ipBlocks that have an address, in steps."""
        family, value = family_of(address), number(address)
        key = (family, bisect_right(self._cuts[family], value))
        known = self._known_addresses.get(key)
        if known is None:
            known = 0
            for count, (bit, block) in enumerate(self._blocks):
                if block.cidr.contains(address) and not any(item.contains(address) for item in block.excepts):
                    known |= bit
                if not count % _STEP:
                    yield
            self._known_addresses[key] = known
        return known

    def node_bits(self, nodes: Iterable[Node]) -> int:
        """Return bits of the Node peers that select any of these Nodes."""
        labels = [dict(node.labels) for node in nodes]
        found = 0
        for bit, peer in self._node_peers:
            if any(map(peer.nodes.matches, labels)):
                found |= bit
        return found

    def blocks_of(self, bits: int) -> list[str]:
        """Return the ipBlocks of these bits as text."""
        return [str(block) for bit, block in self._blocks if bits & bit]

    def _match(self, namespace: str, labels: Mapping[str, str]) -> Generator[None, None, LabelView]:
        if namespace not in self._of_namespace:
            self._of_namespace[namespace] = yield from self._candidates(namespace)
        peers, tiers = self._of_namespace[namespace]
        found = 0
        for count, (bit, selector) in enumerate(peers):
            if selector.matches(labels):
                found |= bit
            if not count % _STEP:
                yield
        selecting = []
        for count, at in enumerate((*self._policies_of.get(namespace, ()), *tiers)):
            policy = self.policies[at]
            pods = policy.pods if isinstance(policy, NetworkPolicy) else policy.subject and policy.subject.pods
            if pods is not None and pods.matches(labels):
                selecting.append(at)
            if not count % _STEP:
                yield
        return LabelView(
            {way: tuple(at for at in sorted(selecting) if applies(self.policies[at], way)) for way in DIRECTIONS},
            found,
        )

    def _candidates(self, namespace: str) -> Generator[None, None, tuple[list[tuple[int, Selector]], list[int]]]:
        """Return the Pod selectors of the peers that may match Pods of a Namespace, and the tiers' policies."""
        labels = dict(self._cluster.namespace_labels(namespace))
        peers = list(self._own.get(namespace, ()))
        for count, (bit, namespaces, pods) in enumerate(self._wide):
            if namespaces.matches(labels):
                peers.append((bit, pods))
            if not count % _STEP:
                yield
        tiers = []
        for at in self._tiers:
            policy = self.policies[at]
            subject = policy.subject if isinstance(policy, TierPolicy) else None
            if subject is not None and (
                subject.namespace == namespace if subject.namespaces is None else subject.namespaces.matches(labels)
            ):
                tiers.append(at)
        return peers, tiers

    def _read(self, policy: Policy, direction: Direction) -> PolicyReach:
        peers = 0
        ports: set[PolicyPort] = set()
        for rule in policy.rules(direction):
            for peer in rule.peers:
                peers |= self._bit(peer)
            ports.update(rule.ports)
        self.names.update(port.name for port in ports if port.name)
        return PolicyReach(peers, frozenset(ports))

    def _bit(self, peer: TierPeer) -> int:
        known = self._bits.get(peer)
        if known is not None:
            return known
        bit = self._bits[peer] = 1 << len(self._bits)
        if isinstance(peer, NodePeer):
            self._node_peers.append((bit, peer))
        elif isinstance(peer, IpBlock):
            self._blocks.append((bit, peer))
            for item in (peer.cidr, *peer.excepts):
                self._cuts[item.family] += (item.first, item.last + 1)
        else:
            self._note_keys(peer.pods)
            if peer.namespaces is None:
                self._own.setdefault(peer.namespace, []).append((bit, peer.pods))
            else:
                self._wide.append((bit, peer.namespaces, peer.pods))
        return bit

    def _note_keys(self, selector: Selector) -> None:
        self._keys.update(requirement.key for requirement in selector.requirements)
