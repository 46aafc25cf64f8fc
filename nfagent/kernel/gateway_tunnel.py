"""The tunnel to holders of floating addresses that are on no link of this node.

One interface, `nfagent-gw`, serves all holders and both families: the route of a floating address names the holder.
What it sends has the mark of the packet inside, and must not be routed like it: rules skip those of gateways for
packets that the node sends itself.

The ruleset discards packets to the tunnel's port that no Node has sent. So the interface is made after the commit.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping

from nfagent.egress.gateways import GatewayRoute
from nfagent.egress.tunnel import TUNNEL_LINK, TUNNEL_PORT
from nfagent.kernel.route_requests import RouteRequests
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.netlink.rtnl_tunnel import (
    OVERHEAD,
    LocalMark,
    TunnelHop,
    encode_delete_link,
    encode_dummy_address,
    encode_local_mark,
    encode_new_tunnel,
    encode_tunnel_route,
)

_ABSENT = {errno.ESRCH, errno.ENOENT, errno.ENODEV}
_LARGEST = 1500
"""Bytes: the MTU of the interface."""


class GatewayTunnel:
    """The tunnel during one pass over a plan.

    link:     index of its interface; 0 without it
    problem:  why it could not be made, '' where it could or nothing needed it
    used:     a route leads through it, or an address is held
    """

    def __init__(
        self, kernel: RouteRequests, own: Collection[str], marks: Mapping[Family, LocalMark], *, makes: bool
    ) -> None:
        """Look for the interface; `own` are the Node's addresses. Raises OSError, WireError.

        marks: the rules of what it sends, by family
        makes: make it where it is needed; otherwise only one that exists is used
        """
        self._kernel, self._own, self._marks, self._makes = kernel, own, marks, makes
        self._sources: dict[Family, str] = {}
        self.link, self.problem, self.used = _found(kernel), "", False

    def need(self) -> bool:
        """Make the interface where it doesn't exist; return whether it does now. Raises OSError, WireError."""
        if self.link == 0 and self._makes and not self.problem:
            self._make()
        if self.link and not self.used:
            self._kernel.do(encode_dummy_address(0, self.link), errno.EEXIST)
        self.used = True
        return self.link != 0

    def lead(self, route: GatewayRoute, table: int, protocol: int) -> str:
        """Write the default route of a table to a holder; return why it isn't written, '' where it is.

        Raises OSError, WireError.
        """
        ends = ((address, self._kernel.outgoing_link(address)) for address in route.via)
        address, link = next((found for found in ends if found[1]), ("", 0))
        if not link:
            return f"this node has no route to node {route.holder} at {', '.join(route.via)}"
        if not self.need():
            where = f"node {route.holder} at {address} is not on a link of this node"
            return f"{where}, and there is no tunnel: {self.problem or 'it is made after the next commit'}"
        self._route_what_it_sends(route.family)
        mtu = min(_LARGEST, self._kernel.mtu(link) - OVERHEAD[route.family])
        hop = TunnelHop(address, self._sources[route.family], self.link, mtu)
        self._kernel.do(encode_tunnel_route(0, route.family, table, protocol, hop))
        return ""

    def _route_what_it_sends(self, family: Family) -> None:
        """Prepare what the tunnel sends, once in a pass: its source, and rules that route it as the node's own."""
        if family in self._sources:
            return
        # A Node's external address may be on no interface: the network outside translates it.
        present = {found.address for found in self._kernel.addresses(family)}
        self._sources[family] = next((own for own in self._own if own in present), "")
        for request in encode_local_mark(0, self._marks[family]):
            self._kernel.do(request, errno.EEXIST)

    def _make(self) -> None:
        try:
            self._kernel.do(encode_new_tunnel(0, TUNNEL_LINK, TUNNEL_PORT))
        except OSError as error:
            self.problem = refusal(error.errno or 0)
            return
        self.link = _found(self._kernel)


def remove_tunnel(kernel: RouteRequests, around: tuple[int, int], protocol: int) -> None:
    """Remove the interface, and the rules of what it sends, which have these priorities. Raises OSError, WireError."""
    link = _found(kernel)
    if link:
        kernel.do(encode_delete_link(0, link), *_ABSENT)
    for family in FAMILIES:
        # Without a mark, a request is for rules of any: those of an earlier setting too.
        for request in encode_local_mark(0, LocalMark(family, 0, *around, protocol), delete=True):
            while kernel.do(request, *_ABSENT) == 0:
                pass


def _found(kernel: RouteRequests) -> int:
    """Return the index of our interface; 0 where there is none, or one of another program with its name."""
    found = kernel.interface(TUNNEL_LINK)
    ours = found is not None and (found.kind, found.port, found.up) == ("vxlan", TUNNEL_PORT, True)
    return found.index if found is not None and ours else 0


def refusal(code: int) -> str:
    """Return why the kernel makes no interface, by errno, and what to do."""
    if code == errno.EOPNOTSUPP:
        return "the kernel has no VXLAN: run `modprobe vxlan`"
    if code == errno.EADDRINUSE:
        return f"another program has UDP port {TUNNEL_PORT}"
    if code == errno.EEXIST:
        return f"another interface has the name {TUNNEL_LINK}: remove it with `ip link delete {TUNNEL_LINK}`"
    return f"interface {TUNNEL_LINK} is refused: {os.strerror(code)}"
