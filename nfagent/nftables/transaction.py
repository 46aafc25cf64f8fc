"""The difference of two rulesets, as commands that the kernel takes all together or not at all.

Order within a transaction: what is added comes before what refers to it, and what is deleted goes after the
last reference to it is gone. The kernel shows packets either the ruleset before or the one after.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.model.slices import in_order
from nfagent.nftables.objects import ABSENT, TABLE, TABLE_FAMILY, Chain, Element, NamedSet, Rule, Ruleset, VerdictMap
from nfagent.nftables.render import element_text, hook_text, map_properties, rule_text, set_properties
from nfagent.nftables.unknown_objects import Removal, is_clean, removal

_WHERE = f"{TABLE_FAMILY} {TABLE}"
_PER_TRANSACTION = 5_000
"""Commands in one transaction of structure."""
_PER_COMMAND = 500
"""Elements in one command: long lines make libnftables' parser slow."""


class AddTable(msgspec.Struct, frozen=True):
    """Make the table; one that exists stays as it is, but for flags such as `dormant`, which go."""

    def text(self) -> str:
        """Write it in nft syntax."""
        return f"add table {_WHERE}"


class AddCounter(msgspec.Struct, frozen=True):
    """Make a named counter."""

    name: str

    def text(self) -> str:
        """Write it in nft syntax."""
        return f"add counter {_WHERE} {self.name}"


class AddSet(msgspec.Struct, frozen=True):
    """Make a set, without its elements."""

    name: str
    shape: NamedSet

    def text(self) -> str:
        """Write it in nft syntax."""
        return f"add set {_WHERE} {self.name} {{ {'; '.join(set_properties(self.shape))}; }}"


class AddMap(msgspec.Struct, frozen=True):
    """Make a verdict map, without its elements."""

    name: str
    shape: VerdictMap

    def text(self) -> str:
        """Write it in nft syntax."""
        return f"add map {_WHERE} {self.name} {{ {map_properties(self.shape)}; }}"


class AddChain(msgspec.Struct, frozen=True):
    """Make a chain, without its rules."""

    name: str
    shape: Chain

    def text(self) -> str:
        """Write it in nft syntax."""
        hook = hook_text(self.shape)
        return f"add chain {_WHERE} {self.name}" + (f" {{ {hook} }}" if hook else "")


class AddRule(msgspec.Struct, frozen=True):
    """Append a rule to a chain."""

    chain: str
    rule: Rule

    def text(self) -> str:
        """Write it in nft syntax."""
        return f"add rule {_WHERE} {self.chain} {rule_text(self.rule)}"


class FlushChain(msgspec.Struct, frozen=True):
    """Delete a chain's rules."""

    name: str

    def text(self) -> str:
        """Write it in nft syntax."""
        return f"flush chain {_WHERE} {self.name}"


class ChangeElements(msgspec.Struct, frozen=True):
    """Add elements to a set, or delete them from it; deleting one that isn't there fails the whole."""

    verb: Literal["add", "delete"]
    set: str
    elements: tuple[Element, ...]

    def text(self) -> str:
        """Write it in nft syntax."""
        return f"{self.verb} element {_WHERE} {self.set} {{ {', '.join(map(element_text, self.elements))} }}"


class ChangeMapElements(msgspec.Struct, frozen=True):
    """Add address-to-chain elements to a map, or delete them from it."""

    verb: Literal["add", "delete"]
    map: str
    elements: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """Write it in nft syntax."""
        pairs = ", ".join(f"{address} : goto {chain}" for address, chain in self.elements)
        return f"{self.verb} element {_WHERE} {self.map} {{ {pairs} }}"


class Delete(msgspec.Struct, frozen=True):
    """Delete an object that nothing refers to any more; the table goes with all that is in it."""

    kind: str
    name: str = ""

    def text(self) -> str:
        """Write it in nft syntax."""
        return f"delete {self.kind} {_WHERE} {self.name}".rstrip()


Command: TypeAlias = (
    AddTable
    | AddCounter
    | AddSet
    | AddMap
    | AddChain
    | AddRule
    | FlushChain
    | ChangeElements
    | ChangeMapElements
    | Delete
)
Transaction: TypeAlias = tuple[Command, ...]


def transaction_text(transaction: Transaction) -> str:
    """Write a transaction in nft syntax, one command a line: `nft -f` applies all of them or none."""
    return "".join(f"{command.text()}\n" for command in transaction)


def phases(transaction: Transaction) -> tuple[Transaction, ...]:
    """Split a transaction into those that packets can't tell from the one: structure in, elements, structure out.

    What is made first is unreachable until the elements change, all together; what goes last is unreachable by
    then. A transaction that changes the rules of a chain which stays can't be split: its rules and the elements
    that belong to them must change at the same moment. Nor can one that puts something in another's place.

    Structure goes in parts: libnftables takes a few kilobytes of memory for each command, and ends the process where it
    gets none. Commands are in an order in which any of them can be the last, and none of it can be reached meanwhile.
    """
    made = {command.name for command in transaction if isinstance(command, AddSet | AddMap | AddChain)}
    fresh = {command.name for command in transaction if isinstance(command, AddChain)}
    ending = {command.name for command in transaction if isinstance(command, Delete) and command.kind == "chain"}
    parts: tuple[list[Command], list[Command], list[Command]] = ([], [], [])
    for command in transaction:
        match command:
            case ChangeElements() | ChangeMapElements():
                parts[1].append(command)
            case AddRule(chain) if chain not in fresh:
                return (transaction,)
            case FlushChain(name) if name not in ending:
                return (transaction,)
            case Delete("table"):
                return (transaction,)
            case Delete(name=name) if name in made:
                return (transaction,)
            case Delete() | FlushChain():
                parts[2].append(command)
            case _:
                parts[0].append(command)
    coming, elements, going = parts
    return (*_bounded(coming), *((tuple(elements),) if elements else ()), *_bounded(going))


