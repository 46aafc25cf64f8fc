"""Commands that the kernel applies all together or not at all, and how a transaction is split for commit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.nftables.objects import TABLE, TABLE_FAMILY, Chain, Element, NamedSet, Rule, VerdictMap
from nfagent.nftables.render import element_text, hook_text, map_properties, rule_text, set_properties

_WHERE = f"{TABLE_FAMILY} {TABLE}"
_PER_TRANSACTION = 5_000
"""Commands in one transaction of structure."""


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
