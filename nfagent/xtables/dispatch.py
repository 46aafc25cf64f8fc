"""Verdict maps: from an address to the chain that goes on, without a walk over Pods.

A set has all addresses of a map, one set each those that lead to one chain. The addresses are in sixteen groups, with a
set each too. So a packet of a Pod meets at most sixteen look-ups to find its group, and one for each chain that
addresses of the group lead to; a packet of any other address meets one.

An address stays in its group whichever chain it leads to: a Pod with other policies has another rule in the chains of
one group, and one restore of these leads it from its old chain to its new one.

A map has several chains that look it up: by the source or the destination, for each direction of packets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Literal, TypeAlias

from nfagent.model.netaddr import FAMILIES, Family, number
from nfagent.nftables.matches import CtAddress, CtDirection, IpAddress
from nfagent.nftables.names import egress_nat_map
from nfagent.xtables.context import ORIGINAL, REPLY, Conjunction, RuleContext, is_by_direction, side_of_end, variant_of
from nfagent.xtables.matches import in_set
from nfagent.xtables.names import chain_name, set_name
from nfagent.xtables.objects import IpSet, TableName, XtChain, XtRule
from nfagent.xtables.set_parts import MEMBERS

GROUPS = 16
_REMEMBERED = 4_096
"""Addresses whose group is kept, and rules of chains: making one costs more than a look-up."""
Side: TypeAlias = Literal["src", "dst"]
_BY_CLIENT: tuple[tuple[Side, CtDirection], ...] = (("src", "original"), ("dst", "reply"))
_BY_SERVER: tuple[tuple[Side, CtDirection], ...] = (("dst", "original"), ("src", "reply"))
_NAT_MAPS = frozenset(map(egress_nat_map, FAMILIES))


def map_tables(name: str) -> tuple[TableName, ...]:
    """Return the tables whose chains look up a map."""
    return ("mangle", "nat") if name in _NAT_MAPS else ("mangle",)


@lru_cache(maxsize=_REMEMBERED)
def group_of(address: str) -> int:
    """Return the group of an address; adjacent ones are in different groups."""
    value = number(address)
    for bits in (64, 32, 16, 8, 4):
        value ^= value >> bits
    return value % GROUPS


def all_set(name: str, family: Family) -> str:
    """Return the name of the set of all addresses of a map."""
    return set_name(name, family, "all")


def group_set(name: str, family: Family, group: int) -> str:
    """Return the name of the set of the addresses of a group."""
    return set_name(name, family, f"group {group}")


def target_set(name: str, family: Family, target: str) -> str:
    """Return the name of the set of the addresses that lead to a chain."""
    return set_name(name, family, f"to {target}")


def sets_of_element(name: str, family: Family, address: str, target: str) -> tuple[str, str, str]:
    """Return the names of the sets that an address with this target is in: target, group, all."""
    return (
        target_set(name, family, target),
        group_set(name, family, group_of(address)),
        all_set(name, family),
    )


def map_set(family: Family, origin: str) -> IpSet:
    """Return the shape of the sets of a map."""
    return IpSet("hash:ip", family, size=MEMBERS, origin=origin)


def lookup_rules(
    key: CtAddress | IpAddress, name: str, conjunction: Conjunction, comment: str, context: RuleContext
) -> Iterator[XtRule]:
    """Yield the rules that look up an address of the packet in a map; without an element the next rule follows."""
    family = context.family
    if key.family != family:
        return
    for more, side, direction in _readings(key, context):
        match = in_set(all_set(name, family), side)
        yield XtRule((*more, *conjunction, match), ("-g", _chain(name, side, direction)), comment)


def _readings(key: CtAddress | IpAddress, context: RuleContext) -> Iterator[tuple[Conjunction, Side, CtDirection]]:
    if isinstance(key, IpAddress):
        yield (), ("src" if key.side == "saddr" else "dst"), "original"
    elif context.reading == "either":
        yield (ORIGINAL,), side_of_end(key.end, "original"), "original"
        yield (REPLY,), side_of_end(key.end, "reply"), "reply"
    else:
        yield (), side_of_end(key.end, context.reading), context.reading


def groups_of(elements: Mapping[str, str]) -> dict[int, set[str]]:
    """Return the groups of a map's addresses, and the chains that these lead to."""
    groups: dict[int, set[str]] = {}
    for address, target in elements.items():
        groups.setdefault(group_of(address), set()).add(target)
    return groups


def dispatch_chains(
    name: str, family: Family, groups: Mapping[int, Collection[str]], only: Collection[int] = range(GROUPS)
) -> Iterator[tuple[str, XtChain]]:
    """Yield name and chain of all that look up a map.

    groups: what `groups_of` returns
    only:   the groups whose chains are yielded; those that lead to groups are in any case
    """
    for side, direction in _sides(name):
        rules = []
        for group, targets in sorted(groups.items()):
            chain = _chain(name, side, direction, group)
            rules.append(XtRule((in_set(group_set(name, family, group), side),), ("-g", chain)))
            if group in only:
                leaves = tuple(_leaf(name, family, side, direction, target) for target in sorted(targets))
                yield chain, XtChain(leaves, name)
        yield _chain(name, side, direction), XtChain(tuple(rules), name)


def group_chains(name: str, groups: Iterable[int]) -> frozenset[str]:
    """Return the names that the chains of some groups of a map have."""
    return frozenset(chain for group in groups for chain in group_readings(name, group))


def group_readings(name: str, group: int) -> tuple[str, ...]:
    """Return the names of the chains of a group: one for each direction of packets."""
    return tuple(_chain(name, *side, group) for side in _sides(name))


def _sides(name: str) -> tuple[tuple[Side, CtDirection], ...]:
    return _BY_SERVER if name.startswith("ingress") else _BY_CLIENT


@lru_cache(maxsize=_REMEMBERED)
def _leaf(name: str, family: Family, side: Side, direction: CtDirection, target: str) -> XtRule:
    chain = chain_name(target, variant_of(direction) if is_by_direction(target) else "")
    return XtRule((in_set(target_set(name, family, target), side),), ("-g", chain))


def _chain(name: str, side: Side, direction: CtDirection, group: int | None = None) -> str:
    where = "" if group is None else f" group {group}"
    return chain_name(name, variant_of(direction), f"by {side}{where}")


def dispatch_level(name: str, origin: str, family: Family) -> int:
    """Return how far up a set of a map stands: 0 of a target, 1 of a group, 2 of all."""
    if name == all_set(origin, family):
        return 2
    return int(name in {group_set(origin, family, group) for group in range(GROUPS)})
