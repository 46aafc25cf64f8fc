"""Takes out of our table what nfagent never makes, and leaves alone what is ours: counters' values, remembered ways.

Foreign are objects of kinds that nfagent doesn't use, those whose form it can't have given, and those that have the
name of one of ours, and another type. Rules and elements that refer to them go first, then maps, chains, sets, others.
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
    *(SetUpdate, ServerPortIn, PacketPortIn, FromInterface, ToPort),
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
"""Kinds as libnftables lists them, which is also how `delete` names them, each before those that it may refer to."""


class Removal(msgspec.Struct, frozen=True):
    """What has to go, and what is left when it has gone.

    wakes:    the table has flags, such as `dormant`, and loses them
    flushed:  chains whose rules go
    elements: of maps that stay, those that lead to something that goes
    deleted:  objects, in an order that the kernel takes
    left:     the ruleset then
    """

    wakes: bool
    flushed: tuple[str, ...]
    elements: dict[str, tuple[tuple[str, str], ...]]
    deleted: tuple[_Named, ...]
    left: Ruleset


def is_identifier(name: str) -> bool:
    """Tell whether nft's syntax can name an object so."""
    return _IDENTIFIER.fullmatch(name) is not None


def is_clean(before: Ruleset, after: Ruleset) -> bool:
    """Tell whether there is nothing foreign, and nothing of another type than it shall have."""
    return not before.foreign and next(_reshaped(before, after), None) is None


def removal(before: Ruleset, after: Ruleset) -> Removal | None:
    """Find what has to go; None where the table alone can go, as a whole."""
    going = {*before.foreign, *_reshaped(before, after)}
    wakes = TABLE_FLAGS in going
    going.discard(TABLE_FLAGS)
    if any(kind not in _ORDER or not is_identifier(name) for kind, name in going):
        return None
    flushed = [name for name, chain in before.chains.items() if any(_concerned(rule, going) for rule in chain.rules)]
    gone = {name for kind, name in going if kind == "chain"}
    elements = {
        name: found
        for name, item in before.maps.items()
        if ("map", name) not in going and (found := tuple(_leading_to(item, gone)))
    }
    return Removal(
        wakes,
        tuple(sorted({*flushed, *gone})),
        elements,
        tuple(sorted(going, key=lambda item: (_ORDER.index(item[0]), item[1]))),
        _without(before, going, set(flushed), elements),
    )


def _reshaped(before: Ruleset, after: Ruleset) -> Iterator[_Named]:
    """Give what kept its name and shall change its type."""
    for name in before.sets.keys() & after.sets:
        if _shape(before.sets[name]) != _shape(after.sets[name]):
            yield "set", name
    for name in before.maps.keys() & after.maps:
        if before.maps[name].family != after.maps[name].family:
            yield "map", name
    for name in before.chains.keys() & after.chains:
        if before.chains[name].hook != after.chains[name].hook:
            yield "chain", name
    # Sets and maps share their names.
    yield from (("set", name) for name in before.sets.keys() & after.maps)
    yield from (("map", name) for name in before.maps.keys() & after.sets)


def _shape(item: NamedSet) -> tuple[str, int, str]:
    return (item.kind, item.family, item.comment)


def _concerned(rule: Rule, going: set[_Named]) -> bool:
    return any(isinstance(match, UnknownExpr) for match in rule.matches) or not going.isdisjoint(_references(rule))


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
    before: Ruleset, going: set[_Named], flushed: set[str], elements: dict[str, tuple[tuple[str, str], ...]]
) -> Ruleset:
    return Ruleset(
        {name: item for name, item in before.sets.items() if ("set", name) not in going},
        {
            name: VerdictMap(item.family, dict(item.elements.items() - elements[name])) if name in elements else item
            for name, item in before.maps.items()
            if ("map", name) not in going
        },
        {
            name: Chain((), item.hook) if name in flushed else item
            for name, item in before.chains.items()
            if ("chain", name) not in going
        },
        before.counters,
    )
