"""Under which floating address a Pod's packets leave by a gateway, and which node translates them."""

from __future__ import annotations

import msgspec

from nfagent.egress.gateway_election import GatewayElection, chosen
from nfagent.egress.gateways import MOST_NUMBERS
from nfagent.egress.translation import Translation
from nfagent.model.netaddr import family_of
from nfagent.model.objects import ObjectRef, Pod
from nfagent.state.egress import EgressState


def through_gateway(
    found: Translation, pod: Pod | None, destination: str, egress: EgressState, elected: GatewayElection
) -> Translation:
    """Return a translation with the floating address and its holder, or why the packets are dropped.

    Another kind than gateway stays as it is. elected: the holders for the same objects
    """
    if found.gateway is None:
        return found
    family = family_of(destination)
    own = next((address for address in (pod.addresses if pod else ()) if family_of(address) == family), "")
    floating = chosen(elected.of_group(found.gateway), own) if own else None
    if floating is None:
        return msgspec.structs.replace(found, dropped=_without_address(found.gateway, own, family, egress))
    dropped = ""
    if not floating.holder:
        dropped = f"no Ready Node that {found.gateway} selects can hold {floating.address}"
    elif not floating.number:
        dropped = f"more than {MOST_NUMBERS} floating addresses are in use"
    return msgspec.structs.replace(found, floating=floating.address, holder=floating.holder, dropped=dropped)


def _without_address(group: ObjectRef, own: str, family: int, egress: EgressState) -> str:
    """Return why there is no floating address."""
    if not own:
        return f"the Pod has no address of IPv{family}"
    if group not in egress.gateways:
        return f"{group} doesn't exist"
    return f"{group} has no usable address of IPv{family}"
