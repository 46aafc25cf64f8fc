"""What this node does for floating addresses: those that it holds, and the way to those that other nodes hold."""

from __future__ import annotations

import msgspec

from nfagent.model.netaddr import Family


class GatewayRoute(msgspec.Struct, frozen=True):
    """The way of marked packets to the node that holds a floating address.

    number: 1 to 254, the value of the packet mark within the mask's bits
    holder: the node's name; `via` are its addresses of the family
    """

    number: int
    family: Family
    address: str
    holder: str
    via: tuple[str, ...]


class GatewayPlan(msgspec.Struct, frozen=True):
    """The floating addresses that this node holds, and the routes to those held by others that its Pods use."""

    held: tuple[str, ...] = ()
    routes: tuple[GatewayRoute, ...] = ()
