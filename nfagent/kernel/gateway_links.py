"""Makes addresses, routing rules and routes of this node equal to a GatewayPlan, in the calling thread's namespace.

Floating addresses are on the interface that has the node's own address. Packets with a route's mark are routed by a
table of their own, whose default route leads to the holder: through a tunnel where it is on no link of this node. Other
packets whose mark says that another node holds the address are discarded, since by the main table they would leave
under another one. All of it carries a number of ours: what an earlier run left is found by it, and nothing of other
programs is changed.

A request never waits, and takes some 20 us; a rule of a new table 500 us.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager

import msgspec

from nfagent.egress.gateways import GatewayPlan, GatewayRoute, MarkBits
from nfagent.egress.neighbour_frames import announcement
from nfagent.errors import KernelError, WireError
from nfagent.kernel.gateway_tunnel import GatewayTunnel, remove_tunnel
from nfagent.kernel.reverse_path import discards
from nfagent.kernel.route_requests import RouteRequests
from nfagent.model.netaddr import Family, family_of
from nfagent.netlink.rtnl_address import (
    InterfaceAddress,
    encode_delete_address,
    encode_new_address,
)
from nfagent.netlink.rtnl_neighbour import encode_delete_neighbour
from nfagent.netlink.rtnl_rule import (
    MarkRule,
    NextHop,
    encode_default_route,
    encode_delete_default_route,
    encode_delete_rule,
    encode_new_rule,
)
from nfagent.netlink.rtnl_tunnel import LocalMark

PROTOCOL = 78
"""Of our rules, routes and (Linux 5.18) addresses: a number that /etc/iproute2/rt_protos gives to no program."""
TABLE_BASE = 0x6E6600
"""The number of a route's table is this plus its number. It is also the metric that marks our addresses."""
PRIORITY = 1078
"""Of our rules: after `local` (0), before `main` (32766). The rule that discards other marks follows."""
_AROUND = (PRIORITY - 1, PRIORITY + 2)
"""Priorities of the rules by which what the tunnel sends skips these."""
_RIGHTS = (
    "hosts on its link send to the holder before until they ask anew. To announce it takes CAP_NET_RAW and AF_PACKET: "
    "run `systemctl edit nfagent`, and add to [Service] the lines CapabilityBoundingSet=CAP_NET_RAW and "
    "RestrictAddressFamilies=AF_PACKET; to a DaemonSet's container, give the capability NET_RAW"
)
_NO_TUNNEL = "packets from nodes that are on no link of this node are dropped"
_FAMILIES: tuple[Family, ...] = (4, 6)
_ETHERNET = 1  # ARPHRD_ETHER
_LOOPBACK = 1  # the index of lo, in every network namespace
_ABSENT = {errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL}


class Outcome(msgspec.Struct, frozen=True):
    """What became of a plan.

    gained:   addresses that were added, to be announced
    problems: what of the plan could not be done, and why
    lasting:  problems that an administrator has to end: to try again soon doesn't help
    """

    gained: tuple[InterfaceAddress, ...] = ()
    problems: tuple[str, ...] = ()
    lasting: tuple[str, ...] = ()


