"""Counts of verdicts by Pod: sets with an element for each address of a local Pod, whose elements have counters.

    counted-DISPOSITION-DIRECTION4, ...6   the addresses, with counters
    count/DISPOSITION/DIRECTION            where verdict chains end: look up the Pod, accept or drop

A look-up counts. An allowed connection is counted once, at its first packet; of denied ones every packet is. Rules
match the Pod's end of the connection, as rules of policies do; of packets without one, and of ICMP errors, the header.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from nfagent.model.netaddr import FAMILIES, Family
from nfagent.model.objects import DIRECTIONS, Direction
from nfagent.nftables import names
from nfagent.nftables.matches import AddressInSet, ConntrackState, CtAddress, CtUnconfirmed, IpAddress, Match
from nfagent.nftables.objects import Accept, Chain, Drop, NamedSet, Rule
from nfagent.nftables.verdict_keys import DISPOSITIONS, Disposition

_BY_HEADER = ConntrackState(("invalid", "related", "untracked"))


def count_chain(disposition: Disposition, direction: Direction) -> str:
    """Return the name of the chain in which verdict chains end."""
    return f"count/{disposition}/{direction}"


def counted_set(disposition: Disposition, direction: Direction, family: Family) -> str:
    """Return the name of the set of local Pods' addresses with their counters."""
    return names.set_name(f"counted-{disposition}-{direction}", family)


def counted_sets(family: Family) -> tuple[str, ...]:
    """Return the names of all sets of a family."""
    return tuple(
        counted_set(disposition, direction, family) for disposition, direction in product(DISPOSITIONS, DIRECTIONS)
    )


COUNTED_SETS = frozenset(name for family in FAMILIES for name in counted_sets(family))
"""The names of all sets whose elements count."""


def count_shapes() -> Iterator[tuple[str, NamedSet]]:
    """Yield the sets, without elements."""
    for family, disposition, direction in product(FAMILIES, DISPOSITIONS, DIRECTIONS):
        about = f"this node's Pods, each with its count of {disposition} in {direction}"
        yield counted_set(disposition, direction, family), NamedSet("counted", family, comment=about)


def count_chains() -> Iterator[tuple[str, Chain]]:
    """Yield the chains."""
    for disposition, direction in product(DISPOSITIONS, DIRECTIONS):
        yield count_chain(disposition, direction), _chain(disposition, direction)


def _chain(disposition: Disposition, direction: Direction) -> Chain:
    denies = disposition == "deny"
    verdict = Drop() if denies else Accept()
    first: tuple[Match, ...] = () if denies else (CtUnconfirmed(),)
    sets = {family: counted_set(disposition, direction, family) for family in FAMILIES}
    matches: tuple[tuple[Match, ...], ...] = (
        *((_BY_HEADER, AddressInSet(_header(direction, family), name)) for family, name in sets.items()),
        (_BY_HEADER,),
        *((*first, AddressInSet(_end(direction, family), name)) for family, name in sets.items()),
        (),
    )
    return Chain(tuple(Rule(found, verdict=verdict) for found in matches))


def _end(direction: Direction, family: Family) -> CtAddress:
    return CtAddress("server" if direction == "ingress" else "client", family)


def _header(direction: Direction, family: Family) -> IpAddress:
    return IpAddress("daddr" if direction == "ingress" else "saddr", family)
