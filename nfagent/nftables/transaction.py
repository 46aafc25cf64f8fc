"""Commands that the kernel applies all together or not at all."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.nftables.objects import TABLE, TABLE_FAMILY, Chain, Element, NamedSet, Rule, VerdictMap
from nfagent.nftables.render import element_text, hook_text, map_element_text, map_properties, rule_text, set_properties

_WHERE = f"{TABLE_FAMILY} {TABLE}"
COMMAND_SIZE = 8
"""A command costs the kernel as much as so many elements: 14 to 23 us beside 2 us (measured, 1,000 sets and chains)."""


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
        pairs = ", ".join(map_element_text(address, chain) for address, chain in self.elements)
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


def size_of(transaction: Transaction) -> int:
    """Return the cost of a commit, in elements: of those in the commands, and COMMAND_SIZE for each command."""
    return sum(size_of_command(command) for command in transaction)


def size_of_command(command: Command) -> int:
    """Return the cost of a command in elements, as in `size_of`."""
    match command:
        case ChangeElements(elements=elements) | ChangeMapElements(elements=elements):
            return COMMAND_SIZE + len(elements)
        case RewriteChain(before=before, after=after):
            return COMMAND_SIZE * (1 + len(before) + len(after))
    return COMMAND_SIZE
