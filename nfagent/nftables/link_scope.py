"""Rules for link scope: link-local addresses, broadcast and multicast, neighbour and listener discovery.

The verdict maps have no such address, and a bridge floods such a packet to all of its ports. So these rules give the
verdict, for all Pods of a node alike, before the maps are looked up.

Neighbour discovery (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810) are never blocked: IPv6 doesn't
work without them. They are recognised by properties that a router can't forge: a hop limit of 255, which no routed
packet has, or a source that is never routed. Conntrack leaves these types untracked.
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
    Match,
    MaxPayload,
    MulticastAddress,
    MulticastFrame,
    Within,
)
from nfagent.nftables.objects import Accept, Chain, Drop, Goto, Jump, NamedSet, Rule

LINK_LOCAL_COUNTER = "drop/link-local"
MULTICAST_COUNTER = "drop/multicast"
ISOLATED = "isolated"
"""The set of the families in which a Pod of this node is isolated for ingress."""

LINK_LOCAL = parse_cidr("fe80::/10")
SANE = (Icmpv6Code(0), HopLimit(255))
"""Matches that hold for every message of neighbour discovery (RFC 4861, 6.1 and 7.1)."""
_MULTICAST = parse_cidr("ff00::/8")
_UNSPECIFIED = single("::")
_LINK_LOCAL_CHAIN = "forward-link-local"
_MULTICAST_CHAIN = "forward-multicast"
_SEARCH_CHAIN = "forward-groups"

LONGEST_SOLICITATION = 64
"""Bytes of the longest valid solicitation or neighbour advertisement: its 24 (RFC 4861, 4.3), and three options.

A link-layer address (16 on InfiniBand, RFC 4391), a nonce (8, RFC 7527) and an address registration (16, RFC 8505).
"""
_LONGEST_ADVERTISEMENT = 1240
"""Bytes of a redirect, which may quote a packet until it has IPv6's least MTU of 1280 itself (RFC 4861, 4.5).

A router with more to advertise sends several advertisements (RFC 4861, 6.2.3), which may not be fragmented (RFC 6980).
"""


def discovery() -> tuple[Rule, ...]:
    """Return the rules that accept neighbour and listener discovery, limited to the forms of their RFCs."""
    message = Icmpv6Type
    from_router = Within(IpAddress("saddr", 6), (LINK_LOCAL,))
    from_listener = Within(IpAddress("saddr", 6), (_UNSPECIFIED, LINK_LOCAL))
    hosts = message(("nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"))
    routers = message(("nd-router-advert", "nd-redirect"))
    listeners = message(("mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"))
    return (
        Rule(
            (hosts, *SANE, MaxPayload(LONGEST_SOLICITATION)),
            verdict=Accept(),
            comment="neighbour discovery is never blocked",
        ),
        Rule(
            (routers, *SANE, from_router, MaxPayload(_LONGEST_ADVERTISEMENT)),
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
    """Yield the rules that send packets with a link-local address to their chain.

    They come after the accept of established connections, and cost these nothing. A link-local connection older than
    these rules is checked again with every re-check of IPv6 connections, and its conntrack entry is then deleted.
    """
    for side in ("saddr", "daddr"):
        yield Rule((Within(IpAddress(side, 6), (LINK_LOCAL,)),), verdict=Goto(_LINK_LOCAL_CHAIN))


def multicast_rules() -> Iterator[Rule]:
    """Yield the rule that searches for broadcast and multicast, in families with a Pod isolated for ingress."""
    yield Rule((FamilyInSet(ISOLATED),), verdict=Jump(_SEARCH_CHAIN))


def _multicast_search_chain() -> Chain:
    """Return the chain that sends broadcast and multicast to their chain.

    `meta pkttype` finds such frames, with any destination address; `fib daddr type` finds such addresses, in any frame.
    The fib look-up costs more than all other matches, and no router forwards broadcast: so only packets from a bridge,
    which may not have been routed, are looked up.
    """
    of_ipv4: tuple[Match, ...] = (FromBridge(), FamilyIs(4), MulticastAddress())
    of_ipv6 = Within(IpAddress("daddr", 6), (_MULTICAST,))
    found = ((MulticastFrame(),), of_ipv4, (of_ipv6,))
    return Chain(tuple(Rule(matches, verdict=Goto(_MULTICAST_CHAIN)) for matches in found))


def link_scope_chains() -> Iterator[tuple[str, Chain]]:
    """Yield the chains that these rules refer to."""
    yield _SEARCH_CHAIN, _multicast_search_chain()
    counters = {_LINK_LOCAL_CHAIN: LINK_LOCAL_COUNTER, _MULTICAST_CHAIN: MULTICAST_COUNTER}
    for name, counter in counters.items():
        yield name, Chain((*discovery(), Rule(counter=counter, verdict=Drop())))


def isolated_set() -> NamedSet:
    """Return the set of families in which multicast is filtered, without elements."""
    return NamedSet("family", 4, comment="families in which ingress of a Pod is isolated")
