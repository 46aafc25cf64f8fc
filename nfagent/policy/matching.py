"""Whom the peers of a rule mean, and which ports: at one address, one flow at a time, for policies of every kind.

Part of `evaluate`'s reading: `compile` asks none of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import repeat

from nfagent.model.admin_policy import NodePeer, TierPeer
from nfagent.model.networkpolicy import IpBlock, PodPeer, PolicyPort
from nfagent.model.objects import Pod
from nfagent.model.selectors import Selector
from nfagent.state.cluster import ClusterState

EVERY_POD = PodPeer(Selector(), namespaces=Selector())
"""Every Pod of every Namespace, as a peer."""


class PodLabels:
    """A Pod with the labels that selectors ask about, put into dictionaries once for all that ask."""

    __slots__ = ("_cluster", "_namespace_labels", "labels", "pod")

    def __init__(self, cluster: ClusterState, pod: Pod) -> None:
        """Look at a Pod of the cluster."""
        self._cluster = cluster
        self._namespace_labels: Mapping[str, str] | None = None
        self.pod = pod
        self.labels: Mapping[str, str] = dict(pod.labels)

    def selected_by(self, peer: PodPeer) -> bool:
        """Tell whether the peer's selectors take this Pod."""
        if peer.namespaces is None:
            return self.pod.namespace == peer.namespace and peer.pods.matches(self.labels)
        return peer.pods.matches(self.labels) and peer.namespaces.matches(self.namespace_labels)

    @property
    def namespace_labels(self) -> Mapping[str, str]:
        """The labels of its Namespace."""
        if self._namespace_labels is None:
            self._namespace_labels = dict(self._cluster.namespace_labels(self.pod.namespace))
        return self._namespace_labels


class FlowEndpoint:
    """One address of a flow, and who is there: looked up when a rule first asks, once for all rules."""

    __slots__ = ("_cluster", "_nodes", "_pods", "address")

    def __init__(self, cluster: ClusterState, address: str) -> None:
        """Look at a canonical address."""
        self._cluster = cluster
        self._pods: tuple[PodLabels, ...] | None = None
        self._nodes: tuple[Mapping[str, str], ...] | None = None
        self.address = address

    def selected_by(self, peer: TierPeer) -> bool:
        """Tell whether a peer means this address: Pods with addresses of their own, Nodes, or a CIDR."""
        if isinstance(peer, PodPeer):
            return any(map(PodLabels.selected_by, self._holders(), repeat(peer)))
        if isinstance(peer, NodePeer):
            return any(peer.nodes.matches(labels) for labels in self._node_labels())
        return _in_block(peer, self.address)

    def pods_selected_by(self, peers: Iterable[TierPeer]) -> tuple[Pod, ...]:
        """Give those Pods here that any of the peers means: of two that hold one address, it may be one."""
        return tuple(holder.pod for holder in self._holders() if any(self._means(holder, peer) for peer in peers))

    def _means(self, holder: PodLabels, peer: TierPeer) -> bool:
        return holder.selected_by(peer) if isinstance(peer, PodPeer) else self.selected_by(peer)

    def _holders(self) -> tuple[PodLabels, ...]:
        if self._pods is None:
            held = self._cluster.by_address.get(self.address, ())
            self._pods = tuple([PodLabels(self._cluster, pod) for pod in held])
        return self._pods

    def _node_labels(self) -> tuple[Mapping[str, str], ...]:
        if self._nodes is None:
            nodes = self._cluster.nodes.values()
            self._nodes = tuple([dict(node.labels) for node in nodes if self.address in node.addresses])
        return self._nodes


def port_matches(port: PolicyPort, protocol: str, number: int, servers: Iterable[Pod]) -> bool:
    """Tell whether a destination port is one that a rule names.

    protocol: the flow's
    servers:  the Pods whose container ports give a named port its number, and where it leaves that open, its protocol
    """
    if not port.name:
        return port.protocol == protocol and (not port.first or port.first <= number <= port.last)
    return port.protocol in {protocol, "any"} and any(
        declared.port == number and declared.name == port.name and declared.protocol == protocol
        for pod in servers
        for declared in pod.ports
    )


def _in_block(block: IpBlock, address: str) -> bool:
    return block.cidr.holds(address) and not any(hole.holds(address) for hole in block.excepts)
