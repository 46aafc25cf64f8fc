"""Encodes tables, chains, named counters and deletions as nf_tables messages (linux/netfilter/nf_tables.h)."""

from __future__ import annotations

import struct
from typing import TypeAlias

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import attribute, nested, nfgen
from nfagent.netlink.nft_expressions import NF_ACCEPT
from nfagent.netlink.nft_messages import (
    DELCHAIN,
    DELFLOWTABLE,
    DELOBJ,
    DELRULE,
    DELSET,
    DELTABLE,
    HEADERS_SIZE,
    IN_TABLE,
    NEWCHAIN,
    NEWOBJ,
    NEWTABLE,
    NFT_OBJECT_COUNTER,
    NLM_F_CREATE,
    NftMessage,
    name_attribute,
    table_of,
    u32_attribute,
)
from nfagent.nftables.objects import Hook
from nfagent.nftables.transaction import AddChain, AddCounter, AddTable, Delete, FlushChain

_TABLE_FLAGS = 2  # NFTA_TABLE_FLAGS
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 3, 4, 5, 7  # NFTA_CHAIN_*
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2  # NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY
_RULE_CHAIN, _RULE_HANDLE = 2, 3  # NFTA_RULE_CHAIN, NFTA_RULE_HANDLE
_NAME = 2  # NFTA_SET_NAME, NFTA_OBJ_NAME, NFTA_FLOWTABLE_NAME
_OBJECT_TYPE, _OBJECT_CONTENT = 3, 4  # NFTA_OBJ_TYPE, NFTA_OBJ_DATA
_ZERO_COUNTER = attribute(1, bytes(8)) + attribute(2, bytes(8))  # NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS
_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}  # NF_INET_*, equal to NF_BR_*
_OBJECT_TYPES = {
    "counter": NFT_OBJECT_COUNTER,
    "quota": 2,
    "ct helper": 3,
    "limit": 4,
    "ct timeout": 7,
    "secmark": 8,
    "ct expectation": 9,
    "synproxy": 10,
}  # NFT_OBJECT_*

_DELETIONS = {
    "chain": (DELCHAIN, _CHAIN_NAME),
    "set": (DELSET, _NAME),
    "map": (DELSET, _NAME),
    "flowtable": (DELFLOWTABLE, _NAME),
}
"""Kind of object -> type of the message, number of the attribute with the name."""


class DeleteRule(msgspec.Struct, frozen=True):
    """Delete one rule of a chain by the handle that the kernel gave it."""

    chain: str
    handle: int

    def text(self, where: str) -> str:
        """Return the command in nft syntax."""
        return f"delete rule {where} {self.chain} handle {self.handle}"


ObjectCommand: TypeAlias = AddTable | AddChain | AddCounter | FlushChain | DeleteRule | Delete
_Part: TypeAlias = tuple[str, bytes]
"""What an attribute says, in nft's words, and the attribute."""


class ObjectRequest(msgspec.Struct, frozen=True):
    """A message about a table, a chain, a counter or a deletion."""

    command: ObjectCommand
    family: int

    def describe(self) -> str:
        """Return the command in nft syntax."""
        return self.command.text(table_of(self.family))

    def part_at(self, offset: int | None) -> str:
        """Return the object or property whose attribute is at an offset into the message; '' if there is none."""
        end = HEADERS_SIZE
        if offset is None or offset < end:
            return ""
        for words, written in _encoded(self.command, self.family)[2]:
            end += len(written)
            if offset < end:
                return words
        return ""


def object_message(command: ObjectCommand, *, family: int) -> NftMessage:
    """Encode a command. Raises WireError for a kind, a hook or a name that has no encoding."""
    try:
        kind, flags, parts = _encoded(command, family)
    except (KeyError, ValueError, struct.error) as error:
        raise WireError(f"{command!r} can't be encoded: {error}") from None
    body = nfgen(family, 0) + b"".join(written for _, written in parts)
    return NftMessage(kind, flags, body, ObjectRequest(command, family))


def _encoded(command: ObjectCommand, family: int) -> tuple[int, int, tuple[_Part, ...]]:
    """Return type, flags and attributes of a command's message."""
    table = f"table {table_of(family)}", IN_TABLE
    match command:
        case AddTable() | AddChain() | AddCounter():
            kind, parts = _addition(command)
            return kind, NLM_F_CREATE, (table, *parts)
    kind, parts = _deletion(command)
    return kind, 0, (table, *parts)


def _addition(command: AddTable | AddChain | AddCounter) -> tuple[int, tuple[_Part, ...]]:
    match command:
        case AddChain(name, shape):
            hook = () if shape.hook is None else _hook_parts(shape.hook)
            return NEWCHAIN, (_named("chain", name, _CHAIN_NAME), *hook)
        case AddCounter(name):
            value = f"counter {name}", nested(_OBJECT_CONTENT, _ZERO_COUNTER)
            return NEWOBJ, (*_object_parts("counter", name), value)
    return NEWTABLE, (("flags", attribute(_TABLE_FLAGS, bytes(4))),)


def _deletion(command: FlushChain | DeleteRule | Delete) -> tuple[int, tuple[_Part, ...]]:
    match command:
        case FlushChain(name):
            return DELRULE, (_named("chain", name, _RULE_CHAIN),)
        case DeleteRule(name, handle):
            rule = f"handle {handle}", attribute(_RULE_HANDLE, struct.pack("!Q", handle))
            return DELRULE, (_named("chain", name, _RULE_CHAIN), rule)
        case Delete("table"):
            return DELTABLE, ()
        case Delete(kind, name) if kind in _DELETIONS:
            number, name_number = _DELETIONS[kind]
            return number, (_named(kind, name, name_number),)
    return DELOBJ, _object_parts(command.kind, command.name)


def _object_parts(kind: str, name: str) -> tuple[_Part, _Part]:
    number = u32_attribute(_OBJECT_TYPE, _OBJECT_TYPES[kind])
    return _named(kind, name, _NAME), (f"{kind} {name}", number)


def _hook_parts(hook: Hook) -> tuple[_Part, ...]:
    number = u32_attribute(_HOOK_NUMBER, _HOOKS[hook.name])
    place = nested(_CHAIN_HOOK, number, attribute(_HOOK_PRIORITY, struct.pack("!i", hook.priority)))
    return (
        (f"type {hook.type}", attribute(_CHAIN_TYPE, hook.type.encode() + b"\0")),
        ("policy accept", u32_attribute(_CHAIN_POLICY, NF_ACCEPT)),
        (f"hook {hook.name} priority {hook.priority}", place),
    )


def _named(kind: str, name: str, number: int) -> _Part:
    return f"{kind} {name}", name_attribute(number, kind, name)
