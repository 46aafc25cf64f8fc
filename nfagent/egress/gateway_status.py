"""What is wrong with policies that name gateways, and with the groups: for conditions and `dump policies`."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from nfagent.egress.gateway_election import GatewayElection, GatewayProblem
from nfagent.egress.gateways import FloatingAddress
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.objects import ObjectRef
from nfagent.state.egress import EgressState


class GatewayFault(msgspec.Struct, frozen=True):
    """Why a policy or a group has no effect, or not all of it; reason: a word, as in conditions."""

    reason: str
    text: str


class GatewayStatus(msgspec.Struct, frozen=True):
    """The outcome of an election.

    groups:    every NetworkGatewayGroup that exists
    used:      the groups that enforced policies name
    addresses: the usable ones of those
    problems:  why others aren't used
    """

    groups: frozenset[ObjectRef] = frozenset()
    used: frozenset[ObjectRef] = frozenset()
    addresses: tuple[FloatingAddress, ...] = ()
    problems: tuple[GatewayProblem, ...] = ()

    def of_group(self, group: ObjectRef) -> tuple[FloatingAddress, ...]:
        """Return the usable addresses of a group."""
        return tuple(item for item in self.addresses if item.group == group)

    def policy_fault(self, policy: EgressNATPolicy) -> GatewayFault | None:
        """Return why packets of a policy are dropped; None if none are, or it names no gateway."""
        group = policy.gateway
        if group is None:
            return None
        if group not in self.groups:
            return _dropped("NoGateway", f"{group} doesn't exist")
        found, wanted = self.of_group(group), {item.family for item in policy.destinations}
        missing = sorted(wanted - {item.family for item in found})
        if missing:
            families = " and ".join(f"IPv{family}" for family in missing)
            return _dropped("NoGateway", f"{group} has no usable address of {families}")
        idle = [item.address for item in found if not item.holder and item.family in wanted]
        if idle:
            return _dropped("NoHolder", f"no Ready Node that {group} selects can hold {', '.join(idle)}")
        return None

    def group_fault(self, group: NetworkGatewayGroup) -> GatewayFault | None:
        """Return why addresses of a group aren't held; None if all of them are."""
        if group.ref not in self.used:
            return GatewayFault("NotUsed", "no EgressNATPolicy names this group: no node holds its addresses")
        unused = [f"{item.address} is not used: {item.reason}" for item in self.problems if item.group == group.ref]
        idle = [item.address for item in self.of_group(group.ref) if not item.holder]
        if idle:
            which = f"that nodeSelector {group.nodes} matches " if group.nodes.requirements else ""
            text = f"no Ready Node {which}can hold {', '.join(idle)}: packets that would have it are dropped"
            return GatewayFault("NoHolder", "; ".join([text, *unused]))
        return GatewayFault("AddressesNotUsed", "; ".join(unused)) if unused else None

    def held_text(self, group: NetworkGatewayGroup) -> str:
        """Return which nodes hold the addresses of a group."""
        found = self.of_group(group.ref)
        return ", ".join(f"{item.address} by {item.holder}" for item in found if item.holder)


NO_GATEWAYS = GatewayStatus()
"""Where no group exists."""


def gateway_status(egress: EgressState, elected: GatewayElection) -> GatewayStatus:
    """Return the status of an election for the same objects."""
    named: Collection[ObjectRef] = {policy.gateway for policy in egress.enforced if policy.gateway is not None}
    return GatewayStatus(
        frozenset(egress.gateways), frozenset(named), tuple(elected.addresses.values()), elected.problems
    )


def _dropped(reason: str, why: str) -> GatewayFault:
    return GatewayFault(reason, f"{why}: packets that would have it are dropped")
