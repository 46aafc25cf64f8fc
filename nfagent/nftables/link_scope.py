"""What never leaves a link: link-local addresses, broadcast and groups, the messages that find neighbours.

No map leads from such an address to a class, and a bridge takes such a packet to all of its ports. So it is decided
here, for all Pods of a node alike, before the classes are asked.

Neighbour discovery (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810) are never blocked: IPv6 is deaf
without them. They are known by what routers can't forge: a hop limit of 255, which no routed packet has any more, and a
source that is never routed. Conntrack leaves these types untracked.
"""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.model.netaddr import parse_cidr, single
from nfagent.nftables.matches import (
    FamilyInSet,
    FamilyIs,
    FromBridge,
    HopLimit,
    Icmpv6Code,
    Icmpv6Type,
    IpAddress,
    LongestPayload,
    Match,
    MulticastAddress,
    MulticastFrame,
    Within,
)
from nfagent.nftables.objects import Accept, Chain, Drop, Goto, Jump, NamedSet, Rule

LINK_LOCAL_COUNTER = "drop/link-local"
GROUP_COUNTER = "drop/multicast"
ISOLATED = "isolated"
"""The set of the families in which a Pod of this node is isolated for ingress."""

LINK_LOCAL = parse_cidr("fe80::/10")
SANE = (Icmpv6Code(0), HopLimit(255))
"""What every message of neighbour discovery has (RFC 4861, 6.1 and 7.1)."""
_GROUPS = parse_cidr("ff00::/8")
_UNSPECIFIED = single("::")
_LINK_LOCAL_CHAIN = "forward-link-local"
_GROUP_CHAIN = "forward-multicast"
_SEARCH_CHAIN = "forward-groups"

LONGEST_SOLICITATION = 64
"""Bytes of the longest honest solicitation or neighbour advertisement: its 24 (RFC 4861, 4.3), and three options.

A link-layer address (16 on InfiniBand, RFC 4391), a nonce (8, RFC 7527) and an address registration (16, RFC 8505).
"""
_LONGEST_ADVERTISEMENT = 1240
"""Bytes of a redirect, which may quote a packet until it has IPv6's least MTU of 1280 itself (RFC 4861, 4.5).

A router with more to advertise sends several advertisements (RFC 4861, 6.2.3), which may not be fragmented (RFC 6980).
"""


def discovery() -> tuple[Rule, ...]:
    """Give the rules that accept what finds neighbours and listeners, such as their RFCs have it, and nothing else."""
    message = Icmpv6Type
    from_router = Within(IpAddress("saddr", 6), (LINK_LOCAL,))
    from_listener = Within(IpAddress("saddr", 6), (_UNSPECIFIED, LINK_LOCAL))
    hosts = message(("nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"))
    routers = message(("nd-router-advert", "nd-redirect"))
    listeners = message(("mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"))
    return (
        Rule(
            (hosts, *SANE, LongestPayload(LONGEST_SOLICITATION)),
            verdict=Accept(),
            comment="neighbour discovery is never blocked",
        ),
        Rule(
            (routers, *SANE, from_router, LongestPayload(_LONGEST_ADVERTISEMENT)),
            verdict=Accept(),
            comment="neither is a router's part of it",
        ),
        Rule(
            (listeners, Icmpv6Code(0), HopLimit(1), from_listener),
            verdict=Accept(),
            comment="nor what says who listens to a group",
        ),
    )


def link_local_rules() -> Iterator[Rule]:
    """Give the rules that send packets with a link-local address to their chain.

    They stand behind the short way of established connections, and cost these nothing. One that began before there
    were these rules is under re-check whenever others of IPv6 are: its entry is deleted then (`revoke`).
    """
    for side in ("saddr", "daddr"):
        yield Rule((Within(IpAddress(side, 6), (LINK_LOCAL,)),), verdict=Goto(_LINK_LOCAL_CHAIN))


def group_rules() -> Iterator[Rule]:
    """Give the rule that looks for broadcast and groups, in families in which a Pod is isolated for ingress."""
    yield Rule((FamilyInSet(ISOLATED),), verdict=Jump(_SEARCH_CHAIN))


def _group_search() -> Chain:
    """Send broadcast and groups to their chain.

    The link knows what it delivered to all, by whatever address; the routes know what is for all, however it came. A
    look at the routes costs more than all the rest, and no router forwards what they call broadcast: so only what came
    in by a bridge, which may not have been routed, is looked at.
    """
    of_ipv4: tuple[Match, ...] = (FromBridge(), FamilyIs(4), MulticastAddress())
    of_ipv6 = Within(IpAddress("daddr", 6), (_GROUPS,))
    found = ((MulticastFrame(),), of_ipv4, (of_ipv6,))
    return Chain(tuple(Rule(matches, verdict=Goto(_GROUP_CHAIN)) for matches in found))


def link_scope_chains() -> Iterator[tuple[str, Chain]]:
    """Give the chains where these rules lead to."""
    yield _SEARCH_CHAIN, _group_search()
    ends = {_LINK_LOCAL_CHAIN: LINK_LOCAL_COUNTER, _GROUP_CHAIN: GROUP_COUNTER}
    for name, counter in ends.items():
        yield name, Chain((*discovery(), Rule(counter=counter, verdict=Drop())))


def isolated_set() -> NamedSet:
    """Give the set of families that groups are closed in, without elements."""
    return NamedSet("family", 4, comment="families in which ingress of a Pod is isolated")
