"""Matches the peers and ports of rules with one flow, for policies of every kind.

Part of the evaluator's implementation: the compiler uses none of it.
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
    """A Pod with its labels, and those of its Namespace, as dictionaries that are built once for all selectors."""

    __slots__ = ("_cluster", "_namespace_labels", "labels", "pod")

    def __init__(self, cluster: ClusterState, pod: Pod) -> None:
        """Wrap a Pod of the cluster."""
        self._cluster = cluster
        self._namespace_labels: Mapping[str, str] | None = None
        self.pod = pod
        self.labels: Mapping[str, str] = dict(pod.labels)

    def selected_by(self, peer: PodPeer) -> bool:
        """Return whether a peer selects this Pod."""
        if peer.namespaces is None:
            return self.pod.namespace == peer.namespace and peer.pods.matches(self.labels)
        return peer.pods.matches(self.labels) and peer.namespaces.matches(self.namespace_labels)

    @property
    def namespace_labels(self) -> Mapping[str, str]:
        """The labels of the Pod's Namespace."""
        if self._namespace_labels is None:
            self._namespace_labels = dict(self._cluster.namespace_labels(self.pod.namespace))
        return self._namespace_labels


class FlowEndpoint:
    """One address of a flow, with its Pods and Nodes: looked up on first use, once for all rules."""

    __slots__ = ("_cluster", "_nodes", "_pods", "address")

    def __init__(self, cluster: ClusterState, address: str) -> None:
        """Wrap a canonical address."""
        self._cluster = cluster
        self._pods: tuple[PodLabels, ...] | None = None
        self._nodes: tuple[Mapping[str, str], ...] | None = None
        self.address = address

    def selected_by(self, peer: TierPeer) -> bool:
        """Return whether a peer selects this address: as a Pod's outside the host network, a Node's, or in a CIDR."""
        if isinstance(peer, PodPeer):
            return any(map(PodLabels.selected_by, self._holders(), repeat(peer)))
        if isinstance(peer, NodePeer):
            return any(peer.nodes.matches(labels) for labels in self._node_labels())
        return _in_block(peer, self.address)

    def pods_selected_by(self, peers: Iterable[TierPeer]) -> tuple[Pod, ...]:
        """Return the Pods at this address that any of the peers selects: of two that share it, maybe only one."""
        return tuple(holder.pod for holder in self._holders() if any(self._selects(holder, peer) for peer in peers))

    def _selects(self, holder: PodLabels, peer: TierPeer) -> bool:
        return holder.selected_by(peer) if isinstance(peer, PodPeer) else self.selected_by(peer)

    def _holders(self) -> tuple[PodLabels, ...]:
        if self._pods is None:
            pods = self._cluster.by_address.get(self.address, ())
            self._pods = tuple([PodLabels(self._cluster, pod) for pod in pods])
        return self._pods

    def _node_labels(self) -> tuple[Mapping[str, str], ...]:
        if self._nodes is None:
            nodes = self._cluster.nodes.values()
            self._nodes = tuple([dict(node.labels) for node in nodes if self.address in node.addresses])
        return self._nodes


def port_matches(port: PolicyPort, protocol: str, number: int, servers: Iterable[Pod]) -> bool:
    """Return whether a rule's port matches a destination port.

    protocol: the protocol of the flow
    servers:  the Pods whose container ports define the number of a named port, and its protocol if it names none
    """
    if not port.name:
        return port.protocol == protocol and (not port.first or port.first <= number <= port.last)
    return port.protocol in {protocol, "any"} and any(
        declared.port == number and declared.name == port.name and declared.protocol == protocol
        for pod in servers
        for declared in pod.ports
    )


def _in_block(block: IpBlock, address: str) -> bool:
    return block.cidr.contains(address) and not any(excluded.contains(address) for excluded in block.excepts)
