"""How a Pod's packets to one destination leave: under the Pod's address, or under the node's; and what decides."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.egress.gateways import LINK_SCOPE
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.egress.precedence import longest_prefix, policies_of
from nfagent.model.netaddr import Range, family_of, number, single
from nfagent.model.objects import ObjectRef, Pod
from nfagent.state.cluster import ClusterState
from nfagent.state.egress import EgressState

TranslationKind: TypeAlias = Literal["cluster", "kept", "node", "gateway"]


class Translation(msgspec.Struct, frozen=True):
    """The translation of a Pod's packets to one destination.

    kind:     cluster: never translated, the destination is in the cluster; kept: outside, it sees the Pod's address;
              node: it sees the node's address; gateway: it sees a floating address
    by:       the object that decides; None for cluster ranges, the built-in list, policies that disagree, and the
              default, masquerade
    prefix:   the entry that decides; None where no entry does
    disputed: the policies of different actions or gateways that have the prefix, by name; neither applies to it
    gateway:  the NetworkGatewayGroup that a policy names, of kind gateway; `gateway_translation` fills the rest
    floating: the floating address; '' if there is none
    holder:   the node that translates; '' if there is none
    dropped:  why packets are dropped instead; '' if they aren't
    """

    kind: TranslationKind
    by: ObjectRef | None = None
    prefix: Range | None = None
    disputed: tuple[ObjectRef, ...] = ()
    gateway: ObjectRef | None = None
    floating: str = ""
    holder: str = ""
    dropped: str = ""


def translation(
    pod: Pod | None, destination: str, cluster: ClusterState, egress: EgressState, settings: MasqueradeSettings
) -> Translation:
    """Return how packets of a Pod to a canonical address leave its node.

    pod: None for a Pod that isn't known yet, in the Pod range of its node
    """
    inside = cluster_range(destination, cluster, settings)
    if inside is not None:
        return Translation("cluster", prefix=inside)
    return outside_translation(pod, destination, cluster, egress, settings)


def outside_translation(
    pod: Pod | None, destination: str, cluster: ClusterState, egress: EgressState, settings: MasqueradeSettings
) -> Translation:
    """Return the same for a destination that is outside the cluster."""
    if family_of(destination) not in settings.families:
        return Translation("kept")
    found = longest_prefix(policies_of(pod, cluster, egress), destination)
    if found is not None:
        prefix, policies = found
        if len({policy.outcome for policy in policies}) > 1:
            return Translation("node", None, prefix, tuple(policy.ref for policy in policies))
        decides = policies[0]
        # The address of a Pod that isn't known leads to no gateway, and no other node reaches this node's own links.
        on_link = any(item.contains(destination) for item in LINK_SCOPE[family_of(destination)])
        if decides.gateway is not None and pod is not None and not on_link:
            return Translation("gateway", decides.ref, prefix, gateway=decides.gateway)
        return Translation("kept" if decides.action == "NoSNAT" else "node", decides.ref, prefix)
    listed = [
        item
        for item in egress.base_list(all_reserved_ranges=settings.all_reserved_ranges)
        if item.contains(destination)
    ]
    if listed:
        smallest = min(listed, key=lambda item: item.last - item.first)
        return Translation("kept", egress.origin(smallest), smallest)
    return Translation("node")


def cluster_range(destination: str, cluster: ClusterState, settings: MasqueradeSettings) -> Range | None:
    """Return the cluster's range that contains an address; None for an address outside the cluster."""
    if destination in cluster.by_address:
        return single(destination)
    family, value = family_of(destination), number(destination)
    listed = (item.cidrs for item in cluster.service_ranges.values())
    for ranges in (settings.cluster_ranges, *listed):
        for item in ranges:
            if item.family == family and item.first <= value <= item.last:
                return item
    for node in cluster.nodes.values():
        for item in node.pod_cidrs:
            if item.family == family and item.first <= value <= item.last:
                return item
        if destination in node.addresses:
            return single(destination)
    return None
