"""The lowered ruleset kept up to date: a transaction lowers only the objects that it touches.

It equals `lower` of the whole ruleset after any transaction.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.nftables.objects import Chain, Element, NamedSet, Ruleset, VerdictMap
from nfagent.nftables.transaction import (
    AddChain,
    AddMap,
    AddRule,
    AddSet,
    ChangeElements,
    ChangeMapElements,
    Command,
    Delete,
    FlushChain,
    RewriteChain,
    Transaction,
)
from nfagent.xtables.lowering import (
    LoweredObject,
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
_HOOKS: tuple[_Kind, str] = ("hooks", "")


class IncrementalLowering:
    """A ruleset of nftables, and what it became in iptables."""

    def __init__(self, options: LoweringOptions, ruleset: Ruleset) -> None:
        """Lower a whole ruleset."""
        self._options = options
        self._sets = dict(ruleset.sets)
        self._maps = {name: VerdictMap(item.family, dict(item.elements)) for name, item in ruleset.maps.items()}
        self._chains = dict(ruleset.chains)
        self._objects: dict[tuple[_Kind, str], LoweredObject] = {}
        for name in self._sets:
            self._lower("set", name)
        for name in self._maps:
            self._lower("map", name)
        for name in self._chains:
            self._lower("chain", name)
        self._objects[_HOOKS] = lower_hooks(self._chains, self._sets, options)
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
        """Apply a transaction, and return the lowered ruleset after it. Raises NameCollisionError."""
        elements: dict[str, tuple[set[Element], set[Element]]] = {}
        touched: dict[tuple[_Kind, str], None] = {}
        hooked = False
        for command in transaction:
            match command:
                case ChangeElements(verb, name, those):
                    added, deleted = elements.setdefault(name, (set(), set()))
                    into, out = (added, deleted) if verb == "add" else (deleted, added)
                    into |= set(those)
                    out -= set(those)
                case AddChain(name) | AddRule(name) | FlushChain(name) | RewriteChain(name) | Delete("chain", name):
                    hooked = hooked or self._calls(name)
                    self._change(command)
                    hooked = hooked or self._calls(name)
                    touched["chain", name] = None
                case AddSet(name) | Delete("set", name):
                    self._change(command)
                    elements.pop(name, None)
                    touched["set", name] = None
                case AddMap(name) | ChangeMapElements(_, name) | Delete("map", name):
                    self._change(command)
                    touched["map", name] = None
                case Delete("table"):
                    self._forget(touched)
                    elements.clear()
                    hooked = True
        for name, (added, deleted) in elements.items():
            self._change_elements(name, added, deleted, anew=("set", name) in touched)
        for kind, name in touched:
            self._lower(kind, name)
        if hooked:
            self._objects[_HOOKS] = lower_hooks(self._chains, self._sets, self._options)
        self._merge()
        return self._ruleset

    def _calls(self, name: str) -> bool:
        chain = self._chains.get(name)
        return chain is not None and calls_or_asks(chain)

    def _forget(self, touched: dict[tuple[_Kind, str], None]) -> None:
        touched.update(dict.fromkeys(key for key in self._objects if key != _HOOKS))
        self._sets.clear()
        self._maps.clear()
        self._chains.clear()

    def _change(self, command: Command) -> None:
        match command:
            case AddSet(name, shape):
                self._sets[name] = shape
            case AddMap(name, empty):
                self._maps[name] = VerdictMap(empty.family, dict(empty.elements))
            case ChangeMapElements(verb, name, elements):
                for address, target in elements:
                    self._maps[name].elements.pop(address, None)
                    if verb == "add":
                        self._maps[name].elements[address] = target
            case Delete(kind, name):
                {"set": self._sets, "map": self._maps, "chain": self._chains}[kind].pop(name, None)  # type: ignore[attr-defined]
            case AddChain() | AddRule() | FlushChain() | RewriteChain():
                name = command.chain if isinstance(command, AddRule) else command.name
                self._chains[name] = self._chain_after(command)
            case _:
                return

    def _chain_after(self, command: AddChain | AddRule | FlushChain | RewriteChain) -> Chain:
        match command:
            case AddChain(_, chain):
                return chain
            case AddRule(name, rule):
                return Chain((*self._chains[name].rules, rule), self._chains[name].hook)
            case FlushChain(name):
                return Chain((), self._chains[name].hook)
            case RewriteChain(name, _, after):
                return Chain(after, self._chains[name].hook)

    def _change_elements(self, name: str, added: set[Element], deleted: set[Element], *, anew: bool) -> None:
        item = self._sets[name]
        item = self._sets[name] = msgspec.structs.replace(item, elements=item.elements - deleted | added)
        if not anew:
            self._objects["set", name] = self._with_members(name, item, added, deleted)

    def _with_members(self, name: str, item: NamedSet, added: set[Element], deleted: set[Element]) -> LoweredObject:
        """Return what a set became, with the members of these elements more and less: no two elements share one."""
        if item.kind == "link":
            return lower_set(name, item, self._options)  # an interface more may be one too many
        before = self._objects["set", name].sets
        sets = {
            part.name: msgspec.structs.replace(
                before[part.name],
                members=before[part.name].members - part_members(item.kind, part, deleted)
                | part_members(item.kind, part, added),
            )
            for part in parts_of(name, item, self._options.families)
        }
        return LoweredObject(sets, pair_set_chains(name, item, self._options))

    def _lower(self, kind: _Kind, name: str) -> None:
        lowered: LoweredObject | None = None
        if kind == "set" and name in self._sets:
            lowered = lower_set(name, self._sets[name], self._options)
        elif kind == "map" and name in self._maps:
            lowered = lower_map(name, self._maps[name], self._options)
        elif kind == "chain" and name in self._chains:
            lowered = lower_chain_object(name, self._chains[name], self._sets, self._options)
        if lowered is None:
            self._objects.pop((kind, name), None)
        else:
            self._objects[kind, name] = lowered

    def _merge(self) -> None:
        self._ruleset, self._unavailable = merged(self._objects.values())
