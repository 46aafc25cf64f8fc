"""What a version of nft lists otherwise than it was written, though it is what was written.

Such a difference would be found, and put right, for ever. Once it is certain that nobody else made it, that very
listing counts as what was written, until either changes.
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
    Transaction,
)

NamedObject: TypeAlias = tuple[str, str]
_Object: TypeAlias = Chain | NamedSet | VerdictMap


class ListingVariant:
    """Listings that are known to mean what was written."""

    def __init__(self) -> None:
        """Know none."""
        self._known: dict[NamedObject, tuple[_Object, _Object]] = {}

    def note(self, listed: Ruleset, wanted: Ruleset, names: frozenset[NamedObject]) -> None:
        """Take in that these objects are as they are wanted, however they are listed."""
        for name in names:
            found, meant = _object(listed, name), _object(wanted, name)
            if found is not None and meant is not None:
                self._known[name] = (found, meant)

    def as_written(self, listed: Ruleset, wanted: Ruleset) -> Ruleset:
        """Give a listing with what is known to mean the same as it was written."""
        same = {
            name: meant
            for name, (found, meant) in self._known.items()
            if _object(listed, name) == found and _object(wanted, name) == meant
        }
        return _replaced(listed, same) if same else listed


def written(transaction: Transaction) -> frozenset[NamedObject]:
    """Give kind and name of the chains, sets and maps whose content a transaction writes."""
    return frozenset(_written(transaction))


def differing(listed: Ruleset, wanted: Ruleset, names: frozenset[NamedObject]) -> frozenset[NamedObject]:
    """Give those of the objects that are there, and listed otherwise than they are wanted."""
    return frozenset(
        name
        for name in names
        if (found := _object(listed, name)) is not None
        and (meant := _object(wanted, name)) is not None
        and found != meant
    )


def alike(first: Ruleset, second: Ruleset, names: frozenset[NamedObject]) -> bool:
    """Tell whether two listings have the same for all of these objects."""
    return all(_object(first, name) == _object(second, name) for name in names)


def only(listed: Ruleset, wanted: Ruleset, names: frozenset[NamedObject]) -> Ruleset:
    """Give what is wanted, with these objects as they are listed."""
    found = {name: item for name in names if (item := _object(listed, name)) is not None}
    return _replaced(wanted, found)


def in_words(names: frozenset[NamedObject]) -> tuple[str, ...]:
    """Name objects: 'chain deny/x'."""
    return tuple(f"{kind} {name}" for kind, name in sorted(names))


def _written(transaction: Transaction) -> Iterator[NamedObject]:
    for command in transaction:
        match command:
            case AddRule(chain):
                yield "chain", chain
            case FlushChain(name):
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
