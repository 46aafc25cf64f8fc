"""Objects that a version of nft lists in another form than the one written.

Such a difference would be repaired again and again. Once it is certain that no other program made it, this form in a
listing is accepted as equal to the form written, until either of them changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from nfagent.nftables.objects import Chain, NamedSet, Ruleset, VerdictMap
from nfagent.nftables.transaction import (
    AddMap,
    AddRule,
    AddSet,
    ChangeElements,
    ChangeMapElements,
    FlushChain,
    RewriteChain,
    Transaction,
)

NamedObject: TypeAlias = tuple[str, str]
_Object: TypeAlias = Chain | NamedSet | VerdictMap


class ListingVariants:
    """Listed forms that are known to be equal to the written ones."""

    def __init__(self) -> None:
        """Start without any."""
        self._known: dict[NamedObject, tuple[_Object, _Object]] = {}

    def accept(self, listed: Ruleset, wanted: Ruleset, names: frozenset[NamedObject]) -> None:
        """Accept the listed form of these objects as equal to the desired one."""
        for name in names:
            found, meant = _object(listed, name), _object(wanted, name)
            if found is not None and meant is not None:
                self._known[name] = (found, meant)

    def as_written(self, listed: Ruleset, wanted: Ruleset) -> Ruleset:
        """Return the listed ruleset with known variants replaced by their written form."""
        same = {
            name: meant
            for name, (found, meant) in self._known.items()
            if _object(listed, name) == found and _object(wanted, name) == meant
        }
        return _replaced(listed, same) if same else listed


def changed_objects(transaction: Transaction) -> frozenset[NamedObject]:
    """Return kind and name of the chains, sets and maps that a transaction changes."""
    return frozenset(_written(transaction))


def differing_objects(listed: Ruleset, wanted: Ruleset, names: frozenset[NamedObject]) -> frozenset[NamedObject]:
    """Return those of the named objects that exist in both rulesets and differ."""
    return frozenset(
        name
        for name in names
        if (found := _object(listed, name)) is not None
        and (meant := _object(wanted, name)) is not None
        and found != meant
    )


def same_objects(first: Ruleset, second: Ruleset, names: frozenset[NamedObject]) -> bool:
    """Return whether two rulesets are equal in all named objects."""
    return all(_object(first, name) == _object(second, name) for name in names)


def with_listed_objects(listed: Ruleset, wanted: Ruleset, names: frozenset[NamedObject]) -> Ruleset:
    """Return the desired ruleset, with the named objects as listed."""
    found = {name: item for name in names if (item := _object(listed, name)) is not None}
    return _replaced(wanted, found)


def describe_objects(names: frozenset[NamedObject]) -> tuple[str, ...]:
    """Return the objects by kind and name, sorted: 'chain deny/x'."""
    return tuple(f"{kind} {name}" for kind, name in sorted(names))


def _written(transaction: Transaction) -> Iterator[NamedObject]:
    for command in transaction:
        match command:
            case AddRule(chain):
                yield "chain", chain
            case FlushChain(name) | RewriteChain(name):
                yield "chain", name
            case ChangeElements(_, name) | AddSet(name):
                yield "set", name
            case ChangeMapElements(_, name) | AddMap(name):
                yield "map", name
            case _:
                continue


def _object(ruleset: Ruleset, named: NamedObject) -> _Object | None:
    kind, name = named
    match kind:
        case "chain":
            return ruleset.chains.get(name)
        case "set":
            return ruleset.sets.get(name)
        case _:
            return ruleset.maps.get(name)


def _replaced(ruleset: Ruleset, objects: dict[NamedObject, _Object]) -> Ruleset:
    chains = {name: item for (_, name), item in objects.items() if isinstance(item, Chain)}
    sets = {name: item for (_, name), item in objects.items() if isinstance(item, NamedSet)}
    maps = {name: item for (_, name), item in objects.items() if isinstance(item, VerdictMap)}
    return msgspec.structs.replace(
        ruleset,
        chains={**ruleset.chains, **chains},
        sets={**ruleset.sets, **sets},
        maps={**ruleset.maps, **maps},
    )
