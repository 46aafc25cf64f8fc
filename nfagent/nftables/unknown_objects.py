"""Finds the foreign objects of the nfagent table, and an order in which the kernel deletes them.

An object is foreign if nfagent doesn't use its kind, never writes its form, or wants another type under its name. Rules
and elements that refer to it are deleted first, then maps, chains, sets, and objects of other kinds. Everything else
stays, with the values of counters and the reply tuples in dynamic sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from nfagent.nftables.matches import (
    AddressInSet,
    CtFlowInSet,
    FamilyInSet,
    FromInterface,
    NamedPort,
    NextHopInSet,
    PacketNamedPort,
    PacketPortIn,
    PairInSet,
    ServerPortIn,
    SetUpdate,
    ToPort,
    UnknownExpr,
)
from nfagent.nftables.objects import TABLE_FLAGS, Chain, Goto, Jump, NamedSet, Rule, Ruleset, VerdictMap, VmapLookup

_BY_SET = (
    *(AddressInSet, PairInSet, NamedPort, PacketNamedPort, FamilyInSet, CtFlowInSet),
    *(SetUpdate, ServerPortIn, PacketPortIn, FromInterface, NextHopInSet, ToPort),
)
_Named = tuple[str, str]
"""Kind and name."""
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9/\\_.-]*")
_OBJECTS = (
    "counter",
    "quota",
    "limit",
    "ct helper",
    "ct timeout",
    "ct expectation",
    "synproxy",
    "secmark",
    "flowtable",
)
_ORDER = ("map", "chain", "set", *_OBJECTS)
"""Kinds by the names that libnftables lists and `delete` takes, each before the kinds that it may refer to."""


class Removal(msgspec.Struct, frozen=True):
    """The removal of all foreign objects.

    clears_flags: the table has flags, such as `dormant`, and loses them
    flushed:      chains whose rules are deleted
    elements:     of maps that stay: elements whose chain is deleted
    deleted:      kind and name of objects, in an order that the kernel accepts
    left:         the ruleset after the removal
    """

    clears_flags: bool
    flushed: tuple[str, ...]
    elements: dict[str, tuple[tuple[str, str], ...]]
    deleted: tuple[_Named, ...]
    left: Ruleset


def is_identifier(name: str) -> bool:
    """Return whether a name is an identifier of nft syntax."""
    return _IDENTIFIER.fullmatch(name) is not None


def is_clean(before: Ruleset, after: Ruleset) -> bool:
    """Return whether `before` has no foreign object and no object whose type differs in `after`."""
    return not before.foreign and next(_reshaped(before, after), None) is None


def removal(before: Ruleset, after: Ruleset) -> Removal | None:
    """Return the removal of foreign objects; None if only deleting the whole table can remove them."""
    foreign = {*before.foreign, *_reshaped(before, after)}
    clears_flags = TABLE_FLAGS in foreign
    foreign.discard(TABLE_FLAGS)
    if any(kind not in _ORDER or not is_identifier(name) for kind, name in foreign):
        return None
    flushed = [name for name, chain in before.chains.items() if any(_refers_to(rule, foreign) for rule in chain.rules)]
    gone = {name for kind, name in foreign if kind == "chain"}
    elements = {
        name: found
        for name, item in before.maps.items()
        if ("map", name) not in foreign and (found := tuple(_leading_to(item, gone)))
    }
    return Removal(
        clears_flags,
        tuple(sorted({*flushed, *gone})),
        elements,
        tuple(sorted(foreign, key=lambda item: (_ORDER.index(item[0]), item[1]))),
        _without(before, foreign, set(flushed), elements),
    )


def _reshaped(before: Ruleset, after: Ruleset) -> Iterator[_Named]:
    """Yield the objects whose name stays and whose type changes."""
    for name in before.sets.keys() & after.sets:
        if _shape(before.sets[name]) != _shape(after.sets[name]):
            yield "set", name
    for name in before.maps.keys() & after.maps:
        if before.maps[name].family != after.maps[name].family:
            yield "map", name
    for name in before.chains.keys() & after.chains:
        if before.chains[name].hook != after.chains[name].hook:
            yield "chain", name
    # Sets and maps share one name space.
    yield from (("set", name) for name in before.sets.keys() & after.maps)
    yield from (("map", name) for name in before.maps.keys() & after.sets)


def _shape(item: NamedSet) -> tuple[str, int, str]:
    return (item.kind, item.family, item.comment)


def _refers_to(rule: Rule, foreign: set[_Named]) -> bool:
    return any(isinstance(match, UnknownExpr) for match in rule.matches) or not foreign.isdisjoint(_references(rule))


def _references(rule: Rule) -> Iterator[_Named]:
    for match in rule.matches:
        if isinstance(match, _BY_SET):
            yield from (("set", match.set), ("map", match.set))
    match rule.verdict:
        case Goto(chain) | Jump(chain):
            yield "chain", chain
        case VmapLookup(_, name):
            yield from (("map", name), ("set", name))


def _leading_to(item: VerdictMap, gone: set[str]) -> Iterable[tuple[str, str]]:
    return sorted(element for element in item.elements.items() if element[1] in gone) if gone else ()


def _without(
    before: Ruleset, foreign: set[_Named], flushed: set[str], elements: dict[str, tuple[tuple[str, str], ...]]
) -> Ruleset:
    return Ruleset(
        {name: item for name, item in before.sets.items() if ("set", name) not in foreign},
        {
            name: VerdictMap(item.family, dict(item.elements.items() - elements[name])) if name in elements else item
            for name, item in before.maps.items()
            if ("map", name) not in foreign
        },
        {
            name: Chain((), item.hook) if name in flushed else item
            for name, item in before.chains.items()
            if ("chain", name) not in foreign
        },
        before.counters,
    )
