"""The state of the cluster as a filter of records needs it: in the agent, or as a command asks for it.

GET /v1/peers has the labels of all Pods by identity, the addresses of Nodes, and the cluster's ranges.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.introspection.chunks import in_steps
from nfagent.introspection.freshness import Freshness, ViewHead, head
from nfagent.model.netaddr import Range, disjoint, family_of, number, text
from nfagent.model.objects import Node
from nfagent.state.cluster import ClusterState, labels_of
from nfagent.verdicts.record_terms import address_range

_NODES_OF_RANGE = 2
"""Addresses at the begin of a Pod range that a node gives to itself: its tunnel interface and its bridge."""


class IdentityView(msgspec.Struct, frozen=True, kw_only=True):
    """Pods with the same namespace and labels."""

    namespace: str
    labels: dict[str, str]
    pods: list[str]


class PeersView(ViewHead, frozen=True, kw_only=True):
    """What decides about labels, `node` and `world`. ranges: of Pods and Services, as CIDRs or addresses."""

    nodes: list[str]
    ranges: list[str]
    identities: list[IdentityView]


def peers_parts(desired: DesiredState, freshness: Freshness) -> PeersView:
    """Return the view, its list made while it is written."""
    cluster = desired.cluster
    ranges = cluster_ranges(cluster, desired.masquerade_settings.cluster_ranges)
    return PeersView(
        **head(freshness),
        nodes=sorted(node_addresses(cluster.nodes.values(), cluster)),
        ranges=[str(item) for item in sorted(set(ranges))],
        identities=in_steps(
            IdentityView(
                namespace=pods.identity.namespace,
                labels=dict(labels_of(pods.identity)),
                pods=[name for _, name in pods],
            )
            for pods in list(cluster.members.values())
        ),
    )


def node_addresses(nodes: Iterable[Node], cluster: ClusterState) -> set[str]:
    """Return the addresses of Nodes, and those of their own in their Pod ranges."""
    found = {address for node in nodes for address in node.addresses}
    own = (
        text(item.family, first)
        for node in nodes
        for item in node.pod_cidrs
        for first in range(item.first, min(item.first + _NODES_OF_RANGE, item.last + 1))
    )
    return found.union(address for address in own if address not in cluster.by_address)


def cluster_ranges(cluster: ClusterState, more: Iterable[Range]) -> list[Range]:
    """Return the ranges of Pods and Services: of the Nodes, of the ServiceCIDRs, and more, such as of the settings."""
    found = [item for node in cluster.nodes.values() for item in node.pod_cidrs]
    return [*found, *(item for ranges in cluster.service_ranges.values() for item in ranges.cidrs), *more]


class KnownRanges:
    """Ranges that are looked up by address."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        """Sort and join the ranges."""
        self._ranges = disjoint(ranges)
        self._begins = [(item.family, item.first) for item in self._ranges]

    def __contains__(self, address: str) -> bool:
        """Return whether an address is in one of them."""
        family, value = family_of(address), number(address)
        at = bisect_right(self._begins, (family, value)) - 1
        return at >= 0 and self._ranges[at].family == family and value <= self._ranges[at].last


class StatePeers:
    """The present state. Implements verdicts.record_filter.PeerLookup."""

    def __init__(self, desired: DesiredState) -> None:
        """Read the Nodes when they are needed, and again when they changed."""
        self._desired = desired
        self._read: tuple[list[object], ...] = ()
        self._nodes: set[str] = set()
        self._ranges = KnownRanges(())

    def labels(self, pod: str) -> Mapping[str, str] | None:
        """Return the labels of a Pod; None where there is none of that name."""
        namespace, _, name = pod.partition("/")
        found = self._desired.cluster.pods.get((namespace, name))
        return None if found is None else dict(found.labels)

    def is_node(self, address: str) -> bool:
        """Return whether an address is a Node's."""
        self._refresh()
        return address in self._nodes

    def is_inside(self, address: str) -> bool:
        """Return whether an address is of the cluster."""
        self._refresh()
        return address in self._nodes or address in self._desired.cluster.by_address or address in self._ranges

    def _refresh(self) -> None:
        cluster = self._desired.cluster
        present: tuple[list[object], ...] = (list(cluster.nodes.values()), list(cluster.service_ranges.values()))
        if present != self._read:  # equal objects are mostly the same ones, which are compared by identity first
            self._read = present
            self._nodes = node_addresses(cluster.nodes.values(), cluster)
            self._ranges = KnownRanges(cluster_ranges(cluster, self._desired.masquerade_settings.cluster_ranges))


class SnapshotPeers:
    """The state as an agent told it. Implements verdicts.record_filter.PeerLookup."""

    def __init__(self, view: PeersView) -> None:
        """Index the view. Raises AddressError for a range that is none."""
        self._nodes = frozenset(view.nodes)
        self._ranges = KnownRanges(map(address_range, view.ranges))
        self._labels = {
            f"{identity.namespace}/{name}": identity.labels for identity in view.identities for name in identity.pods
        }

    def labels(self, pod: str) -> Mapping[str, str] | None:
        """Return the labels of a Pod; None where there was none of that name."""
        return self._labels.get(pod)

    def is_node(self, address: str) -> bool:
        """Return whether an address is a Node's."""
        return address in self._nodes

    def is_inside(self, address: str) -> bool:
        """Return whether an address is of the cluster; of a Pod outside the ranges only a record's own name tells."""
        return address in self._nodes or address in self._ranges
