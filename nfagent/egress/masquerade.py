"""The masquerade plan of this node: source ranges, and destinations that are never masqueraded."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nfagent.egress.cluster_addresses import ClusterAddresses
from nfagent.egress.gateways import MarkBits
from nfagent.egress.precedence import kept_ranges
from nfagent.model.egress_nat import DEFAULT_POLICY, EgressNATPolicy
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.netaddr import FAMILIES, Family, Range, disjoint, single
from nfagent.state.cluster import ClusterDelta, ClusterState
from nfagent.state.egress import EgressState


class MasqueradeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The masquerade settings of the node.

    ipv4, ipv6:     whether this family is masqueraded
    cluster_ranges: Pod and Service ranges that are in no Node and no ServiceCIDR
    create_default: whether the EgressNATPolicy `default` is created where it is missing
    ip_masq:        lists and switches that hold without an ip-masq-agent ConfigMap and without its file
    to_ports:       source ports that connections of tcp, udp and sctp get: disjoint ranges, first and last; none
                    leaves the choice to the kernel
    gateway_mark:   the bits of the packet mark that tell packets for a floating address
    """

    enabled: bool = True
    ipv4: bool = True
    ipv6: bool = True
    random_fully: bool = True
    all_reserved_ranges: bool = False
    cluster_ranges: tuple[Range, ...] = ()
    create_default: bool = True
    ip_masq: IpMasqConfig = IpMasqConfig()
    to_ports: tuple[tuple[int, int], ...] = ()
    gateway_mark: MarkBits = MarkBits(0x0FF00000)

    @property
    def families(self) -> tuple[Family, ...]:
        """The masqueraded families; none if masquerade is off."""
        return tuple(family for family, on in zip(FAMILIES, (self.ipv4, self.ipv6), strict=True) if self.enabled and on)


class MasqueradePlan(msgspec.Struct, frozen=True):
    """Disjoint ranges of both families.

    sources: this node's Pods: its Pod CIDRs, and the addresses of Pods outside them; of masqueraded families
    cluster: destinations in the cluster: never masqueraded
    outside: families with Pod addresses outside these ranges: never masqueraded either
    exempt:  destinations outside that keep the Pod's address, for Pods that no policy with sources selects
    """

    sources: tuple[Range, ...]
    cluster: tuple[Range, ...]
    outside: tuple[Family, ...]
    exempt: tuple[Range, ...]
    random_fully: bool
    to_ports: tuple[tuple[int, int], ...] = ()


def masquerade_plan(
    cluster: ClusterState, egress: EgressState, settings: MasqueradeSettings, known: ClusterAddresses
) -> MasqueradePlan:
    """Return this node's masquerade plan, from the known addresses of the cluster."""
    own = cluster.nodes.get(cluster.node)
    sources = list(own.pod_cidrs) if own is not None else []
    for pod in cluster.local.values():
        if pod.holds_addresses:
            sources += [single(address) for address in pod.addresses]
    exempt = exempt_ranges(egress, settings)
    translated = (item for item in sources if item.family in settings.families)
    outside = tuple(family for family in FAMILIES if known.outside[family])
    return MasqueradePlan(disjoint(translated), known.ranges, outside, exempt, settings.random_fully, settings.to_ports)


def exempt_ranges(egress: EgressState, settings: MasqueradeSettings, selected: Iterable[str] = ()) -> tuple[Range, ...]:
    """Return the disjoint destinations outside the cluster that keep the Pod's address.

    selected: names of the policies with sources that select the Pod
    """
    names = set(selected)
    base = egress.base_list(all_reserved_ranges=settings.all_reserved_ranges)
    return kept_ranges(base, (item for item in egress.enforced if not item.sources or item.name in names))


def missing_default(egress: EgressState, settings: MasqueradeSettings) -> EgressNATPolicy | None:
    """Return the EgressNATPolicy `default` to create, with the built-in list; None where none is wanted.

    None is where it exists, or where an ip-masq-agent list is the base.
    """
    wanted = settings.create_default and settings.families
    if not wanted or egress.base is not None or DEFAULT_POLICY in egress.policies:
        return None
    listed = IpMasqConfig().listed(all_reserved_ranges=settings.all_reserved_ranges)
    return EgressNATPolicy(name=DEFAULT_POLICY, action="NoSNAT", destinations=listed)


def is_source(cluster: ClusterState, change: ClusterDelta) -> bool:
    """Return whether a change affects a Pod of this node with an address outside the node's Pod CIDRs."""
    own = cluster.nodes.get(cluster.node)
    ranges = own.pod_cidrs if own is not None else ()
    return any(
        pod is not None
        and pod.node == cluster.node
        and pod.holds_addresses
        and not all(any(item.contains(address) for item in ranges) for address in pod.addresses)
        for pod in change.pod or ()
    )
