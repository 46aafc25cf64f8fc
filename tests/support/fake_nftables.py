"""A fake of nf_tables that applies transactions, and refuses those that nf_tables refuses.

A transaction is atomic. Commands are checked in their order, each with the result of the earlier ones, as
nf_tables does: an object that a rule names must exist, one that is still referenced can't be deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise

import msgspec

from nfagent.model.netaddr import Range, family_of
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
)
from nfagent.nftables.objects import (
    ABSENT,
    TABLE_FLAGS,
    Chain,
    Element,
    Goto,
    Jump,
    LinkName,
    NamedSet,
    PortRange,
    ProtocolPort,
    Rule,
    Ruleset,
    VerdictMap,
    VmapLookup,
)
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

_BY_SET = (
    *(AddressInSet, PairInSet, NamedPort, PacketNamedPort, FamilyInSet, CtFlowInSet),
    *(SetUpdate, ServerPortIn, PacketPortIn, FromInterface, NextHopInSet, ToPort),
)
_NAME_BYTES = 255
_TEXT_BYTES = 127
_JUMPS = 16

Reference = tuple[str, str]
"""Kind and name of the referenced object."""


class Refused(Exception):  # noqa: N818 - the kernel's reaction, not a bug
    """nf_tables would refuse the transaction; nothing of it was applied."""


class FakeNftables:
    """A kernel with one table; `ruleset`: its listing."""

    def __init__(self, ruleset: Ruleset = ABSENT) -> None:
        self.ruleset = ruleset

    def apply(self, transaction: Transaction) -> None:
        """Apply a transaction, or raise Refused."""
        table = _Table(self.ruleset)
        for command in transaction:
            table.take(command)
        table.check_depth()
        self.ruleset = table.ruleset()


class _Table:
    """The copy of the table that a transaction changes."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.exists = ruleset.exists
        self.sets = dict(ruleset.sets)
        self.maps = dict(ruleset.maps)
        self.chains = dict(ruleset.chains)
        self.counters = set(ruleset.counters)
        self.foreign = set(ruleset.foreign)

    def ruleset(self) -> Ruleset:
        if not self.exists:
            return ABSENT
        return Ruleset(self.sets, self.maps, self.chains, frozenset(self.counters), frozenset(self.foreign))

    def take(self, command: Command) -> None:  # noqa: C901, PLR0912 - a line for each command
        if not isinstance(command, AddTable) and not self.exists:
            raise Refused(f"no table for: {command.text()}")
        match command:
            case AddTable():
                self.exists = True
                self.foreign.discard(TABLE_FLAGS)
            case AddCounter(name):
                self.counters.add(_fit(name, _NAME_BYTES))
            case AddSet(name, shape):
                self._add_set(name, shape)
            case AddMap(name, shape):
                self._add_map(name, shape)
            case AddChain(name, shape):
                self._add_chain(name, shape)
            case AddRule(name, rule):
                self._add_rule(name, rule)
            case FlushChain(name) if ("chain", name) in self.foreign:
                return
            case FlushChain(name):
                self.chains[name] = Chain((), self._chain(name).hook)
            case RewriteChain(name, before, after):
                if self._chain(name).rules != before:
                    raise Refused(f"other rules in chain {name}")
                self.chains[name] = Chain((), self._chain(name).hook)
                for rule in after:
                    self._add_rule(name, rule)
            case ChangeElements():
                self._change_elements(command)
            case ChangeMapElements():
                self._change_map_elements(command)
            case Delete(kind, name):
                self._delete(kind, name)

    def check_depth(self) -> None:
        """Refuse loops, and jumps deeper than the kernel's stack."""
        depths: dict[str, int] = {}
        for name, chain in self.chains.items():
            if chain.hook is not None and self._depth(name, depths) > _JUMPS:
                raise Refused(f"too many links: chain {name}")

    def _depth(self, name: str, known: dict[str, int]) -> int:
        """Return the depth of jumps below a chain."""
        if name not in known:
            known[name] = _JUMPS  # the value that a loop finds here
            known[name] = max((1 + self._depth(target, known) for target in set(self._targets(name))), default=0)
        return known[name]

    def _targets(self, name: str) -> Iterator[str]:
        for rule in self.chains[name].rules:
            for kind, target in _references(rule):
                if kind == "chain":
                    yield target
                elif kind == "map":
                    yield from self.maps[target].elements.values()

    def _chain(self, name: str) -> Chain:
        if name not in self.chains:
            raise Refused(f"no chain {name}")
        return self.chains[name]

    def _add_set(self, name: str, shape: NamedSet) -> None:
        old = self.sets.setdefault(_fit(name, _NAME_BYTES), shape)
        if name in self.maps or (old.kind, old.family) != (shape.kind, shape.family):
            raise Refused(f"set {name} exists with another shape")
        _fit(shape.comment, _TEXT_BYTES)

    def _add_map(self, name: str, shape: VerdictMap) -> None:
        old = self.maps.setdefault(_fit(name, _NAME_BYTES), shape)
        if name in self.sets or old.family != shape.family:
            raise Refused(f"map {name} exists with another shape")

    def _add_chain(self, name: str, shape: Chain) -> None:
        if shape.rules:
            raise Refused(f"chain {name} is made with rules in it")
        old = self.chains.setdefault(_fit(name, _NAME_BYTES), shape)
        if old.hook != shape.hook:
            raise Refused(f"chain {name} exists with another hook")

    def _add_rule(self, name: str, rule: Rule) -> None:
        chain = self._chain(name)
        for kind, target in _references(rule):
            if target not in self._names(kind):
                raise Refused(f"no {kind} {target} for a rule of {name}")
            if kind == "chain" and self.chains[target].hook is not None:
                raise Refused(f"{target} is a base chain: no rule can go there")
        if rule.log is not None:
            _fit(rule.log.prefix, _TEXT_BYTES)
        _fit(rule.comment, _TEXT_BYTES)
        self.chains[name] = Chain((*chain.rules, rule), chain.hook)

    def _change_elements(self, command: ChangeElements) -> None:
        if command.set not in self.sets:
            raise Refused(f"no set {command.set}")
        item = self.sets[command.set]
        for element in command.elements:
            _check_type(item, element)
        if len(set(command.elements)) != len(command.elements):
            raise Refused(f"an element twice in one command: {command.text()}")
        if command.verb == "delete":
            if missing := set(command.elements) - item.elements:
                raise Refused(f"not in {command.set}: {missing}")
            elements = item.elements.difference(command.elements)
        else:
            elements = item.elements.union(command.elements)
            _check_overlap(command.set, elements)
        self.sets[command.set] = msgspec.structs.replace(item, elements=elements)

    def _change_map_elements(self, command: ChangeMapElements) -> None:
        if command.map not in self.maps:
            raise Refused(f"no map {command.map}")
        item = self.maps[command.map]
        elements = dict(item.elements)
        for address, chain in command.elements:
            if family_of(address) != item.family:
                raise Refused(f"{address} is of the other family than {command.map}")
            if command.verb == "delete":
                if elements.pop(address, None) != chain:
                    raise Refused(f"not in {command.map}: {address} to {chain}")
                continue
            if chain not in self.chains or self.chains[chain].hook is not None:
                raise Refused(f"no chain {chain} for {address} in {command.map}")
            if elements.setdefault(address, chain) != chain:
                raise Refused(f"{address} goes to {elements[address]} already in {command.map}")
        self.maps[command.map] = VerdictMap(item.family, elements)

    def _delete(self, kind: str, name: str) -> None:
        if kind == "table":
            self.exists = False
            for held in (self.sets, self.maps, self.chains, self.counters, self.foreign):
                held.clear()
            return
        if (kind, name) not in self.foreign and name not in self._names(kind):
            raise Refused(f"no {kind} {name} to delete")
        if (kind, name) in self._referred(except_chain=name if kind == "chain" else ""):
            raise Refused(f"{kind} {name} is in use")
        if (kind, name) in self.foreign:
            self.foreign.remove((kind, name))
            return
        match kind:
            case "set":
                del self.sets[name]
            case "map":
                del self.maps[name]
            case "chain":
                del self.chains[name]
            case "counter":
                self.counters.remove(name)

    def _names(self, kind: str) -> Collection[str]:
        held: dict[str, Collection[str]] = {
            "set": self.sets,
            "map": self.maps,
            "chain": self.chains,
            "counter": self.counters,
        }
        return held[kind]

    def _referred(self, except_chain: str) -> set[Reference]:
        """Return the referenced objects; the rules of a chain that is deleted don't count."""
        found = {("chain", target) for item in self.maps.values() for target in item.elements.values()}
        for name, chain in self.chains.items():
            if name != except_chain:
                found.update(reference for rule in chain.rules for reference in _references(rule))
        return found


