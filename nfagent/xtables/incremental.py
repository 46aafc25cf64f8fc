"""The lowered ruleset kept up to date: a transaction lowers only the objects that it touches.

It equals `lower` of the whole ruleset after any transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.nftables.applied import applied
from nfagent.nftables.objects import Chain, NamedSet, Ruleset, VerdictMap
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
    NameCollisionError,
    accounts_of,
    calls_or_asks,
    lower_chain_object,
    lower_hooks,
    lower_map,
    lower_set,
    put_all,
)
from nfagent.xtables.member_changes import changed_map, changed_set
from nfagent.xtables.objects import ChainKey, HookKey, XtChain, XtRuleset
from nfagent.xtables.options import LoweringOptions, Unavailable
from nfagent.xtables.reached import ReachedChains

_Kind: TypeAlias = Literal["set", "map", "chain", "hooks"]
_Key: TypeAlias = tuple[_Kind, str]
_HOOKS: _Key = ("hooks", "")


class IncrementalLowering:
    """A ruleset of nftables, and what it became in iptables.

    source:  the ruleset of nftables
    ruleset: the lowered ruleset
    """

    def __init__(self, options: LoweringOptions, ruleset: Ruleset) -> None:
        """Lower a whole ruleset. Raises NameCollisionError."""
        self._options = options
        self.source = ruleset
        self._objects: dict[_Key, LoweredObject] = {}
        self._unavailable: dict[_Key, frozenset[Unavailable]] = {}
        self._reached = ReachedChains()
        self.ruleset = XtRuleset(accounts=accounts_of(ruleset, options))
        self._replace({key: self._lowered(key) for key in (*_keys(ruleset), _HOOKS)})

    @property
    def unavailable(self) -> tuple[Unavailable, ...]:
        """What of the ruleset can't be had in iptables."""
        return tuple(sorted(frozenset().union(*self._unavailable.values())))

    def apply(self, transaction: Transaction) -> XtRuleset:
        """Apply a transaction, and return the lowered ruleset after it.

        Raises NameCollisionError, WireError; then nothing of it can be used any more.
        """
        before, self.source = self.source, applied(self.source, transaction)
        touched = dict.fromkeys(_touched(transaction, before))
        # A repair names objects that only the kernel's differ from.
        differing = [key for key in touched if _object(before, key) != _object(self.source, key)]
        changed = {key: self._changed(key, before) or self._lowered(key) for key in differing}
        if any(kind == "chain" and self._calls(name, before) for kind, name in changed):
            changed[_HOOKS] = self._lowered(_HOOKS)
        self._replace(changed)
        if before.counters != self.source.counters:
            self.ruleset = msgspec.structs.replace(self.ruleset, accounts=self._accounts(before))
        return self.ruleset

    def _accounts(self, before: Ruleset) -> frozenset[str]:
        gone, come = (
            accounts_of(Ruleset(counters=one.counters - other.counters), self._options)
            for one, other in ((before, self.source), (self.source, before))
        )
        return self.ruleset.accounts - gone | come

    def _calls(self, name: str, before: Ruleset) -> bool:
        """Return whether the chains of hooks depend on a chain, as it was or as it is."""
        chains = (ruleset.chains.get(name) for ruleset in (before, self.source))
        return any(chain is not None and calls_or_asks(chain) for chain in chains)

    def _changed(self, key: _Key, before: Ruleset) -> LoweredObject | None:
        """Return what a set or map becomes by the elements that came and went; None where that isn't enough."""
        lowered, name = self._objects.get(key), key[1]
        if lowered is None:
            return None
        match _object(before, key), _object(self.source, key):
            case NamedSet() as was, NamedSet() as now:
                return changed_set(name, was, now, lowered, self._options)
            case VerdictMap() as was, VerdictMap() as now:
                return changed_map(name, was, now, lowered, self._options)
        return None

    def _lowered(self, key: _Key) -> LoweredObject:
        """Return what an object becomes; nothing, where there is no such object any more."""
        name, source = key[1], self.source
        if key == _HOOKS:
            return lower_hooks(source.chains, source.sets, self._options)
        match _object(source, key):
            case NamedSet() as item:
                return lower_set(name, item, self._options)
            case VerdictMap() as item:
                return lower_map(name, item, self._options)
            case Chain() as item:
                return lower_chain_object(name, item, source.sets, self._options)
        return LoweredObject()

    def _replace(self, changed: dict[_Key, LoweredObject]) -> None:
        """Put these objects into the lowered ruleset, in place of what they were."""
        sets, hooks = dict(self.ruleset.sets), dict(self.ruleset.hooks)
        gone: dict[ChainKey, XtChain | None] = {}
        hooks_gone: dict[HookKey, str] = {}
        for key in changed:
            was = self._objects.pop(key, LoweredObject())
            self._unavailable.pop(key, frozenset())
            for name in was.sets:
                del sets[name]
            gone |= dict.fromkeys(was.chains)
            hooks_gone |= {hook: hooks.pop(hook) for hook in was.hooks}
        come: dict[ChainKey, XtChain] = {}
        hooks_come: dict[HookKey, str] = {}
        for key, item in changed.items():
            put_all(sets, item.sets)
            put_all(come, item.chains)
            hooks_come |= item.hooks
            if item != LoweredObject():
                self._objects[key] = item
            if item.unavailable:
                self._unavailable[key] = item.unavailable
        for place in come.keys() & self._reached.known.keys() - gone.keys():
            raise NameCollisionError(f"two objects would be {place}")
        self._reached.change({**gone, **come}, hooks_gone, hooks_come)
        self.ruleset = XtRuleset(sets, self._reached.chains, hooks | hooks_come, self.ruleset.accounts)


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


def _object(ruleset: Ruleset, key: _Key) -> NamedSet | VerdictMap | Chain | None:
    """Return the object of a key; None where there is none."""
    kind, name = key
    match kind:
        case "set":
            return ruleset.sets.get(name)
        case "map":
            return ruleset.maps.get(name)
    return ruleset.chains.get(name)


def _keys(ruleset: Ruleset) -> Iterator[_Key]:
    yield from (("set", name) for name in ruleset.sets)
    yield from (("map", name) for name in ruleset.maps)
    yield from (("chain", name) for name in ruleset.chains)
