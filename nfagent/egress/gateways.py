"""What this node does for floating addresses: those that it holds, and the way to those that other nodes hold.

A packet to a destination that sees a floating address carries a number in some bits of its packet mark, from its
Pod's node on. The highest of these bits says that another node holds the address: rules route such packets to it. The
holder translates packets with the number of an address that it holds. Marks don't leave a node.
"""

from __future__ import annotations

import msgspec

from nfagent.model.netaddr import Family, Range, parse_cidr, single
from nfagent.model.objects import ObjectRef

LINK_SCOPE: dict[Family, tuple[Range, ...]] = {
    4: (parse_cidr("169.254.0.0/16"), parse_cidr("224.0.0.0/4"), single("255.255.255.255")),
    6: (parse_cidr("fe80::/10"), parse_cidr("ff00::/8")),
}
"""Destinations on the sender's own link: no other node can reach them for it, so no floating address is used there."""
MOST_NUMBERS = 127
"""Numbers of addresses that a node holds, and as many of those that other nodes hold."""


class FloatingAddress(msgspec.Struct, frozen=True):
    """A floating address that policies may use.

    address: canonical
    group:   the NetworkGatewayGroup that has it
    holder:  the node that holds it, by name; '' if no Ready node matches the group's nodeSelector
    number:  1 to MOST_NUMBERS on this node, for its mark; 0 if all of them are in use
    """

    address: str
    family: Family
    group: ObjectRef
    holder: str = ""
    number: int = 0


class GatewayRoute(msgspec.Struct, frozen=True):
    """The way of marked packets to the node that holds a floating address.

    number: the FloatingAddress's
    holder: the node's name; `via` are its addresses of the family
    """

    number: int
    family: Family
    address: str
    holder: str
    via: tuple[str, ...]


class GatewayPlan(msgspec.Struct, frozen=True):
    """The floating addresses that this node holds, and the routes to those that other nodes hold.

    reselected: grows where Pods of this node with live connections may leave under a held address from now on
    """

    held: tuple[str, ...] = ()
    routes: tuple[GatewayRoute, ...] = ()
    reselected: int = 0


class MarkBits(msgspec.Struct, frozen=True):
    """The eight contiguous bits of the packet mark that hold a number, as a mask."""

    mask: int

    @property
    def routed(self) -> int:
        """The bit that marks packets for an address that another node holds."""
        return self.mask & ~(self.mask >> 1)

    def of_held(self, number: int) -> int:
        """Return the mark of packets for an address that this node holds."""
        return number * (self.mask & -self.mask)

    def of_routed(self, number: int) -> int:
        """Return the mark of packets for an address that another node holds."""
        return self.routed | self.of_held(number)