def _references(rule: Rule) -> Iterator[Reference]:
    for match in rule.matches:
        if isinstance(match, _BY_SET):
            yield "set", match.set
    if rule.counter:
        yield "counter", rule.counter
    match rule.verdict:
        case Goto(chain) | Jump(chain):
            yield "chain", chain
        case VmapLookup(_, name):
            yield "map", name


def _fit(text: str, most: int) -> str:
    if len(text.encode()) > most:
        raise Refused(f"longer than {most} bytes: {text!r}")
    return text


def _check_type(item: NamedSet, element: Element) -> None:
    match item.kind, element:
        case "address" | "counted", str():
            family = family_of(element)
        case "range", Range():
            family = element.family
        case ("family", 4 | 6) | ("link", LinkName()) | ("service", ProtocolPort()):
            return
        case "ports", PortRange() if 0 < element.first <= element.last < 65536:
            return
        case "pair", (str(address), str(other)) if family_of(address) == family_of(other):
            family = family_of(address)
        case "port", (str(address), "tcp" | "udp" | "sctp", int(port)) if 0 < port < 65536:
            family = family_of(address)
        case _:
            raise Refused(f"{element!r} is no element for a set of kind {item.kind}")
    if family != item.family:
        raise Refused(f"{element!r} is of the other family")


def _check_overlap(name: str, elements: Iterable[Element]) -> None:
    ranges = sorted(element for element in elements if isinstance(element, Range))
    ports = sorted(element for element in elements if isinstance(element, PortRange))
    pairs = [(before, after, after.first <= before.last) for before, after in pairwise(ranges)]
    meeting = [(before, after, after.first <= before.last) for before, after in pairwise(ports)]
    for before, after, overlap in (*pairs, *meeting):
        if overlap:
            raise Refused(f"conflicting intervals in {name}: {before} and {after}")