class GatewayLinks:
    """Carries out the plans of one node; opens a socket for each call."""

    def __init__(self, mark: MarkBits) -> None:
        """Store the bits of the packet mark that hold a route's number."""
        self._mark = mark
        self._own: Collection[str] = ()
        self._reached: dict[str, str] = {}

    def add_routes(self, plan: GatewayPlan) -> Generator[None, None, tuple[str, ...]]:
        """Add and replace the rules and routes of a plan, in steps; remove nothing. Return problems.

        The first step discards packets with a mark that has no route yet. Raises KernelError.
        """
        with _requests() as kernel:
            tunnel = GatewayTunnel(kernel, self._own, self._local_marks(), makes=False)
            return (yield from self._add_routes(kernel, plan, tunnel))

    def apply(self, plan: GatewayPlan, own: Collection[str]) -> Generator[None, None, Outcome]:
        """Make addresses, rules, routes and the tunnel equal to a plan, in steps; `own` are the Node's addresses.

        Raises KernelError.
        """
        self._own = own
        with _requests() as kernel:
            tunnel = GatewayTunnel(kernel, own, self._local_marks(), makes=True)
            dropped = yield from self._add_routes(kernel, plan, tunnel)
            yield from _remove_rules(kernel, [*map(self._rule, plan.routes), *_guards(plan, self._mark)])
            lasting = [] if not plan.held or tunnel.need() else [f"{_NO_TUNNEL}: {tunnel.problem}"]
            if not tunnel.used:
                remove_tunnel(kernel, _AROUND, PROTOCOL)
            gained, problems = _apply_addresses(kernel, plan.held, own)
            self._reached = {route.address: route.holder for route in plan.routes}
            links = {found.link for found in kernel.addresses(4) if found.metric == TABLE_BASE}
            lasting += discards(sorted({*links, tunnel.link} - {0}) if links else ())
        if tunnel.problem:
            return Outcome(tuple(gained), tuple(problems), (*dropped, *lasting))
        return Outcome(tuple(gained), (*dropped, *problems), tuple(lasting))

    def _add_routes(
        self, kernel: RouteRequests, plan: GatewayPlan, tunnel: GatewayTunnel
    ) -> Generator[None, None, tuple[str, ...]]:
        problems = []
        for guard in _guards(plan, self._mark):
            kernel.do(encode_new_rule(0, guard), errno.EEXIST)
        yield
        for route in plan.routes:
            problem, hop = _write_route(kernel, route, tunnel)
            if problem:
                problems.append(problem)
            if hop is not None and self._reached.get(route.address) != route.holder:
                # The entry of the holder before. It may have answered again until the ruleset was committed.
                kernel.do(encode_delete_neighbour(0, hop.address, hop.link), *_ABSENT)
            kernel.do(encode_new_rule(0, self._rule(route)), errno.EEXIST)
            yield
        return tuple(problems)

    def _local_marks(self) -> dict[Family, LocalMark]:
        return {family: LocalMark(family, self._mark.routed, *_AROUND, PROTOCOL) for family in _FAMILIES}

    def announce(self, held: InterfaceAddress) -> None:
        """Tell the neighbours once that this node has an address. Raises KernelError."""
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK) as opened:
                # Protocol 0: this socket receives nothing.
                opened.bind((socket.if_indextoname(held.link), 0))
                _, _, _, hardware, mac = opened.getsockname()
                if hardware == _ETHERNET:
                    opened.send(announcement(held.address, mac))
        except OSError as error:
            hint = _RIGHTS if error.errno in {errno.EPERM, errno.EAFNOSUPPORT} else ""
            raise KernelError(f"cannot announce {held.address}: {os.strerror(error.errno or 0)}", hint=hint) from error

    def _rule(self, route: GatewayRoute) -> MarkRule:
        mark, table = self._mark.of_routed(route.number), TABLE_BASE + route.number
        return MarkRule(route.family, PRIORITY, mark, self._mark.mask, PROTOCOL, table)


def remove_gateway_links() -> tuple[int, int]:
    """Remove what is ours from this node; return the numbers of addresses and of rules. Raises KernelError."""
    with _requests() as kernel:
        rules = sum(1 for _ in _remove_rules(kernel, ()))
        remove_tunnel(kernel, _AROUND, PROTOCOL)
        listed = [found for family in _FAMILIES for found in kernel.addresses(family)]
        ours = [found for found in listed if found.metric == TABLE_BASE]
        for found in ours:
            kernel.do(encode_delete_address(0, found), *_ABSENT)
    return len(ours), rules


def _guards(plan: GatewayPlan, mark: MarkBits) -> list[MarkRule]:
    """Return the rules that discard packets for another node's address whose mark has no rule of its own.

    They stay where this node holds all addresses: packets that were marked before are still on their way.
    """
    families = sorted({*(route.family for route in plan.routes), *map(family_of, plan.held)})
    return [MarkRule(family, PRIORITY + 1, mark.routed, mark.routed, PROTOCOL, discards=True) for family in families]