def _bounded(commands: list[Command]) -> Iterator[Transaction]:
    for start in range(0, len(commands), _PER_TRANSACTION):
        yield tuple(commands[start : start + _PER_TRANSACTION])


def diff(before: Ruleset, after: Ruleset, *, anew: bool = False) -> Transaction:
    """Give the commands that turn one ruleset into the other; none where they are equal.

    anew: where something foreign has to go, the whole table goes with it: for a kernel that refused anything less
    """
    return tuple(command for command in diff_in_steps(before, after, anew=anew) if command is not None)


def diff_in_steps(before: Ruleset, after: Ruleset, *, anew: bool = False) -> Iterator[Command | None]:
    """Give the same commands one by one; None where none is ready yet."""
    if not after.exists:
        if before.exists:
            yield Delete("table")
        return
    if not before.exists or is_clean(before, after):
        yield from _commands(before, after)
        return
    going = None if anew else removal(before, after)
    if going is None:
        yield Delete("table")
        yield from _commands(ABSENT, after)
    else:
        yield from _removing(going)
        yield from _commands(going.left, after)


def _removing(going: Removal) -> Iterator[Command]:
    if going.wakes:
        yield AddTable()
    for name in going.flushed:
        yield FlushChain(name)
    for name, elements in sorted(going.elements.items()):
        for part in _pair_parts(list(elements)):
            yield ChangeMapElements("delete", name, part)
    for kind, name in going.deleted:
        yield Delete(kind, name)


def _commands(before: Ruleset, after: Ruleset) -> Iterator[Command | None]:
    if not before.exists:
        yield AddTable()
    for counter in sorted(after.counters - before.counters):
        yield AddCounter(counter)
    for name in sorted(after.sets.keys() - before.sets.keys()):
        yield AddSet(name, msgspec.structs.replace(after.sets[name], elements=frozenset()))
    for name in sorted(after.maps.keys() - before.maps.keys()):
        yield AddMap(name, VerdictMap(after.maps[name].family, {}))
    for name in sorted(after.chains.keys() - before.chains.keys()):
        yield AddChain(name, Chain((), after.chains[name].hook))
    yield from _set_elements(before, after)
    yield from _rules(before, after)
    yield from _map_elements(before, after)
    yield from _deletions(before, after)


def _set_elements(before: Ruleset, after: Ruleset) -> Iterator[Command | None]:
    for name in sorted(after.sets):
        old = before.sets[name].elements if name in before.sets else frozenset()
        new = after.sets[name].elements
        if old != new:
            # Deletions first: a changed range overlaps the one that it replaces (corner-cases.md 22).
            yield from _changes("delete", name, old - new)
            yield from _changes("add", name, new - old)
        yield None


def _changes(verb: Literal["add", "delete"], name: str, elements: frozenset[Element]) -> Iterator[Command | None]:
    """Change a set's elements, which are all of one kind: the same commands for the same change, at little cost."""
    part: list[Element] = []
    for element in in_order(elements):
        if element is None:
            yield None
            continue
        part.append(element)
        if len(part) == _PER_COMMAND:
            yield ChangeElements(verb, name, tuple(part))
            part = []
    if part:
        yield ChangeElements(verb, name, tuple(part))


def _rules(before: Ruleset, after: Ruleset) -> Iterator[Command | None]:
    for name in sorted(after.chains):
        old = before.chains[name].rules if name in before.chains else ()
        new = after.chains[name].rules
        yield None
        if old != new:
            kept = len(old) if new[: len(old)] == old else 0
            if old and not kept:
                yield FlushChain(name)
            for rule in new[kept:]:
                yield AddRule(name, rule)
    for name in sorted(before.chains.keys() - after.chains.keys()):
        yield FlushChain(name)


def _map_elements(before: Ruleset, after: Ruleset) -> Iterator[Command]:
    for name in sorted(before.maps.keys() - after.maps.keys()):
        # Before the map itself, at the moment at which all elements change.
        for gone in _pair_parts(sorted(before.maps[name].elements.items())):
            yield ChangeMapElements("delete", name, gone)
    for name in sorted(after.maps):
        old = before.maps[name].elements.items() if name in before.maps else set()
        new = after.maps[name].elements.items()
        if old != new:
            for gone in _pair_parts(sorted(old - new)):
                yield ChangeMapElements("delete", name, gone)
            for come in _pair_parts(sorted(new - old)):
                yield ChangeMapElements("add", name, come)


def _deletions(before: Ruleset, after: Ruleset) -> Iterator[Command]:
    for name in sorted(before.maps.keys() - after.maps.keys()):
        yield Delete("map", name)
    for name in sorted(before.chains.keys() - after.chains.keys()):
        yield Delete("chain", name)
    for name in sorted(before.sets.keys() - after.sets.keys()):
        yield Delete("set", name)
    for name in sorted(before.counters - after.counters):
        yield Delete("counter", name)


def _pair_parts(elements: list[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], ...]]:
    for start in range(0, len(elements), _PER_COMMAND):
        yield tuple(elements[start : start + _PER_COMMAND])
