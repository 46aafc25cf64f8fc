"""Commands that the kernel applies all together or not at all, and how a transaction is split for commit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.nftables.objects import TABLE, TABLE_FAMILY, Chain, Element, NamedSet, Rule, VerdictMap
from nfagent.nftables.render import element_text, hook_text, map_properties, rule_text, set_properties

_WHERE = f"{TABLE_FAMILY} {TABLE}"
_PER_TRANSACTION = 5_000
"""Commands in one phase of additions or deletions."""


class AddTable(msgspec.Struct, frozen=True):
    """Add the table; an existing one stays, but loses flags such as `dormant`."""

    def text(self, where: str = _WHERE) -> str:
        """Return the command in nft syntax."""
        return f"add table {where}"


class AddCounter(msgspec.Struct, frozen=True):
    """Add a named counter."""

    name: str

    def text(self, where: str = _WHERE) -> str:
        """Return the command in nft syntax."""
        return f"add counter {where} {self.name}"


class AddSet(msgspec.Struct, frozen=True):
    """Add a set without elements."""

    name: str
    shape: NamedSet

    def text(self, where: str = _WHERE) -> str:
        """Return the command in nft syntax."""
        return f"add set {where} {self.name} {{ {'; '.join(set_properties(self.shape))}; }}"


class AddMap(msgspec.Struct, frozen=True):
    """Add a verdict map without elements."""

    name: str
    shape: VerdictMap

    def text(self, where: str = _WHERE) -> str:
        """Return the command in nft syntax."""
        return f"add map {where} {self.name} {{ {map_properties(self.shape)}; }}"


class AddChain(msgspec.Struct, frozen=True):
    """Add a chain without rules."""

    name: str
    shape: Chain

    def text(self, where: str = _WHERE) -> str:
        """Return the command in nft syntax."""
        hook = hook_text(self.shape)
        return f"add chain {where} {self.name}" + (f" {{ {hook} }}" if hook else "")


class AddRule(msgspec.Struct, frozen=True):
    """Append a rule to a chain."""

    chain: str
    rule: Rule

    def text(self, where: str = _WHERE) -> str:
        """Return the command in nft syntax."""
        return f"add rule {where} {self.chain} {rule_text(self.rule)}"


class FlushChain(msgspec.Struct, frozen=True):
    """Delete all rules of a chain."""

    name: str

    def text(self, where: str = _WHERE) -> str:
        """Return the command in nft syntax."""
        return f"flush chain {where} {self.name}"


class RewriteChain(msgspec.Struct, frozen=True):
    """Replace the rules of a chain that stays.

    The kernel gets only the rules that differ where the handles of those `before` are known, otherwise all of them.
    """

    name: str
    before: tuple[Rule, ...]
    after: tuple[Rule, ...]

    def text(self, where: str = _WHERE) -> str:
        """Return the commands in nft syntax, a line each: all rules are written anew."""
        flush = FlushChain(self.name).text(where)
        return "\n".join((flush, *(AddRule(self.name, rule).text(where) for rule in self.after)))


class ChangeElements(msgspec.Struct, frozen=True):
    """Add elements to a set, or delete them; deleting a missing element fails the whole transaction."""

    verb: Literal["add", "delete"]
    set: str
    elements: tuple[Element, ...]

    def text(self, where: str = _WHERE) -> str:
        """Return the command in nft syntax."""
        return f"{self.verb} element {where} {self.set} {{ {', '.join(map(element_text, self.elements))} }}"


class ChangeMapElements(msgspec.Struct, frozen=True):
    """Add address-to-chain elements to a verdict map, or delete them."""

    verb: Literal["add", "delete"]
    map: str
    elements: tuple[tuple[str, str], ...]

    def text(self, where: str = _WHERE) -> str:
        """Return the command in nft syntax."""
        pairs = ", ".join(f"{address} : goto {chain}" for address, chain in self.elements)
        return f"{self.verb} element {where} {self.map} {{ {pairs} }}"


class Delete(msgspec.Struct, frozen=True):
    """Delete an unreferenced object, or the table with all its objects."""

    kind: str
    name: str = ""

    def text(self, where: str = _WHERE) -> str:
        """Return the command in nft syntax."""
        return f"delete {self.kind} {where} {self.name}".rstrip()


Command: TypeAlias = (
    AddTable
    | AddCounter
    | AddSet
    | AddMap
    | AddChain
    | AddRule
    | FlushChain
    | RewriteChain
    | ChangeElements
    | ChangeMapElements
    | Delete
)
Transaction: TypeAlias = tuple[Command, ...]


def transaction_text(transaction: Transaction, where: str = _WHERE) -> str:
    """Return a transaction in nft syntax, one command a line: `nft -f` applies all of them or none."""
    return "".join(f"{command.text(where)}\n" for command in transaction)


def split_for_commit(transaction: Transaction) -> tuple[Transaction, ...]:
    """Split a transaction into phases of three kinds: additions of objects, element changes, deletions of objects.

    Packets see no difference: added objects are unreachable until all elements change in one phase, and deleted ones
    are unreachable after it. Two transactions can't be split: one that changes the rules of a chain that stays (rules
    and their elements must change at the same moment), and one that replaces an object by another of the same name.

    Additions and deletions are further split by size: libnftables needs a few kilobytes of memory for each command, and
    ends the process when an allocation fails. Each prefix of the commands is valid, and unreachable for packets.
    """
    added = {command.name for command in transaction if isinstance(command, AddSet | AddMap | AddChain)}
    new_chains = {command.name for command in transaction if isinstance(command, AddChain)}
    deleted_chains = {
        command.name for command in transaction if isinstance(command, Delete) and command.kind == "chain"
    }
    parts: tuple[list[Command], list[Command], list[Command]] = ([], [], [])
    for command in transaction:
        match command:
            case ChangeElements() | ChangeMapElements():
                parts[1].append(command)
            case AddRule(chain) if chain not in new_chains:
                return (transaction,)
            case RewriteChain():
                return (transaction,)
            case FlushChain(name) if name not in deleted_chains:
                return (transaction,)
            case Delete("table"):
                return (transaction,)
            case Delete(name=name) if name in added:
                return (transaction,)
            case Delete() | FlushChain():
                parts[2].append(command)
            case _:
                parts[0].append(command)
    additions, elements, deletions = parts
    return (*_bounded(additions), *((tuple(elements),) if elements else ()), *_bounded(deletions))


def _bounded(commands: list[Command]) -> Iterator[Transaction]:
    for start in range(0, len(commands), _PER_TRANSACTION):
        yield tuple(commands[start : start + _PER_TRANSACTION])