def _write_route(kernel: RouteRequests, route: GatewayRoute, tunnel: GatewayTunnel) -> tuple[str, NextHop | None]:
    """Write the default route of a route's table.

    Return why its packets are dropped, '' where they are not; and its next hop on a link.
    """
    table = TABLE_BASE + route.number
    hops = (NextHop(address, kernel.neighbour_link(address)) for address in route.via)
    hop = next((found for found in hops if found.link), None)
    if hop is not None:
        return "", _write_next_hop(kernel, route, table, hop)
    why = (
        tunnel.lead(route, table, PROTOCOL) if route.via else f"node {route.holder} has no address of IPv{route.family}"
    )
    if not why:
        return "", None
    kernel.do(encode_default_route(0, route.family, table, PROTOCOL, None))
    return f"packets for gateway {route.address} are dropped: {why}", None


def _write_next_hop(kernel: RouteRequests, route: GatewayRoute, table: int, holder: NextHop) -> NextHop:
    """Make the floating address itself the next hop on the holder's link: only who has it receives the packets.

    A holder without a ruleset, before its agent's first commit or after `nfagent cleanup`, would forward them with the
    address of their Pod. The kernel refuses a next hop that this node has itself: until it is given up, and the plan
    compared again, the holder's own address is the next hop.
    """
    for hop in (NextHop(route.address, holder.link), holder):
        if kernel.do(encode_default_route(0, route.family, table, PROTOCOL, hop), errno.EINVAL) == 0:
            return hop
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _apply_addresses(
    kernel: RouteRequests, held: Collection[str], own: Collection[str]
) -> tuple[list[InterfaceAddress], list[str]]:
    listed = [found for family in _FAMILIES for found in kernel.addresses(family)]
    ours = {found for found in listed if found.metric == TABLE_BASE}
    wanted, problems = set(), []
    for address in held:
        links = {
            found.link for found in listed if found.address in own and family_of(found.address) == family_of(address)
        }
        # Where several interfaces have the node's address: an address stays where it is, and is rarely on lo.
        kept = sorted(found.link for found in ours if found.address == address and found.link in links)
        if links:
            link = kept[0] if kept else min(links, key=lambda index: (index == _LOOPBACK, index))
            wanted.add(InterfaceAddress(address, link, TABLE_BASE))
        else:
            problems.append(f"gateway {address} is not held: no interface has the Node's address of its family")
    for found in ours - wanted:
        kernel.do(encode_delete_address(0, found), *_ABSENT)
    others = {found.address for found in listed if found not in ours}
    gained = []
    for found in sorted(wanted - ours, key=lambda item: item.address):
        if found.address in others:
            problems.append(f"gateway {found.address} is not held: another program has set it on an interface")
            continue
        try:
            kernel.do(encode_new_address(0, found, PROTOCOL))
        except OSError as error:
            problems.append(f"gateway {found.address} is not held: {os.strerror(error.errno or 0)}")
        else:
            gained.append(found)
    return gained, problems


def _remove_rules(kernel: RouteRequests, wanted: Collection[MarkRule]) -> Iterator[None]:
    """Remove our rules but those wanted, each after the route of its table; yield after each."""
    held = [rule for family in _FAMILIES for rule in kernel.rules(family) if rule.protocol == PROTOCOL]
    kept = {(rule.family, rule.table) for rule in wanted}
    # The rules that discard what has none go last.
    for rule in sorted(set(held).difference(wanted), key=lambda rule: rule.priority):
        if not rule.discards and (rule.family, rule.table) not in kept:
            kernel.do(encode_delete_default_route(0, rule.family, rule.table, PROTOCOL), *_ABSENT)
        kernel.do(encode_delete_rule(0, rule), *_ABSENT)
        yield


@contextmanager
def _requests() -> Iterator[RouteRequests]:
    """Open a socket for requests. Raises KernelError for what the kernel refuses, or an unreadable reply."""
    try:
        with RouteRequests() as kernel:
            yield kernel
    except (OSError, WireError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise KernelError(f"cannot set up gateway addresses and routes: {reason}") from error
