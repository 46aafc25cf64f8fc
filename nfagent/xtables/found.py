"""Which objects of nftables the sets and chains in the kernel stand for, as far as they are known.

Chains have no way back: one of which every part is listed as it was lowered is the known one, any other is present and
equal to none. Elements of sets and verdict maps are read from the members.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.model.netaddr import ADDRESS_BITS, FAMILIES, Range, disjoint, family_of, number
from nfagent.model.objects import Protocol
from nfagent.nftables.objects import (
    ABSENT,
    Chain,
    Element,
    LinkName,
    NamedSet,
    PortRange,
    ProtocolPort,
    Rule,
    Ruleset,
    VerdictMap,
)
from nfagent.xtables.dispatch import GROUPS, all_set, group_readings, group_set, target_set
from nfagent.xtables.objects import SetMember, XtRuleset
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.set_parts import family_halves, parts_of

UNKNOWN_RULE = Rule(comment="listed otherwise than it was written")
"""The rule of a chain that isn't as it was lowered: it is equal to none that is written."""


def found_ruleset(found: XtRuleset, known: Ruleset, lowered: XtRuleset, options: LoweringOptions) -> Ruleset:
    """Return what the listed objects stand for.

    known:   names and shapes of what may be there
    lowered: `known`, as it would be listed
    """
    if not found.chains:
        return ABSENT
    sets = {
        name: item
        for name, shape in known.sets.items()
        if (item := _found_set(found, name, shape, lowered, options)) is not None
    }
    maps = {
        name: VerdictMap(item.family, _found_elements(found, name, item)) if item.family in options.families else item
        for name, item in known.maps.items()
        if item.family not in options.families or all_set(name, item.family) in found.sets
    }
    chains = dict(_found_chains(found, known, lowered))
    return Ruleset(sets, maps, chains, known.counters)


def _found_chains(found: XtRuleset, known: Ruleset, lowered: XtRuleset) -> Iterator[tuple[str, Chain]]:
    parts: dict[str, list[bool | None]] = {}
    for key, part in lowered.chains.items():
        listed = found.chains.get(key)
        parts.setdefault(part.origin, []).append(None if listed is None else listed == part)
    for name, chain in known.chains.items():
        states = parts.get(name, [])
        if all(states):
            yield name, chain
        elif any(state is not None for state in states):
            yield name, Chain((*chain.rules, UNKNOWN_RULE), chain.hook)


def _found_set(
    found: XtRuleset, name: str, shape: NamedSet, lowered: XtRuleset, options: LoweringOptions
) -> NamedSet | None:
    parts = parts_of(name, shape, options.families)
    if not parts:
        return shape  # of a family that the kernel has no tables for
    listed = {part.part: found.sets[part.name].members for part in parts if part.name in found.sets}
    if not listed:
        return None
    if all(found.sets.get(part.name) == lowered.sets.get(part.name) for part in parts):
        return shape
    elements: set[Element] = set()
    for part, members in listed.items():
        elements.update(_elements(shape.kind, part, members))
    return msgspec.structs.replace(shape, elements=frozenset(elements))


def _elements(kind: str, part: str, members: Iterable[SetMember]) -> Iterator[Element]:
    match kind:
        case "address" | "counted":
            yield from (member for member in members if isinstance(member, str))
        case "pair":
            yield from ((member, member) for member in members if isinstance(member, str))
        case "range":
            yield from _ranges(members)
        case "port":
            yield from _ports(members)
        case "ports":
            yield from (PortRange(first, last) for first, last in _runs(members))
        case "family":
            yield from (family for family in FAMILIES if set(family_halves(family)) & set(members))
        case "link":
            yield from _links(members)
        case "service":
            protocol: Protocol = "tcp" if part == "tcp" else "udp"
            yield from (ProtocolPort(protocol, member) for member in members if isinstance(member, int))


def _links(members: Iterable[SetMember]) -> Iterator[LinkName]:
    for member in members:
        if isinstance(member, tuple) and len(member) == 3 and isinstance(member[2], str):
            yield LinkName(member[2])


def _ports(members: Iterable[SetMember]) -> Iterator[Element]:
    for member in members:
        if isinstance(member, tuple) and len(member) == 3 and isinstance(member[2], int):
            yield member[0], member[1], member[2]


def _ranges(members: Iterable[SetMember]) -> tuple[Range, ...]:
    """Return the ranges that prefixes make up: adjacent ones are one."""
    return disjoint(_range(*member) for member in members if isinstance(member, tuple) and len(member) == 2)


def _range(address: str, length: int) -> Range:
    family, first = family_of(address), number(address)
    return Range(family, first, first + (1 << (ADDRESS_BITS[family] - length)) - 1)


def _runs(members: Iterable[SetMember]) -> Iterator[tuple[int, int]]:
    first = last = -2
    for port in sorted(member for member in members if isinstance(member, int)):
        if port == last + 1:
            last = port
            continue
        if first >= 0:
            yield first, last
        first = last = port
    if first >= 0:
        yield first, last


def _found_elements(found: XtRuleset, name: str, known: VerdictMap) -> dict[str, str]:
    """Return the elements of a map: addresses with the known chain that they lead to; '' for an unknown chain.

    A packet leads nowhere, as if its address had no element, where a set on its way lacks the address, or that of
    another group comes first. Groups are those that are there: an earlier version had others.
    """
    family = known.family
    targets = {target_set(name, family, target): target for target in known.elements.values()}
    waiting, elements = set(_members(found, all_set(name, family))), dict[str, str]()
    for group in range(GROUPS):
        those = waiting & _members(found, group_set(name, family, group))
        waiting -= those
        chain = found.chains.get((family, "mangle", group_readings(name, group)[0]))
        for rule in chain.rules if chain is not None else ():
            for leaf, _ in rule.lookups():
                led = those & _members(found, leaf)
                those -= led
                elements |= {str(address): targets.get(leaf, "") for address in led}
    return elements


def _members(found: XtRuleset, name: str) -> frozenset[SetMember]:
    return found.sets[name].members if name in found.sets else frozenset()
