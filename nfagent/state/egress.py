"""The objects that configure masquerade, and the destinations that they exempt.

The destinations outside the cluster that are not masqueraded are the union of

    the base           the EgressNATPolicy `default`; without it the ip-masq-agent list; without that the built-in list
    every other        EgressNATPolicy of action NoSNAT without sources
    link-local ranges  unless the ip-masq-agent configuration masquerades them

A policy that isn't enforced counts as absent, also `default`.
"""

from __future__ import annotations

from nfagent.model.egress_nat import DEFAULT_POLICY, EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.gvk import EgressObject
from nfagent.model.ip_masq import CONFIG_MAP, IpMasqConfig
from nfagent.model.netaddr import Range
from nfagent.model.objects import ObjectRef

EGRESS_KINDS = ("ConfigMap", "EgressNATPolicy", "NetworkGatewayGroup")
_DEFAULT = ObjectRef("EgressNATPolicy", "", DEFAULT_POLICY)


class EgressState:
    """The present objects that configure masquerade."""

    def __init__(self) -> None:
        """Start empty."""
        self.objects: dict[ObjectRef, EgressObject] = {}

    def put(self, item: EgressObject) -> bool:
        """Add or replace an object. Return whether it differs."""
        before = self.objects.get(item.ref)
        if isinstance(item, IpMasqConfig):
            item = item.with_last_good(self.ip_masq)
        self.objects[item.ref] = item
        return before != item

    def remove(self, ref: ObjectRef) -> bool:
        """Remove an object. Return whether it existed."""
        return self.objects.pop(ref, None) is not None

    def keys(self, kind: str) -> set[tuple[str, str]]:
        """Return namespace ('' for cluster-scoped kinds) and name of every object of a kind."""
        return {(ref.namespace, ref.name) for ref in self.objects if ref.kind == kind}

    @property
    def ip_masq(self) -> IpMasqConfig | None:
        """The ip-masq-agent configuration; None if there is none."""
        found = self.objects.get(CONFIG_MAP)
        return found if isinstance(found, IpMasqConfig) else None

    @property
    def policies(self) -> dict[str, EgressNATPolicy]:
        """Every EgressNATPolicy by name, sorted."""
        found = (item for item in self.objects.values() if isinstance(item, EgressNATPolicy))
        return {item.name: item for item in sorted(found, key=lambda item: item.name)}

    @property
    def gateways(self) -> dict[ObjectRef, NetworkGatewayGroup]:
        """Every NetworkGatewayGroup."""
        return {ref: item for ref, item in self.objects.items() if isinstance(item, NetworkGatewayGroup)}

    @property
    def base(self) -> ObjectRef | None:
        """The object that the base of the exempt destinations is from; None for the built-in list."""
        found = self.objects.get(_DEFAULT)
        if isinstance(found, EgressNATPolicy) and not found.unenforced:
            return _DEFAULT
        return CONFIG_MAP if self.ip_masq is not None and self.ip_masq.cidrs is not None else None

    @property
    def enforced(self) -> list[EgressNATPolicy]:
        """The policies whose destinations are exempt, by name, including `default`."""
        return [policy for policy in self.policies.values() if not policy.unenforced]

    def exempt(self, *, all_reserved_ranges: bool) -> tuple[Range, ...]:
        """Return the destinations outside the cluster that are not masqueraded; they may overlap."""
        config = self.ip_masq or IpMasqConfig()
        base = () if self.base == _DEFAULT else config.listed(all_reserved_ranges=all_reserved_ranges)
        named = (destination for policy in self.enforced for destination in policy.destinations)
        return (*base, *named, *config.link_local_kept)
