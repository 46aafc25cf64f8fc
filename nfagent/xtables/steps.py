"""What is done to the kernel, one step after the other. Each step is atomic for every packet; several are not."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from nfagent.model.netaddr import Family
from nfagent.xtables.objects import HookChain, IpSet, SetMember, TableName, XtChain


class CreateSet(msgspec.Struct, frozen=True):
    """Create a set with its members; no rule refers to it yet."""

    name: str
    item: IpSet


class AddMember(msgspec.Struct, frozen=True):
    """Add a member to a set; not an error where it is there."""

    set: str
    member: SetMember


class DeleteMember(msgspec.Struct, frozen=True):
    """Delete a member from a set; not an error where it is missing."""

    set: str
    member: SetMember


class SwapSets(msgspec.Struct, frozen=True):
    """Exchange the contents of two sets of one shape; rules go on referring to the names."""

    name: str
    other: str


class DestroySet(msgspec.Struct, frozen=True):
    """Destroy a set that no rule refers to any more."""

    name: str


class Restore(msgspec.Struct, frozen=True):
    """Replace chains of one table and family by one `iptables-restore --noflush`.

    chains: chains with their new rules; None deletes a chain, after all references to it
    hooks:  built-in chains with the chain that their first rule jumps to; None removes that rule
    """

    family: Family
    table: TableName
    chains: dict[str, XtChain | None]
    hooks: dict[HookChain, str | None] = msgspec.field(default_factory=dict)


class AddAccounts(msgspec.Struct, frozen=True):
    """Create nfacct objects, before rules name them."""

    names: tuple[str, ...]


class DeleteAccounts(msgspec.Struct, frozen=True):
    """Delete nfacct objects that no rule names any more."""

    names: tuple[str, ...]


Step: TypeAlias = CreateSet | AddMember | DeleteMember | SwapSets | DestroySet | Restore | AddAccounts | DeleteAccounts
