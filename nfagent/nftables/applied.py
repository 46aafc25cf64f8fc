"""The ruleset that a transaction makes of another one, for a kernel that doesn't apply transactions by itself."""

from __future__ import annotations

import msgspec

from nfagent.errors import WireError
from nfagent.nftables.objects import ABSENT, Chain, Element, NamedSet, Rule, Ruleset, VerdictMap
from nfagent.nftables.transaction import (
    AddChain,
    AddCounter,
    AddMap,
    AddRule,
    AddSet,
    AddTable,
    ChangeElements,
    ChangeMapElements,
    Command,
    Delete,
    FlushChain,
    RewriteChain,
    Transaction,
)


def applied(before: Ruleset, transaction: Transaction) -> Ruleset:
    """Return the ruleset after a transaction; `before` stays as it is.

    An element that is there already, or isn't, is no error. Raises WireError for a command about an object that isn't
    there, after which nothing is known.
    """
    changing = _Changing(before)
    for command in transaction:
        changing.apply(command)
    return changing.ruleset()


class _Changing:
    """A ruleset while a transaction is applied: elements of a changed set are collected once."""

    def __init__(self, before: Ruleset) -> None:
        self._begin(before)

    def _begin(self, before: Ruleset) -> None:
        self._exists = before.exists
        self._sets = dict(before.sets)
        self._maps = dict(before.maps)
        self._chains = dict(before.chains)
        self._counters = set(before.counters)
        self._foreign = before.foreign
        self._elements: dict[str, set[Element]] = {}
        self._copied: set[str] = set()

    def ruleset(self) -> Ruleset:
        """Return the ruleset so far."""
        if not self._exists:
            return ABSENT
        for name, elements in self._elements.items():
            self._sets[name] = msgspec.structs.replace(self._sets[name], elements=frozenset(elements))
        return Ruleset(self._sets, self._maps, self._chains, frozenset(self._counters), self._foreign)

    def apply(self, command: Command) -> None:
        """Apply one command."""
        try:
            self._apply(command)
        except KeyError:
            raise WireError(f"{command.text().partition(chr(10))[0][:200]}: there is no such object") from None

    def _apply(self, command: Command) -> None:
        match command:
            case AddTable():
                self._exists, self._foreign = True, frozenset()
            case AddCounter(name):
                self._counters.add(name)
            case AddSet(name, shape):
                self._sets.setdefault(name, msgspec.structs.replace(shape, elements=frozenset()))
            case AddMap(name, map_shape):
                self._maps.setdefault(name, VerdictMap(map_shape.family, {}))
            case AddChain(name, chain_shape):
                self._chains.setdefault(name, Chain((), chain_shape.hook))
            case ChangeElements():
                self._change_elements(command)
            case ChangeMapElements():
                self._change_map(command)
            case Delete(kind, name):
                self._delete(kind, name)
            case AddRule() | FlushChain() | RewriteChain():
                self._change_rules(command)

    def _change_rules(self, command: AddRule | FlushChain | RewriteChain) -> None:
        match command:
            case AddRule(name, rule):
                self._put_rules(name, (*self._chains[name].rules, rule))
            case FlushChain(name):
                self._put_rules(name, ())
            case RewriteChain(name, _, after):
                self._put_rules(name, after)

    def _put_rules(self, name: str, rules: tuple[Rule, ...]) -> None:
        self._chains[name] = Chain(rules, self._chains[name].hook)

    def _change_elements(self, command: ChangeElements) -> None:
        shape: NamedSet = self._sets[command.set]
        if shape.kind == "flow":
            return  # the kernel's own, which is never compared
        elements = self._elements.get(command.set)
        if elements is None:
            elements = self._elements[command.set] = set(shape.elements)
        if command.verb == "add":
            elements.update(command.elements)
        else:
            elements.difference_update(command.elements)

    def _change_map(self, command: ChangeMapElements) -> None:
        if command.map not in self._copied:
            shape = self._maps[command.map]
            self._maps[command.map] = VerdictMap(shape.family, dict(shape.elements))
            self._copied.add(command.map)
        elements = self._maps[command.map].elements
        for address, chain in command.elements:
            if command.verb == "add":
                elements[address] = chain
            elif elements.get(address) == chain:
                del elements[address]

    def _delete(self, kind: str, name: str) -> None:
        match kind:
            case "table":
                self._begin(ABSENT)
            case "set":
                del self._sets[name]
                self._elements.pop(name, None)
            case "map":
                del self._maps[name]
            case "chain":
                del self._chains[name]
            case "counter":
                self._counters.discard(name)
