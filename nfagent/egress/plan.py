"""The masquerade plan of this node: whose packets, and which destinations keep the Pod's address."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from nfagent.cluster.address import FAMILIES, Family, Range, disjoint, single
from nfagent.cluster.model import Node
from nfagent.cluster.state import Change, ClusterState
from nfagent.egress.state import EgressState


class MasqueradeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the node's configuration says of masquerade.

    ipv4, ipv6:     whether this family is translated
    cluster_ranges: Pod and Service ranges that no Node and no ServiceCIDR names
    """

    enabled: bool = True
    ipv4: bool = True
    ipv6: bool = True
    random_fully: bool = True
    all_reserved_ranges: bool = False
    cluster_ranges: tuple[Range, ...] = ()

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that are translated; none where masquerade is off."""
        return tuple(family for family, on in zip(FAMILIES, (self.ipv4, self.ipv6), strict=True) if self.enabled and on)


class MasqueradePlan(msgspec.Struct, frozen=True):
    """Disjoint ranges of both families.

    sources: this node's Pods: its Pod CIDRs, and the addresses of Pods outside them; of the families translated
    cluster: destinations in the cluster: never translated
    exempt:  destinations outside that keep the Pod's address, by configuration and policies
    """

    sources: tuple[Range, ...]
    cluster: tuple[Range, ...]
    exempt: tuple[Range, ...]
    random_fully: bool


def masquerade_plan(cluster: ClusterState, egress: EgressState, settings: MasqueradeSettings) -> MasqueradePlan | None:
    """Plan this node's masquerade; None where it is switched off."""
    if not settings.families:
        return None
    own = cluster.nodes.get(cluster.node)
    sources = list(own.pod_cidrs) if own is not None else []
    for pod in cluster.local.values():
        if pod.holds_addresses:
            sources += [single(address) for address in pod.addresses]
    ranges = [*settings.cluster_ranges, *sources]
    for service_range in cluster.service_ranges.values():
        ranges += service_range.cidrs
    for node in cluster.nodes.values():
        ranges += _ranges_of(node)
    exempt = egress.exempt(all_reserved_ranges=settings.all_reserved_ranges)
    translated = (item for item in sources if item.family in settings.families)
    return MasqueradePlan(disjoint(translated), disjoint(ranges), disjoint(exempt), settings.random_fully)


@lru_cache(maxsize=32_768)
def _ranges_of(node: Node) -> tuple[Range, ...]:
    return (*node.pod_cidrs, *(single(address) for address in node.addresses))


def needs_plan(cluster: ClusterState, change: Change) -> bool:
    """Tell whether a change can alter the plan: a Node, a ServiceCIDR, a local Pod outside the node's ranges."""
    if change.node is not None or change.service_range:
        return True
    own = cluster.nodes.get(cluster.node)
    ranges = own.pod_cidrs if own is not None else ()
    return any(
        pod is not None
        and pod.node == cluster.node
        and pod.holds_addresses
        and not all(any(item.holds(address) for item in ranges) for address in pod.addresses)
        for pod in change.pod or ()
    )
