"""Who may send an ICMP error about a connection that was allowed: an end of it, or a router on its way.

Conntrack calls any error about a known connection related, whoever sent it, and what it quotes may be long. nftables
can't compare a packet's source with its connection's ends, but it can look both up in a set that holds each address
of this node's Pods with itself. Whoever has none of these addresses counts as a router: another node judges its Pods.

A client has errors to send about answers alone. Without one, its connection may be one that was dropped: a bridge has
conntrack know what came in a frame for a group before the rules judge it.

A Pod of this node that is no end may be a router too (a VPN's, for one): its error is judged like any packet, by its
own addresses. So it passes where nobody isolates the two, and else where a rule without ports allows it.
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
    """Give the rule that sends errors about known connections to their chain."""
    return Rule(
        (ConntrackState(("related",)), L4Proto(("icmp", "icmpv6"))),
        verdict=Goto(_chain_name(direction, level)),
        comment="errors about connections that were allowed",
    )


def error_chain(direction: Direction, level: int, stray: str) -> tuple[str, Chain]:
    """Give that chain, by its name; who is no end and no router is judged in the chain `stray`."""
    rules = [rule for family in FAMILIES for rule in _accepting(family)]
    return _chain_name(direction, level), Chain((*rules, Rule(verdict=Goto(stray))))


def pair_sets() -> Iterator[tuple[str, NamedSet]]:
    """Give the sets of this node's Pods, without elements."""
    for family in FAMILIES:
        yield names.set_name(_PAIRS, family), NamedSet("pair", family, comment="Pods of this node, each with itself")


def pairs_of(pod: Pod) -> Iterator[tuple[str, Element]]:
    """Give the elements that a Pod of this node brings, each with its set."""
    for address in pod.addresses:
        yield names.set_name(_PAIRS, family_of(address)), (address, address)


def _accepting(family: Family) -> Iterator[Rule]:
    name = names.set_name(_PAIRS, family)
    ends: tuple[tuple[CtEnd, tuple[Match, ...]], ...] = (("client", (CtSeenReply(),)), ("server", ()))
    for end, more in ends:
        comment = f"the {end} of the connection"
        yield Rule((PairInSet(CtAddress(end, family), name), *more), verdict=Accept(), comment=comment)
    nobody = PairInSet(IpAddress("saddr", family), name, negated=True)
    yield Rule((nobody,), verdict=Accept(), comment="no Pod of this node: a router")


def _chain_name(direction: Direction, level: int) -> str:
    return names.at_level(f"errors-{direction}", level)
