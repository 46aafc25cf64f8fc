"""ICMP errors about allowed connections: accepted from an end of the connection, and from routers.

Conntrack marks any error about a known connection as related, from any source, and the quoted part may be long.
nftables can't compare the source of a packet with the ends of its connection, but it can look both up in a set of pairs
that has each address of this node's Pods paired with itself. A source without a pair is taken for a router: errors of
other nodes' Pods are filtered on their own node.

A client has errors to send only about replies. Without a reply, its connection may have been dropped: on a bridge,
conntrack sees packets in multicast frames before the rules do.

A Pod of this node that is no end may be a router too (of a VPN, for example): policies apply to its error like to any
packet, by its own addresses. So it passes if neither end is isolated, or if a rule without ports allows it.
"""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.model.netaddr import FAMILIES, Family, family_of
from nfagent.model.objects import Direction, Pod
from nfagent.nftables import names
from nfagent.nftables.matches import ConntrackState, CtAddress, CtEnd, CtSeenReply, IpAddress, L4Proto, Match, PairInSet
from nfagent.nftables.objects import Accept, Chain, Element, Goto, NamedSet, Rule

_PAIRS = "podpairs"


def error_rule(direction: Direction, level: int) -> Rule:
    """Return the rule that sends ICMP errors about known connections to their chain."""
    return Rule(
        (ConntrackState(("related",)), L4Proto(("icmp", "icmpv6"))),
        verdict=Goto(_chain_name(direction, level)),
        comment="errors about connections that were allowed",
    )


def error_chain(direction: Direction, level: int, untracked: str) -> tuple[str, Chain]:
    """Return name and chain; an error by neither an end nor a router continues in the chain `untracked`."""
    rules = [rule for family in FAMILIES for rule in _accepting(family)]
    return _chain_name(direction, level), Chain((*rules, Rule(verdict=Goto(untracked))))


def pair_sets() -> Iterator[tuple[str, NamedSet]]:
    """Yield the sets of pairs, one a family, without elements."""
    for family in FAMILIES:
        yield names.set_name(_PAIRS, family), NamedSet("pair", family, comment="Pods of this node, each with itself")


def pair_elements(pod: Pod) -> Iterator[tuple[str, Element]]:
    """Yield the elements of a Pod of this node, each with the name of its set."""
    for address in pod.addresses:
        yield names.set_name(_PAIRS, family_of(address)), (address, address)


def _accepting(family: Family) -> Iterator[Rule]:
    name = names.set_name(_PAIRS, family)
    ends: tuple[tuple[CtEnd, tuple[Match, ...]], ...] = (("client", (CtSeenReply(),)), ("server", ()))
    for end, more in ends:
        comment = f"the {end} of the connection"
        yield Rule((PairInSet(CtAddress(end, family), name), *more), verdict=Accept(), comment=comment)
    no_pod = PairInSet(IpAddress("saddr", family), name, negated=True)
    yield Rule((no_pod,), verdict=Accept(), comment="no Pod of this node: a router")


def _chain_name(direction: Direction, level: int) -> str:
    return names.at_level(f"errors-{direction}", level)
