"""The lowered ruleset kept up to date: a transaction lowers only the objects that it touches.

It equals `lower` of the whole ruleset after any transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.nftables.applied import applied
from nfagent.nftables.objects import NamedSet, Ruleset
from nfagent.nftables.transaction import (
    AddChain,
    AddMap,
    AddRule,
    AddSet,
    ChangeElements,
    ChangeMapElements,
    Delete,
    FlushChain,
    RewriteChain,
    Transaction,
)
from nfagent.xtables.lowering import (
    LoweredObject,
    accounts_of,
    calls_or_asks,
    lower_chain_object,
    lower_hooks,
    lower_map,
    lower_set,
    merged,
    pair_set_chains,
)
from nfagent.xtables.objects import XtRuleset
from nfagent.xtables.options import LoweringOptions, Unavailable
from nfagent.xtables.set_parts import part_members, parts_of

_Kind: TypeAlias = Literal["set", "map", "chain", "hooks"]
_Key: TypeAlias = tuple[_Kind, str]
_HOOKS: _Key = ("hooks", "")


class IncrementalLowering:
    """A ruleset of nftables, and what it became in iptables.

    source: the ruleset of nftables
    """

    def __init__(self, options: LoweringOptions, ruleset: Ruleset) -> None:
        """Lower a whole ruleset. Raises NameCollisionError."""
        self._options = options
        self.source = ruleset
        self._objects: dict[_Key, LoweredObject] = {}
        for key in _keys(ruleset):
            self._lower(key)
        self._lower_hooks()
        self._merge()

    @property
    def ruleset(self) -> XtRuleset:
        """The lowered ruleset."""
        return self._ruleset

    @property
    def unavailable(self) -> tuple[Unavailable, ...]:
        """What of the ruleset can't be had in iptables."""
        return self._unavailable

    def apply(self, transaction: Transaction) -> XtRuleset:
        """Apply a transaction, and return the lowered ruleset after it.

        Raises NameCollisionError, WireError; then nothing of it can be used any more.
        """
        before, self.source = self.source, applied(self.source, transaction)
        touched = dict.fromkeys(_touched(transaction, before))
        for kind, name in touched:
            was = before.sets.get(name) if kind == "set" else None
            if was is None or not self._change_members(name, was):
                self._lower((kind, name))
        if any(kind == "chain" and self._calls(name, before) for kind, name in touched):
            self._lower_hooks()
        self._merge()
        return self._ruleset

    def _calls(self, name: str, before: Ruleset) -> bool:
        """Return whether the chains of hooks depend on a chain, as it was or as it is."""
        chains = (ruleset.chains.get(name) for ruleset in (before, self.source))
        return any(chain is not None and calls_or_asks(chain) for chain in chains)

    def _change_members(self, name: str, before: NamedSet) -> bool:
        """Change the members of a lowered set by the elements that came and went; return whether that is enough."""
        item = self.source.sets.get(name)
        # An interface more may be one too many.
        if item is None or item.kind == "link" or msgspec.structs.replace(item, elements=before.elements) != before:
            return False
        added, deleted = item.elements - before.elements, before.elements - item.elements
        lowered = self._objects["set", name].sets
        sets = {
            part.name: msgspec.structs.replace(
                lowered[part.name],
                # No two elements share a member.
                members=lowered[part.name].members - part_members(item.kind, part, deleted)
                | part_members(item.kind, part, added),
            )
            for part in parts_of(name, item, self._options.families)
        }
        self._objects["set", name] = LoweredObject(sets, pair_set_chains(name, item, self._options))
        return True

    def _lower(self, key: _Key) -> None:
        kind, name = key
        source = self.source
        if kind == "set" and name in source.sets:
            self._objects[key] = lower_set(name, source.sets[name], self._options)
        elif kind == "map" and name in source.maps:
            self._objects[key] = lower_map(name, source.maps[name], self._options)
        elif kind == "chain" and name in source.chains:
            self._objects[key] = lower_chain_object(name, source.chains[name], source.sets, self._options)
        else:
            self._objects.pop(key, None)

    def _lower_hooks(self) -> None:
        self._objects[_HOOKS] = lower_hooks(self.source.chains, self.source.sets, self._options)

    def _merge(self) -> None:
        self._ruleset, self._unavailable = merged(self._objects.values(), accounts_of(self.source, self._options))


def _touched(transaction: Transaction, before: Ruleset) -> Iterator[_Key]:
    """Yield the objects that a transaction changes, with repetitions."""
    for command in transaction:
        match command:
            case AddSet(name) | ChangeElements(_, name) | Delete("set", name):
                yield "set", name
            case AddMap(name) | ChangeMapElements(_, name) | Delete("map", name):
                yield "map", name
            case AddChain(name) | AddRule(name) | FlushChain(name) | RewriteChain(name) | Delete("chain", name):
                yield "chain", name
            case Delete("table"):
                yield from _keys(before)


def _keys(ruleset: Ruleset) -> Iterator[_Key]:
    yield from (("set", name) for name in ruleset.sets)
    yield from (("map", name) for name in ruleset.maps)
    yield from (("chain", name) for name in ruleset.chains)
