"""The objects that configure masquerade.

For a destination outside the cluster, the first of these decides that has an entry for it:

    policies   every EgressNATPolicy that selects the Pod, but the base: the longest prefix
    base       the EgressNATPolicy `default`; without it the ip-masq-agent list; without that the built-in list;
               with the link-local ranges, unless the ip-masq-agent configuration masquerades them

The ip-masq-agent configuration is the ConfigMap; without it the file; without that the settings. Where a ConfigMap or
a file exists, those behind it count for nothing, also for keys that it omits; but for keys that can't be read and never
could be.

Every other destination is masqueraded. A `default` with sources or of action SNAT is a policy like others, and not the
base. One whose destinations are the built-in list, as the agent creates it, isn't the base where the ip-masq-agent
configuration has a list.
"""

from __future__ import annotations

from nfagent.model.egress_nat import DEFAULT_POLICY, EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.gvk import EgressObject
from nfagent.model.ip_masq import CONFIG_MAP, DEFAULT_CIDRS, RESERVED_CIDRS, IpMasqConfig
from nfagent.model.netaddr import Range
from nfagent.model.objects import ObjectRef

EGRESS_KINDS = ("ConfigMap", "EgressNATPolicy", "NetworkGatewayGroup")
SETTINGS = ObjectRef("setting", "", "masquerade")
"""The settings, as the origin of a list."""
_DEFAULT = ObjectRef("EgressNATPolicy", "", DEFAULT_POLICY)


class EgressState:
    """The present objects that configure masquerade."""

    def __init__(self, given: IpMasqConfig | None = None) -> None:
        """Start without objects; `given` are the lists and switches of the settings."""
        self.objects: dict[ObjectRef, EgressObject] = {}
        self._given = given
        self._file: tuple[ObjectRef, IpMasqConfig] | None = None

    @property
    def file(self) -> IpMasqConfig | None:
        """The ip-masq-agent configuration of the file; None if there is no file."""
        return None if self._file is None else self._file[1]

    def put_file(self, path: str, config: IpMasqConfig | None) -> bool:
        """Apply the file; unread keys have their last good values; None for no file. Return whether it differs."""
        before, self._file = self._file, None if config is None else (ObjectRef("file", "", path), config)
        return before != self._file

    def put(self, item: EgressObject) -> bool:
        """Add or replace an object. Return whether it differs."""
        before = self.objects.get(item.ref)
        if isinstance(item, IpMasqConfig):
            item = item.with_last_good(self.ip_masq)
        self.objects[item.ref] = item
        return before != item

    def copy_file(self, other: EgressState) -> None:
        """Apply the file of another state."""
        self._file = other._file

    def remove(self, ref: ObjectRef) -> bool:
        """Remove an object. Return whether it existed."""
        return self.objects.pop(ref, None) is not None

    def keys(self, kind: str) -> set[tuple[str, str]]:
        """Return namespace ('' for cluster-scoped kinds) and name of every object of a kind."""
        return {(ref.namespace, ref.name) for ref in self.objects if ref.kind == kind}

    @property
    def ip_masq(self) -> IpMasqConfig | None:
        """The ip-masq-agent configuration of the ConfigMap; None if there is none."""
        found = self.objects.get(CONFIG_MAP)
        return found if isinstance(found, IpMasqConfig) else None

    @property
    def _configurations(self) -> list[tuple[ObjectRef, IpMasqConfig]]:
        """The ip-masq-agent configurations, each before those that it replaces, and where they are from."""
        found = [] if self.ip_masq is None else [(CONFIG_MAP, self.ip_masq)]
        return [*found, *([] if self._file is None else [self._file]), (SETTINGS, self._given or IpMasqConfig())]

    @property
    def _in_force(self) -> IpMasqConfig:
        """The ip-masq-agent configuration in force."""
        *others, (_, found) = self._configurations
        for _, config in reversed(others):
            found = config.with_last_good(found)
        return found

    def _list_origin(self, *, inverse: bool) -> ObjectRef:
        """Return where the list in force, or the inverse one, is from; mind keys of a configuration that are unread."""
        for origin, config in self._configurations:
            if (config.translated if inverse else config.cidrs) is not None or not config.lacks_list:
                return origin
        return SETTINGS

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
        """The object that the base of the exempt destinations is from; None for the built-in list.

        Of two objects that a list and an inverse list are from, that of the inverse list.
        """
        config = self._in_force
        found = self.objects.get(_DEFAULT)
        if isinstance(found, EgressNATPolicy) and _is_base(found) and not (config.has_list and is_built_in(found)):
            return _DEFAULT
        return self._list_origin(inverse=config.translated is not None) if config.has_list else None

    def origin(self, entry: Range) -> ObjectRef | None:
        """Return the object that an entry of the base list is from; None for the built-in list."""
        base = self.base
        if base is None or base == _DEFAULT or entry not in (self._in_force.cidrs or ()):
            return base
        return self._list_origin(inverse=False)

    @property
    def replaced_default(self) -> ObjectRef | None:
        """The policy `default` that only repeats the built-in list, where the ip-masq-agent list replaces it."""
        found = self.objects.get(_DEFAULT)
        return _DEFAULT if isinstance(found, EgressNATPolicy) and is_built_in(found) and self.base != _DEFAULT else None

    @property
    def enforced(self) -> list[EgressNATPolicy]:
        """The policies other than the base, by name."""
        return [policy for policy in self.policies.values() if not _is_base(policy)]

    def base_list(self, *, all_reserved_ranges: bool) -> tuple[Range, ...]:
        """Return the destinations outside the cluster that keep the Pod's address if no policy has an entry for them.

        They may overlap.
        """
        config = self._in_force
        base = self.objects.get(_DEFAULT) if self.base == _DEFAULT else None
        if isinstance(base, EgressNATPolicy):
            return (*base.destinations, *config.link_local_kept)
        return (*config.listed(all_reserved_ranges=all_reserved_ranges), *config.link_local_kept)


def is_built_in(policy: EgressNATPolicy) -> bool:
    """Return whether a policy has the built-in list, with or without the reserved ranges, for every Pod."""
    found = set(policy.destinations)
    return _is_base(policy) and found in ({*DEFAULT_CIDRS}, {*DEFAULT_CIDRS, *RESERVED_CIDRS})


def _is_base(policy: EgressNATPolicy) -> bool:
    return policy.name == DEFAULT_POLICY and policy.action == "NoSNAT" and not policy.sources
