"""The elements of the sets that rules name: addresses and named ports of Pods and Nodes.

A set is filled when the first chain names it. From then on, a Pod that is added or removed changes the sets that
select it, and no others. A Pod that several peers of a set select has as many references to its elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias, TypeVar

from nfagent.desired.pod_counts import PodCounts
from nfagent.desired.tracker import RulesetTracker
from nfagent.model.admin_policy import NodePeer
from nfagent.model.netaddr import Family, family_of
from nfagent.model.networkpolicy import PodPeer, PortProtocol
from nfagent.model.objects import Node, Pod
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables.icmp_errors import pair_elements, pair_sets
from nfagent.nftables.objects import Element
from nfagent.nftables.policy_chains import SetContent, named_set_of
from nfagent.policy.compiler import (
    NamedPorts,
    node_addresses,
    peer_addresses,
    pod_port_elements,
    port_elements,
    selected_addresses,
)
from nfagent.policy.merged_peers import AnyOf, peers_of
from nfagent.state.cluster import ClusterState, Identity, identity_of
from nfagent.state.policy_index import PolicyIndex

_K = TypeVar("_K")
_Sets: TypeAlias = dict[Family, set[str]]
"""The sets that have the members of a peer, by family."""
_Owner: TypeAlias = PodPeer | Literal["local", "any"]
"""Whose named ports: those of a peer's Pods, of this node's Pods, or of every Pod."""

_ANY_PROTOCOL: PortProtocol = "any"


class SetMembership:
    """The sets in use, and the index from peers to the sets that have their members.

    deny_sets: the sets that rules which deny or pass name, each with the number of chains
    """

    def __init__(self, cluster: ClusterState, index: PolicyIndex, live: RulesetTracker) -> None:
        """Start without sets."""
        self._cluster = cluster
        self._index = index
        self._live = live
        self.deny_sets: RefCounts[str] = RefCounts()
        self._users: RefCounts[str] = RefCounts()
        self._content: dict[str, SetContent] = {}
        self._of_peer: dict[PodPeer, _Sets] = {}
        self._of_nodes: dict[NodePeer, _Sets] = {}
        # By owner, so that a Pod is compared only with the ports that it could have.
        self._of_port: dict[_Owner, dict[tuple[str, PortProtocol], dict[NamedPorts, dict[Family, str]]]] = {}
        self._detached: set[PodPeer] = set()
        for name, shape in pair_sets():
            live.add_set(name, shape)
        self._counts = PodCounts(live, cluster.node)

    def acquire(self, name: str, content: SetContent, *, closing: bool) -> None:
        """Add a chain that names a set; the first one adds and fills it.

        closing: a new element of the set can end a connection
        """
        if closing:
            self.deny_sets.acquire(name)
        if not self._users.acquire(name):
            return
        shape = named_set_of(name, content)
        self._content[name] = content
        self._live.add_set(name, shape, self._elements(content, shape.family))
        for peer in peers_of(content):
            if isinstance(peer, PodPeer):
                _index_set(self._of_peer, peer, shape.family, name)
            else:
                _index_set(self._of_nodes, peer, shape.family, name)
        if isinstance(content, NamedPorts):
            for owner in _owners(content):
                named = self._of_port.setdefault(owner, {}).setdefault((content.name, content.protocol), {})
                named.setdefault(content, {})[shape.family] = name

    def release(self, name: str, *, closing: bool) -> None:
        """Remove a chain that named a set; the last one removes it."""
        if closing:
            self.deny_sets.release(name)
        if not self._users.release(name):
            return
        content, family = self._content.pop(name), self._live.sets[name].shape.family
        self._live.drop_set(name)
        for peer in peers_of(content):
            if isinstance(peer, PodPeer):
                _unindex_set(self._of_peer, peer, family, name)
            else:
                _unindex_set(self._of_nodes, peer, family, name)
        if isinstance(content, NamedPorts):
            self._unindex_ports(content, family)

    def _unindex_ports(self, ports: NamedPorts, family: Family) -> None:
        for owner in _owners(ports):
            owned = self._of_port[owner]
            named = owned[ports.name, ports.protocol]
            del named[ports][family]
            if not named[ports]:
                del named[ports]
            if not named:
                del owned[ports.name, ports.protocol]
            if not owned:
                del self._of_port[owner]

    def remove_pod(self, pod: Pod) -> None:
        """Remove a Pod's elements from every set that selects it: call it before the indexes are updated."""
        for name, element in self._elements_of_pod(pod):
            self._live.remove(name, element)
        self._counts.remove(pod)

    def add_pod(self, pod: Pod) -> None:
        """Add a Pod's elements to every set that selects it: call it after the indexes are updated."""
        for name, element in self._elements_of_pod(pod):
            self._live.add(name, element)
        self._counts.add(pod)

    def move_identity(self, peer: PodPeer, identity: Identity, *, joined: bool) -> None:
        """Apply that a peer selects an identity now, or no longer."""
        sets = self._of_peer.get(peer)
        if not sets or peer in self._detached:
            return
        change = self._live.add if joined else self._live.remove
        for pod in self._cluster.members[identity].values():
            for address in pod.addresses if pod.holds_addresses else ():
                for name in sets.get(family_of(address), ()):
                    change(name, address)

    def follow_node(self, before: Node | None, after: Node | None) -> None:
        """Apply a Node that was added, changed or removed."""
        for peer, sets in self._of_nodes.items():
            for change, node in ((self._live.remove, before), (self._live.add, after)):
                for address in selected_addresses(peer, node):
                    for name in sets.get(family_of(address), ()):
                        change(name, address)

    def detach(self, peers: Iterable[PodPeer]) -> None:
        """Stop updating the sets of peers that no policy names any more, while chains may still name the sets.

        The peer index has no members for such peers, so events in between are lost. If a policy names a peer again
        before the chains are written, `refill_detached` fills its sets.
        """
        self._detached.update(peer for peer in peers if peer in self._of_peer or peer in self._of_port)

    def refill_detached(self) -> None:
        """Fill the sets of detached peers that chains still name: call it after all chains are written."""
        while self._detached:
            peer = self._detached.pop()
            sets = {name for found in self._of_peer.get(peer, {}).values() for name in found}
            for named in self._of_port.get(peer, {}).values():
                sets.update(name for ports in named.values() for name in ports.values())
            for name in sets:
                self._live.recount(name, self._elements(self._content[name], self._live.sets[name].shape.family))

    def refill_ports(self, moved: Iterable[PodPeer], *, local: bool) -> None:
        """Resolve named ports again after a Namespace was relabelled: those of peers that select other Pods now.

        local: whether policies select other Pods of this node now, whose own ports they may name
        """
        owners: dict[_Owner, None] = dict.fromkeys(moved)
        if local:
            owners["local"] = None
        found = [named for owner in owners for named in self._of_port.get(owner, {}).values()]
        for content, sets in {content: sets for named in found for content, sets in named.items()}.items():
            for family, name in sets.items():
                self._live.recount(name, self._elements(content, family))

    def _elements_of_pod(self, pod: Pod) -> Iterator[tuple[str, Element]]:
        if not pod.holds_addresses:
            return
        local = pod.node == self._cluster.node
        owners: list[_Owner] = ["any", "local"] if local else ["any"]
        if local:
            yield from pair_elements(pod)
        for peer in self._index.peers.of.get(identity_of(pod), ()):
            if peer in self._detached:
                continue
            owners.append(peer)
            sets = self._of_peer.get(peer, {})
            for address in pod.addresses:
                for name in sets.get(family_of(address), ()):
                    yield name, address
        for owner in owners:
            if owner in self._of_port:
                yield from self._port_elements_of_pod(pod, self._of_port[owner])

    def _port_elements_of_pod(
        self, pod: Pod, owned: dict[tuple[str, PortProtocol], dict[NamedPorts, dict[Family, str]]]
    ) -> Iterator[tuple[str, Element]]:
        declared = {(port.name, port.protocol) for port in pod.ports}
        for key in declared | {(name, _ANY_PROTOCOL) for name, _ in declared}:
            for content, sets in owned.get(key, {}).items():
                for element in pod_port_elements(self._cluster, content, pod):
                    name = sets.get(family_of(element[0]))
                    if name is not None:
                        yield name, element

    def _elements(self, content: SetContent, family: Family) -> Iterable[Element]:
        if isinstance(content, NamedPorts):
            return (item for item in port_elements(self._cluster, self._index, content) if family_of(item[0]) == family)
        found = (address for peer in peers_of(content) for address in self._addresses(peer))
        return (address for address in found if family_of(address) == family)

    def _addresses(self, peer: PodPeer | NodePeer) -> Iterator[str]:
        if isinstance(peer, NodePeer):
            return node_addresses(self._cluster, peer)
        return peer_addresses(self._cluster, self._index, peer)


def _owners(ports: NamedPorts) -> tuple[_Owner, ...]:
    if ports.local:
        return ("local",)
    if isinstance(ports.servers, PodPeer | AnyOf):
        return tuple(peer for peer in peers_of(ports.servers) if isinstance(peer, PodPeer))
    return ("any",)


def _index_set(sets: dict[_K, _Sets], key: _K, family: Family, name: str) -> None:
    sets.setdefault(key, {}).setdefault(family, set()).add(name)


def _unindex_set(sets: dict[_K, _Sets], key: _K, family: Family, name: str) -> None:
    sets[key][family].discard(name)
    if not sets[key][family]:
        del sets[key][family]
    if not sets[key]:
        del sets[key]
